"""Intents: what a batch is made of, as it is written into the metadata of Kafka offset commits, and the tokens derived from it.

This module owns the wire layout, the limit on its length, and the hash that names an insert. It never talks to Kafka.

Layout of the metadata of one partition's commit. It is text, because Kafka stores a string:

    "penstock1." + base64url(body), without padding
    body     := pipeline:str  cluster:8 bytes  topics:list(name:str  id:8 bytes)  intents:list(intent)
    intent   := declared_ms:uint  config:8 bytes  salt:str  spans:list(span)
    span     := topic:uint  partition:uint  first:uint  length:uint
    str      := length:uint bytes      list(x) := count:uint x*      uint := LEB128, 7 bits a byte, low bits first

`cluster`, topic `id` and `config` are digests: they are only ever compared. A topic that was deleted and made anew has
another id, so its offsets are not mistaken for the old ones.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from graphlib import TopologicalSorter
from itertools import pairwise

from pipeline.errors import PipelineStopped, invariant
from pipeline.types import Partition, Span

PREFIX = "penstock"
VERSION = "1"
METADATA_BYTES_MAX = 4_000
"""Below `offset.metadata.max.bytes` of a broker, which is 4,096 unless the operator changed it."""
DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Intent:
    """One declared batch. Two intents are the same batch when their spans and salt are equal."""

    spans: tuple[Span, ...]
    declared_ms: int
    config: bytes
    salt: str = ""

    @property
    def identity(self) -> tuple[tuple[Span, ...], str]:
        return self.spans, self.salt


@dataclass(frozen=True, slots=True)
class Identity:
    """Who declares: compared when an intent is read back. `topics` maps a topic to its id in the cluster ('' if unknown)."""

    pipeline: str
    cluster: str
    topics: Mapping[str, str]


class ForeignIntent(PipelineStopped):
    """The committed metadata was written by another pipeline, for another cluster or topic, or by a newer version."""


@lru_cache(maxsize=1_024)
def digest(text: str | bytes) -> bytes:
    """Eight bytes that stand for a name; all zero stands for 'not known'."""
    data = text.encode() if isinstance(text, str) else text
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest() if data else bytes(DIGEST_BYTES)


def canonical(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Spans in the one order that tokens and intents are made of."""
    return tuple(sorted(spans))


