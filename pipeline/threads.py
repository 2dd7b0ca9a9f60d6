"""What makes a thread and what makes it wait, as a value that is passed in like the clock.

A worker's own threads take their queues and events from here, so that the simulation can run all of them in one thread on
a virtual clock. It knows nothing of what they do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class Threads:
    """The machine's own."""

    def queue(self) -> SimpleQueue[Any]:
        """Unbounded: what is put there is bounded by the budgets and by one answer per request."""
        return SimpleQueue()

    def event(self) -> threading.Event:
        return threading.Event()

    def start(self, run: Callable[[], None], name: str) -> threading.Thread:
        """Runs `run` in a thread that does not keep the process alive."""
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread
