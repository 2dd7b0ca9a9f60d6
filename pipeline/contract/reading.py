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

from pipeline.contract.jsoneachrow import BRACE, NULL, NULL_START, QUOTE, Reader, Refused, wrong

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

    def reread(self, value: bytes, odd_texts: Counter[str]) -> msgspec.Struct:
        """The row of one record, read the careful way. Raises Refused, or what msgspec raises when it is not JSON at all.

        `odd_texts` counts, per text column, the records that hold something else than a string for it.
        """
        record = self.raw.decode(value)
        row: dict[str, Any] = {}
        for column in self.columns:
            raw = getattr(record, column.attribute)
            if raw is msgspec.UNSET:
                row[column.attribute] = column.default
                continue
            text = bytes(raw)
            if column.reader.chtype.kind == "string" and text[0] not in (QUOTE, NULL_START):
                odd_texts[column.attribute] += 1
            try:
                row[column.attribute] = column.reader.read(text)
            except Refused as refused:
                refused.path = f"$.{column.name}"
                raise
        return self.row_type(**row)


class FastWay:
    """The decoder of an inferred contract, which learns which text columns get nested values. Used by one thread.

    A text column is decoded as a string, until many records hold an object or array there: from then on it is decoded as
    `msgspec.Raw`, which costs no more, and the strings among them are repaired. Rows are the same either way.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._by_attribute = {column.attribute: column for column in reading.columns}
        self._left_raw = {one.attribute for one in reading.columns if one.annotation is msgspec.Raw}
        self._odd_texts: Counter[str] = Counter()
        self._row_type = reading.row_type
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(reading.row_type, strict=False).decode

    def reread(self, value: bytes) -> msgspec.Struct:
        """One record that `decode` refused, read the careful way. Raises as `Reading.reread` does."""
        return self._reading.reread(value, self._odd_texts)

    def settle(self, rows: list[Any]) -> list[tuple[int, Refused]]:
        """Repairs raw values in place; rows that turn out to be bad become None and are named. Then learns."""
        if self._row_type is not self._reading.row_type:
            # Both types have the same fields in the same order; only what msgspec decodes into one of them differs.
            deque(map(setattr, filter(None, rows), repeat("__class__"), repeat(self._reading.row_type)), maxlen=0)
        refused: list[tuple[int, Refused]] = []
        for attribute in self._left_raw:
            refused += self._settle_column(rows, self._by_attribute[attribute])
        self._learn(len(rows))
        return refused

    def _settle_column(self, rows: list[Any], column: ColumnReader) -> list[tuple[int, Refused]]:
        getter = attrgetter(column.attribute)
        text = column.reader.chtype.kind == "string"
        try:
            starts = set(map(itemgetter(0), map(_view, map(getter, filter(None, rows)))))
        except TypeError:  # a string or None that the careful way put there
            starts = {QUOTE}
        if not starts - {BRACE} or (text and not starts & {QUOTE, NULL_START}):
            return []
        refused = []
        for index, row in enumerate(rows):
            raw = None if row is None else getter(row)
            if not isinstance(raw, msgspec.Raw):
                continue
            start = memoryview(raw)[0]
            if raw is NULL:  # the default of a field left raw: the record did not have it
                setattr(row, column.attribute, None if column.default is NULL else column.default)
            elif start == NULL_START:
                setattr(row, column.attribute, column.reader.null)
            elif text and start == QUOTE:
                setattr(row, column.attribute, msgspec.json.decode(raw, type=str))
            elif not text and start != BRACE:
                rows[index] = None
                error = wrong("a value that is not an object", column.reader.chtype)
                error.path = f"$.{column.name}"
                refused.append((index, error))
        return refused

    def _learn(self, records: int) -> None:
        often = {attribute for attribute, count in self._odd_texts.items() if count * 8 > records}
        self._odd_texts.clear()
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
        self.decode = msgspec.json.Decoder(self._row_type, strict=False).decode
