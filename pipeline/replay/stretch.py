"""The bounds of a replay (`bounds.Bounds`): whose turn it is, how fast, what has a letter, and what the tables have."""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping

from pipeline.assembly import Assembly
from pipeline.batch import TableBlock
from pipeline.clock import Clock
from pipeline.errors import DependencyDown
from pipeline.lane import merged
from pipeline.offsets import RETRY_WAIT_MS_MAX
from pipeline.patience import Patience
from pipeline.replay.screen import Left, Screen, Screened
from pipeline.types import Partition, Span
from pipeline.verify import letters as dead_letters

LETTERS_WINDOW_OFFSETS = 100_000
"""Letters are asked for in windows of this many offsets, fewer than `letters.LETTERS_MAX`."""


class Allowance:
    """Spreads a number of records a second over time; 0: no limit. Used by one thread."""

    BURST_S = 0.25

    def __init__(self, records_per_s: float, clock: Clock) -> None:
        self._per_s = records_per_s
        self._clock = clock
        self._burst = max(1.0, records_per_s * self.BURST_S)
        self._left = self._burst
        self._at_s = clock.monotonic_s()

    def now(self) -> int:
        """How many records may be read now."""
        if self._per_s <= 0:
            return 2**31
        now_s = self._clock.monotonic_s()
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return max(0, int(self._left))

    def spend(self, records: int) -> None:
        self._left -= records


class Stretch:
    """One replay's bounds, for the worker that `assembly` is made into."""

    def __init__(self, assembly: Assembly, spans: Mapping[Partition, Span], rate: float) -> None:
        config = assembly.config
        self.salt = secrets.token_hex(8)
        self.spans = spans
        self._allowance = Allowance(rate, assembly.clock)
        self._patience = Patience(
            assembly.clock, assembly.stopping, random.Random(), assembly.metrics, wait_ms_max=RETRY_WAIT_MS_MAX
        )
        self._screen = Screen(
            assembly.clickhouse,
            assembly.sink,
            assembly.contracts,
            config.dedup.window_s,
            ids=bool(config.dedup.key) and not config.dedup.key[0].startswith("@"),
        )
        self._letters = dead_letters.of(())
        if topic := config.dead_letters.topic:
            self._letters = dead_letters.read(
                assembly.cluster, topic, config.name, assembly.open_source, lambda _: self._patience.check()
            )
        self.rows_there = 0
        self.duplicates = 0
        self.screened: dict[tuple[Span, ...], int] = {}
        """How many rows the screen took out of a batch; whoever counts the batch takes it from here."""

    @property
    def topics(self) -> list[str]:
        return sorted({partition.topic for partition in self.spans})

    def first(self, partition: Partition) -> int:
        return self._span(partition).first

    def end(self, partition: Partition) -> int:
        return self._span(partition).next

    def _span(self, partition: Partition) -> Span:
        """Of a partition that the topic did not have when the replay was planned, nothing is read."""
        return self.spans.get(partition, Span(partition, 0, 0))

    def turn(self, positions: Mapping[Partition, int]) -> dict[Partition, int]:
        left = ((p, position) for p, position in sorted(positions.items()) if position < self.end(p))
        return dict([found]) if (found := next(left, None)) else {}

    def allowance(self) -> int:
        return self._allowance.now()

    def spend(self, records: int) -> None:
        self._allowance.spend(records)

    def settled(self, partition: Partition, first: int, next_offset: int) -> list[tuple[int, int]]:
        offsets: list[int] = []
        for start in range(first, next_offset, LETTERS_WINDOW_OFFSETS):
            stop = min(next_offset, start + LETTERS_WINDOW_OFFSETS)
            offsets += self._patience.until_done(
                "reading the dead letters",
                lambda start=start, stop=stop: self._letters.between(partition, start, stop),  # type: ignore[misc]
                _outage,
            ).offsets
        return merged((offset, offset + 1) for offset in offsets)

    def look(self, block: TableBlock, spans: tuple[Span, ...]) -> Screened:
        """What `screen` would do."""
        return self._screen.look(block, spans)

    def screen(self, block: TableBlock, spans: tuple[Span, ...]) -> TableBlock:
        left = self.look(block, spans)
        self.rows_there += left.stored
        self.duplicates += left.owned
        self.screened[spans] = self.screened.get(spans, 0) + left.stored + left.owned
        if len(left.rows) == block.block.rows:
            return block
        return block._replace(block=Left(block.block, left.rows), ids=None)  # type: ignore[arg-type]


def _outage(error: Exception) -> tuple[str, str] | None:
    return ("kafka", str(error)) if isinstance(error, DependencyDown) else None
