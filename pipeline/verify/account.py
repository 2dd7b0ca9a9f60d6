"""Accounts for every consumed record: reads it again from Kafka and looks for its row, its dead letter, or the row it repeats.

It changes nothing: no commit, no insert, no dead letter. Memory is bounded by a window of offsets, a run of records and the
duplicates not looked up yet (and eight bytes a dead letter).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline import intent
from pipeline import spans as span_reader
from pipeline.config.schema import Config
from pipeline.config.start import parse_start
from pipeline.contract import Contract
from pipeline.errors import DependencyDown, SourceError
from pipeline.kafka import Cluster
from pipeline.types import Partition, Records, Source, Span
from pipeline.verify.candidates import Candidates
from pipeline.verify.letters import Letters
from pipeline.verify.report import Report
from pipeline.verify.tables import NOTHING, Stored, Tables

WINDOW_OFFSETS = 100_000
"""Stored offsets are asked for in windows of this many."""
SWEEP_OFFSETS = 5_000_000
"""Offsets that cannot be read again are looked at in steps of this many."""
SILENCE_S_MAX = 60.0
"""Without a record for this long Kafka counts as down."""


@dataclass(frozen=True)
class Reach:
    """Of one partition: `[first, low)` was consumed and is gone from Kafka, `[low, end)` is read again."""

    partition: Partition
    first: int
    low: int
    end: int
    high: int


class Heart:
    """Gives up when nothing arrives for too long."""

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers
        self._last_s = time.monotonic()

    def beat(self) -> None:
        self._last_s = time.monotonic()

    def check(self) -> None:
        if time.monotonic() - self._last_s > SILENCE_S_MAX:
            raise DependencyDown(
                f"{self._brokers}: no record for {SILENCE_S_MAX:.0f} s. Check the brokers, then run verify again"
            )


class Accountant:
    """One verification. `progress` is told how many records were read since its last call."""

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        tables: Tables,
        letters: Letters,
        contracts: Mapping[str, Contract],
        open_source: Callable[[], Source],
        *,
        examples_max: int = 20,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._tables = tables
        self._letters = letters
        self._open_source = open_source
        self._progress = progress
        self._heart = Heart(config.kafka.brokers)
        self.report = Report(examples_max=examples_max)
        self._candidates = {
            topic: Candidates(config, topic, contract, tables, self.report) for topic, contract in contracts.items()
        }

    def run(self, reaches: Sequence[Reach]) -> Report:
        """Reads every partition's `[low, end)` again and sweeps the tables for the rest."""
        start_s = time.monotonic()
        for reach in reaches:
            self._read_again(reach)
            self._sweep(reach)
            self.report.dead_letters_repeated += self._letters.repeated(reach.partition, reach.low, reach.end)
        for topic, candidates in self._candidates.items():
            candidates.look_up()
            candidates.search_keys(self._runs([reach for reach in reaches if reach.partition.topic == topic]))
        self.report.partitions = len(reaches)
        self.report.seconds = round(time.monotonic() - start_s, 3)
        return self.report

    def _runs(self, reaches: Sequence[Reach]) -> Callable[[], Iterator[tuple[Records, int, int, Stored]]]:
        """Reads everything once more; for event ids that are not in the tables."""

        def runs() -> Iterator[tuple[Records, int, int, Stored]]:
            for reach in reaches:
                for records, first, cut in self._records(reach.partition, reach.low, reach.end):
                    next_ = records.offsets[cut - 1] + 1
                    yield records, first, cut, self._tables.stored(reach.partition, records.offsets[first], next_)

        return runs

    def _records(self, partition: Partition, low: int, end: int) -> Iterator[tuple[Records, int, int]]:
        self._heart.beat()
        for records, first, cut in span_reader.read(self._open_source, [Span(partition, low, end)], self._heart.check):
            self._heart.beat()
            yield records, first, cut

    def _read_again(self, reach: Reach) -> None:
        if reach.low >= reach.end:
            return
        window = _Window(self._tables, self._letters, reach)
        try:
            for records, first, cut in self._records(reach.partition, reach.low, reach.end):
                for start, stop in window.pieces(records, first, cut):
                    self._account(records, start, stop, window)
                self._progress(cut - first)
        except SourceError as error:
            # Retention went on while we read: what we had not reached yet cannot be proved any more.
            low = self._cluster.watermarks([reach.partition])[reach.partition][0]
            if low <= window.position:
                raise
            self.report.not_proved.append(f"{reach.partition}: records were removed while they were read ({error})")
            self.report.unreadable += min(low, reach.end) - window.position
            self._read_again(Reach(reach.partition, reach.first, min(low, reach.end), reach.end, reach.high))

    def _account(self, records: Records, first: int, cut: int, window: _Window) -> None:
        """Records `[first, cut)` of a run, all of them inside the window."""
        report, offsets = self.report, records.offsets[first:cut]
        stored, letters = window.stored, window.letters
        report.records += len(offsets)
        here = stored.offsets.intersection(offsets)
        lettered = letters.intersection(offsets)
        faulty = (here & lettered) | here & stored.several.keys()
        report.rows += len(here) - len(faulty)
        report.dead_letters += len(lettered - here)
        for offset in sorted(faulty):
            rows = stored.several.get(offset, 1)
            why = f"{rows} rows" if rows > 1 else "a row"
            why += " and a dead letter" if offset in lettered else ""
            report.fault("doubled", *records.partition, offset, why)
        rest = [index for index, offset in enumerate(offsets, first) if offset not in here and offset not in lettered]
        if rest:
            self._candidates[records.partition.topic].examine(records, rest)

    def _sweep(self, reach: Reach) -> None:
        """Rows of offsets that are not read again: before the log's start, and beyond the committed offset."""
        report, (topic, number) = self.report, reach.partition
        report.unreadable += max(0, reach.low - reach.first)
        bounds = self._tables.bounds(reach.partition)
        if bounds is None:
            return
        for outside, first, next_ in (
            ("before", bounds[0], reach.low),
            ("beyond", max(reach.end, bounds[0]), bounds[1] + 1),
        ):
            for start in range(first, next_, SWEEP_OFFSETS):
                stop = min(next_, start + SWEEP_OFFSETS)
                count, several = self._tables.several(reach.partition, start, stop, self.report.examples_max + 1)
                if outside == "before":
                    report.unreadable_rows += count
                else:
                    report.rows_beyond += count
                for offset, rows in several.items():
                    report.fault("doubled", topic, number, offset, f"{rows} rows")


