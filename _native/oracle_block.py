"""The block builder and `append` in plain Python: what `_native.block` and `_native.append` must equal. For tests."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import UNSET

from _native.chtypes import TypeSpec, leaf, parse
from _native.oracle import ClaimTable, siphash128, string, varint
from _native.oracle_values import Refused, Rules, convert, serialize
from _native.vocabulary import APPENDED, DUPLICATE, REFUSED, SKIPPED, Column, Refusal, Run

Origin = tuple[int, int, int, int]
"""Topic position, partition, offset, timestamp of a row."""


class BlockBuilder:
    """The oracle of `_native.block.BlockBuilder`."""

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        key: Sequence[str] = (),
        domain: bytes = b"",
        encode_json: Callable[[Any], bytes],
    ) -> None:
        self.domain = domain
        self.columns = list(columns)
        self.specs = [parse(column.type) for column in columns]
        self.key = list(key)
        self.encode_json = encode_json
        self.discard()

    def discard(self) -> None:
        self.values: list[list[Any]] = []
        self.origins: list[Origin] = []
        self.topics: list[str] = []

    @property
    def rows(self) -> int:
        return len(self.values)

    def finish(self) -> Block:
        block = Block(self.columns, self.specs, self.values, self.origins, self.topics)
        self.discard()
        return block

    def topic_position(self, topic: str) -> int:
        if topic not in self.topics:
            self.topics.append(topic)
        return self.topics.index(topic)

    def row(self, row: object) -> list[Any]:
        """The normal forms of the filled columns; Refused with the column's name as a second argument."""
        values = []
        for column, spec in zip(self.columns, self.specs, strict=True):
            if not column.source.startswith("@"):
                values.append(self._one(column, spec, getattr(row, column.source), column.null_as_default))
        return values

    def _one(self, column: Column, spec: TypeSpec, value: object, null_as_default: bool) -> Any:
        try:
            return convert(spec, value, Rules(null_as_default, column.epoch_unit, self.encode_json))
        except Refused as refused:
            refused.args = (refused.code, column.name)
            raise

    def key_bytes(self, row: object) -> tuple[bytes, bool]:
        """The key in RowBinary, and whether it is a lone UUID."""
        parts = []
        names = [column.name for column in self.columns]
        for name in self.key:
            column, spec = self.columns[names.index(name)], leaf(self.specs[names.index(name)])
            value = getattr(row, column.source)
            if value is None or value is UNSET:
                refused = Refused("no_key", spec, value)
                refused.args = ("no_key", name)
                raise refused
            parts.append(self._one(column, spec, value, False))
        return b"".join(parts), len(parts) == 1 and spec.kind == "uuid"


class Block:
    """The oracle of `_native.block.Block`."""

    def __init__(
        self,
        columns: list[Column],
        specs: list[TypeSpec],
        values: list[list[Any]],
        origins: list[Origin],
        topics: list[str],
    ) -> None:
        self._columns = columns
        self._specs = specs
        self._values = values
        self._origins = origins
        self._topics = topics
        self.rows = len(values)

    def lineage(self) -> tuple[list[str], array[int], array[int], array[int]]:
        topic, partition, offset = ([origin[place] for origin in self._origins] for place in range(3))
        return list(self._topics), array("i", topic), array("i", partition), array("q", offset)

    def native(self, rows: Sequence[int] | None = None) -> bytes:
        chosen = range(self.rows) if rows is None else rows
        origins = [self._origins[row] for row in chosen]
        out = [varint(len(self._columns)), varint(len(chosen))]
        filled = 0
        for column, spec in zip(self._columns, self._specs, strict=True):
            lineage = column.source.startswith("@")
            out.append(string(column.name.encode()) + string((column.type if lineage else spec.wire).encode()))
            if lineage:
                out.append(_lineage(column, spec, origins, self._topics))
            else:
                made = self._dictionary(column, filled, chosen)
                if made is not None:
                    out[-1] = string(column.name.encode()) + string(b"LowCardinality(String)")
                out.append(serialize(spec, [self._values[row][filled] for row in chosen]) if made is None else made)
                filled += 1
        return b"".join(out)

    def _dictionary(self, column: Column, place: int, chosen: Sequence[int]) -> bytes | None:
        """The column as a dictionary of all rows' values with the indexes of the chosen ones, where that pays."""
        if column.type.replace(" ", "") != "LowCardinality(String)" or not self.rows:
            return None
        texts = [serialize(parse("String"), [row[place]]) for row in self._values]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        width = 1 if len(numbers) <= 256 else 2
        nbytes = 32 + sum(map(len, numbers)) + (width + 4) * self.rows
        too_many = len(set(texts[:1024])) > 512 and self.rows > 1024
        before_last = len(set(texts[:-1])) >= 4096
        if too_many or before_last or nbytes > sum(map(len, texts)):
            return None
        if not chosen:
            return b""
        head = struct.pack("<QQQ", 1, width - 1 | 1 << 9, len(numbers)) + b"".join(numbers)
        indexes = b"".join(numbers[texts[row]].to_bytes(width, "little") for row in chosen)
        return head + struct.pack("<Q", len(chosen)) + indexes


