"""Waiting for something outside to come back: how long, who is waiting and why, and how the waiting ends at once.

It never decides what may be retried (that is `classify` for ClickHouse and the dead letters' own table for Kafka), and it
never gives up by itself: it ends with success, with an error that is not to be retried, or with `Stopping`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from random import Random
from typing import NamedTuple, Protocol, TypeVar

from pipeline.clock import Clock
from pipeline.errors import Exit, PenstockError

T = TypeVar("T")
FIRST_WAIT_S = 0.1
"""Upper bound of the first wait; it doubles with every attempt up to the configured maximum."""
BEAT_S = 0.5
"""A wait longer than this is cut into pieces, and between them the thread says that it lives (`beating`)."""

log = logging.getLogger(__name__)
_heartbeat: ContextVar[Callable[[], None] | None] = ContextVar("heartbeat", default=None)
"""Of the thread that waits: each begins with a context of its own."""


@contextmanager
def beating(heartbeat: Callable[[], None]) -> Iterator[None]:
    """Whatever waits in this thread inside the block calls `heartbeat` meanwhile: who waits for ClickHouse is not hung.

    A thread that hangs inside an attempt does not beat.
    """
    before = _heartbeat.set(heartbeat)
    try:
        yield
    finally:
        _heartbeat.reset(before)


def _beat() -> None:
    heartbeat = _heartbeat.get()
    if heartbeat is not None:
        heartbeat()


class Stopping(PenstockError):
    """The worker is stopping, and what was being waited for has not come. Nothing is lost: recovery takes it up again."""

    exit_code = Exit.TEMPORARY


class Waiting(NamedTuple):
    """Something that cannot go on at the moment."""

    what: str
    reason: str
    since_s: float
    """On the clock's monotonic scale."""
    attempts: int


class Retried(Protocol):
    """Counts retries by what they are about."""

    def retried(self, error_class: str) -> None: ...


class Patience:
    """Tries until it works. Thread-safe; one object serves all threads of a stage, and knows which of them wait.

    Waits are drawn from `[0, min(wait_ms_max, 100 ms * 2^n)]` ("full jitter"), so that the writers that an outage stopped
    together do not come back together.
    """

    def __init__(
        self, clock: Clock, stopping: threading.Event, random: Random, metrics: Retried, *, wait_ms_max: int
    ) -> None:
        self._clock = clock
        self._stopping = stopping
        self._random = random
        self._metrics = metrics
        self._wait_s_max = wait_ms_max / 1000
        self._lock = threading.Lock()
        self._waits: dict[int, Waiting] = {}
        self._numbers = 0

    @property
    def waiting(self) -> Waiting | None:
        """The one that has been waiting longest, or None."""
        with self._lock:
            return min(self._waits.values(), key=lambda wait: wait.since_s, default=None)

    @property
    def described(self) -> str:
        """The longest wait as a sentence, empty when nothing waits."""
        wait = self.waiting
        if wait is None:
            return ""
        return (
            f"{wait.what}: {wait.reason} ({wait.attempts} attempts in {self._clock.monotonic_s() - wait.since_s:.0f} s)"
        )

    def check(self) -> None:
        """Raises Stopping when the worker is stopping. To be called every now and then by whoever waits."""
        _beat()
        if self._stopping.is_set():
            raise Stopping("the worker is stopping")

    def pause(self, attempt: int, reason: str) -> None:
        """Waits before attempt number `attempt + 1` (the first is 1). Raises Stopping as soon as the worker stops."""
        self._metrics.retried(reason)
        bound_s = min(self._wait_s_max, FIRST_WAIT_S * 2.0 ** min(attempt - 1, 30))
        left_s = self._random.uniform(0.0, bound_s)
        while True:
            _beat()
            if self._stopping.wait(min(left_s, BEAT_S)):
                raise Stopping(f"the worker is stopping while it waits ({reason})")
            left_s -= BEAT_S
            if left_s <= 0:
                return

    @contextmanager
    def visibly(self, what: str) -> Iterator[Callable[[str, int], None]]:
        """Gives a function `(reason, attempts)` that makes the wait visible until the block ends, and logs it."""
        with self._lock:
            self._numbers += 1
            number = self._numbers

        def show(reason: str, attempts: int) -> None:
            with self._lock:
                before = self._waits.get(number)
                since_s = before.since_s if before else self._clock.monotonic_s()
                self._waits[number] = Waiting(what, reason, since_s, attempts)
            # The first attempts, then each time their number has doubled: a line a second would bury everything else.
            if attempts & (attempts - 1) == 0:
                log.warning("waiting: %s: %s (attempt %d)", what, reason, attempts)

        try:
            yield show
        finally:
            with self._lock:
                ended = self._waits.pop(number, None)
            if ended is not None:
                waited_s = self._clock.monotonic_s() - ended.since_s
                log.info("no longer waiting: %s: %d attempts, %.1f s", what, ended.attempts, waited_s)

    def until_done(
        self, what: str, attempt: Callable[[], T], retriable: Callable[[Exception], tuple[str, str] | None]
    ) -> T:
        """Calls `attempt` until it returns. `retriable` gives (reason, message) for an error to wait for, None otherwise."""
        attempts = 0
        with self.visibly(what) as show:
            while True:
                try:
                    return attempt()
                except PenstockError as error:
                    again = retriable(error)
                    if again is None:
                        raise
                    reason, message = again
                attempts += 1
                show(message, attempts)
                self.pause(attempts, reason)
