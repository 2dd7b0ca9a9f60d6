"""Markers for `typing.Annotated` that say how a field of a contract becomes a column. Plain values, read once at start-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EpochUnit = Literal["s", "ms", "us", "ns"]


@dataclass(frozen=True)
class Ch:
    """See `ch`."""

    type: str


@dataclass(frozen=True)
class ColumnName:
    """See `column`."""

    name: str


@dataclass(frozen=True)
class Epoch:
    """See `epoch`."""

    unit: EpochUnit


@dataclass(frozen=True)
class Flag:
    """A marker without a value."""

    name: str


def ch(type_: str) -> Ch:
    """The ClickHouse type of the field's column, as `ch("UInt32")`, where the default mapping is not wanted."""
    return Ch(type_)


def column(name: str) -> ColumnName:
    """The name of the field's column, where it is not the field's name in the record."""
    return ColumnName(name)


def epoch(unit: EpochUnit) -> Epoch:
    """The unit of a number that counts from 1970-01-01 UTC and goes into a Date, DateTime or DateTime64 column."""
    return Epoch(unit)


ignored = Flag("ignored")
"""The field is checked when the record is decoded, and goes into no column."""

null_as_default = Flag("null_as_default")
"""A null goes into a column that is not Nullable as the zero value of its type, instead of being refused."""
