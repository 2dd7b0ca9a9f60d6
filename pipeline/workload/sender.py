"""A feed in a thread of its own, so that something else can go on while records come."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from pipeline.workload.produce import Feed, Produced

END_S_MAX = 30.0
"""From `Feed.abandon` to the end of the thread."""


class Sender:
    """Sends from the first offset of each partition on. A context manager: the thread runs inside it.

    Leaving it gives up what is not acknowledged yet, so that nothing goes on without the brokers; `stop` and `result` wait.
    """

    def __init__(self, feed: Feed, ends: Mapping[int, int]) -> None:
        self._feed = feed
        self._ends = ends
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)
        self._result: Produced | BaseException | None = None

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.abandon()
        self._thread.join(END_S_MAX)

    def check(self) -> None:
        """Raises what ended it."""
        if isinstance(self._result, BaseException):
            raise self._result

    def stop(self) -> Produced:
        """Sends nothing more, and waits until what was sent is acknowledged. Raises what ended it early."""
        self._feed.stop()
        return self.result()

    def result(self) -> Produced:
        """Waits until everything is sent and acknowledged. Raises what ended it early."""
        self._thread.join()
        self.check()
        assert isinstance(self._result, Produced)
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._feed.run(self._ends, dict.fromkeys(self._ends, 0), lambda _: None)
        except BaseException as error:
            self._result = error