def _lineage(column: Column, spec: TypeSpec, origins: list[Origin], topics: list[str]) -> bytes:
    place = ["@topic", "@partition", "@offset", "@timestamp"].index(column.source)
    numbers = [origin[place] for origin in origins]
    if place == 3:
        numbers = [_timestamp(spec, number) for number in numbers]
    if place:
        return b"".join(number.to_bytes(spec.width, "little", signed=number < 0) for number in numbers)
    names = [string(topic.encode()) for topic in topics]
    if not column.type.startswith("LowCardinality("):
        return b"".join(names[number] for number in numbers)
    if not numbers:
        return b""
    head = struct.pack("<QQQ", 1, 2 | 1 << 9, len(names)) + b"".join(names)
    return head + struct.pack(f"<Q{len(numbers)}I", len(numbers), *numbers)


def _timestamp(spec: TypeSpec, milliseconds: int) -> int:
    if milliseconds < 0:
        return 0
    if spec.kind not in ("datetime", "datetime64"):
        return milliseconds
    ticks: int = milliseconds * 10**spec.scale // 1000
    return min(ticks, spec.high)


def append(
    builders: Mapping[type, BlockBuilder],
    rows: list[object],
    run: Run,
    claims: ClaimTable | None,
    keys: list[bytes | None] | None,
    status: bytearray,
) -> list[Refusal]:
    """The oracle of `_native.append.append`: first the key, then the columns, then the claim."""
    refusals = []
    for index, row in enumerate(rows):
        if row is None:
            status[index] = SKIPPED
            continue
        builder = builders[type(row)]
        try:
            id = b"" if claims is None else _event_id(builder, row, claims, keys, index)
            values = builder.row(row)
        except Refused as refused:
            status[index] = REFUSED
            column = refused.args[1] if len(refused.args) > 1 else ""
            refusals.append(Refusal(index, column, refused.code, _explain(refused, column)))
            continue
        if claims is not None and claims.claim(id, claims._index(run.slot), run.offsets[index]) == DUPLICATE:
            status[index] = DUPLICATE
            continue
        status[index] = APPENDED
        builder.values.append(values)
        position = builder.topic_position(run.topic)
        builder.origins.append((position, run.partition, run.offsets[index], run.timestamps[index]))
    return refusals


def _event_id(
    builder: BlockBuilder, row: object, claims: ClaimTable, keys: list[bytes | None] | None, index: int
) -> bytes:
    if keys is None:
        key, is_id = builder.key_bytes(row)
        return claims.masked(key if is_id else siphash128(key, claims._secret), builder.domain)
    explicit = keys[index]
    if explicit is None:
        raise Refused("no_key", parse("String"), None)
    return claims.masked(claims.event_id(explicit), builder.domain)


def _explain(refused: Refused, column: str) -> str:
    rule = refused.spec.rule
    return {
        "no_key": "the deduplication key is null" if column else "the record has no deduplication key",
        "null": f"null is not in {rule}, which is not Nullable",
        "invalid_utf8": "the text holds surrogates and has no UTF-8 form",
        "wrong_type": f"the {refused.got} is no value of {rule}",
        "out_of_range": f"the {refused.got} is outside {rule}",
    }[refused.code]
