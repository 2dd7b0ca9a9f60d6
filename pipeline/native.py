"""The compiled core, under the names the pipeline uses. The only module that imports `_native`; adds nothing to it."""

from _native.append import append
from _native.block import Block, BlockBuilder
from _native.chtypes import TypeSpec, parse
from _native.claims import ClaimTable
from _native.reader import Reader, bind
from _native.vocabulary import APPENDED, DUPLICATE, REFUSED, SKIPPED, Column, Refusal, Run

__all__ = [
    "APPENDED",
    "DUPLICATE",
    "REFUSED",
    "SKIPPED",
    "Block",
    "BlockBuilder",
    "ClaimTable",
    "Column",
    "Reader",
    "Refusal",
    "Run",
    "TypeSpec",
    "append",
    "bind",
    "parse",
]