class _Window:
    """What is known of the offsets around the reading position."""

    def __init__(self, tables: Tables, letters: Letters, reach: Reach) -> None:
        self._tables = tables
        self._letters = letters
        self._partition = reach.partition
        self._limit = reach.end
        self.position = reach.low
        self._end = reach.low
        self.stored = NOTHING
        self.letters: frozenset[int] = frozenset()

    def pieces(self, records: Records, first: int, cut: int) -> Iterator[tuple[int, int]]:
        """Cuts `[first, cut)` of a run at the edges of windows, moving the window on before each piece."""
        while first < cut:
            offset = records.offsets[first]
            if offset >= self._end:
                self._end = min(self._limit, offset + WINDOW_OFFSETS)
                self.stored = self._tables.stored(self._partition, offset, self._end)
                self.letters = self._letters.between(self._partition, offset, self._end)
            stop = bisect_left(records.offsets, self._end, first, cut)
            yield first, stop
            self.position = records.offsets[stop - 1] + 1
            first = stop


def reaches(
    config: Config, cluster: Cluster, tables: Tables, since_ms: int | None, report_to: list[str]
) -> list[Reach]:
    """How far each partition was consumed, and how much of it can be read again.

    Begins at `since_ms`, or where `kafka.start` says; what cannot be known is told to `report_to`.
    """
    partitions = [
        Partition(route.topic, number)
        for route in config.routes
        for number in range(cluster.topic_partitions(route.topic))
    ]
    committed = cluster.committed(partitions)
    marks = cluster.watermarks(partitions)
    begins = _begins(config, cluster, tables, partitions, since_ms, report_to)
    found = []
    for partition in partitions:
        offset, (low, high) = committed[partition][0], marks[partition]
        if offset < 0:
            continue
        if offset > high:
            report_to.append(
                f"{partition}: {offset - high:,} committed offsets lie beyond the end of the log ({high:,})"
            )
        first = begins.get(partition, 0)
        end = min(offset, high)
        found.append(Reach(partition, min(first, end), min(max(low, first), end), end, high))
    without = len(partitions) - len(found)
    if without:
        report_to.append(
            f"{without} of {len(partitions)} partitions have no committed offset: nothing of them was consumed"
        )
    return found


def _begins(
    config: Config,
    cluster: Cluster,
    tables: Tables,
    partitions: Sequence[Partition],
    since_ms: int | None,
    report_to: list[str],
) -> dict[Partition, int]:
    start = parse_start(config.kafka.start)
    if since_ms is not None:
        report_to.append("records before the given time: they were left out")
        return cluster.offsets_for_times(dict.fromkeys(partitions, since_ms))
    if start == "earliest":
        return {}
    if start == "latest":
        report_to.append('kafka.start is "latest": nothing is known of records before the first row of each partition')
        bounds = {partition: tables.bounds(partition) for partition in partitions}
        return {partition: found[0] if found else 2**62 for partition, found in bounds.items()}
    return cluster.offsets_for_times(dict.fromkeys(partitions, start))


def batches_in_flight(config: Config, cluster: Cluster, partitions: Sequence[Partition]) -> int:
    """How many declared batches the committed metadata names that the committed offsets have not passed."""
    identity = intent.Identity(config.name, "", {})
    found = set()
    for partition, (offset, metadata) in cluster.committed(partitions).items():
        for one in intent.decode(metadata, identity, partition):
            if any(span.partition == partition and span.next > offset for span in one.spans):
                found.add(one.identity)
    return len(found)
