"""The open batch: collects encoded rows and dead letters of the spans read since the last seal, and knows when it is full.

It never reads, inserts or commits. Rows live in the block builders of the lanes; here is only what they add up to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pipeline.commands import Payload
from pipeline.config.schema import Batch as BatchLimits
from pipeline.native import Block, BlockBuilder
from pipeline.types import DeadLetter, Partition, RejectCode, Span


class TableBlock(NamedTuple):
    """The rows of one batch for one table. `topic` tells apart two routes that write to the same table."""

    topic: str
    table: str
    columns: tuple[str, ...]
    block: Block
    ids: Block | None = None
    """Key and lineage columns of the same rows, where event ids are looked up before the insert."""


@dataclass(slots=True)
class Counts:
    """What became of the records of a batch; every record is in exactly one of them."""

    records: int = 0
    nbytes: int = 0
    rows: int = 0
    duplicates: int = 0
    filtered: int = 0
    stored: int = 0
    """Left out, because the table has them already."""
    lettered: int = 0
    """Left out, because the dead-letter topic has them already, though the contract would take them now."""
    rejects: Counter[RejectCode] = field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        self.records += other.records
        self.nbytes += other.nbytes
        self.rows += other.rows
        self.duplicates += other.duplicates
        self.filtered += other.filtered
        self.stored += other.stored
        self.lettered += other.lettered
        if other.rejects:
            self.rejects.update(other.rejects)


class Unexplained(Protocol):
    """Records that are surely refused, for reasons that are asked for when the batch is sealed."""

    count: int
    nbytes: int
    """Of their values."""

    def explain(self) -> tuple[Counts, list[DeadLetter]]: ...


class Taken(NamedTuple):
    """What became of runs of records."""

    counts: Counts
    letters: list[DeadLetter]
    oldest_ms: int
    """The earliest record timestamp of the runs; -1 when there is none."""
    unexplained: Unexplained | None = None
    """Not in `counts` and `letters`, but for the number of records."""

    @property
    def refused(self) -> int:
        return len(self.letters) + (self.unexplained.count if self.unexplained is not None else 0)


@dataclass(slots=True)
class SealedBatch(Payload):
    """A complete batch on its way to ClickHouse."""

    flow_epoch: int
    spans: tuple[Span, ...]
    blocks: tuple[TableBlock, ...]
    letters: tuple[DeadLetter, ...]
    counts: Counts
    trigger: str
    age_s: float
    oldest_ms: int
    """The earliest record timestamp; 0 when no record had one."""

    @property
    def empty(self) -> bool:
        return not self.blocks and not self.letters

    @property
    def nbytes(self) -> int:
        """Bytes this batch holds until it is released."""
        blocks = [one for block in self.blocks for one in (block.block, block.ids) if one is not None]
        return sum(block.nbytes for block in blocks) + sum(len(letter.value or b"") for letter in self.letters)


@dataclass(slots=True)
class Target:
    """A builder together with where its block goes."""

    topic: str
    table: str
    columns: tuple[str, ...]
    builder: BlockBuilder
    ids: BlockBuilder | None = None
    """Takes the same rows; see `TableBlock.ids`."""

    def discard(self) -> None:
        """Forgets every row."""
        self.builder.discard()
        if self.ids is not None:
            self.ids.discard()

    def finish(self) -> TableBlock:
        """Hands every row over and begins anew."""
        ids = self.ids.finish() if self.ids is not None else None
        return TableBlock(self.topic, self.table, self.columns, self.builder.finish(), ids)


def _record_of(letter: DeadLetter) -> tuple[Partition, int]:
    return letter.partition, letter.offset


class OpenBatch:
    """What was read since the last seal. Used by the data-plane thread only."""

    def __init__(self, targets: Iterable[Target], limits: BatchLimits) -> None:
        self._targets = tuple(targets)
        self._limits = limits
        self._reset()

    def _reset(self) -> None:
        self._spans: dict[Partition, Span] = {}
        self._letter_bytes = 0
        self._unexplained: list[Unexplained] = []
        self.letters: list[DeadLetter] = []
        self.counts = Counts()
        self.opened_s: float | None = None
        self.oldest_ms = 0

    @property
    def rows(self) -> int:
        return sum(target.builder.rows for target in self._targets)

    @property
    def nbytes(self) -> int:
        return sum(target.builder.nbytes for target in self._targets) + self._letter_bytes

    @property
    def started(self) -> bool:
        """Something was read: a record, or a gap in the offsets."""
        return bool(self._spans)

    def has_room_for(self, partition: Partition) -> bool:
        return partition in self._spans or len(self._spans) < self._limits.partitions_max

    def cover(self, partition: Partition, first: int, next_offset: int, now_s: float) -> None:
        """Extends the span of a partition; `first` is where it begins if it has none yet."""
        span = self._spans.get(partition)
        self._spans[partition] = Span(partition, span.first if span else first, next_offset)
        if self.opened_s is None:
            self.opened_s = now_s

    def add(self, taken: Taken) -> None:
        """Counts what became of a run of records and keeps its dead letters; its rows are in the builders already."""
        self.counts.add(taken.counts)
        self.letters += taken.letters
        if taken.letters:
            self._letter_bytes += sum(len(letter.value or b"") for letter in taken.letters)
        if taken.unexplained is not None:
            self._letter_bytes += taken.unexplained.nbytes
            self._unexplained.append(taken.unexplained)
        if taken.oldest_ms > 0:
            self.oldest_ms = min(self.oldest_ms or taken.oldest_ms, taken.oldest_ms)

    def seal_trigger(self, now_s: float, wall_ms: int) -> str | None:
        """Why the batch must be sealed now, or None. An offset gap without records waits for company."""
        if self.opened_s is None:
            return None
        if self.rows >= self._limits.rows_max:
            return "rows"
        if self.nbytes >= self._limits.bytes_max:
            return "bytes"
        if self._waited_ms((now_s - self.opened_s) * 1000, wall_ms) >= self._limits.age_ms_max:
            return "age"
        return None

    def _waited_ms(self, open_ms: float, wall_ms: int) -> float:
        """How long the oldest record has waited: in Kafka too, when that was at most half of the age that is allowed.

        A batch that begins with records older than that is catching up, where few large batches are worth more; and a clock
        that differs from the producers' makes no batch close in less than half its age.
        """
        in_kafka_ms = wall_ms - self.oldest_ms - open_ms
        counted_ms_max = self._limits.age_ms_max - self._limits.age_ms_min
        return open_ms + in_kafka_ms if 0 < in_kafka_ms <= counted_ms_max else open_ms

    def seal(self, trigger: str, flow_epoch: int, now_s: float) -> SealedBatch:
        """Hands everything over and begins anew."""
        for unexplained in self._unexplained:
            counts, letters = unexplained.explain()
            self.counts.add(counts)
            self.letters += letters
        self.letters.sort(key=_record_of)
        blocks = tuple(target.finish() for target in self._targets if target.builder.rows)
        sealed = SealedBatch(
            flow_epoch=flow_epoch,
            spans=tuple(sorted(self._spans.values())),
            blocks=blocks,
            letters=tuple(self.letters),
            counts=self.counts,
            trigger=trigger,
            age_s=now_s - (self.opened_s if self.opened_s is not None else now_s),
            oldest_ms=self.oldest_ms,
        )
        self._reset()
        return sealed

    def discard(self) -> None:
        """Drops everything; the records will be read again."""
        for target in self._targets:
            target.discard()
        self._reset()
