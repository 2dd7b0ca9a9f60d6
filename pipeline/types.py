"""The words every stage shares: partitions, spans, records, rejects. Plain values; no behaviour that does I/O."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


class Span(NamedTuple):
    """The offsets `[first, next)` of one partition; the log may not hold all of them (compaction, transactions)."""

    partition: Partition
    first: int
    next: int

    def __str__(self) -> str:
        return f"{self.partition}[{self.first},{self.next})"


Headers = Sequence[tuple[str, bytes | None]]


class Records(Protocol):
    """A run of records of one partition, in offset order, as columns.

    `offsets` and `timestamps` are `array('q')` of equal length (timestamps in milliseconds since the epoch, -1 when the
    broker has none); `values` is a list of the same length, `None` for a tombstone, which may be made when it is first
    asked for. `value`, keys and headers are asked for one record at a time, because only dead letters and unusual dedup
    keys need them.
    """

    partition: Partition
    offsets: array[int]
    timestamps: array[int]
    values: list[bytes | None]
    next_offset: int
    """The offset after the last record."""
    nbytes: int
    """Bytes of all values."""
    largest_bytes: int
    """Bytes of the largest value."""
    oldest_ms: int
    """The earliest timestamp."""

    def __len__(self) -> int: ...

    def value(self, index: int) -> bytes | None: ...

    def key(self, index: int) -> bytes | None: ...

    def headers(self, index: int) -> Headers: ...


class PartitionEnd(NamedTuple):
    """The source has read up to the high watermark: `next_offset` is where the next record will be."""

    partition: Partition
    next_offset: int


class SourceFault(NamedTuple):
    """The source cannot go on with this partition by itself. `code` is the librdkafka error code, `offset` -1 if unknown."""

    partition: Partition
    offset: int
    code: int
    name: str
    detail: str


SourceEvent = Records | PartitionEnd | SourceFault


class Source(Protocol):
    """Reads records from given positions and never commits. Used by one thread at a time."""

    def assign(self, positions: dict[Partition, int]) -> None:
        """Replaces the whole assignment; each partition is read from its position on."""

    def poll(self, records_max: int, timeout_s: float) -> list[SourceEvent]:
        """Up to `records_max` records, grouped by partition, after at most `timeout_s` when there is none."""

    def close(self) -> None: ...


class Stage(StrEnum):
    """Where a record was refused."""

    DECODE = "decode"
    CONTRACT = "contract"
    COLUMN = "column"
    INSERT = "insert"
    SOURCE = "source"


class RejectCode(StrEnum):
    """Why a record was refused; the label of the metric and the `penstock-code` header of the dead letter."""

    TOMBSTONE = "tombstone"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    UNDECODABLE = "undecodable"
    INVALID_UTF8 = "invalid_utf8"
    TOO_DEEP = "too_deep"
    UNKNOWN_TYPE = "unknown_type"
    BREAKS_CONTRACT = "breaks_contract"
    NO_KEY = "no_key"
    OUT_OF_RANGE = "out_of_range"
    WRONG_TYPE = "wrong_type"
    NULL = "null"
    REFUSED = "refused"
    CORRUPT = "corrupt"


class Reject(NamedTuple):
    """A record proven bad. `detail` names the field and the rule; it never holds bytes of the payload."""

    stage: Stage
    code: RejectCode
    detail: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A reject together with the original record, ready for the dead-letter topic."""

    partition: Partition
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    reject: Reject
    contract: str
    """The contract's name and version, as `module:Struct@version`."""
