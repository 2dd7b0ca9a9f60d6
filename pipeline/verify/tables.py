"""What the target tables hold, asked by lineage and by event id. It reads ClickHouse and nothing else.

Offsets travel as RowBinary: Int64 offset, UInt64 count, little endian, one pair a stored offset.
"""

from __future__ import annotations

import base64
import datetime
import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.clickhouse import ClickHouse, literal, quote, quote_table
from pipeline.contract import Contract, Target
from pipeline.errors import ConfigurationError, Problem
from pipeline.types import Partition
from pipeline.verify.stored import NOTHING, Stored

LINEAGE = ("_topic", "_partition", "_offset")
ROWS_MAX = 10
"""More rows of one record are not shown."""


class Row(NamedTuple):
    """One row, by its lineage."""

    table: str
    topic: str
    partition: int
    offset: int
    timestamp: str
    """Of the record; empty where the table does not keep it."""


class Tables:
    """The target tables of a pipeline. Raises ConfigurationError when one has no lineage columns."""

    def __init__(self, clickhouse: ClickHouse, contracts: Mapping[str, Contract]) -> None:
        self._clickhouse = clickhouse
        self._tables = sorted({target.table for contract in contracts.values() for target in contract.tables.values()})
        columns = {table: {column.name for column in clickhouse.columns(table)} for table in self._tables}
        self._timed = {table for table, names in columns.items() if "_timestamp" in names}
        problems = [
            Problem("routes.table", table, "it has no lineage columns, by which rows are found", _FIX)
            for table, names in columns.items()
            if not set(LINEAGE) <= names
        ]
        if problems:
            raise ConfigurationError(problems)

    def stored(self, partition: Partition, first: int, next_: int) -> Stored:
        """Which offsets of `[first, next_)` have rows, in all tables together."""
        if first >= next_:
            return NOTHING
        pairs = self._pairs(self._union("_offset", where=_WHERE) + " GROUP BY _offset", partition, first, next_)
        offsets, counts = pairs[::2], pairs[1::2]
        several = {offset: count for offset, count in zip(offsets, counts, strict=True) if count > 1}
        return Stored(frozenset(offsets), several)

    def several(self, partition: Partition, first: int, next_: int, limit: int) -> tuple[int, dict[int, int]]:
        """Number of offsets of `[first, next_)` that have rows, and up to `limit` of those that have several."""
        offsets = self._union("_offset", where=_WHERE) + " GROUP BY _offset"
        count = self._pairs(f"SELECT toInt64(count()), toUInt64(0) FROM ({offsets})", partition, first, next_)[0]
        found = self._pairs(f"{offsets} HAVING count() > 1 ORDER BY _offset LIMIT {limit}", partition, first, next_)
        return count, dict(zip(found[::2], found[1::2], strict=True))

    def bounds(self, partition: Partition) -> tuple[int, int] | None:
        """The first and the last stored offset of a partition; None when nothing is stored."""
        sql = (
            "SELECT toInt64(min(_offset)), toUInt64(max(_offset)) FROM ("
            + self._rows("_offset", _HERE)
            + ") HAVING count() > 0"
        )
        found = self._pairs(sql, partition, 0, 0)
        return (found[0], found[1]) if found else None

    def owned(self, topic: str, target: Target, block: bytes) -> set[tuple[int, int]]:
        """Of the candidates in a Native block of (key columns, `_partition`, `_offset`): the partition and offset of those
        whose event id is stored. Ids are scoped by topic and table, so only rows of this topic in this table count."""
        names = ", ".join(quote(name) for name in target.key_columns)
        sql = (
            f"{_candidates(block)} SELECT _partition, _offset FROM candidates "
            f"WHERE ({names}) IN (SELECT {names} FROM {quote_table(target.table)} "
            f"WHERE _topic = {literal(topic)} AND ({names}) IN (SELECT {names} FROM candidates))"
        )
        rows = self._clickhouse.query_rows(
            sql, doing="looking up event ids", settings={"max_query_size": len(sql) + 65_536}
        )
        return {(int(number), int(offset)) for number, offset in rows}

    def rows(self, partition: Partition, offset: int) -> list[Row]:
        """The rows of one record, by its lineage; ROWS_MAX at the most."""
        where = f"{_HERE} AND _offset = {{first:Int64}}"
        values = {"topic": partition.topic, "number": partition.number, "first": offset}
        found: list[Row] = []
        for table in self._tables:
            sql = f"SELECT {self._place(table)} FROM {quote_table(table)} WHERE {where} LIMIT {ROWS_MAX}"
            rows = self._clickhouse.query_rows(sql, values, doing=f"looking for a row in {table}")
            found += [_row(table, row) for row in rows]
        return found[:ROWS_MAX]

    def owner(self, topic: str, target: Target, block: bytes) -> Row | None:
        """The row that holds the event id of the only candidate in a Native block; the one nearest in time if several do."""
        names = ", ".join(quote(name) for name in target.key_columns)
        near = ""
        if target.table in self._timed:
            near = "ORDER BY abs(dateDiff('millisecond', _timestamp, (SELECT any(_timestamp) FROM candidates))) "
        sql = (
            f"{_candidates(block)} SELECT {self._place(target.table)} FROM {quote_table(target.table)} "
            f"WHERE _topic = {literal(topic)} AND ({names}) IN (SELECT {names} FROM candidates) {near}LIMIT 1"
        )
        rows = self._clickhouse.query_rows(sql, doing="looking up an event id")
        return _row(target.table, rows[0]) if rows else None

    def with_id(self, topic: str, target: Target, values: Sequence[str], limit: int) -> list[tuple[Partition, int]]:
        """The records of a topic whose rows have an event id, given as texts of the key columns."""
        condition, parameters = _same_id(target, values)
        sql = (
            f"SELECT DISTINCT toInt32(_partition), toInt64(_offset) FROM {quote_table(target.table)} "
            f"WHERE _topic = {literal(topic)} AND {condition} ORDER BY 1, 2 LIMIT {limit}"
        )
        rows = self._clickhouse.query_rows(sql, parameters, doing="looking for an event id")
        return [(Partition(topic, number), offset) for number, offset in rows]

    def having_id(self, target: Target, values: Sequence[str], block: bytes) -> list[tuple[int, int]]:
        """Partition and offset of those candidates in a Native block that have an event id, given as texts."""
        condition, parameters = _same_id(target, values)
        sql = f"{_candidates(block)} SELECT _partition, _offset FROM candidates WHERE {condition} ORDER BY 1, 2"
        settings = {"max_query_size": len(sql) + 65_536}
        rows = self._clickhouse.query_rows(sql, parameters, doing="comparing event ids", settings=settings)
        return [(int(number), int(offset)) for number, offset in rows]

    def _place(self, table: str) -> str:
        """The lineage of a row as columns for `_row`."""
        time = "toUnixTimestamp64Milli(toDateTime64(_timestamp, 3))" if table in self._timed else "-1"
        return f"toString(_topic), toInt32(_partition), toInt64(_offset), {time}"

    def _union(self, what: str, where: str) -> str:
        return f"SELECT toInt64({what}), toUInt64(count()) FROM ({self._rows(what, where)})"

    def _rows(self, what: str, where: str) -> str:
        return " UNION ALL ".join(f"SELECT {what} FROM {quote_table(table)} WHERE {where}" for table in self._tables)

    def _pairs(self, sql: str, partition: Partition, first: int, next_: int) -> Sequence[int]:
        values = {"topic": partition.topic, "number": partition.number, "first": first, "next": next_}
        result: array[int] = array("q")
        pieces = self._clickhouse.query_bytes(sql, "RowBinary", values, doing="reading stored offsets")
        result.frombytes(b"".join(pieces))
        if sys.byteorder == "big":
            result.byteswap()
        return result


_HERE = "_topic = {topic:String} AND _partition = {number:Int32}"
_WHERE = _HERE + " AND _offset >= {first:Int64} AND _offset < {next:Int64}"
_FIX = "Add _topic, _partition, _offset and _timestamp, as `penstock ddl` prints them"


def time_text(time_ms: int) -> str:
    """Milliseconds since the epoch for people; empty when unknown."""
    if time_ms < 0:
        return ""
    moment = datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _row(table: str, columns: Sequence[Any]) -> Row:
    topic, number, offset, time_ms = columns
    return Row(table, topic, number, offset, time_text(time_ms))


def _candidates(block: bytes) -> str:
    return f"WITH candidates AS (SELECT * FROM format(Native, base64Decode('{base64.b64encode(block).decode()}')))"


def _same_id(target: Target, values: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The condition that a row has an event id, and its parameters; ClickHouse reads the texts as the columns' types."""
    types = {column.name: column.type for column in target.columns}
    conditions = [
        f"{quote(name)} = CAST({{id{index}:String}}, {literal(types[name])})"
        for index, name in enumerate(target.key_columns)
    ]
    return " AND ".join(conditions), {f"id{index}": value for index, value in enumerate(values)}
