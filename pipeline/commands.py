"""What the engine asks for (commands) and what it is told (events): plain values, the seam between protocol and I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from pipeline.errors import PenstockError
from pipeline.intent import Intent
from pipeline.types import Partition, Span


class Payload:
    """What a batch carries besides its spans (blocks, dead letters, counts). The engine never looks inside."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """One partition as it was assigned: the local epoch, and what is committed for it (None: nothing yet)."""

    epoch: int
    offset: int | None
    metadata: str


class CommitOutcome(Enum):
    """What is known of a commit, after `kafka.classify_commit`."""

    ACCEPTED = auto()
    REFUSED = auto()
    """The coordinator said no; nothing was stored; a later try may succeed."""
    FENCED = auto()
    """The member is no longer one; nothing was stored."""
    STALE = auto()
    """Not sent: a partition was no longer held under the epoch given."""
    UNKNOWN = auto()
    DENIED = auto()


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make partitions ready: rebuild claims, finish the declared batches, find stored rows and the position to read from."""

    partitions: Mapping[Partition, Assigned]
    intents: tuple[Intent, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """Read these partitions, from these positions, beside the ones being read."""

    positions: Mapping[Partition, int]
    flow_epoch: int


@dataclass(frozen=True, slots=True)
class Discard:
    """Drop the open batch. `positions` is all that is read from now on, each partition from there.

    `void_from` names, for partitions that are gone, the offset from which their claims are void: the records from there on
    are someone else's now, who may drop them, so a copy of one of them must not be dropped for its sake.
    """

    positions: Mapping[Partition, int]
    void_from: Mapping[Partition, int]
    flow_epoch: int


@dataclass(frozen=True, slots=True)
class CommitEntry:
    epoch: int
    offset: int
    metadata: str


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit offsets with metadata, synchronously; only if every partition is still held under its epoch."""

    number: int
    entries: Mapping[Partition, CommitEntry]


@dataclass(frozen=True, slots=True)
class Insert:
    """Insert a declared batch and write its dead letters; all acknowledged before `inserted` is reported."""

    batch: int
    spans: tuple[Span, ...]
    payload: Payload


@dataclass(frozen=True, slots=True)
class Release:
    """A batch has left the engine; its share of the budgets is free."""

    payload: Payload


@dataclass(frozen=True, slots=True)
class RevokeReady:
    """Nothing that the revoke of these partitions would interrupt is left; they may go."""

    partitions: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class Rejoin:
    """Leave the group and join it again; everything held is lost."""

    reason: str


@dataclass(frozen=True, slots=True)
class Drained:
    """After `drain`: every batch is durable and committed."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The pipeline cannot go on without an operator."""

    error: PenstockError


Command = Prepare | Read | Discard | Commit | Insert | Release | RevokeReady | Rejoin | Drained | Stop
