"""What every fault of a run works on: the stage, the workers, the letters read so far, the tally, the narration."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.fleet import Fleet
from tests.faults.letters import LetterBook
from tests.faults.plan import Category
from tests.faults.stage import Stage

WORKERS = 3


class Tally:
    """How many faults of which kind took effect. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[Category, str]] = Counter()

    def add(self, category: Category, kind: str, count: int = 1) -> None:
        with self._lock:
            self._counts[category, kind] += count

    def kinds(self, category: Category) -> dict[str, int]:
        with self._lock:
            return {kind: count for (of, kind), count in sorted(self._counts.items()) if of == category and count}

    def total(self, category: Category) -> int:
        return sum(self.kinds(category).values())


class Narrator:
    """One line for each thing that happens: into a file, and on stderr unless it is to be quiet. Thread-safe."""

    def __init__(self, path: Path, *, quiet: bool = False) -> None:
        self._path = path
        self._quiet = quiet
        self._lock = threading.Lock()
        self._start_s = time.monotonic()

    def __call__(self, text: str) -> None:
        stamp = time.strftime("%H:%M:%S", time.gmtime()) + f" {time.monotonic() - self._start_s:7.1f} s  {text}\n"
        with self._lock, self._path.open("a") as file:
            file.write(stamp)
            if not self._quiet:
                sys.stderr.write(stamp)


@dataclass
class Scene:
    """Handed to every fault."""

    stage: Stage
    fleet: Fleet
    book: LetterBook
    tally: Tally
    note: Narrator
    ending: threading.Event = field(default_factory=threading.Event)
    """The faults are over; whoever waits inside one mends what it broke and returns."""
    servers: threading.RLock = field(default_factory=threading.RLock)
    """Held while a fault of a server lasts."""
    wires: threading.RLock = field(default_factory=threading.RLock)
    """Held while a fault of the network lasts."""
    letters_gone: list[tuple[float, float]] = field(default_factory=list)
    """When the dead-letter topic was away, by the monotonic clock."""

    def wait(self, seconds: float) -> None:
        """Sleeps, and returns early when the faults are over."""
        self.ending.wait(seconds)