def token(
    identity: Identity, table: str, intent_spans: Sequence[Span], *, salt: str = "", path: str = "", look: int = 0
) -> str:
    """The `insert_deduplication_token` of one insert: 32 hexadecimal digits.

    `path` names a half of a half of the spans when a refused block is bisected; `look` counts the
    inserts of rows that the lineage showed to be missing. Both are empty for the insert that every batch begins with.
    """
    lines = [identity.pipeline, digest(identity.cluster).hex(), table, salt, path, str(look)]
    for (topic, number), first, next_ in intent_spans:
        lines.append(f"{topic}\t{digest(identity.topics.get(topic, '')).hex()}\t{number}\t{first}\t{next_}")
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def halves(spans: tuple[Span, ...]) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Two parts that cover the same offsets. The cut depends on the spans alone, so every worker cuts alike.

    Raises InvariantViolated for a span of a single offset, which cannot be cut.
    """
    if len(spans) > 1:
        middle = len(spans) // 2
        return spans[:middle], spans[middle:]
    partition, first, next_ = spans[0]
    invariant(next_ - first > 1, f"the span {spans[0]} cannot be halved")
    middle = (first + next_) // 2
    return (Span(partition, first, middle),), (Span(partition, middle, next_),)


def in_order(lists: Iterable[Sequence[Intent]]) -> tuple[Intent, ...]:
    """The intents of several partitions' metadata, each once, in the order in which their batches were cut.

    A batch drops copies of what the batches before it hold, so recovered in another order a copy passes for its original.
    Each list is in that order; and where two batches share a partition, the one that begins earlier there comes first. The
    clocks of the workers that declared them decide only between batches of which nothing else is known.
    """
    lists = [list(one) for one in lists]
    ordered = sorted(
        {intent.identity: intent for one in reversed(lists) for intent in one}.values(),
        key=lambda intent: (intent.declared_ms, intent.spans),
    )
    index_of = {intent.identity: index for index, intent in enumerate(ordered)}
    chains = [[index_of[intent.identity] for intent in one] for one in lists]
    by_partition: dict[Partition, list[tuple[int, int]]] = {}
    for index, intent in enumerate(ordered):
        for partition, first, _ in intent.spans:
            by_partition.setdefault(partition, []).append((first, index))
    chains += [[index for _, index in sorted(places)] for places in by_partition.values()]
    graph: dict[int, set[int]] = {index: set() for index in range(len(ordered))}
    for chain in chains:
        for before, after in pairwise(chain):
            if before != after:
                graph[after].add(before)
    return tuple(ordered[index] for index in _earliest_first(graph))


def _earliest_first(graph: Mapping[int, set[int]]) -> Iterator[int]:
    """The nodes in an order that has each behind all it depends on, and else the smallest first."""
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    ready: list[int] = []
    while sorter.is_active():
        for node in sorter.get_ready():
            heapq.heappush(ready, node)
        node = heapq.heappop(ready)
        sorter.done(node)
        yield node


def encode(identity: Identity, intents: Sequence[Intent]) -> str:
    """The metadata for one partition; `InvariantViolated` when it would not fit (the engine asks `fits` first)."""
    text = _encode(identity, intents)
    invariant(len(text) <= METADATA_BYTES_MAX, f"intents of {len(text)} bytes exceed {METADATA_BYTES_MAX}")
    return text


def fits(identity: Identity, intents: Sequence[Intent]) -> bool:
    """Whether these intents fit into the metadata of one commit."""
    return len(_encode(identity, intents)) <= METADATA_BYTES_MAX


def decode(metadata: str | None, identity: Identity, where: Partition) -> tuple[Intent, ...]:
    """The intents in a partition's committed metadata; none when it is empty or not ours.

    Raises ForeignIntent when it is ours in form but names another pipeline, cluster or topic, or cannot be read: going on
    would leave out a batch that may be in flight.
    """
    if not metadata or not metadata.startswith(PREFIX):
        return ()
    version, _, body = metadata[len(PREFIX) :].partition(".")
    if version != VERSION:
        raise ForeignIntent(
            f"{where}: the committed metadata has layout {version[:8]!r}, this version reads {VERSION!r}. "
            "Run the version that wrote it until its batches are finished (a graceful stop), then upgrade"
        )
    try:
        reader = _Reader(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        found = _read_body(reader)
    except (binascii.Error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise ForeignIntent(
            f"{where}: the committed metadata is damaged ({error}). Check who else commits for this group; "
            "`penstock verify` shows what is missing, a commit with empty metadata lets the pipeline go on"
        ) from error
    pipeline, cluster, topics, intents = found
    _check(where, identity, pipeline, cluster, topics)
    return intents


def _check(where: Partition, identity: Identity, pipeline: str, cluster: bytes, topics: Mapping[str, bytes]) -> None:
    if pipeline != identity.pipeline:
        raise ForeignIntent(
            f"{where}: batches in flight were declared by the pipeline {pipeline!r}, this one is {identity.pipeline!r}. "
            "Give each pipeline a group of its own, or put the old name back until it has drained"
        )
    if _differs(cluster, digest(identity.cluster)):
        raise ForeignIntent(
            f"{where}: batches in flight were declared against another Kafka cluster. "
            "Offsets copied between clusters cannot be recovered; drain the pipeline on the old cluster first"
        )
    for topic, known in topics.items():
        if topic in identity.topics and _differs(known, digest(identity.topics[topic])):
            raise ForeignIntent(
                f"{where}: the topic {topic!r} was deleted and made anew while batches of it were in flight. "
                "Reset the group's offsets for it (empty metadata), then start again"
            )


def _differs(left: bytes, right: bytes) -> bool:
    unknown = bytes(DIGEST_BYTES)
    return left != right and unknown not in (left, right)


def _encode(identity: Identity, intents: Sequence[Intent]) -> str:
    if not intents:
        return ""
    names = sorted({span.partition.topic for intent in intents for span in intent.spans})
    index = {name: i for i, name in enumerate(names)}
    out = bytearray()
    _put_text(out, identity.pipeline)
    out += digest(identity.cluster)
    _put(out, len(names))
    for name in names:
        _put_text(out, name)
        out += digest(identity.topics.get(name, ""))
    _put(out, len(intents))
    for intent in intents:
        _put(out, intent.declared_ms)
        out += intent.config
        _put_text(out, intent.salt)
        _put(out, len(intent.spans))
        for (topic, number), first, next_ in intent.spans:
            _put(out, index[topic])
            _put(out, number)
            _put(out, first)
            _put(out, next_ - first)
    return f"{PREFIX}{VERSION}." + base64.urlsafe_b64encode(out).rstrip(b"=").decode()


def _put(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _put_text(out: bytearray, text: str) -> None:
    data = text.encode()
    _put(out, len(data))
    out += data


class _Reader:
    """A cursor over the body; raises IndexError or ValueError when it ends early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def uint(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def raw(self, length: int) -> bytes:
        part = self._data[self._at : self._at + length]
        if len(part) != length:
            raise ValueError("it ends early")
        self._at += length
        return part

    def text(self) -> str:
        return self.raw(self.uint()).decode()

    def finished(self) -> bool:
        return self._at == len(self._data)


def _read_body(reader: _Reader) -> tuple[str, bytes, dict[str, bytes], tuple[Intent, ...]]:
    pipeline = reader.text()
    cluster = reader.raw(DIGEST_BYTES)
    topics = {reader.text(): reader.raw(DIGEST_BYTES) for _ in range(reader.uint())}
    names = list(topics)
    intents = tuple(_read_intent(reader, names) for _ in range(reader.uint()))
    if not reader.finished():
        raise ValueError("bytes follow its end")
    return pipeline, cluster, topics, intents


def _read_intent(reader: _Reader, names: list[str]) -> Intent:
    declared_ms, config, salt = reader.uint(), reader.raw(DIGEST_BYTES), reader.text()
    spans = []
    for _ in range(reader.uint()):
        topic, number, first, length = names[reader.uint()], reader.uint(), reader.uint(), reader.uint()
        spans.append(Span(Partition(topic, number), first, first + length))
    return Intent(tuple(spans), declared_ms, config, salt)
