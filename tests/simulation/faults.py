"""What goes wrong in a schedule: a list of faults, each of which can be left out without moving the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Fault(NamedTuple):
    """One thing that goes wrong.

    `on`: `join`, `commit`, `committed`, `insert`, `query`, `letter`: it meets the `at`-th such request of the run; `time`: it
    happens at `at` seconds. `what` is what happens; the other fields qualify it.
    """

    on: str
    at: float
    what: str
    seconds: float = 0.0
    code: int = 0
    whom: int = 0

    def __str__(self) -> str:
        where = f"at {self.at:.2f} s" if self.on == "time" else f"{self.on} number {int(self.at)}"
        more = [f"{self.seconds:.1f} s"] if self.seconds else []
        more += [f"code {self.code}"] if self.code else []
        more += [f"whom {self.whom}"] if self.on == "time" else []
        return f"{where}: {self.what}" + (f" ({', '.join(more)})" if more else "")


class Faults:
    """The faults of a run, handed to the requests they meet."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.timed: list[Fault] = []
        self._by_request: dict[tuple[str, int], Fault] = {}
        for fault in faults:
            if fault.on == "time":
                self.timed.append(fault)
            else:
                self._by_request[fault.on, int(fault.at)] = fault
        self._requests: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self._outages: dict[str, float] = {}
        self.over = False

    def next(self, on: str) -> Fault | None:
        """The fault that meets this request, if any. Every request is counted."""
        self._requests[on] += 1
        if self.over:
            return None
        fault = self._by_request.get((on, self._requests[on]))
        if fault is not None:
            self.note(fault)
        return fault

    def note(self, fault: Fault) -> None:
        self.injected[f"{fault.on} {fault.what}" if fault.on != "time" else fault.what] += 1

    def begin_outage(self, of: str, until_s: float) -> None:
        self._outages[of] = max(until_s, self._outages.get(of, 0.0))

    def outage_s(self, of: str, now_s: float) -> float:
        """How long it will still be away."""
        return 0.0 if self.over else max(0.0, self._outages.get(of, 0.0) - now_s)
