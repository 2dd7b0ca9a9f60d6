"""Accounts for every consumed record: reads it again from Kafka and looks for its row, its dead letter, or the row it repeats.

It changes nothing: no commit, no insert, no dead letter. Memory does not grow with the stretch: what is held is a window of
offsets, a run of records, the duplicates not looked up yet, and the dead letters of LETTERS_MAX records.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence

from pipeline import spans as span_reader
from pipeline.config.schema import Config
from pipeline.contract import Contract
from pipeline.errors import DependencyDown, SourceError
from pipeline.kafka import Cluster
from pipeline.types import Partition, Records, Source, Span
from pipeline.verify.candidates import Candidates
from pipeline.verify.keys import KeySearch
from pipeline.verify.letters import Letters
from pipeline.verify.reach import Reach
from pipeline.verify.report import Report
from pipeline.verify.stored import NOTHING
from pipeline.verify.tables import Tables

WINDOW_OFFSETS = 100_000
"""Stored offsets are asked for in windows of this many."""
SWEEP_OFFSETS = 5_000_000
"""Offsets that cannot be read again are looked at in steps of this many."""
SILENCE_S_MAX = 60.0
"""Without a record for this long Kafka counts as down."""


class Heart:
    """Gives up when nothing arrives for too long."""

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers
        self._last_s = time.monotonic()

    def __call__(self, arrived: bool) -> None:
        now_s = time.monotonic()
        if arrived:
            self._last_s = now_s
        elif now_s - self._last_s > SILENCE_S_MAX:
            raise DependencyDown(
                f"{self._brokers}: no record for {SILENCE_S_MAX:.0f} s. Check the brokers, then try again"
            )


class Pace:
    """Holds reading back to a number of records a second; 0: does not."""

    def __init__(self, records_per_s: float) -> None:
        self._per_s = records_per_s
        self._due_s = time.monotonic()

    def spend(self, records: int) -> None:
        """Waits until so many records were due. Time that nobody used is not made up for."""
        if self._per_s > 0:
            now_s = time.monotonic()
            self._due_s = max(self._due_s, now_s) + records / self._per_s
            time.sleep(max(0.0, self._due_s - now_s))


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
        rate: float = 0.0,
        examples_max: int = 20,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._tables = tables
        self._letters = letters
        self._open_source = open_source
        self._pace = Pace(rate)
        self._progress = progress
        self.report = Report(examples_max=examples_max)
        keys = KeySearch(config, cluster, tables, self._records)
        self._candidates = {
            topic: Candidates(config, topic, contract, tables, self.report, keys)
            for topic, contract in contracts.items()
        }

    def run(self, reaches: Sequence[Reach]) -> Report:
        """Reads every partition's `[low, end)` again and sweeps the tables for the rest."""
        start_s = time.monotonic()
        for reach in reaches:
            self._read_again(reach)
            self._sweep(reach)
        for candidates in self._candidates.values():
            candidates.look_up()
        self.report.partitions = len(reaches)
        self.report.seconds = round(time.monotonic() - start_s, 3)
        return self.report

    def _records(self, spans: Sequence[Span]) -> Iterator[tuple[Records, int, int]]:
        heart = Heart(self._config.kafka.brokers)
        for records, first, cut in span_reader.read(self._open_source, spans, lambda: heart(False)):
            yield records, first, cut
            self._pace.spend(cut - first)
            heart(True)

    def _read_again(self, reach: Reach) -> None:
        low = reach.low
        while low < reach.end:
            window = _Window(self._tables, self._letters, reach.partition, low, reach.end)
            try:
                for records, first, cut in self._records([Span(reach.partition, low, reach.end)]):
                    for start, stop in window.pieces(records, first, cut):
                        self._account(records, start, stop, window)
                    self._progress(cut - first)
                return
            except SourceError:
                # Retention went on while we read: what we had not reached yet cannot be proved any more.
                low = min(self._cluster.watermarks([reach.partition])[reach.partition][0], reach.end)
                if low <= window.position:
                    raise
                self.report.removed += low - window.position
                self.report.unreadable += low - window.position

    def _account(self, records: Records, first: int, cut: int, window: _Window) -> None:
        """Records `[first, cut)` of a run, all of them inside the window."""
        report, offsets = self.report, records.offsets[first:cut]
        stored, letters = window.stored, window.letters
        report.records += len(offsets)
        here = stored.offsets.intersection(offsets)
        lettered = letters.offsets.intersection(offsets)
        faulty = (here & lettered) | here & stored.several.keys()
        report.rows += len(here) - len(faulty)
        report.dead_letters += len(lettered - here)
        report.dead_letters_repeated += sum(letters.several[offset] - 1 for offset in lettered & letters.several.keys())
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
        first = bounds[0] if reach.open_begin else max(bounds[0], reach.first)
        stretches = [("before", first, reach.low)]
        if reach.open_end:
            stretches.append(("beyond", max(reach.end, first), bounds[1] + 1))
        for outside, first, next_ in stretches:
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

    def __init__(self, tables: Tables, letters: Letters, partition: Partition, low: int, end: int) -> None:
        self._tables = tables
        self._letters = letters
        self._partition = partition
        self._limit = end
        self.position = low
        self._end = low
        self.stored = NOTHING
        self.letters = NOTHING

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
