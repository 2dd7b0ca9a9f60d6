"""The dead letters of a pipeline, read from their topic once: which records have one, and which have several.

It keeps eight bytes a letter and never looks at a letter's value.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

from pipeline import spans as span_reader
from pipeline.kafka import Cluster
from pipeline.letter import record_of
from pipeline.types import Partition, Source, Span


class Letters:
    """Offsets that have dead letters, by partition."""

    def __init__(self) -> None:
        self._offsets: dict[Partition, array[int]] = {}
        self._repeats: dict[Partition, dict[int, int]] = {}
        self.gone = 0
        """Letters that are no longer in their topic (or records that were never letters of ours)."""

    def add(self, partition: Partition, offset: int) -> None:
        self._offsets.setdefault(partition, array("q")).append(offset)

    def settle(self) -> None:
        """Sorts, and sets aside what is there more than once. Called once, after the last `add`."""
        for partition, offsets in self._offsets.items():
            ordered = sorted(offsets)
            runs = [(offset, sum(1 for _ in run)) for offset, run in groupby(ordered)]
            self._offsets[partition] = array("q", [offset for offset, _ in runs])
            self._repeats[partition] = {offset: count - 1 for offset, count in runs if count > 1}

    def between(self, partition: Partition, first: int, next_: int) -> frozenset[int]:
        """The offsets of `[first, next_)` that have a letter."""
        offsets = self._offsets.get(partition)
        if not offsets:
            return frozenset()
        return frozenset(offsets[bisect_left(offsets, first) : bisect_left(offsets, next_)])

    def repeated(self, partition: Partition, first: int, next_: int) -> int:
        """How many letters of those offsets are further ones."""
        return sum(count for offset, count in self._repeats.get(partition, {}).items() if first <= offset < next_)


def read(
    cluster: Cluster, topic: str, pipeline: str, open_source: Callable[[], Source], heartbeat: Callable[[], None]
) -> Letters:
    """Every letter of the pipeline that is in the topic now."""
    letters = Letters()
    partitions = [Partition(topic, number) for number in range(cluster.topic_partitions(topic))]
    marks = cluster.watermarks(partitions)
    letters.gone = sum(low for low, _ in marks.values())
    for records, first, cut in span_reader.read(open_source, _spans(marks), heartbeat):
        for index in range(first, cut):
            found = record_of(records.headers(index), pipeline)
            if found is not None:
                letters.add(*found)
    letters.settle()
    return letters


def _spans(marks: Mapping[Partition, tuple[int, int]]) -> list[Span]:
    return [Span(partition, low, high) for partition, (low, high) in marks.items() if low < high]


def of(offsets: Iterable[tuple[Partition, int]]) -> Letters:
    """Letters from a list, for a pipeline without a topic for them, and for tests."""
    letters = Letters()
    for partition, offset in offsets:
        letters.add(partition, offset)
    letters.settle()
    return letters
