"""The worker of a replay: an ordinary worker whose reading has an end, and which counts what it did."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from pipeline import flow as data_plane
from pipeline import membership as group
from pipeline.assembly import Assembly
from pipeline.batch import SealedBatch
from pipeline.commands import Assigned, Command, Commit, CommitEntry, CommitOutcome, Drained
from pipeline.replay.report import Report
from pipeline.replay.stretch import Stretch
from pipeline.types import Partition
from pipeline.worker import Worker

log = logging.getLogger(__name__)

CLOSING = 0
"""The number of the last commit; the engine's own begin at 1."""
SESSIONS = 3
SESSION_MS = 45_000
"""Of a broker, where the `consumer` protocol leaves it to the broker."""


class Replayer(Worker):
    """Drains when every partition has been read to the end of the stretch. `progress` is told how many offsets are done.

    `anew`: what an earlier run committed does not count.
    """

    def __init__(
        self, assembly: Assembly, stretch: Stretch, report: Report, progress: Callable[[int], None], *, anew: bool
    ) -> None:
        assembly.bind(stretch)
        super().__init__(assembly, until_caught_up=True)
        self._stretch = stretch
        self._report = report
        self._progress = progress
        self._shown: dict[Partition, int] = {}
        self._anew = set(stretch.spans) if anew else set()
        self._epochs: dict[Partition, int] = {}
        self._closing = False
        self._wanted = frozenset(p for p, span in stretch.spans.items() if span.first < span.next)
        self._alone: frozenset[Partition] = frozenset()
        """With the rest held by others: the partitions held here since `_alone_since_s`."""
        self._alone_since_s = self._clock.monotonic_s()

    def _engine_answer(self, event: group.Event | data_plane.Event) -> list[Command]:
        match event:
            case group.PartitionsAssigned(partitions):
                event = group.PartitionsAssigned({p: self._taken(p, one) for p, one in partitions.items()})
            case group.CommitDone(number, outcome, _, detail) if number == CLOSING:
                if outcome is not CommitOutcome.ACCEPTED:
                    log.warning("the progress stays in Kafka; --restart will begin anew all the same (%s)", detail)
                self._report.finished = True
                return [Drained()]
            case data_plane.PartitionsPrepared(prepared):
                self._report.recovered += prepared.rows
            case data_plane.BatchSealed(batch) if batch.empty and batch.flow_epoch == self._engine.flow_epoch:
                self._add(batch)
            case _:
                pass
        return super()._engine_answer(event)

    def _taken(self, partition: Partition, assigned: Assigned) -> Assigned:
        self._epochs[partition] = assigned.epoch
        if partition not in self._anew:
            return assigned
        self._anew.discard(partition)
        return dataclasses.replace(assigned, offset=None)

    def _carry_out(self, command: Command) -> None:
        """Before it leaves, a replay that is done sets its group back: the same command begins at the beginning again."""
        if isinstance(command, Drained) and not self._report.finished:
            if self._closing:
                return
            self._closing = self._is_done()
            if self._closing:
                entries = {p: CommitEntry(self._epochs[p], self._stretch.first(p), "") for p in self._engine.held}
                self._membership.commit(Commit(CLOSING, entries))
                return
        super()._carry_out(command)

    def _caught_up(self) -> bool:
        """Everything was read; or somebody else has kept the rest for so long that it cannot be a process that died."""
        held = frozenset(self._engine.held)
        if self._wanted <= held:
            return held <= self._flow.at_end | self._flow.halted.keys()
        now_s = self._clock.monotonic_s()
        if held != self._alone or not held <= self._flow.at_end | self._flow.halted.keys():
            self._alone, self._alone_since_s = held, now_s
        return now_s - self._alone_since_s > SESSIONS * max(self._config.kafka.session_timeout_ms, SESSION_MS) / 1000

    def _is_done(self) -> bool:
        """Whether everything was read; as the engine has drained, it is durable."""
        positions = self._flow.positions()
        held = set(self._engine.held)
        return not self._flow.halted and all(
            partition in held and positions.get(partition, -1) >= span.next
            for partition, span in self._stretch.spans.items()
            if partition in self._wanted
        )

    def _count(self, batch: SealedBatch, refused: int) -> None:
        self._add(batch)
        self._report.rows_written += batch.counts.rows - refused
        # What the screen took out counts as not inserted too; the rest was refused, and has a dead letter.
        refused -= self._stretch.screened.pop(batch.spans, 0)
        self._count_rejects(refused)
        super()._count(batch, refused)
        for partition, position in self._flow.positions().items():
            self._shown[partition] = max(position, self._shown.get(partition, 0))
        self._progress(sum(max(0, at - self._stretch.first(partition)) for partition, at in self._shown.items()))

    def _add(self, batch: SealedBatch) -> None:
        report, counts = self._report, batch.counts
        report.records += counts.records
        report.filtered += counts.filtered
        report.letters_there += counts.stored
        report.duplicates += counts.duplicates
        self._count_rejects(counts.rejects.total())

    def _count_rejects(self, rejects: int) -> None:
        if self._config.dead_letters.on_reject == "drop":
            self._report.dropped += rejects
        else:
            self._report.letters_written += rejects
