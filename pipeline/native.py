"""The compiled core, under the names the pipeline uses. The only module that imports `_native`; adds nothing to it."""

from _native.append import append
from _native.block import Block, BlockBuilder
from _native.chtypes import TypeSpec, parse
from _native.claims import ClaimTable, middle_and_high
from _native.frame import Body
from _native.lane import Part, RecordLane
from _native.reader import Reader, bind
from _native.reader import Run as MessageRun
from _native.recipe import Recipe
from _native.vocabulary import (
    APPENDED,
    DUPLICATE,
    REFUSED,
    SKIPPED,
    UNEXPLAINED,
    Column,
    FieldPlan,
    Refusal,
    RowPlan,
    Run,
    Takes,
)

__all__ = [
    "APPENDED",
    "DUPLICATE",
    "REFUSED",
    "SKIPPED",
    "UNEXPLAINED",
    "Block",
    "BlockBuilder",
    "Body",
    "ClaimTable",
    "Column",
    "FieldPlan",
    "MessageRun",
    "Part",
    "Reader",
    "Recipe",
    "RecordLane",
    "Refusal",
    "RowPlan",
    "Run",
    "Takes",
    "TypeSpec",
    "append",
    "bind",
    "middle_and_high",
    "parse",
]
