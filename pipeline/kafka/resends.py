"""Whether an offset commit that was answered may have a copy of itself on its way that is not.

librdkafka sends a commit again by itself when its connection breaks or no answer comes in time, and no setting forbids it.
The answer is that of the last copy. The coordinator may work an earlier one off later, and then takes back what has been
committed since. What tells are the counters of its requests in librdkafka's statistics (STATISTICS.md of its documentation).
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

RETRY_BACKOFF_MS = 500
"""`retry.backoff.ms` of the membership's client: a request is sent again after this time at the earliest, less a fifth."""
SENT_ONCE_S = 0.75 * RETRY_BACKOFF_MS / 1000
"""A commit that was answered sooner was sent once; far more than the few milliseconds of a coordinator that is well."""
STATISTICS_MS = 1_000
"""How long a slower commit waits for the counters at most."""


class Sent(NamedTuple):
    """What one client has sent to the coordinator since it was made."""

    commits: int
    """Copies of offset commits, each counted when its last byte is written."""
    lost: int
    """Requests of any kind that had no answer and are not waited for any more."""


class _Coordinator(msgspec.Struct):
    tx: int = 0
    rx: int = 0
    waitresp_cnt: int = 0
    req: dict[str, int] = {}


class _Brokers(msgspec.Struct):
    coordinator: _Coordinator = msgspec.field(name="GroupCoordinator", default_factory=_Coordinator)
    """One for the life of the client, whichever broker coordinates the group."""


class _Statistics(msgspec.Struct):
    brokers: _Brokers = msgspec.field(default_factory=_Brokers)


_decoder = msgspec.json.Decoder(_Statistics)


def sent(statistics: str) -> Sent:
    """The counters in what librdkafka hands to `stats_cb`."""
    counters = _decoder.decode(statistics).brokers.coordinator
    return Sent(counters.req.get("OffsetCommit", 0), counters.tx - counters.rx - counters.waitresp_cnt)


class Resends:
    """Follows the commits of one client from its start; they come one after another, and it is polled in between."""

    def __init__(self) -> None:
        self._before = Sent(0, 0)
        self._once = 0
        """Commits since `_before` that are known to have been sent once."""
        self._polled = True

    def ended(self, seconds: float, *, accepted: bool) -> bool:
        """A commit has its answer after `seconds`. Says whether it was surely sent no more than once."""
        self._polled = False
        once = seconds < SENT_ONCE_S
        if once and accepted:
            self._once += 1
        return once

    def polled(self) -> None:
        """The client was polled until it had nothing to say: what comes now was counted after the last commit's end."""
        self._polled = True

    def told(self, statistics: str) -> bool | None:
        """Whether no copy of the last commit is on its way; None when these counters may be from before its end.

        A copy that was answered, as by a broker that coordinates the group no more, is none: then no request was lost.
        """
        if not self._polled:
            return None
        before, once = self._before, self._once
        now = self._before = sent(statistics)
        self._once = 0
        return now.commits - before.commits - once <= 1 or now.lost <= before.lost
