"""Rebuilds the claims of partitions that were just assigned, from the rows in ClickHouse or by reading Kafka again.

It fills the claim table and nothing else: it inserts no row, writes no dead letter and moves no position.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline import spans as span_reader
from pipeline.beyond import Ahead
from pipeline.clickhouse import ClickHouse, literal, quote, quote_table
from pipeline.clock import Clock
from pipeline.config.schema import Dedup as DedupConfig
from pipeline.contract import Contract, Target
from pipeline.dedup import OFFSET_MAX, Dedup, domain
from pipeline.errors import PipelineStopped
from pipeline.lane import Lane
from pipeline.offsets import Offsets
from pipeline.sink import Sink
from pipeline.types import Partition, Source, Span

log = logging.getLogger(__name__)

_ROW_TIME_MS = 1_000
"""A lineage column may have whole seconds only."""
TIME_MAX = 2**63 - 1


class Window:
    """What is known of recent ids when a partition's reading begins."""

    def __init__(
        self,
        config: DedupConfig,
        dedup: Dedup,
        contracts: Mapping[str, Contract],
        lanes: Mapping[str, Lane],
        clickhouse: ClickHouse,
        sink: Sink,
        offsets: Offsets,
        open_source: Callable[[], Source],
        clock: Clock,
        heartbeat: Callable[[], None],
    ) -> None:
        self._config = config
        self._dedup = dedup
        self._contracts = contracts
        self._lanes = lanes
        self._clickhouse = clickhouse
        self._sink = sink
        self._offsets = offsets
        self._open_source = open_source
        self._clock = clock
        self._heartbeat = heartbeat

    def rebuild(self, reaches: Iterable[Span], batches: Iterable[Sequence[Span]] = ()) -> int:
        """Claims the ids of the window before each of these stretches, and of the rows inside it. Returns the ids read.

        `batches` are those inside the stretches that are not known to be stored, the oldest first. Retries for as long as
        ClickHouse or Kafka is away.
        """
        if not self._dedup.enabled or self._config.rebuild == "cold":
            return 0
        started_s = self._clock.monotonic_s()
        ids = 0
        from_kafka: list[Span] = []
        by_topic: dict[str, list[Span]] = {}
        for reach in reaches:
            by_topic.setdefault(reach.partition.topic, []).append(reach)
        for topic, asked in sorted(by_topic.items()):
            if self._config.rebuild == "clickhouse" and self.has_ids(topic):
                for target in self._contracts[topic].tables.values():
                    self._dedup.held_until(self._latest_ms(target, asked))
                    ids += sum(self._from_table(target, reach) for reach in asked)
            else:
                from_kafka += asked
        ids += self._from_kafka(from_kafka, batches)
        log.info("window rebuilt: %d ids in %.2f s", ids, self._clock.monotonic_s() - started_s)
        return ids

    def check_origin(self, stored: Mapping[Partition, int]) -> None:
        """Raises PipelineStopped when the first row beyond a partition's position is not of the record Kafka has there.

        A topic deleted and made anew has the name and the offsets of the old one. Its records would pass for stored.
        """
        if not stored:
            return
        marks = self._offsets.watermarks(stored)
        samples: dict[Partition, int] = {}
        for partition, offset in stored.items():
            low, high = marks[partition]
            if offset >= high:
                raise PipelineStopped(_other_topic(partition, offset, f"the topic ends at {high}"))
            if offset >= low:
                samples[partition] = offset
        spans = [Span(partition, offset, offset + 1) for partition, offset in samples.items()]
        for records, first, cut in span_reader.read(self._open_source, spans, self._heartbeat):
            for offset, kafka_ms in zip(records.offsets[first:cut], records.timestamps[first:cut], strict=True):
                for row_ms in self._record_times(records.partition, offset):
                    if kafka_ms > 0 and abs(kafka_ms - row_ms) >= _ROW_TIME_MS:
                        why = f"the row's record is of {row_ms}, Kafka's of {kafka_ms} (ms since 1970)"
                        raise PipelineStopped(_other_topic(records.partition, offset, why))

    def _record_times(self, partition: Partition, offset: int) -> list[int]:
        """The record time of the rows that some table has of one record."""
        found: list[int] = []
        for target in self._contracts[partition.topic].tables.values():
            if _has_times(target) and self._sink.has_lineage(target.table):
                sql = (
                    "SELECT toUnixTimestamp64Milli(toDateTime64(_timestamp, 3)) "
                    f"FROM {quote_table(target.table)} WHERE _topic = {literal(partition.topic)} "
                    f"AND _partition = {partition.number} AND _offset = {offset}"
                )
                found += [int(row[0]) for row in self._ask(f"looking at the origin of {target.table}", sql)]
        return found

    def _ask(self, doing: str, sql: str) -> Sequence[Sequence[Any]]:
        return self._sink.patiently(doing, lambda: self._clickhouse.query_rows(sql, doing=doing))

    def has_ids(self, topic: str) -> bool:
        """Whether the tables of a topic tell the event ids of their rows, and of when their records are."""
        targets = self._contracts[topic].tables.values()
        return self._dedup.key_is_column and all(
            self._sink.has_lineage(target.table) and _has_times(target) for target in targets
        )

    def claim_stored(self, topic: str, spans: Sequence[Span], after_ms: int = 0) -> Ahead:
        """Claims the ids of the rows that are stored inside these spans of one topic, and for a window after each.

        A record there that has no row may have been dropped as a copy of one that is not known here any more. A later copy
        that has the row must find it dropped again. Rows after the spans are claimed already when their records are not later
        than `after_ms`. Gives how far those after the first span are now, whichever table has them.
        """
        targets = self._contracts[topic].tables.values()
        until_ms = self._until_ms(targets, spans)
        last = min(self._claim_until(target, spans, after_ms, until_ms) for target in targets)
        first, reached_ms = spans[0].first, until_ms[spans[0].partition.number]
        if last < OFFSET_MAX:
            # These may have taken the places of earlier ones, so all are asked for again, but not in every page: that would
            # take longer than to read it.
            return Ahead(enough_until=(first + last) // 2)
        return Ahead(max(after_ms, reached_ms), OFFSET_MAX if reached_ms == TIME_MAX else 0)

    def _until_ms(self, targets: Iterable[Target], spans: Sequence[Span]) -> dict[int, int]:
        """Partition -> the record time a window after the first row behind its span; TIME_MAX where no row is later."""
        until_ms = {span.partition.number: TIME_MAX for span in spans}
        latest_ms = dict.fromkeys(until_ms, 0)
        for target in targets:
            found = self._ask(f"looking for later rows of {target.table}", later_rows_sql(target.table, spans))
            for number, first_ms, last_ms in (map(int, row) for row in found):
                if first_ms > 0:
                    until_ms[number] = min(until_ms[number], first_ms + self._config.window_s * 1000)
                latest_ms[number] = max(latest_ms[number], last_ms)
        self._dedup.held_until(max(min(until_ms[number], latest_ms[number]) for number in until_ms))
        return {number: until if until < latest_ms[number] else TIME_MAX for number, until in until_ms.items()}

    def _claim_until(self, target: Target, spans: Sequence[Span], after_ms: int, until_ms: Mapping[int, int]) -> int:
        """Claims what one table has of that. Gives the offset of the last row claimed, or OFFSET_MAX when all of them are."""
        ids_max, partitions = self._config.ids_max, [span.partition for span in spans]
        sql = stored_ids_sql(target.table, target.key_columns, spans, after_ms, until_ms, ids_max)
        rows = self._ids_of(target, sql)
        scope = domain(partitions[0].topic, target.table)
        restored = self._dedup.restore_stored(rows, _layout(target), partitions, scope)
        return OFFSET_MAX if restored < ids_max else last_offset(rows)

    def _from_table(self, target: Target, reach: Span) -> int:
        """Claims (key, partition, offset) of the rows whose record time is within the window before the reach, or later."""
        partition = reach.partition
        rows = self._ids_of(target, recent_ids_sql(target.table, target.key_columns, reach, self._config))
        return self._dedup.restore(rows, _layout(target), partition, domain(partition.topic, target.table))

    def _ids_of(self, target: Target, sql: str) -> bytes:
        """RowBinary rows of (key, partition, offset)."""
        doing = f"reading ids of {target.table}"

        def question() -> bytes:
            self._heartbeat()
            return b"".join(self._clickhouse.query_bytes(sql, "RowBinary", doing=doing))

        return self._sink.patiently(doing, question)

    def _latest_ms(self, target: Target, reaches: Sequence[Span]) -> int:
        """The latest record time of the rows before the ends of these stretches; 0 or less when there is none."""
        doing = f"looking for the latest row of {target.table}"
        return int(self._ask(doing, latest_row_sql(target.table, reaches))[0][0])

    def _from_kafka(self, reaches: Sequence[Span], batches: Iterable[Sequence[Span]]) -> int:
        """Decodes the records of the window again and keeps nothing but their claims."""
        if not reaches:
            return 0
        low = {p: marks[0] for p, marks in self._offsets.watermarks(reach.partition for reach in reaches).items()}
        begun = {reach.partition: reach for reach in reaches if reach.next > low[reach.partition]}
        # What begins where the log does has nothing before it: the window is measured from its first record.
        firsts = {partition: max(reach.first, low[partition] + 1) for partition, reach in begun.items()}
        last = [Span(partition, first - 1, first) for partition, first in firsts.items()]
        since_ms = {partition: self._clock.wall_ms() for partition in begun}
        for records, first, cut in span_reader.read(self._open_source, last, self._heartbeat):
            if cut > first:
                since_ms[records.partition] = records.timestamps[first]
        starts = self._offsets.for_times(
            {partition: time_ms - self._config.window_s * 1000 for partition, time_ms in since_ms.items()}
        )
        # The last record is inside the window, so an answer beyond it means that the broker cannot search by time.
        found = {p: starts[p] if low[p] <= starts[p] < firsts[p] else low[p] for p in begun}
        spans = [Span(partition, found[partition], reach.next) for partition, reach in begun.items()]
        return sum(self._claim(stage) for stage in in_order(spans, batches))

    def _claim(self, spans: Sequence[Span]) -> int:
        ids = 0
        for records, first, cut in span_reader.read(self._open_source, spans, self._heartbeat):
            lane = self._lanes[records.partition.topic]
            self._dedup.held_of(records.timestamps[first:cut])
            ids += lane.take(records, first, cut, None).counts.rows
            for target in lane.targets:
                target.discard()
        return ids


def in_order(spans: Sequence[Span], batches: Iterable[Sequence[Span]]) -> Iterator[list[Span]]:
    """The spans in pieces, to be read one after another: what is before a batch, then what is inside it, then the next batch.

    A later batch dropped copies for the sake of an earlier one, in whichever partitions they are. Read partition by
    partition, the copy would have the claim.
    """
    at = {span.partition: span.first for span in spans}
    end = {span.partition: span.next for span in spans}
    for batch in batches:
        for bounds in ([(p, first) for p, first, _ in batch], [(p, after) for p, _, after in batch]):
            stops = {p: min(stop, end[p]) for p, stop in bounds if p in at}
            if piece := [Span(p, at[p], stop) for p, stop in stops.items() if at[p] < stop]:
                yield piece
                at |= {span.partition: span.next for span in piece}
    if rest := [Span(p, first, end[p]) for p, first in at.items() if first < end[p]]:
        yield rest


def _has_times(target: Target) -> bool:
    return "_timestamp" in {column.name for column in target.columns}


def _layout(target: Target) -> list[str]:
    """The types of the key columns."""
    types = {column.name: column.type for column in target.columns}
    return [types[name] for name in target.key_columns]


def _other_topic(partition: Partition, offset: int, why: str) -> str:
    return (
        f"{partition}: the table has a row of offset {offset} that is not of the record Kafka has there: {why}. Was the topic "
        "deleted and made anew? The lineage of its records is that of the old rows, so they would be left out as stored. "
        "Give the new topic another name or another table, or remove the old rows, then start again"
    )


def recent_ids_sql(table: str, key_columns: tuple[str, ...], reach: Span, config: DedupConfig) -> str:
    """The event keys of a partition's rows from the window before the reach to its end, oldest first, as the claim table
    restores them. Rows beyond it may be stored too, and are later: the window must not be measured from them, nor from the
    record of a producer whose clock is ahead.
    """
    (topic, number), first, next_offset = reach
    where = f"_topic = {literal(topic)} AND _partition = {number}"
    keys = ", ".join(quote(column) for column in key_columns)
    name = quote_table(table)
    # Of more ids than the claim table holds it would keep the latest.
    return (
        f"SELECT {keys}, _partition, _offset FROM ("
        f"SELECT {keys}, toInt32(_partition) AS _partition, toInt64(_offset) AS _offset, _timestamp FROM {name} "
        f"WHERE {where} AND _offset < {next_offset} "
        f"AND _timestamp >= (SELECT toDateTime64(max(_timestamp), 3) - toIntervalSecond({config.window_s}) FROM {name} "
        f"WHERE {where} AND _offset < {max(first, 1)} AND _timestamp <= now64(3)) "
        f"ORDER BY _timestamp DESC, _offset DESC LIMIT {config.ids_max}) ORDER BY _timestamp, _offset"
    )


def latest_row_sql(table: str, reaches: Sequence[Span]) -> str:
    """The latest record time, in ms since 1970, of the rows of one topic's partitions before the ends of their reaches."""
    parts = " OR ".join(f"(_partition = {reach.partition.number} AND _offset < {reach.next})" for reach in reaches)
    return (
        f"SELECT toUnixTimestamp64Milli(toDateTime64(max(_timestamp), 3)) FROM {quote_table(table)} "
        f"WHERE _topic = {literal(reaches[0].partition.topic)} AND ({parts}) AND _timestamp <= now64(3)"
    )


def later_rows_sql(table: str, spans: Sequence[Span]) -> str:
    """(partition, record time of the first row behind its span, latest record time from the span's begin on) of each of these
    spans of one topic that has rows from its begin on. Times are in ms since 1970; 0 where no row is behind the span.
    """
    inside = _from_on((partition, first) for partition, first, _ in spans)
    behind = _from_on((partition, end) for partition, _, end in spans)
    return (
        f"SELECT _partition, toUnixTimestamp64Milli(toDateTime64(argMinIf(_timestamp, _offset, {behind}), 3)), "
        "toUnixTimestamp64Milli(toDateTime64(max(_timestamp), 3)) "
        f"FROM {quote_table(table)} WHERE _topic = {literal(spans[0].partition.topic)} AND ({inside}) "
        "AND _timestamp <= now64(3) GROUP BY _partition"
    )


def _from_on(places: Iterable[tuple[Partition, int]]) -> str:
    return " OR ".join(f"(_partition = {partition.number} AND _offset >= {offset})" for partition, offset in places)


def stored_ids_sql(
    table: str,
    key_columns: tuple[str, ...],
    spans: Sequence[Span],
    after_ms: int,
    until_ms: Mapping[int, int],
    ids_max: int,
) -> str:
    """The event keys of the rows inside these spans of one topic and, between two record times in ms since 1970, behind them,
    in the order of their offsets, as the claim table restores them: of more than it holds, those that are read first.
    """
    keys = ", ".join(quote(column) for column in key_columns)
    no_null = " AND ".join(f"{quote(column)} IS NOT NULL" for column in key_columns)
    time = "toUnixTimestamp64Milli(toDateTime64(_timestamp, 3))"
    parts = " OR ".join(
        f"(_partition = {partition.number} AND _offset >= {first} AND "
        f"(_offset < {end} OR ({time} > {after_ms} AND {time} <= {until_ms[partition.number]})))"
        for partition, first, end in spans
    )
    return (
        f"SELECT {keys}, toInt32(_partition) AS _partition, toInt64(_offset) AS _offset FROM {quote_table(table)} "
        f"WHERE _topic = {literal(spans[0].partition.topic)} AND ({parts}) AND {no_null} ORDER BY _offset LIMIT {ids_max}"
    )


def last_offset(rows: bytes) -> int:
    """Of RowBinary rows that end with an Int64 offset; -1 without rows."""
    return int.from_bytes(rows[-8:], "little", signed=True) if rows else -1
