"""What was read of partitions that the open batch has no place for. It waits, in order, until that batch is sealed.

A batch is of a few dozen partitions at the most. Without this, a worker with more of them would seal a batch whenever another
one has a record: at every poll, while records come in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from pipeline.types import Partition, PartitionEnd, Records


class Waiting:
    """Used by the data-plane thread only. `records_max` and `bytes_max` are what a batch takes."""

    def __init__(self, records_max: int, bytes_max: int) -> None:
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._events: deque[tuple[Records | PartitionEnd, float]] = deque()
        self._partitions: set[Partition] = set()
        self._records = 0
        self.nbytes = 0
        """Of the records' values."""

    def __bool__(self) -> bool:
        return bool(self._events)

    def __contains__(self, partition: Partition) -> bool:
        """Whether anything of the partition waits: then what is read after it has to wait too."""
        return partition in self._partitions

    @property
    def full(self) -> bool:
        """As much waits as a batch takes."""
        return self._records >= self._records_max or self.nbytes >= self._bytes_max

    def room(self, record_bytes: float) -> int:
        """How many more records of that size may wait."""
        return min(self._records_max - self._records, int((self._bytes_max - self.nbytes) / record_bytes))

    def add(self, event: Records | PartitionEnd, read_s: float) -> None:
        """`read_s` is when it was read, on the monotonic clock."""
        self._events.append((event, read_s))
        self._partitions.add(event.partition)
        if not isinstance(event, PartitionEnd):
            self._records += len(event)
            self.nbytes += event.nbytes

    def take(self) -> Iterator[tuple[Records | PartitionEnd, float]]:
        """Everything, in order; what has no place yet may be added again meanwhile."""
        events = self._events
        self.clear()
        while events:
            yield events.popleft()

    def clear(self) -> None:
        """Forgets everything: it will be read again."""
        self._events = deque()
        self._partitions = set()
        self._records = self.nbytes = 0
