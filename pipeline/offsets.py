"""Where partitions begin and end, asked until the cluster answers: a leader that moves must not stop a worker that runs.

It owns the waiting only; the questions are `kafka.Cluster`'s. What waiting does not mend, such as credentials that were
refused, reaches the worker through its membership.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from pipeline.errors import DependencyDown
from pipeline.kafka import Cluster
from pipeline.patience import Patience
from pipeline.types import Partition

T = TypeVar("T")
RETRY_WAIT_MS_MAX = 5_000


class Offsets:
    """For the data-plane thread; every call blocks until Kafka has answered, and raises Stopping when the worker stops."""

    def __init__(self, cluster: Cluster, patience: Patience) -> None:
        self._cluster = cluster
        self._patience = patience

    @property
    def waiting(self) -> str:
        """What waits for Kafka, why and for how long; empty when nothing does."""
        return self._patience.described

    def watermarks(self, partitions: Iterable[Partition]) -> dict[Partition, tuple[int, int]]:
        """Partition -> (first offset, next offset)."""
        wanted = list(partitions)
        return self._patiently("reading the ends of partitions", lambda: self._cluster.watermarks(wanted))

    def for_times(self, times_ms: Mapping[Partition, int]) -> dict[Partition, int]:
        """The first offset at or after each time; the end of the partition when there is none."""
        return self._patiently("looking up offsets by time", lambda: self._cluster.offsets_for_times(times_ms))

    def _patiently(self, what: str, question: Callable[[], T]) -> T:
        return self._patience.until_done(what, question, _outage)


def _outage(error: Exception) -> tuple[str, str] | None:
    return ("kafka", str(error)) if isinstance(error, DependencyDown) else None
