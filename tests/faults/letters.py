"""The dead letters of a run, read all along, so that they are known also after their topic was deleted."""

from __future__ import annotations

import threading
import time
from collections import Counter

from confluent_kafka import Consumer, TopicPartition

from pipeline.letter import record_of
from tests.faults.stage import Stage


class LetterBook:
    """Reads the topic in a thread. `drain` returns when everything that is in it now is in the book."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._lock = threading.Lock()
        self._counts: Counter[tuple[int, int]] = Counter()
        self.at = 0
        """The offset of the next letter to read."""
        self._consumer: Consumer | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="letters", daemon=True)

    def __enter__(self) -> LetterBook:
        self.begin()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self.end()

    @property
    def ended(self) -> bool:
        return self._consumer is None

    def begin(self, at: int = 0) -> None:
        """Reads the topic from there on."""
        with self._lock:
            self._consumer = Consumer(
                {
                    "bootstrap.servers": self._stage.servers.kafka.bootstrap,
                    "group.id": "letter-book",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "error",
                    "isolation.level": "read_committed",
                    "log_level": 0,
                }
            )
            self._consumer.assign([TopicPartition(self._stage.letters, 0, at)])
            self.at = at

    def end(self) -> None:
        """Reads no more; the topic is about to go."""
        with self._lock:
            consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def drain(self, timeout_s: float = 30.0) -> None:
        """Raises TimeoutError when the end is not reached in time."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            with self._lock:
                assert self._consumer is not None
                _, high = self._consumer.get_watermark_offsets(TopicPartition(self._stage.letters, 0), timeout=10)
                if self.at >= high:
                    return
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"dead letters are read up to {self.at} of {high}")
            time.sleep(0.05)

    def holds(self, number: int, offset: int) -> bool:
        return (number, offset) in self._counts

    def repeated(self) -> int:
        return sum(self._counts.values()) - len(self._counts)

    def _run(self) -> None:
        while not self._ending.is_set():
            with self._lock:
                if self._consumer is not None:
                    for message in self._consumer.consume(500, 0.05):
                        self._take(message)
            self._ending.wait(0.02)

    def _take(self, message: object) -> None:
        if message.error() is not None:  # type: ignore[attr-defined]
            return
        self.at = message.offset() + 1  # type: ignore[attr-defined]
        found = record_of(message.headers(), self._stage.name)  # type: ignore[attr-defined]
        if found is not None:
            self._counts[found[0].number, found[1]] += 1
