"""What a program uses once it runs: CPU and wall time from the record on from which it is measured, up to its end.

Before that it pays what it pays once: it touches the memory that it uses again from then on. On a virtual machine whose host
has to find each page first that is dear, and all of it is over after some seconds of a life of weeks. The floor, the worker
and the baselines are measured alike.
"""

from __future__ import annotations

import resource
import time
from typing import NamedTuple

import psutil


class Moment(NamedTuple):
    """A time, what was read until then, and the CPU time used before it, by this process and by the one beside it."""

    at_s: float
    records: int
    cpu_s: float
    beside_cpu_s: float


class Steady:
    """One run of a program. `warm_records` are read before it counts; `beside` is the process whose CPU is told too, or 0."""

    def __init__(self, warm_records: int = 0, beside: int = 0) -> None:
        self._warm_records = warm_records
        self._beside = psutil.Process(beside) if beside else None
        self._begun: Moment | None = None
        self._counted_from: Moment | None = None

    def begin(self) -> None:
        """The first read comes next. What was used before it is told apart. Again: nothing happens."""
        if self._begun is None:
            self._begun = self._moment(0)
            self.read(0)

    def read(self, records: int) -> None:
        """So many have been read since the beginning, and what they cost until now is paid."""
        if self._counted_from is None and records >= self._warm_records:
            self._counted_from = self._moment(records)

    def figures(self, records: int) -> dict[str, float]:
        """Of the whole run, which ends now and has read `records`:

        `cpu_us`, `wall_us` and `beside_us`: microseconds a record, of those that are counted. `cold_us`: CPU of those before
        them, 0 when there are none. `start_cpu_s`: CPU before the first read. `cpu_s` and `wall_s`: from the first read on.
        """
        now = self._moment(records)
        begun = self._begun or now
        counted = self._counted_from
        if counted is None or counted.records >= records:
            counted = begun
        count = max(1, records - counted.records)
        return {
            "cpu_us": (now.cpu_s - counted.cpu_s) / count * 1e6,
            "wall_us": (now.at_s - counted.at_s) / count * 1e6,
            "beside_us": (now.beside_cpu_s - counted.beside_cpu_s) / count * 1e6,
            "cold_us": (counted.cpu_s - begun.cpu_s) / counted.records * 1e6 if counted.records else 0.0,
            "start_cpu_s": begun.cpu_s,
            "cpu_s": now.cpu_s - begun.cpu_s,
            "wall_s": now.at_s - begun.at_s,
        }

    def _moment(self, records: int) -> Moment:
        used = self._beside.cpu_times() if self._beside is not None else None
        return Moment(time.monotonic(), records, cpu_s(), used.user + used.system if used else 0.0)


def cpu_s() -> float:
    """CPU time of this process, all its threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
