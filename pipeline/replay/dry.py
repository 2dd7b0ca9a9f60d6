"""Looks through a stretch as a replay would, and counts what it would write. It writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline import spans as span_reader
from pipeline.assembly import Assembly, lane_of
from pipeline.batch import OpenBatch
from pipeline.config.schema import DeadLetters
from pipeline.dedup import Dedup
from pipeline.lane import LeftOut, Ranges
from pipeline.replay.report import Report
from pipeline.replay.stretch import Stretch
from pipeline.types import Partition, Records, Span
from pipeline.verify.account import Heart, Pace


class _Look:
    """The lanes of a worker, and a batch that is never delivered."""

    def __init__(self, assembly: Assembly, stretch: Stretch, report: Report) -> None:
        self._config = assembly.config
        self._stretch = stretch
        self._report = report
        self._dedup = Dedup(assembly.config.dedup)
        self._lanes = {
            topic: lane_of(topic, contract, self._config, self._dedup, with_ids=self._dedup.key_is_column)
            for topic, contract in assembly.contracts.items()
        }
        targets = [target for lane in self._lanes.values() for target in lane.targets]
        self._batch = OpenBatch(targets, self._config.batch)

    def begin(self, partition: Partition) -> None:
        self._dedup.restart_time()
        self._dedup.open(partition)

    def end(self, partition: Partition, position: int) -> None:
        self.seal()
        self._dedup.freeze(partition, position)

    def take(self, records: Records, first: int, cut: int) -> None:
        partition, begin, end = records.partition, records.offsets[first], records.offsets[cut - 1] + 1
        settled = LeftOut(Ranges(self._stretch.settled(partition, begin, end)))
        self._batch.cover(partition, begin, end, 0.0)
        self._dedup.pass_time(partition, records.timestamps[first:cut])
        self._batch.add(self._lanes[partition.topic].take(records, first, cut, settled))
        if self._batch.seal_trigger(0.0, 0):
            self.seal()

    def seal(self) -> None:
        """Counts what would be inserted and written, as of now."""
        sealed = self._batch.seal("dry run", 0, 0.0)
        report, counts = self._report, sealed.counts
        report.records += counts.records
        report.filtered += counts.filtered
        report.duplicates += counts.duplicates
        report.letters_there += counts.stored
        _count_rejects(report, counts.rejects.total(), self._config.dead_letters)
        for block in sealed.blocks:
            left = self._stretch.look(block, sealed.spans)
            report.rows_there += left.stored
            report.duplicates += left.owned
            report.rows_written += len(left.rows)


def look_through(
    assembly: Assembly,
    stretch: Stretch,
    spans: Mapping[Partition, Span],
    report: Report,
    pace: Pace,
    progress: Callable[[int], None],
) -> None:
    """Reads the spans one after the other. `progress` is told how many offsets are done."""
    look = _Look(assembly, stretch, report)
    heart = Heart(assembly.config.kafka.brokers)
    done = 0
    for span in spans.values():
        if span.first == span.next:
            continue
        look.begin(span.partition)
        for records, first, cut in span_reader.read(assembly.open_source, [span], lambda: heart(False)):
            look.take(records, first, cut)
            pace.spend(cut - first)
            heart(True)
            progress(done + records.offsets[cut - 1] + 1 - span.first)
        look.end(span.partition, span.next)
        done += span.next - span.first
        progress(done)


def _count_rejects(report: Report, rejects: int, policy: DeadLetters) -> None:
    if policy.on_reject == "drop":
        report.dropped += rejects
    else:
        report.letters_written += rejects
