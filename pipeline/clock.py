"""Time as a value that is passed in: monotonic for durations, wall clock for records and intents."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds on a monotonic clock and milliseconds since the epoch."""

    def monotonic_s(self) -> float: ...

    def wall_ms(self) -> int: ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that moves only when told to, for tests and simulation."""

    def __init__(self, wall_ms: int = 1_700_000_000_000) -> None:
        self._now_s = 0.0
        self._wall_ms = wall_ms

    def monotonic_s(self) -> float:
        return self._now_s

    def wall_ms(self) -> int:
        return self._wall_ms + int(self._now_s * 1000)

    def advance(self, seconds: float) -> None:
        self._now_s += seconds
