"""Makes assigned partitions ready: rebuilds claims, finishes the batches declared for them, finds where to read on.

It reads spans of any partition, inserts under the tokens the batches were declared with, and reports positions. It never
commits; the engine does, with the positions given here. Runs in the data-plane thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline import spans as span_reader
from pipeline.batch import Counts, OpenBatch, TableBlock
from pipeline.beyond import Ahead, Beyond
from pipeline.bounds import Bounds
from pipeline.clock import Clock
from pipeline.commands import Prepare
from pipeline.config.schema import Batch as BatchLimits
from pipeline.deadletter import DeadLetters
from pipeline.dedup import OFFSET_MAX, Dedup
from pipeline.delivery import Delivery
from pipeline.errors import PipelineStopped
from pipeline.intent import Intent
from pipeline.lane import Lane, LeftOut, Ranges, merged
from pipeline.patience import beating
from pipeline.sink import HOW_TO_GO_ON, Sink
from pipeline.types import Partition, Records, Source, Span, Stage
from pipeline.window import Window

log = logging.getLogger(__name__)

LOOKS_MAX = 5
"""How often rows are looked for again after an insert before the table is taken for one that does not keep them."""
ORIGIN_OFFSETS = 1_000
Written = dict[tuple[Partition, int], str]
_NONE = Ranges(())
LETTER_MARGIN_MS = 300_000
"""Clocks of workers and brokers may differ by this much when dead letters of a batch are searched by time."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Partitions that can be read now. Everything before a position is durable; `beyond` is what may be stored after it."""

    epochs: Mapping[Partition, int]
    positions: Mapping[Partition, int]
    beyond: Mapping[Partition, Beyond]
    batches: int
    rows: int


