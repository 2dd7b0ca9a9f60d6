"""The plain values the compiled core exchanges with Python. No behaviour; shared by the core and its oracle."""

from __future__ import annotations

from array import array
from typing import NamedTuple

SKIPPED, APPENDED, DUPLICATE, REFUSED = range(4)
"""What became of a row; the values `append` writes into its status array."""


class Column(NamedTuple):
    """One column of a block."""

    name: str
    """The ClickHouse column."""
    type: str
    """The ClickHouse type, exactly as in `system.columns` or the DDL."""
    source: str
    """The attribute of the row it is filled from, or `@topic`, `@partition`, `@offset`, `@timestamp`."""
    null_as_default: bool = False
    """None becomes the type's zero value instead of a refusal. `msgspec.UNSET` always does."""
    epoch_unit: str = "s"
    """The unit of numbers put into Date, DateTime and DateTime64 columns: s, ms, us or ns."""


class Run(NamedTuple):
    """The records a list of rows came from: one partition, in offset order, `offsets[i]` belonging to `rows[i]`."""

    topic: str
    partition: int
    slot: int
    """The claim table's slot for this reading of the partition; unused without claims."""
    offsets: array[int]
    timestamps: array[int]
    """Milliseconds since the epoch, -1 when the broker has none."""


class Refusal(NamedTuple):
    """A row that cannot be stored in its table. `detail` names the rule that was broken, never the value."""

    index: int  # type: ignore[assignment]
    column: str
    code: str
    """out_of_range, wrong_type, null, no_key or invalid_utf8."""
    detail: str
