"""Takes out of a block what the tables have: rows of the same record, and rows of another record with the same event id.

A live worker knows from its claims which ids are taken. A replay comes after the fact: what took an id may be stored before
the stretch, after it, or in another partition, so the table itself is asked, for each block right before its insert.
It asks ClickHouse and inserts nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.batch import TableBlock
from pipeline.clickhouse import ClickHouse, literal, quote, quote_table
from pipeline.contract import Contract, Target
from pipeline.lane import Ranges, merged
from pipeline.native import Block, Body
from pipeline.sink import Sink
from pipeline.types import Partition, Span

IDS_MAX = 50_000
"""Rows whose ids are looked up by one question; a few megabytes of SQL."""


class Screened(NamedTuple):
    """What became of the rows of a block: `rows` are left, the others are stored, or their id is."""

    rows: list[int]
    stored: int
    owned: int


class Screen:
    """Looks rows up. Thread-safe; each call blocks its thread until ClickHouse has answered."""

    def __init__(
        self, clickhouse: ClickHouse, sink: Sink, contracts: Mapping[str, Contract], window_s: int, *, ids: bool
    ) -> None:
        self._clickhouse = clickhouse
        self._sink = sink
        self._window_s = window_s
        self._ids = ids
        self._targets = {
            (topic, target.table): target
            for topic, contract in contracts.items()
            for target in contract.tables.values()
        }

    def look(self, block: TableBlock, spans: Sequence[Span]) -> Screened:
        """Which rows of a block neither the tables of its topic have, nor their event ids within the window."""
        topics, topic_of, numbers, offsets = block.block.lineage()
        places = [(Partition(topics[t], n), o) for t, n, o in zip(topic_of, numbers, offsets, strict=True)]
        stored = self._stored(block.topic, spans)
        rows = [row for row, (partition, offset) in enumerate(places) if offset not in stored.get(partition, _NONE)]
        left = rows
        if self._ids and rows and block.ids is not None:
            target = self._targets[block.topic, block.table]
            owned = {
                place
                for start in range(0, len(rows), IDS_MAX)
                for place in self._owned(block.topic, target, block.ids, rows[start : start + IDS_MAX])
            }
            left = [row for row in rows if (places[row][0].number, places[row][1]) not in owned]
        return Screened(left, len(places) - len(rows), len(rows) - len(left))

    def _stored(self, topic: str, spans: Sequence[Span]) -> dict[Partition, Ranges]:
        found: dict[Partition, list[tuple[int, int]]] = {}
        of_topic = [span for span in spans if span.partition.topic == topic]
        for table in sorted(table for name, table in self._targets if name == topic):
            for partition, ranges in self._sink.stored(table, of_topic).items():
                found.setdefault(partition, []).extend(ranges)
        return {partition: Ranges(merged(ranges)) for partition, ranges in found.items()}

    def _owned(self, topic: str, target: Target, ids: Block, rows: list[int]) -> set[tuple[int, int]]:
        doing = f"looking up event ids in {target.table}"
        sql = owned_sql(topic, target, ids.native(rows), self._window_s)
        settings = {"max_query_size": len(sql) + 65_536}
        found = self._sink.patiently(doing, lambda: self._clickhouse.query_rows(sql, doing=doing, settings=settings))
        return {(int(number), int(offset)) for number, offset in found}


def owned_sql(topic: str, target: Target, ids: bytes, window_s: int) -> str:
    """Partition and offset of those candidates whose id another record of the topic has in the table.

    `ids` is a Native block of the key columns, `_partition`, `_offset` and `_timestamp`. Where the table has the times of
    records, two of them further apart than the window are two events.
    """
    names = [quote(name) for name in target.key_columns]
    timed = "_timestamp" in {column.name for column in target.columns}
    time = "toUnixTimestamp64Milli(toDateTime64(_timestamp, 3))" if timed else "0"
    keys = ", ".join(names)
    within = ""
    if timed:
        span = f"toIntervalSecond({window_s})"
        within = (
            f" AND _timestamp >= (SELECT min(_timestamp) FROM candidates) - {span}"
            f" AND _timestamp <= (SELECT max(_timestamp) FROM candidates) + {span}"
        )
    same = " AND ".join(f"c.{name} = s.{name}" for name in names)
    return (
        f"WITH candidates AS (SELECT * FROM format(Native, base64Decode('{base64.b64encode(ids).decode()}'))) "
        f"SELECT DISTINCT c.p, c.o FROM (SELECT {keys}, _partition AS p, _offset AS o, {time} AS t FROM candidates) AS c "
        f"INNER JOIN (SELECT {keys}, _partition AS p, _offset AS o, {time} AS t FROM {quote_table(target.table)} "
        f"WHERE _topic = {literal(topic)}{within} AND ({keys}) IN (SELECT {keys} FROM candidates)) AS s ON {same} "
        f"WHERE (c.p, c.o) != (s.p, s.o) AND abs(c.t - s.t) <= {window_s * 1000}"
    )


class Left:
    """Some rows of a block, as a block (`sink.Block`)."""

    def __init__(self, block: Block, rows: list[int]) -> None:
        self._block = block
        self._rows = rows
        self.rows = len(rows)
        self.nbytes = block.nbytes

    def lineage(self) -> tuple[Sequence[str], Sequence[int], Sequence[int], Sequence[int]]:
        topics, *columns = self._block.lineage()
        topic_of, numbers, offsets = ([column[row] for row in self._rows] for column in columns)
        return topics, topic_of, numbers, offsets

    def native(self, rows: Sequence[int] | None = None) -> bytes:
        return self._block.native(self._chosen(rows))

    def framed(self, prefix: bytes, rows: Sequence[int] | None = None) -> Body:
        return self._block.framed(prefix, self._chosen(rows))

    def _chosen(self, rows: Sequence[int] | None) -> list[int]:
        return self._rows if rows is None else [self._rows[row] for row in rows]


_NONE = Ranges(())