class Recovery:
    """What happens between an assignment and the first read."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        dedup: Dedup,
        window: Window,
        sink: Sink,
        delivery: Delivery,
        dead_letters: DeadLetters | None,
        start_positions: Callable[[Sequence[Partition]], Mapping[Partition, int]],
        open_source: Callable[[], Source],
        clock: Clock,
        heartbeat: Callable[[], None],
        bounds: Bounds | None = None,
    ) -> None:
        self._lanes = lanes
        self._dedup = dedup
        self._window = window
        self._sink = sink
        self._delivery = delivery
        self._dead_letters = dead_letters
        self._start_positions = start_positions
        self._open_source = open_source
        self._clock = clock
        self._heartbeat = heartbeat
        self._bounds = bounds

    def prepare(self, command: Prepare) -> Prepared:
        """Finishes every declared batch; blocks, with retries, until ClickHouse and Kafka have acknowledged all of it."""
        with beating(self._heartbeat):
            return self._prepare(command)

    def claim(self, records: Records, first: int, cut: int, stored: Ranges) -> None:
        """Claims the ids of the stored ones among the records `[first, cut)` of a run, and nothing else.

        Also where tables tell ids: rows may have come since `Window.claim_stored` looked ahead, or it looked no further.
        """
        lane = self._lanes[records.partition.topic]
        self._dedup.held_of(records.timestamps[first:cut])
        lane.take(records, first, cut, LeftOut(stored.gaps()))
        for target in lane.targets:
            target.discard()

    def _prepare(self, command: Prepare) -> Prepared:
        positions = {p: assigned.offset for p, assigned in command.partitions.items() if assigned.offset is not None}
        missing = [partition for partition in command.partitions if partition not in positions]
        if missing:
            positions |= self._start_positions(missing)
        reaches = self._reaches(command.intents, positions)
        # A partition that moved here before is being read: its claims go on, and go further back where a batch asks for it.
        foreign = [p for p in sorted(reaches.keys() - command.partitions.keys()) if not self._dedup.reads(p)]
        for partition in [*command.partitions, *foreign]:
            self._dedup.open(partition)
        self._window.rebuild(reaches.values(), [intent.spans for intent in command.intents])
        rows = 0
        for intent in command.intents:
            rows += self._finish(intent)
            for span in intent.spans:
                if span.partition in positions:
                    positions[span.partition] = max(positions[span.partition], span.next)
        for partition, position in positions.items():
            # It may have been taken away meanwhile; copies were dropped for the sake of what is durable all the same.
            self._dedup.settle(partition, position)
        for partition in foreign:
            self._dedup.freeze(partition, OFFSET_MAX)
        beyond = self._stored_beyond(positions)
        epochs = {partition: assigned.epoch for partition, assigned in command.partitions.items()}
        return Prepared(epochs, positions, beyond, len(command.intents), rows)

    def warm(self, positions: Mapping[Partition, int]) -> None:
        """Rebuilds the claims of partitions whose turn has come in a bounded reading."""
        with beating(self._heartbeat):
            self._window.rebuild([Span(partition, position, position) for partition, position in positions.items()])

    def _reaches(self, intents: Sequence[Intent], positions: Mapping[Partition, int]) -> dict[Partition, Span]:
        """Of each partition that is read, or read again, the stretch that the window has to lead up to, and hold.

        It begins with what is read again, which is before the position when a partition has passed a batch that others wait
        for. It ends where reading begins for the last time: between the batches of a partition there may be others, which
        are finished and known to nobody but the table, and later batches hold copies of their records.
        """
        reaches = {partition: Span(partition, position, position) for partition, position in positions.items()}
        for partition, first, _ in (span for intent in intents for span in intent.spans):
            known = reaches.setdefault(partition, Span(partition, first, first))
            reaches[partition] = Span(partition, min(known.first, first), max(known.next, first))
        return reaches

    def _finish(self, intent: Intent) -> int:
        """Inserts what is missing of a declared batch, and looks again until nothing is. Returns the rows inserted.

        The first insert goes under the token of the declare, so that it and one still on its way from another worker are
        one. Rows missing even then (a contract changed meanwhile, so that the token stood for fewer rows) follow under
        tokens of their own, on which all recovering workers agree as well.
        """
        self._check(intent)
        inserted = 0
        written = self._written(intent)
        for look in range(LOOKS_MAX):
            whole = self._sent_whole(intent) if look == 0 else frozenset[str]()
            stored = self._stored(intent.spans, whole)
            self._claim(intent.spans, stored)
            batch = self._read_again(intent.spans, stored, written)
            sealed = batch.seal("recovery", 0, self._clock.monotonic_s())
            refused = self._delivery.deliver(
                intent.spans,
                sealed.blocks,
                sealed.letters,
                self._heartbeat,
                salt=intent.salt,
                look=look,
                written=frozenset(written),
            )
            inserted += sealed.counts.rows - refused
            if (
                not sealed.blocks
                or not self._has_lineage(intent.spans)
                or self._missing(intent.spans, sealed.blocks) <= refused
            ):
                _log_finished(intent, sealed.counts, refused)
                return inserted
            # Another worker has written the batch, under another contract: it may have written letters too.
            written |= self._written(intent)
        raise PipelineStopped(
            f"{intent.spans[0]}: rows of a recovered batch do not appear in the table after {LOOKS_MAX} acknowledged inserts. "
            "Look for a TTL, a filtering engine or a reader on a lagging replica, then start again"
        )

    def _check(self, intent: Intent) -> None:
        """A batch that cannot be finished safely stops here."""
        unrouted = {span.partition.topic for span in intent.spans} - self._lanes.keys()
        if unrouted:
            raise PipelineStopped(
                f"a batch in flight holds records of {sorted(unrouted)}, which no route names any more. "
                "Put the route back until the pipeline has drained, then remove it"
            )
        age_ms = self._clock.wall_ms() - intent.declared_ms
        for table in self._tables(intent.spans):
            life_ms = self._sink.token_life_ms(table)
            if life_ms is not None and age_ms > life_ms / 2 and not self._sink.has_lineage(table):
                raise PipelineStopped(
                    f"a batch for {table} was declared {age_ms // 1000} s ago, more than half the deduplication window, "
                    f"and the table has no lineage columns to look its rows up by. {HOW_TO_GO_ON}"
                )

    def _tables(self, spans: Sequence[Span]) -> list[str]:
        """In an order of its own, so that a run can be repeated."""
        topics = {span.partition.topic for span in spans}
        return sorted({target.table for topic in topics for target in self._lanes[topic].targets})

    def _has_lineage(self, spans: Sequence[Span]) -> bool:
        return all(self._sink.has_lineage(table) for table in self._tables(spans))

    def _sent_whole(self, intent: Intent) -> frozenset[str]:
        """Tables whose block is sent again whole, stored rows too, for the sake of the views behind them.

        A worker that died between a table and its view has left the view without the rows. Under the same token the table
        takes the block for the one it has, and the view gets what it misses; without a live token that would double rows.
        Of a replay's batch, which carries a salt, rows may have been stored by another batch, under another token.
        """
        if intent.salt:
            return frozenset()
        age_ms = self._clock.wall_ms() - intent.declared_ms
        tables = self._tables(intent.spans)
        return frozenset(t for t in tables if self._sink.facts(t).views and self._sink.remembers_token(t, age_ms))

    def _stored(self, spans: Sequence[Span], but_for: frozenset[str] = frozenset()) -> dict[Partition, Ranges]:
        """The offsets inside the spans that some target table has already."""
        found: dict[Partition, list[tuple[int, int]]] = {}
        for table in self._tables(spans):
            if table not in but_for and self._sink.has_lineage(table):
                for partition, ranges in self._sink.stored(table, spans).items():
                    found.setdefault(partition, []).extend(ranges)
        if self._bounds is not None:
            for span in spans:
                found.setdefault(span.partition, []).extend(self._bounds.settled(*span))
        return {partition: Ranges(merged(ranges)) for partition, ranges in found.items()}

    def _written(self, intent: Intent) -> Written:
        """The records of the batch that have a letter, and the stage at which each was refused."""
        if self._dead_letters is None:
            return {}
        return self._dead_letters.written(intent.spans, intent.declared_ms - LETTER_MARGIN_MS)

    def _read_again(self, spans: Sequence[Span], stored: Mapping[Partition, Ranges], written: Written) -> OpenBatch:
        """The batch as its records make it today, without what is stored or written."""
        batch = OpenBatch(
            [target for lane in self._lanes.values() for target in lane.targets], BatchLimits(age_ms_max=OFFSET_MAX)
        )
        letters_of: dict[Partition, set[int]] = {}
        no_rows_of: dict[Partition, set[int]] = {}
        for (partition, offset), stage in written.items():
            letters_of.setdefault(partition, set()).add(offset)
            # A row that ClickHouse refused was in the block, and has to be again, or the block would be cut elsewhere.
            if stage != Stage.INSERT:
                no_rows_of.setdefault(partition, set()).add(offset)
        for records, first, cut in span_reader.read(self._open_source, spans, self._heartbeat):
            partition = records.partition
            left_out = LeftOut(
                stored.get(partition, Ranges(())),
                frozenset(letters_of.get(partition, ())),
                frozenset(no_rows_of.get(partition, ())),
            )
            self._dedup.held_of(records.timestamps[first:cut])
            taken = self._lanes[partition.topic].take(records, first, cut, left_out)
            batch.cover(partition, records.offsets[first], records.offsets[cut - 1] + 1, 0.0)
            batch.add(taken)
        return batch

    def _claim(self, spans: Sequence[Span], stored: Mapping[Partition, Ranges]) -> None:
        """Claims the ids of rows that are stored and therefore left out, so that copies of them are recognised.

        Rows that another worker has written since we looked last take the claims over from the records that would have become
        rows here.
        """
        for topic in sorted({span.partition.topic for span in spans}):
            mine = [span for span in spans if span.partition.topic == topic]
            if self._window.has_ids(topic):
                self._window.claim_stored(topic, mine)
            elif self._dedup.enabled:
                self._claim_from_kafka(mine, stored)

    def _claim_from_kafka(self, spans: Sequence[Span], stored: Mapping[Partition, Ranges]) -> None:
        mine = [span for span in spans if stored.get(span.partition, _NONE).end]
        if not mine:
            return
        for records, first, cut in span_reader.read(self._open_source, mine, self._heartbeat):
            self.claim(records, first, cut, stored[records.partition])

    def _missing(self, spans: Sequence[Span], blocks: Sequence[TableBlock]) -> int:
        """How many rows of acknowledged blocks are not in their tables: their token stood for other rows.

        Only the rows themselves tell. As many may be stored of records that have left the topic, or from another worker.
        """
        missing = 0
        for block in blocks:
            stored = {partition: Ranges(found) for partition, found in self._sink.stored(block.table, spans).items()}
            topics, *places = block.block.lineage()
            missing += sum(
                offset not in stored.get(Partition(topics[topic], number), _NONE)
                for topic, number, offset in zip(*places, strict=True)
            )
        return missing

    def _stored_beyond(self, positions: Mapping[Partition, int]) -> dict[Partition, Beyond]:
        """Rows and letters beyond the position: after offsets were set back or lost, they must not be written again.

        The dead-letter topic is only searched when there are such rows: it may be long.
        """
        spans = [
            Span(partition, position, self._look_until(partition, position))
            for partition, position in positions.items()
        ]
        extents = self._extents(sorted(span for span in spans if span.first < span.next))
        self._window.check_origin({partition: first for partition, (first, _) in extents.items()})
        if self._bounds is not None:
            return {}  # Whole stretches of it may be stored: each block is screened right before its insert.
        letters: dict[Partition, set[int]] = {}
        if self._dead_letters is not None and extents:
            for partition, offset in self._dead_letters.written(spans, 0):
                letters.setdefault(partition, set()).add(offset)
        beyond = {}
        for partition in positions.keys() & (extents.keys() | letters.keys()):
            offsets = frozenset(letters.get(partition, ()))
            end = max(extents.get(partition, (0, 0))[1], max(offsets, default=-1) + 1)
            beyond[partition] = Beyond(partition, end, offsets, self._stored_of, self._claim_beyond)
        return beyond

    def _extents(self, spans: Sequence[Span]) -> dict[Partition, tuple[int, int]]:
        """From the first offset inside each span that some target table has a row of to the one after the last."""
        found: dict[Partition, tuple[int, int]] = {}
        for table in self._tables(spans):
            if self._sink.has_lineage(table):
                for partition, (first, end) in self._sink.extents(table, spans).items():
                    known = found.get(partition, (first, end))
                    found[partition] = min(first, known[0]), max(end, known[1])
        return found

    def _stored_of(self, span: Span) -> Ranges:
        return self._stored([span]).get(span.partition, _NONE)

    def _claim_beyond(self, span: Span, after_ms: int) -> Ahead:
        topic = span.partition.topic
        return (
            self._window.claim_stored(topic, [span], after_ms) if self._window.has_ids(topic) else Ahead(0, OFFSET_MAX)
        )

    def _look_until(self, partition: Partition, position: int) -> int:
        """How far rows beyond a position are looked for: in a bounded reading, to know whether they are of this topic."""
        return OFFSET_MAX if self._bounds is None else min(self._bounds.end(partition), position + ORIGIN_OFFSETS)


def _log_finished(intent: Intent, counts: Counts, refused: int) -> None:
    log.info(
        "finished a declared batch: %d spans, %d records, %d rows inserted, %d stored before, %d refused",
        len(intent.spans),
        counts.records,
        counts.rows - refused,
        counts.stored,
        refused,
    )
