"""The plain values the compiled core exchanges with Python. No behaviour; shared by the core and its oracle."""

from __future__ import annotations

from array import array
from typing import NamedTuple

SKIPPED, APPENDED, DUPLICATE, REFUSED, UNEXPLAINED = range(5)
"""What became of a row; the values `append` writes into its status array. The last only the native lane gives: it is sure
that the record is refused, and msgspec has to say why."""


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


class Takes(NamedTuple):
    """What a contract accepts for one value of a record, and what its row then holds. Everything else is not taken."""

    null: bool = False
    boolean: bool = False
    integer: bool = False
    low: int = -(2**63)
    """The smallest integer accepted, when `integer`."""
    high: int = 2**64 - 1
    floating: bool = False
    """Numbers of every form, kept as float."""
    decimal: bool = False
    """Numbers and their text, kept as Decimal."""
    text: str = ""
    """How a text is read: str, datetime, date or uuid; empty for not at all. A datetime may be MessagePack's timestamp."""
    binary: str = ""
    """How MessagePack's bytes are read: bytes or uuid; empty for not at all."""
    choices: tuple[str | int, ...] | None = None
    """The texts and integers that alone are accepted, where they are enumerated."""
    items: Takes | None = None
    """What the elements of an array must be."""
    pairs: Takes | None = None
    """What the values of an object with any keys must be."""
    fields: tuple[FieldPlan, ...] | None = None
    """The fields of an object that is a Struct; it is stored as msgspec encodes it."""
    forbid_unknown: bool = False
    """Of such a Struct: whether other fields are refused."""
    anything: bool = False
    raw: str = ""
    """What is kept as the bytes it is (`msgspec.Raw`): any value, an object, or nothing."""
    problem: str = ""
    """Why nothing is taken, whatever the format."""


class FieldPlan(NamedTuple):
    """One field of a Struct."""

    name: str
    """As encoded in the record."""
    attribute: str
    """The attribute of the row; empty for a tag."""
    takes: Takes
    required: bool
    default: object = None
    """What the row holds when the record has no such field. Of a nested Struct: its JSON text as bytes."""
    default_known: bool = True
    """False when the default is made anew for each row in a way that cannot be foreseen."""


class RowPlan(NamedTuple):
    """How records become rows of one type."""

    fields: tuple[FieldPlan, ...]
    tag: str
    """The tag that says a record is of this type; empty outside a union."""
    tag_field: str
    forbid_unknown: bool
    packed: bool = False
    """Whether records are MessagePack; else they are JSON."""
    strict: bool = False
    """Whether msgspec refuses all that the fields do not take. Where it does not, or nobody knows, what is not taken is left to
    it, in its turn."""
