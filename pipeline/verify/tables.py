"""What the target tables hold, asked by lineage and by event id. It reads ClickHouse and nothing else.

Offsets travel as RowBinary: Int64 offset, UInt64 count, little endian, one pair a stored offset.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Mapping, Sequence

from pipeline.clickhouse import ClickHouse, literal, quote, quote_table
from pipeline.contract import Contract, Target
from pipeline.errors import ConfigurationError, Problem
from pipeline.types import Partition
from pipeline.verify.stored import NOTHING, Stored

LINEAGE = ("_topic", "_partition", "_offset")


class Tables:
    """The target tables of a pipeline. Raises ConfigurationError when one has no lineage columns."""

    def __init__(self, clickhouse: ClickHouse, contracts: Mapping[str, Contract]) -> None:
        self._clickhouse = clickhouse
        self._tables = sorted({target.table for contract in contracts.values() for target in contract.tables.values()})
        problems = [
            Problem("routes.table", table, "it has no lineage columns, by which rows are found", _FIX)
            for table in self._tables
            if not set(LINEAGE) <= {column.name for column in clickhouse.columns(table)}
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
            f"WITH candidates AS (SELECT * FROM format(Native, base64Decode('{base64.b64encode(block).decode()}'))) "
            f"SELECT _partition, _offset FROM candidates WHERE ({names}) IN (SELECT {names} FROM {quote_table(target.table)} "
            f"WHERE _topic = {literal(topic)} AND ({names}) IN (SELECT {names} FROM candidates))"
        )
        rows = self._clickhouse.query_rows(
            sql, doing="looking up event ids", settings={"max_query_size": len(sql) + 65_536}
        )
        return {(int(number), int(offset)) for number, offset in rows}

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
