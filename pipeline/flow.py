"""The data plane: reads, decodes, claims, appends and seals, in one thread that spends its time outside the GIL.

It obeys the engine's commands in the order given, hands sealed batches over, and reads nothing while a budget is used up.
It never commits and never inserts a live batch.
"""

from __future__ import annotations

import logging
import queue
import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.batch import OpenBatch, SealedBatch
from pipeline.beyond import Beyond
from pipeline.bounds import Bounds
from pipeline.clock import Clock
from pipeline.commands import Discard, Prepare, Read, Release
from pipeline.config.schema import Config
from pipeline.deadletter import RatioLimit
from pipeline.dedup import Dedup
from pipeline.delivery import no_place_for
from pipeline.errors import PenstockError, RejectLimitExceeded, invariant
from pipeline.lane import Job, Lane, LeftOut, Ranges
from pipeline.metrics import Metrics
from pipeline.patience import Stopping, beating
from pipeline.recovery import Prepared, Recovery
from pipeline.threads import Threads
from pipeline.types import DeadLetter, Partition, PartitionEnd, Records, Source, SourceEvent, SourceFault
from pipeline.waiting import Waiting

log = logging.getLogger(__name__)

POLL_S = 0.05
"""How long a poll waits when nothing is there; also how long a command can wait."""
RECORD_BYTES_GUESS = 1_000


@dataclass(frozen=True, slots=True)
class Drain:
    """Seal what is open and read no more."""


@dataclass(frozen=True, slots=True)
class BatchSealed:
    batch: SealedBatch


@dataclass(frozen=True, slots=True)
class PartitionsPrepared:
    prepared: Prepared


@dataclass(frozen=True, slots=True)
class FlowDrained:
    """Everything read was sealed and handed over; nothing more will come."""


@dataclass(frozen=True, slots=True)
class FlowFault:
    error: PenstockError


Command = Prepare | Read | Discard | Release | Drain
Event = BatchSealed | PartitionsPrepared | FlowDrained | FlowFault


class Budget:
    """What is between the source and the acknowledgements. Used by the data-plane thread only."""

    def __init__(self, config: Config) -> None:
        self._limits = config.limits
        self.batches = 0
        self.rows = 0
        self.nbytes = 0

    def take(self, batch: SealedBatch) -> None:
        self.batches += 1
        self.rows += batch.counts.rows
        self.nbytes += batch.nbytes

    def give_back(self, batch: SealedBatch) -> None:
        self.batches -= 1
        self.rows -= batch.counts.rows
        self.nbytes -= batch.nbytes
        invariant(self.batches >= 0 and self.rows >= 0 and self.nbytes >= 0, "more was released than was in flight")

    def used_up(self) -> str | None:
        """The name of the budget that is used up, or None."""
        limits = self._limits
        if self.batches >= limits.batches_in_flight_max:
            return "batches"
        if self.rows >= limits.rows_in_flight_max:
            return "rows"
        if self.nbytes >= limits.bytes_in_flight_max:
            return "bytes"
        return None


