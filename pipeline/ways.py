"""Which of its two ways a lane sends a run: through the native core, or all at once through msgspec. Both give the same rows.

A record that the native core leaves to msgspec costs up to eight times what it costs in a run that goes there as a whole.
Where few records are left that does not matter; where many are, the native way is the dearer one, by a share that depends
on the contract (docs/performance.md). So both ways' CPU time is measured, once a run, and the cheaper one taken. While
nothing is left the native way is cheaper, and msgspec is not tried.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

LEFT_SHARE_MIN = 1 / 64
"""Below this share of records left to msgspec the other way is not tried: natively every contract is cheaper."""
WINDOW_RECORDS = 1_024
"""Records over which costs and share are averaged; also for how many a way is tried."""
AGAIN_RECORDS = 256 * WINDOW_RECORDS
"""Records after which the way not taken is tried again, as records change."""
GAIN_MIN = 0.9
"""Another way must cost less than this part of the one taken, so that noise does not change it for ever."""


class _Costs:
    """Averages over about a window of one way's records."""

    def __init__(self) -> None:
        self.known = 0
        """Records seen, up to a window."""
        self.ns = 0.0
        """CPU nanoseconds a record."""
        self.left_share = 0.0

    def add(self, records: int, ns: int, left: int) -> None:
        self.known = min(WINDOW_RECORDS, self.known + records)
        weight = records / max(records, self.known)
        self.ns += weight * (ns / records - self.ns)
        self.left_share += weight * (left / records - self.left_share)


class Ways:
    """The choice of one lane. Used by one thread; `cpu_ns` is that thread's CPU time."""

    def __init__(self, name: str, cpu_ns: Callable[[], int] = time.thread_time_ns) -> None:
        self._name = name
        self._cpu_ns = cpu_ns
        self._native, self._msgspec = _Costs(), _Costs()
        self._again = 0
        """Records until the way not taken is tried again."""
        self._started_ns = 0
        self.bypassed = False
        """Whether msgspec is the way at the moment, apart from trials."""

    def choose(self) -> bool:
        """Whether the next run goes through the native core; its costs count from here."""
        self._started_ns = self._cpu_ns()
        taken, other = self._order()
        untried = taken.known >= WINDOW_RECORDS > other.known
        if untried and (self.bypassed or self._native.left_share >= LEFT_SHARE_MIN):
            return self.bypassed
        return not self.bypassed

    def took(self, records: int, left: int, *, native: bool) -> None:
        """The run that was chosen for is done; `left` of its records the native core left to msgspec."""
        if not records:
            return
        costs = self._native if native else self._msgspec
        first = costs.known < WINDOW_RECORDS
        costs.add(records, self._cpu_ns() - self._started_ns, left)
        taken, other = self._order()
        if min(taken.known, other.known) < WINDOW_RECORDS:
            return
        if first:
            self._again = AGAIN_RECORDS
            self._compare(taken, other)
        self._again -= records
        if self._again <= 0:
            other.known = 0

    def _order(self) -> tuple[_Costs, _Costs]:
        """The way taken, and the other."""
        return (self._msgspec, self._native) if self.bypassed else (self._native, self._msgspec)

    def _compare(self, taken: _Costs, other: _Costs) -> None:
        if other.ns < GAIN_MIN * taken.ns:
            self.bypassed = not self.bypassed
            self._tell()

    def _tell(self) -> None:
        left = f"{self._native.left_share:.0%} of the records"
        costs = f"{self._native.ns / 1000:.1f} us a record, {self._msgspec.ns / 1000:.1f} all through msgspec"
        if self.bypassed:
            log.info("%s: %s are left to msgspec, which costs more (%s): all go to it", self._name, left, costs)
        else:
            log.info("%s: %s are left to msgspec (%s): the native lane takes the others", self._name, left, costs)
