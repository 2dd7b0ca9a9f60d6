"""Reads records of an inferred contract: the careful way for one record, and the repair of values that were left raw.

It returns rows of the contract's one row type, whichever way a record took.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import attrgetter, itemgetter
from typing import Any

import msgspec

from pipeline.contract.jsoneachrow import BRACE, NULL, NULL_START, QUOTE, Reader, Refused

_view: Callable[[Any], memoryview] = memoryview


@dataclass(frozen=True)
class ColumnReader:
    """A field of an inferred contract."""

    attribute: str
    name: str
    annotation: Any
    """What it is decoded as the fast way."""
    reader: Reader
    """Reads it the careful way."""
    default: Any
    """What a record without the field gets."""

    def read(self, raw: bytes, how: Callable[[bytes], Any]) -> Any:
        """`how(raw)`; what it refuses names this column."""
        try:
            return how(raw)
        except Refused as refused:
            refused.path = f"$.{self.name}"
            raise


def row_struct(fields: Iterable[tuple[str, str, Any, Any]]) -> type[msgspec.Struct]:
    """A row type of (attribute, name in the record, annotation, default)."""
    fields = list(fields)
    return msgspec.defstruct(
        "Row",
        [(attribute, annotation, msgspec.field(default=default)) for attribute, _, annotation, default in fields],
        rename={attribute: name for attribute, name, _, _ in fields},
        # Rows hold no reference to themselves, so the garbage collector need not look at them.
        gc=False,
    )


@dataclass(frozen=True)
class Reading:
    """How records of one inferred contract are read. Shared by all threads."""

    row_type: type[msgspec.Struct]
    columns: Sequence[ColumnReader]
    raw: msgspec.json.Decoder[Any] = field(init=False)

    def __post_init__(self) -> None:
        raw = row_struct((one.attribute, one.name, msgspec.Raw, msgspec.UNSET) for one in self.columns)
        object.__setattr__(self, "raw", msgspec.json.Decoder(raw))

    def reread(self, value: bytes, odd: Counter[str]) -> msgspec.Struct:
        """The row of one record, read the careful way. Raises Refused, or what msgspec raises when it is not JSON at all.

        `odd` counts, per column, the values that the fast way does not take.
        """
        record = self.raw.decode(value)
        row: dict[str, Any] = {}
        for column in self.columns:
            raw = getattr(record, column.attribute)
            if raw is msgspec.UNSET:
                row[column.attribute] = column.default
            elif column.annotation is msgspec.Raw:
                row[column.attribute] = raw
            else:
                row[column.attribute] = self._read(column, bytes(raw), odd)
        return self.row_type(**row)

    @staticmethod
    def _read(column: ColumnReader, raw: bytes, odd: Counter[str]) -> Any:
        try:
            return column.read(raw, column.reader.read_usual)
        except msgspec.ValidationError:
            odd[column.attribute] += 1
            return column.read(raw, column.reader.odd)


class FastWay:
    """The decoder of an inferred contract, which learns which columns get odd values. Used by one thread.

    A column is decoded as its usual type, until many records hold something else there: from then on it is decoded as
    `msgspec.Raw` and read on its own, which for nested values in a text column costs no more. Rows are the same either way.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._left_raw = {one.attribute for one in reading.columns if one.annotation is msgspec.Raw}
        self._odd: Counter[str] = Counter()
        self._row_type = reading.row_type
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(reading.row_type).decode

    def reread(self, value: bytes) -> msgspec.Struct:
        """One record that `decode` refused, read the careful way. Raises as `Reading.reread` does."""
        return self._reading.reread(value, self._odd)

    def settle(self, rows: list[Any]) -> list[tuple[int, Exception]]:
        """Reads raw values in place; rows that turn out to be bad become None and are named. Then learns."""
        if self._row_type is not self._reading.row_type:
            # Both types have the same fields in the same order; only what msgspec decodes into one of them differs.
            deque(map(setattr, filter(None, rows), repeat("__class__"), repeat(self._reading.row_type)), maxlen=0)
        refused: list[tuple[int, Exception]] = []
        for column in self._reading.columns:
            if column.attribute in self._left_raw and not _nothing_to_do(rows, column):
                refused += _settle_column(rows, column)
        self._learn(len(rows))
        return refused

    def _learn(self, records: int) -> None:
        often = {attribute for attribute, count in self._odd.items() if count * 8 > records}
        self._odd.clear()
        if not often - self._left_raw:
            return
        self._left_raw |= often
        self._row_type = row_struct(
            (
                one.attribute,
                one.name,
                *((msgspec.Raw, NULL) if one.attribute in self._left_raw else (one.annotation, one.default)),
            )
            for one in self._reading.columns
        )
        self.decode = msgspec.json.Decoder(self._row_type).decode


def _stays_raw(column: ColumnReader, start: int) -> bool:
    """Whether a value that begins with this byte goes into the column as the text it is."""
    if column.reader.chtype.kind == "string":
        return start not in (QUOTE, NULL_START)
    return column.reader.chtype.kind == "json" and start == BRACE


def _nothing_to_do(rows: list[Any], column: ColumnReader) -> bool:
    """Whether all raw values of a column stay as they are, found without a step of Python per record."""
    if column.reader.chtype.kind not in ("string", "json"):
        return False
    getter = attrgetter(column.attribute)
    try:
        starts = set(map(itemgetter(0), map(_view, map(getter, filter(None, rows)))))
    except TypeError:  # a string or None, put there the careful way
        return False
    return all(_stays_raw(column, start) for start in starts)


def _settle_column(rows: list[Any], column: ColumnReader) -> list[tuple[int, Exception]]:
    getter = attrgetter(column.attribute)
    refused: list[tuple[int, Exception]] = []
    for index, row in enumerate(rows):
        raw = None if row is None else getter(row)
        if not isinstance(raw, msgspec.Raw) or _stays_raw(column, _view(raw)[0]):
            continue
        if raw is NULL:  # the default of a field left raw: the record did not have it
            setattr(row, column.attribute, None if column.default is NULL else column.default)
            continue
        try:
            setattr(row, column.attribute, column.read(bytes(raw), column.reader.read))
        except (Refused, msgspec.DecodeError, UnicodeDecodeError) as error:
            rows[index] = None
            refused.append((index, error))
    return refused