class Flow:
    """One worker's data plane. `post` is called from its thread; `tell` and `stop` may be called from any."""

    def __init__(
        self,
        config: Config,
        lanes: Mapping[str, Lane],
        dedup: Dedup,
        recovery: Recovery,
        open_source: Callable[[], Source],
        post: Callable[[Event], None],
        metrics: Metrics,
        clock: Clock,
        stopping: threading.Event,
        threads: Threads,
        bounds: Bounds | None = None,
    ) -> None:
        self._bounds = bounds
        self._turn: Partition | None = None
        """With bounds: the partition that is read now."""
        self._config = config
        self._lanes = lanes
        self._dedup = dedup
        self._recovery = recovery
        self._open_source = open_source
        self._post = post
        self._metrics = metrics
        self._clock = clock
        self._stopping = stopping
        self._threads = threads
        self._commands: queue.SimpleQueue[Command] = threads.queue()
        self._batch = OpenBatch([target for lane in lanes.values() for target in lane.targets], config.batch)
        # Of a bounded reading one partition is read at a time: nothing would end the wait but the batch's age.
        self._waiting = Waiting(config.batch.rows_max if bounds is None else 1, config.batch.bytes_max)
        self._runs: dict[str, list[Job]] = {}
        """By topic: runs that have begun and are not taken yet; empty between two polls."""
        self._assignments = 0
        self._budget = Budget(config)
        self._ratio = RatioLimit(config.dead_letters.ratio_max, config.dead_letters.ratio_records)
        self._positions: dict[Partition, int] = {}
        self._beyond: dict[Partition, Beyond] = {}
        self._epoch = 0
        self._record_bytes = float(RECORD_BYTES_GUESS)
        policy = config.dead_letters
        self._takes_letters = policy.on_reject == "drop" or (policy.on_reject != "stop" and bool(policy.topic))
        """Whether a reject has somewhere to go, or may go nowhere."""
        self._draining = False
        self._cold = bool(config.dedup.key) and config.dedup.rebuild == "cold"
        self._progress_s = clock.monotonic_s()
        self.at_end: set[Partition] = set()
        """Partitions read up to their end at least once since they were assigned. Read by other threads."""
        self.halted: dict[Partition, str] = {}
        """Partitions that cannot be read on, and why. Read by other threads."""
        self.last_timestamp_ms: dict[Partition, int] = {}
        self._warm_ms: dict[Partition, int] = {}
        """With a cold window: the record time from which a partition's window has filled."""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = self._threads.start(self._run, "data-plane")

    def tell(self, command: Command) -> None:
        """Queues a command; commands are obeyed in order."""
        self._commands.put(command)

    def join(self, timeout_s: float) -> bool:
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def positions(self) -> dict[Partition, int]:
        """A copy of where each partition is read."""
        return dict(self._positions)

    def stalled_s(self) -> float:
        """How long the thread has made no progress; waiting for a budget or for ClickHouse is progress."""
        return self._clock.monotonic_s() - self._progress_s

    def heartbeat(self) -> None:
        """Progress; to be called by whatever waits in this thread. Raises Stopping when the worker goes down."""
        self._progress_s = self._clock.monotonic_s()
        if self._stopping.is_set():
            raise Stopping("the worker is stopping")

    # The thread

    def _run(self) -> None:
        source = self._open_source()
        try:
            while not self._stopping.is_set():
                self.heartbeat()
                self._obey(source)
                self._read(source)
                self._seal_if_due()
        except Stopping:
            pass
        except PenstockError as error:
            self._post(FlowFault(error))
        except Exception as error:
            log.exception("data plane failed")
            self._post(
                FlowFault(PenstockError(f"data plane: {type(error).__name__}: {error}. This is a bug in penstock"))
            )
        finally:
            # The client lives on until its last run is gone.
            self._waiting.clear()
            source.close()

    def _obey(self, source: Source) -> None:
        """Carries out every queued command. Waits for one when there is nothing to read."""
        wait_s = POLL_S if self._draining or not self._positions or self._budget.used_up() else 0.0
        try:
            command = self._commands.get(timeout=wait_s) if wait_s else self._commands.get_nowait()
            while True:
                self._obey_one(command, source)
                command = self._commands.get_nowait()
        except queue.Empty:
            return

    def _obey_one(self, command: Command, source: Source) -> None:
        match command:
            case Release(payload):
                assert isinstance(payload, SealedBatch)
                self._budget.give_back(payload)
                self._report_budget()
            case Prepare():
                prepared = self._recovery.prepare(command)
                self._beyond |= prepared.beyond
                self._post(PartitionsPrepared(prepared))
            case Read(positions, flow_epoch):
                invariant(flow_epoch == self._epoch, f"read for flow epoch {flow_epoch}, this is {self._epoch}")
                self._positions |= positions
                self._assign(source)
            case Discard():
                self._discard(command, source)
            case Drain():
                self._drain(source)

    def _discard(self, command: Discard, source: Source) -> None:
        self._batch.discard()
        self._epoch = command.flow_epoch
        for partition, void_from in command.void_from.items():
            self._dedup.freeze(partition, void_from)
            self._beyond.pop(partition, None)
            self.halted.pop(partition, None)
            self.last_timestamp_ms.pop(partition, None)
            self._warm_ms.pop(partition, None)
            if partition == self._turn:
                self._turn = None
        for partition, position in command.positions.items():
            if position != self._positions.get(partition):
                self._dedup.reopen(partition, position)
            # Until then what was left out may have to be left out again.
            if (beyond := self._beyond.get(partition)) and position >= beyond.end:
                del self._beyond[partition]
        self._positions = dict(command.positions)
        self.at_end &= self._positions.keys()
        self._assign(source)

    def _drain(self, source: Source) -> None:
        self._draining = True
        self._waiting.clear()
        source.assign({})
        if self._batch.started:
            self._seal("shutdown")
        self._post(FlowDrained())

    def _assign(self, source: Source) -> None:
        """Reads every position from now on; of a bounded reading the one whose turn it is."""
        readable = {p: position for p, position in self._positions.items() if p not in self.halted}
        if self._bounds is not None:
            self.at_end = {p for p, position in self._positions.items() if position >= self._bounds.end(p)}
            readable = self._bounds.turn(readable)
            self._take_turn(next(iter(readable.items()), None))
        self._assignments += 1
        self._waiting.clear()
        source.assign({} if self._draining else readable)

    def _take_turn(self, turn: tuple[Partition, int] | None) -> None:
        if turn is not None and turn[0] != self._turn:
            self._turn = turn[0]
            self._dedup.restart_time()
            self._recovery.warm({turn[0]: turn[1]})

    # Reading

    def _read(self, source: Source) -> None:
        if self._draining or not self._positions or self._budget.used_up():
            return
        if self._waiting and (self._waiting.full or not self._batch.started):
            self._take_waiting()
            return
        records_max = self._records_max()
        if not records_max:
            self._stopping.wait(POLL_S)
            return
        started_s = self._clock.monotonic_s()
        events = source.poll(records_max, POLL_S)
        taking_s = self._clock.monotonic_s()
        # Once a poll, which brings many runs: counters have locks.
        self._metrics.stage_seconds("source", taking_s - started_s)
        self._accept(events, taking_s, source)
        self._metrics.stage_seconds("decode", self._clock.monotonic_s() - taking_s)
        if self._bounds is not None and self._turn is not None and self._turn not in self.at_end:
            position = self._positions.get(self._turn)
            if position is not None and position >= self._bounds.end(self._turn):
                self._assign(source)

    def _accept(self, events: list[SourceEvent], read_s: float, source: Source) -> None:
        # Taken from the list one by one: nothing but the work on a run must hold it.
        events.reverse()
        assignment = self._assignments
        while events:
            event = events.pop()
            if isinstance(event, SourceFault):
                self._take_runs()
                self._halt(event, source)
            elif assignment == self._assignments:  # What was read before a new one comes again.
                self._sort_in(event, read_s)
            del event
        self._take_runs()

    def _sort_in(self, event: Records | PartitionEnd, read_s: float) -> None:
        """Takes it, or lets it wait when the open batch has no place for its partition or something before it waits."""
        partition = event.partition
        placed = self._batch.has_room_for(partition)
        if not placed and isinstance(event, PartitionEnd):
            # With nothing behind what was read it needs no place.
            placed = event.next_offset <= self._positions.get(partition, event.next_offset)
        if partition in self._waiting or not placed:
            self._waiting.add(event, read_s)
        elif isinstance(event, PartitionEnd):
            self._take_runs()
            self._end(event)
        else:
            self._begin(event, read_s)

    def _take_waiting(self) -> None:
        """What waited begins the next batch, and may fill it: that is looked at before more is read."""
        if self._batch.started:
            self._seal("partitions")
        if not self._budget.used_up():
            started_s = self._clock.monotonic_s()
            for event, read_s in self._waiting.take():
                self._sort_in(event, read_s)
            self._take_runs()
            self._metrics.stage_seconds("decode", self._clock.monotonic_s() - started_s)

    def _records_max(self) -> int:
        """As many records as the batch has room for, judged by the size of the recent ones, and as may wait for the next."""
        batch, limits = self._config.batch, self._config.limits
        room = min(batch.rows_max - self._batch.rows, int((batch.bytes_max - self._batch.nbytes) / self._record_bytes))
        if self._waiting:
            room = min(room, self._waiting.room(self._record_bytes))
        records_max = max(1, min(room, limits.poll_records_max))
        return records_max if self._bounds is None else min(records_max, self._bounds.allowance())

    def _begin(self, records: Records, now_s: float) -> None:
        """What comes before a run is taken. Runs are taken together, unless something else has to come between them."""
        partition = records.partition
        position = self._positions.get(partition)
        if position is None or partition in self.halted:
            return
        if records.offsets[0] < position:
            invariant(False, f"{partition}: read offset {records.offsets[0]}, expected {position}")
        cut, next_offset = self._within(records)
        if next_offset <= position:
            return
        self._dedup.come(partition, records.timestamps)
        left_out = self._to_leave_out(partition, position, next_offset)
        if left_out is not None:
            self._take_runs()
            if self._dedup.enabled and self._bounds is None:
                # What is stored beyond the position may be older than the window that was rebuilt; its copies follow.
                self._recovery.claim(records, 0, len(records), left_out.stored)
        if self._cold:
            self._count_cold(records)
        self._batch.cover(partition, position, next_offset, now_s)
        self._positions[partition] = next_offset
        self.last_timestamp_ms[partition] = records.timestamps[-1]
        self._record_bytes += 0.1 * (max(1.0, records.nbytes / len(records)) - self._record_bytes)
        self._runs.setdefault(partition.topic, []).append(Job(records, 0, cut, left_out))
        if left_out is not None:
            self._take_runs()

    def _take_runs(self) -> None:
        """Takes the runs that have begun, topic by topic."""
        while self._runs:
            topic, jobs = self._runs.popitem()
            taken = self._lanes[topic].take_all(jobs, explain_later=self._takes_letters)
            self._judge(taken.letters)
            self._ratio.add(taken.counts.records, taken.refused)
            self._batch.add(taken)
        self._dedup.took()

    def _within(self, records: Records) -> tuple[int, int]:
        """How many of the records are read, and the offset after them; fewer only at the end of a bounded reading."""
        if self._bounds is None:
            return len(records), records.next_offset
        self._bounds.spend(len(records))
        end = self._bounds.end(records.partition)
        return bisect_left(records.offsets, end), min(records.next_offset, end)

    def _to_leave_out(self, partition: Partition, position: int, next_offset: int) -> LeftOut | None:
        if self._bounds is not None:
            with beating(self.heartbeat):
                return LeftOut(Ranges(self._bounds.settled(partition, position, next_offset)))
        if (beyond := self._beyond.get(partition)) is None:
            return None
        with beating(self.heartbeat):
            return beyond.left_out(position, next_offset)

    def _count_cold(self, records: Records) -> None:
        """Records read before the window of their partition has filled, when it is not rebuilt."""
        window_ms = self._config.dedup.window_s * 1000
        warm_ms = self._warm_ms.setdefault(records.partition, records.timestamps[0] + window_ms)
        if records.timestamps[-1] < warm_ms:
            self._metrics.cold(len(records))

    def _judge(self, letters: list[DeadLetter]) -> None:
        """Stops at the first reject when there is no place for it."""
        if letters and not self._takes_letters:
            raise RejectLimitExceeded(no_place_for(letters[0]))

    def _end(self, end: PartitionEnd) -> None:
        position = self._positions.get(end.partition)
        if position is None:
            return
        self._dedup.rest(end.partition)
        next_offset = end.next_offset
        if self._bounds is None:
            self.at_end.add(end.partition)
        else:
            next_offset = min(next_offset, self._bounds.end(end.partition))
        if next_offset > position:
            # Offsets without records (transaction markers, compaction) are part of the span too.
            self._batch.cover(end.partition, position, next_offset, self._clock.monotonic_s())
            self._positions[end.partition] = next_offset

    def _halt(self, fault: SourceFault, source: Source) -> None:
        """Stops one partition, loudly; the others go on."""
        self.halted[fault.partition] = f"{fault.name}: {fault.detail}"
        self._dedup.rest(fault.partition)
        self._metrics.stopped(fault.name)
        log.error(
            "%s is not read any more, at offset %d: %s (%s). Nothing past it was committed. `penstock check` tells what is "
            "left in the topic; restart the worker to try again",
            fault.partition,
            self._positions.get(fault.partition, fault.offset),
            fault.name,
            fault.detail,
        )
        self._assign(source)

    # Sealing

    def _seal_if_due(self) -> None:
        trigger = self._batch.seal_trigger(self._clock.monotonic_s(), self._clock.wall_ms())
        if trigger is not None:
            self._seal(trigger)

    def _seal(self, trigger: str) -> None:
        sealed = self._batch.seal(trigger, self._epoch, self._clock.monotonic_s())
        self._budget.take(sealed)
        self._report_budget()
        self._metrics.sealed(trigger, sealed.counts.rows, sealed.nbytes, sealed.age_s)
        if self._dedup.claims is not None:
            self._metrics.claims(self._dedup.claims.ids, self._dedup.claims.nbytes, self._dedup.ids_cut())
        self._post(BatchSealed(sealed))

    def _report_budget(self) -> None:
        limits = self._config.limits
        self._metrics.budget("batches", self._budget.batches, limits.batches_in_flight_max)
        self._metrics.budget("rows", self._budget.rows, limits.rows_in_flight_max)
        self._metrics.budget("bytes", self._budget.nbytes, limits.bytes_in_flight_max)
