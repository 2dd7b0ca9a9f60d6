"""The dead letters of a pipeline, read from their topic: which records have one, and which have several.

It holds eight bytes a letter, of LETTERS_MAX records at the most: where there are more, the topic is read again for those
that come next, so that a caller who asks in the order of partitions and offsets reads it once per LETTERS_MAX letters. It
never looks at a letter's value.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from pipeline import spans as span_reader
from pipeline.errors import invariant
from pipeline.kafka import Cluster
from pipeline.letter import record_of
from pipeline.types import Partition, Source, Span
from pipeline.verify.stored import NOTHING, Stored

LETTERS_MAX = 1_000_000
"""Records whose letters are held at once; more than any window of offsets that is asked for."""

Place = tuple[Partition, int]
_END: Place = (Partition("\U0010ffff", 0), 0)


class Letters:
    """Which records have dead letters. `read` goes through the whole topic, as often as it is called."""

    def __init__(self, read: Callable[[], Iterable[Place]]) -> None:
        self._read = read
        self._offsets: dict[Partition, array[int]] = {}
        self._several: dict[Partition, dict[int, int]] = {}
        self._first: Place = _END
        self._next: Place = _END
        self.passes = 0
        self.gone = 0
        """Records that are no longer in the dead-letter topic; some may have been letters of ours."""

    def between(self, partition: Partition, first: int, next_: int) -> Stored:
        """The offsets of `[first, next_)` that have a letter. At most LETTERS_MAX of them may have one."""
        if not self._first <= (partition, first) or not (partition, next_) <= self._next:
            self._load((partition, first))
            invariant((partition, next_) <= self._next, f"more than {LETTERS_MAX} letters between {first} and {next_}")
        offsets = self._offsets.get(partition)
        if not offsets:
            return NOTHING
        found = frozenset(offsets[bisect_left(offsets, first) : bisect_left(offsets, next_)])
        several = self._several.get(partition, {})
        return Stored(found, {offset: several[offset] for offset in found & several.keys()})

    @property
    def held(self) -> int:
        """Records whose letters are held now."""
        return sum(map(len, self._offsets.values()))

    def _load(self, first: Place) -> None:
        """Holds the letters of the records from `first` on, as many as there is room for."""
        # What an error leaves half read holds for nothing.
        self._first, self._next = _END, _END
        self._offsets, self._several = {}, {}
        self.passes += 1
        fresh: list[Place] = []
        for place in self._read():
            if first <= place < self._next:
                fresh.append(place)
                if len(fresh) >= LETTERS_MAX:
                    self._merge(fresh)
        self._merge(fresh)
        self._first = first

    def _merge(self, fresh: list[Place]) -> None:
        """Adds letters to those held, and lets go of the last ones when there are too many."""
        by_partition: dict[Partition, list[int]] = {}
        for partition, offset in fresh:
            by_partition.setdefault(partition, []).append(offset)
        fresh.clear()
        for partition, offsets in by_partition.items():
            held, several = self._offsets.get(partition, ()), self._several.setdefault(partition, {})
            counts = Counter(offsets)
            known = counts.keys() & set(held)
            several.update({one: several.get(one, 1) + counts[one] for one in known})
            several.update({one: count for one, count in counts.items() if count > 1 and one not in known})
            self._offsets[partition] = array("q", sorted(set(held) | counts.keys()))
        self._trim()

    def _trim(self) -> None:
        room = LETTERS_MAX
        for partition in sorted(self._offsets):
            offsets = self._offsets[partition]
            if len(offsets) > room:
                last = offsets[room]
                del offsets[room:]
                self._next = min(self._next, (partition, last))
                self._several[partition] = {one: n for one, n in self._several[partition].items() if one < last}
            room -= len(offsets)


def read(
    cluster: Cluster, topic: str, pipeline: str, open_source: Callable[[], Source], heartbeat: Callable[[bool], None]
) -> Letters:
    """The letters of a pipeline that are in the topic. `heartbeat` is told whether something arrived, and may raise."""
    partitions = [Partition(topic, number) for number in range(cluster.topic_partitions(topic))]

    def once() -> Iterator[Place]:
        marks = cluster.watermarks(partitions)
        spans = [Span(partition, low, high) for partition, (low, high) in marks.items() if low < high]
        for records, first, cut in span_reader.read(open_source, spans, lambda: heartbeat(False)):
            heartbeat(True)
            for index in range(first, cut):
                found = record_of(records.headers(index), pipeline)
                if found is not None:
                    yield found

    letters = Letters(once)
    letters.gone = sum(low for low, _ in cluster.watermarks(partitions).values())
    return letters


def of(places: Iterable[Place]) -> Letters:
    """Letters from a list: none, for a pipeline without a topic for them, or those of a test."""
    held = list(places)
    return Letters(lambda: held)
