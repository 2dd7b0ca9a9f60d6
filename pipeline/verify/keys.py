"""Event ids that are no columns: record keys and headers, which only Kafka has, so that they are looked for there.

It holds digests of the keys that are looked for, nothing else. What a record is worth is decided elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pipeline.config.schema import Config
from pipeline.dedup import HEADER, KEY
from pipeline.kafka import Cluster
from pipeline.types import Partition, Records, Span
from pipeline.verify.tables import Tables

Reading = Callable[[Sequence[Span]], Iterator[tuple[Records, int, int]]]


class Found(NamedTuple):
    """A stored record with one of the keys that were looked for."""

    digest: bytes
    partition: Partition
    offset: int
    value: bytes | None


def source_of(config: Config) -> str:
    """`@key` or `@header:NAME` where event ids are no columns; empty otherwise."""
    key = config.dedup.key
    return key[0] if key and key[0].startswith("@") else ""


def keys_of(source: str, records: Records, indices: Sequence[int]) -> list[bytes | None]:
    """The event ids of records, as `Dedup.keys` reads them."""
    if source == KEY:
        return [records.key(index) for index in indices]
    name = source.removeprefix(HEADER)
    return [dict(records.headers(index)).get(name) for index in indices]


def digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=16).digest()


class KeySearch:
    """Looks for stored records by their keys: reads the topic's consumed records again, from the window's begin on."""

    def __init__(self, config: Config, cluster: Cluster, tables: Tables, reading: Reading) -> None:
        self._config = config
        self._cluster = cluster
        self._tables = tables
        self._reading = reading
        self._source = source_of(config)

    def find(self, topic: str, wanted: frozenset[bytes], oldest_ms: int) -> Iterator[Found]:
        """Every stored record whose key has one of the digests; `oldest_ms` is the time of the oldest that is asked about."""
        for span in self._spans(topic, oldest_ms):
            for records, first, cut in self._reading([span]):
                found = keys_of(self._source, records, range(first, cut))
                digests = [None if key is None else digest(key) for key in found]
                hits = [index for index, one in enumerate(digests, first) if one in wanted]
                if not hits:
                    continue
                begin, end = records.offsets[hits[0]], records.offsets[hits[-1]] + 1
                stored = self._tables.stored(records.partition, begin, end).offsets
                for index in hits:
                    if records.offsets[index] in stored:
                        one = digests[index - first]
                        assert one is not None
                        yield Found(one, records.partition, records.offsets[index], records.values[index])

    def _spans(self, topic: str, oldest_ms: int) -> list[Span]:
        """What was consumed, from where an original of those records can be: within the window, with one to spare."""
        partitions = [Partition(topic, number) for number in range(self._cluster.topic_partitions(topic))]
        marks, committed = self._cluster.watermarks(partitions), self._cluster.committed(partitions)
        begins: dict[Partition, int] = {}
        if oldest_ms > 0 and not self._cluster.is_mock():
            since_ms = max(0, oldest_ms - 2_000 * self._config.dedup.window_s)
            begins = self._cluster.offsets_for_times(dict.fromkeys(partitions, since_ms))
        spans = []
        for partition, (low, high) in marks.items():
            end = min(committed[partition][0], high)
            first = max(low, begins.get(partition, low))
            if first < end:
                spans.append(Span(partition, first, end))
        return spans
