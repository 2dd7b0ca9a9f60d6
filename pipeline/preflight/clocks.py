"""Whether this machine, ClickHouse and the timestamps of records agree on the time. Pure: facts in, checks out.

Kafka's protocol has no question for a broker's clock; what can be read of it are the timestamps of records, which a
broker sets itself on topics with `message.timestamp.type = LogAppendTime`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.preflight.checks import Check, Status, duration

APART_S = 5.0
"""A machine with NTP is within milliseconds; beyond this it has none."""
LETTER_MARGIN_S = 240.0
"""Recovery looks for dead letters from five minutes before a batch was declared, by the declaring worker's clock; a worker
whose clock is ahead by almost that much would overlook some, and write them again."""
AHEAD_S = 60.0
_NTP = "Synchronise the clocks: `chronyc tracking` (or `timedatectl timesync-status`) on both machines"


class Reading(NamedTuple):
    """A server's clock, read between two looks at ours; all in milliseconds since the epoch."""

    before_ms: int
    theirs_ms: int
    after_ms: int

    @property
    def apart_s(self) -> float:
        """Their clock ahead of ours (or behind, negative), as far as the time of the question itself leaves no doubt."""
        if self.theirs_ms > self.after_ms:
            return (self.theirs_ms - self.after_ms) / 1000
        return min(0, self.theirs_ms - self.before_ms) / 1000


def clock_check(server: str, reading: Reading) -> Check:
    """This machine's clock against that of a ClickHouse server."""
    apart_s = reading.apart_s
    name = "clocks"
    if abs(apart_s) < APART_S:
        return Check("clock", name, Status.OK, f"this machine and {server} agree within {max(1.0, abs(apart_s)):.0f} s")
    side = "ahead of" if apart_s > 0 else "behind"
    text = f"{server} is {duration(abs(apart_s))} {side} this machine"
    if abs(apart_s) >= LETTER_MARGIN_S:
        text += ": recovery would misjudge the age of declared batches and may write dead letters twice"
        return Check("clock", name, Status.PROBLEM, text, _NTP)
    return Check("clock", name, Status.WARNING, text + ": ages of batches and lag are wrong by as much", _NTP)


def record_clock_checks(topic: str, newest_ms: int | None, now_ms: int, *, by_broker: bool) -> Iterator[Check]:
    """The newest timestamp in a topic against this machine's clock; None or negative: there is none."""
    if newest_ms is None or newest_ms < 0:
        return
    ahead_s = (newest_ms - now_ms) / 1000
    if ahead_s < AHEAD_S:
        return
    whose = "the brokers' clocks" if by_broker else "a producer's clock or its code"
    yield Check(
        "record-clock",
        f"topic {topic}",
        Status.WARNING,
        f"holds a record from {duration(ahead_s)} in the future: the deduplication window follows the newest record, so "
        "ids are forgotten early, and retention does not remove it in time",
        f"Look at {whose}; message.timestamp.after.max.ms on the topic keeps such records out",
    )
