"""Contracts: what a topic's records must be, and which columns of which table they fill.

A contract is a `msgspec.Struct`, a tagged union of them, or inferred from the table. This package owns loading and
checking; it reads no table and decodes no stream (see `pipeline.decode`).
"""

from pipeline.contract.fields import struct_columns
from pipeline.contract.loading import load
from pipeline.contract.markers import ch, column, epoch, ignored, null_as_default
from pipeline.contract.model import LINEAGE, Contract, TableColumn, Target
from pipeline.contract.nested import encode_json

__all__ = [
    "LINEAGE",
    "Contract",
    "TableColumn",
    "Target",
    "ch",
    "column",
    "encode_json",
    "epoch",
    "ignored",
    "load",
    "null_as_default",
    "struct_columns",
]
