"""The delivery protocol as a state machine: events in, commands out. It does no I/O, holds no thread and owns no clock.

The order of the flow, stage by stage (who does it in brackets):

    membership  partitions are assigned                      [membership] -> assigned()
    recovery    claims rebuilt, declared batches finished    [Prepare -> data plane] -> prepared()
    source      records read from the positions              [Read -> data plane]
    decode      bytes -> rows of the contract, or rejects    [data plane]
    dedup       ids claimed, duplicates dropped              [data plane]
    batch       rows -> one Native block per table; sealed   [data plane] -> sealed()
    intent      the batch's spans committed as metadata      [Declare: Commit -> membership] -> commit_done()
    sink        blocks inserted under their tokens           [Insert -> insert threads] -> inserted()
    deadletter  rejects written and acknowledged             [the same Insert]
    intent      the offsets advance with the next commit     [Commit -> membership] -> commit_done()

What the protocol rests on:

- Ownership is local: only a partition that is held, under the epoch it was assigned with, is ever committed.
- One commit is outstanding at the most. One of unknown outcome is never followed by another: the worker leaves and joins
  again, so that the new generation fences whatever is still on its way, and recovery reads what was really accepted.
- A batch is inserted only after its declare was accepted. An undeclared batch can be dropped and read again at any time.
- Offsets advance in the order of the batches: a batch is passed when it and every batch before it are durable, whatever
  partitions those have. Until then its partitions' metadata holds it and the batches before it. For what a batch drops
  as copies rests on those, so they are finished first, by whoever gets any of its partitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from pipeline import intent as intents
from pipeline.clock import Clock
from pipeline.commands import (
    Assigned,
    Command,
    Commit,
    CommitEntry,
    CommitOutcome,
    Discard,
    Drained,
    Insert,
    Payload,
    Prepare,
    Read,
    Rejoin,
    Release,
    RevokeReady,
    Stop,
)
from pipeline.errors import GaveUp, PenstockError, PipelineStopped, invariant
from pipeline.intent import Identity, Intent
from pipeline.types import Partition, Span

REFUSED_RETRY_S = 0.1
"""How long a commit that the coordinator refused waits before it is tried again."""


class Status(Enum):
    """Where a batch stands. A batch leaves the engine when it is durable and nothing before it in its partitions is open."""

    SEALED = auto()
    DECLARING = auto()
    INSERTING = auto()
    DURABLE = auto()


@dataclass(slots=True)
class _Batch:
    number: int
    spans: tuple[Span, ...]
    epochs: dict[Partition, int]
    """The assignment each partition was read under: a partition that went and came back is another one."""
    payload: Payload
    status: Status = Status.SEALED
    intent: Intent | None = None
    past: bool = False
    """Every partition has been taken away since. What is read from then on does not rest on it."""


@dataclass(slots=True)
class _Held:
    """A partition this worker owns."""

    epoch: int
    ready: bool = False
    revoking: bool = False
    durable: int = -1
    """First offset not known to be durable, or behind a batch that is not."""
    covered: int = -1
    """Offset after the last sealed span."""
    committed: int = -1
    """What the coordinator holds, as far as we know."""


_NOTHING = _Held(epoch=-1)


@dataclass(slots=True)
class _Outstanding:
    number: int
    offsets: dict[Partition, int]
    declares: list[int] = field(default_factory=list)


class Engine:
    """One worker's side of the protocol. Every method returns the commands to carry out, in order. Not thread-safe."""

    def __init__(
        self, identity: Identity, config_digest: bytes, clock: Clock, *, advance_ms_max: int, salt: str = ""
    ) -> None:
        self._identity = identity
        self._config = config_digest
        self._salt = salt
        self._clock = clock
        self._advance_s = advance_ms_max / 1000
        self._held: dict[Partition, _Held] = {}
        self._batches: dict[int, _Batch] = {}
        self._numbers = 0
        self._outstanding: _Outstanding | None = None
        self._commit_not_before_s = 0.0
        self._dirty_since_s: float | None = None
        self._draining = False
        self._stopped = False
        self.flow_epoch = 0

    # What can be asked

    @property
    def held(self) -> tuple[Partition, ...]:
        return tuple(self._held)

    @property
    def batches_in_flight(self) -> int:
        return len(self._batches)

    @property
    def idle(self) -> bool:
        """Every batch is durable and what is durable is committed."""
        return not self._batches and self._outstanding is None and not self._dirty()

    # Group membership

    def assigned(self, partitions: Mapping[Partition, Assigned]) -> list[Command]:
        """Partitions are ours from now on; they are prepared before they are read."""
        try:
            found = [
                intents.decode(assigned.metadata, self._identity, partition)
                for partition, assigned in partitions.items()
            ]
        except PipelineStopped as error:
            return self._stop(error)
        for partition, assigned in partitions.items():
            # Should it go before it is ready, what its window holds from before this offset is good all the same.
            self._held[partition] = _Held(assigned.epoch, durable=-1 if assigned.offset is None else assigned.offset)
        if not partitions:
            return []
        return [Prepare(dict(partitions), intents.in_order(found))]

    def prepared(self, epochs: Mapping[Partition, int], positions: Mapping[Partition, int]) -> list[Command]:
        """The data plane has finished what was declared; everything before `positions` is durable."""
        ready: dict[Partition, int] = {}
        for partition, position in positions.items():
            held = self._held.get(partition)
            if held is None or held.epoch != epochs[partition]:
                continue  # It was taken away meanwhile; its next owner recovers it again, under the same tokens.
            held.ready = True
            held.durable = held.covered = position
            if not self._revoking():
                ready[partition] = position
        self._note_dirty()
        out: list[Command] = [Read(ready, self.flow_epoch)] if ready else []
        return out + self._commit_if_due(at_once=True)

    def revoking(self, partitions: Iterable[Partition]) -> list[Command]:
        """Partitions are about to go. What is undeclared is dropped, what is declared may finish before `RevokeReady`. Reading
        goes on when they are gone."""
        for partition in partitions:
            if held := self._held.get(partition):
                held.revoking = True
        return self._discard_undeclared({}) + self._commit_if_due(at_once=True) + self._revoke_ready_if_done()

    def revoked(self, partitions: Iterable[Partition]) -> list[Command]:
        """Partitions are gone. Declared batches of theirs go on; whoever holds them now recovers them too."""
        gone = {partition: held.durable for partition in partitions if (held := self._held.pop(partition, None))}
        out = self._discard_undeclared(gone)
        if not self._held:
            for batch in self._batches.values():
                batch.past = True
        self._forget_finished()
        return out

    def lost(self) -> list[Command]:
        """The membership ended without our doing: nothing is owned any more, and no commit of ours counts."""
        unfinished = self._draining and not self.idle
        self._outstanding = None
        for batch in self._batches.values():
            if batch.status is Status.DECLARING:
                # Accepted or not, the next owner reads the metadata and knows.
                batch.status = Status.SEALED
        out = self.revoked(list(self._held))
        if unfinished:
            out += self._stop(
                GaveUp("the group went on without this worker while it drained; the next owner finishes its batches")
            )
        return out

    # Batches

    def sealed(self, spans: Sequence[Span], payload: Payload, *, empty: bool, flow_epoch: int) -> list[Command]:
        """A batch is complete. One that was cut before the last `Discard` is dropped: its records are read again.

        `empty`: it has nothing to write (every record was a duplicate or filtered), so it needs no declare.
        """
        if flow_epoch != self.flow_epoch or self._stopped:
            return [Release(payload)]
        self._numbers += 1
        batch = _Batch(self._numbers, intents.canonical(spans), {}, payload)
        for span in batch.spans:
            held = self._held.get(span.partition, _NOTHING)
            invariant(held.ready, f"a batch covers {span}, which is not held")
            invariant(span.first == held.covered, f"a batch covers {span}, expected it to begin at {held.covered}")
            held.covered = span.next
            batch.epochs[span.partition] = held.epoch
        self._batches[batch.number] = batch
        if empty:
            return self._durable(batch)
        return self._commit_if_due(at_once=False)

    def inserted(self, number: int) -> list[Command]:
        """Every row of the batch is acknowledged by ClickHouse and every dead letter by Kafka."""
        batch = self._batches[number]
        invariant(batch.status is Status.INSERTING, f"batch {number} was inserted while {batch.status.name}")
        return self._durable(batch)

    def failed(self, error: PenstockError) -> list[Command]:
        """A stage cannot go on."""
        return self._stop(error)

    def commit_done(self, number: int, outcome: CommitOutcome, detail: str = "") -> list[Command]:
        """The answer to the outstanding commit; one to a commit of an earlier membership is ignored."""
        outstanding = self._outstanding
        if outstanding is None or outstanding.number != number:
            return []
        self._outstanding = None
        if outcome is CommitOutcome.ACCEPTED:
            return self._accepted(outstanding)
        for declared in outstanding.declares:
            if (batch := self._batches.get(declared)) and batch.status is Status.DECLARING:
                batch.status = Status.SEALED
        if outcome is CommitOutcome.DENIED:
            return self._stop(PipelineStopped(f"Kafka does not accept our offset commits: {detail}"))
        if outcome in (CommitOutcome.UNKNOWN, CommitOutcome.FENCED):
            # What was declared may or may not stand. The assignment after the rejoin reads it back; until then nothing is held.
            return [*self.lost(), Rejoin(f"offset commit {outcome.name.lower()}: {detail}")]
        self._commit_not_before_s = self._clock.monotonic_s() + REFUSED_RETRY_S
        # What was to advance still is. Without another record there would be no other reason to commit again.
        self._note_dirty()
        undeclared = [batch for batch in self._batches.values() if batch.status is Status.SEALED]
        if all(len(self._owned_spans(batch)) == len(batch.spans) for batch in undeclared):
            return []
        return self._discard_undeclared({})

    # Time and shutdown

    def tick(self) -> list[Command]:
        """To be called a few times a second: commits what has waited long enough."""
        return self._commit_if_due(at_once=False) + self._drained_if_done()

    def drain(self) -> list[Command]:
        """No batch will be sealed any more: finish what there is, then say `Drained`."""
        self._draining = True
        return self._commit_if_due(at_once=True) + self._drained_if_done()

    # The protocol

    def _commit_if_due(self, *, at_once: bool) -> list[Command]:
        now_s = self._clock.monotonic_s()
        if self._outstanding is not None or self._stopped or now_s < self._commit_not_before_s:
            return []
        declares = self._declarable()
        waited = self._dirty_since_s is not None and now_s - self._dirty_since_s >= self._advance_s
        hurry = at_once or self._draining or self._revoking()
        if not declares and not (self._dirty() and (waited or hurry)):
            return []
        return [self._commit(declares)]

    def _declarable(self) -> list[_Batch]:
        """The sealed batches, oldest first, whose intents fit into the metadata of every partition of theirs."""
        found: list[_Batch] = []
        now_ms = self._clock.wall_ms()
        for batch in self._batches.values():
            if batch.status is not Status.SEALED:
                continue
            batch.intent = Intent(batch.spans, now_ms, self._config, self._salt)
            if not intents.fits(self._identity, _intents_of([*self._in_flight(), *found, batch])):
                invariant(
                    bool(self._in_flight()) or bool(found),
                    f"the intent of one batch exceeds {intents.METADATA_BYTES_MAX} bytes",
                )
                break
            found.append(batch)
        return found

    def _in_flight(self) -> list[_Batch]:
        return [
            batch
            for batch in self._batches.values()
            if batch.status in (Status.INSERTING, Status.DURABLE) and batch.intent and not batch.past
        ]

    def _reach(self, partition: Partition, batches: Sequence[_Batch]) -> int:
        """How many of the batches a partition's metadata must hold: up to the last that goes beyond its durable offset."""
        durable = self._held[partition].durable
        for count in range(len(batches), 0, -1):
            spans = self._owned_spans(batches[count - 1])
            if any(span.partition == partition and span.next > durable for span in spans):
                return count
        return 0

    def _commit(self, declares: list[_Batch]) -> Commit:
        self._numbers += 1
        carried = [*self._in_flight(), *declares]
        touched = {span.partition for batch in carried for span in self._owned_spans(batch)}
        entries: dict[Partition, CommitEntry] = {}
        metadata: dict[int, str] = {}
        for partition, held in self._held.items():
            if not held.ready or (partition not in touched and held.committed == held.durable):
                continue
            count = self._reach(partition, carried)
            if count not in metadata:
                metadata[count] = intents.encode(self._identity, _intents_of(carried[:count]))
            entries[partition] = CommitEntry(held.epoch, held.durable, metadata[count])
        for batch in declares:
            batch.status = Status.DECLARING
        self._dirty_since_s = None
        offsets = {partition: entry.offset for partition, entry in entries.items()}
        self._outstanding = _Outstanding(self._numbers, offsets, [batch.number for batch in declares])
        return Commit(self._numbers, entries)

    def _accepted(self, outstanding: _Outstanding) -> list[Command]:
        for partition, offset in outstanding.offsets.items():
            if held := self._held.get(partition):
                held.committed = offset
        out: list[Command] = []
        for number in outstanding.declares:
            # A batch whose partition was revoked while its declare was on its way is gone here; its declare stands and
            # the partition's next owner inserts it.
            if batch := self._batches.get(number):
                batch.status = Status.INSERTING
                out.append(Insert(batch.number, batch.spans, batch.payload))
        self._note_dirty()
        return out + self._commit_if_due(at_once=False) + self._revoke_ready_if_done() + self._drained_if_done()

    def _durable(self, batch: _Batch) -> list[Command]:
        batch.status = Status.DURABLE
        out: list[Command] = [Release(batch.payload)]
        batch.payload = Payload()
        self._forget_finished()
        self._note_dirty()
        return out + self._commit_if_due(at_once=False) + self._revoke_ready_if_done() + self._drained_if_done()

    def _owned_spans(self, batch: _Batch) -> list[Span]:
        """The spans of a batch whose partitions are still held under the assignment they were read under."""
        return [
            span
            for span in batch.spans
            if self._held.get(span.partition, _NOTHING).epoch == batch.epochs[span.partition]
        ]

    def _forget_finished(self) -> None:
        """Moves each durable offset to the first batch that is open or behind one, and forgets what no partition waits for."""
        first_open: dict[Partition, int] = {}
        behind = False
        for batch in self._batches.values():
            behind = behind or (batch.status is not Status.DURABLE and not batch.past)
            if behind:
                for span in self._owned_spans(batch):
                    first_open.setdefault(span.partition, span.first)
        for partition, held in self._held.items():
            if held.ready:
                held.durable = first_open.get(partition, held.covered)
        for number, batch in list(self._batches.items()):
            awaited = any(span.next > self._held[span.partition].durable for span in self._owned_spans(batch))
            if batch.status is Status.DURABLE and not awaited:
                del self._batches[number]

    def _discard_undeclared(self, gone: Mapping[Partition, int]) -> list[Command]:
        """Drops every undeclared batch and the open one; each kept partition is read again from its last declared offset.

        `gone` maps partitions that are no longer held to their durable offset. While one is about to go nothing is read: its
        claims are good until it is gone, and a copy elsewhere could be dropped for a record of it that was just dropped.
        """
        out: list[Command] = []
        dropping = False
        for number, batch in list(self._batches.items()):
            if batch.status is Status.SEALED:
                dropping = True
                out.append(Release(batch.payload))
            if dropping:
                # An empty batch behind an undeclared one is durable already. It goes too: reading on after it would pass
                # over the records before it.
                invariant(
                    batch.status is Status.SEALED or batch.intent is None,
                    f"batch {number} is {batch.status.name} behind an undeclared one",
                )
                del self._batches[number]
        reach: dict[Partition, int] = {}
        for batch in self._batches.values():
            reach.update({span.partition: span.next for span in self._owned_spans(batch)})
        positions: dict[Partition, int] = {}
        for partition, held in self._held.items():
            if held.ready:
                held.covered = max(held.durable, reach.get(partition, held.durable))
                positions[partition] = held.covered
        self.flow_epoch += 1
        out.append(Discard({} if self._revoking() else positions, dict(gone), self.flow_epoch))
        return out

    def _revoking(self) -> bool:
        return any(held.revoking for held in self._held.values())

    def _dirty(self) -> bool:
        return any(held.ready and held.committed != held.durable for held in self._held.values())

    def _note_dirty(self) -> None:
        if self._dirty_since_s is None and self._dirty():
            self._dirty_since_s = self._clock.monotonic_s()

    def _revoke_ready_if_done(self) -> list[Command]:
        leaving = {partition: held for partition, held in self._held.items() if held.revoking}
        if not leaving or self._outstanding is not None:
            return []
        busy = any(span.partition in leaving for batch in self._batches.values() for span in self._owned_spans(batch))
        late = any(held.ready and held.committed != held.durable for held in leaving.values())
        return [] if busy or late else [RevokeReady(frozenset(leaving))]

    def _drained_if_done(self) -> list[Command]:
        return [Drained()] if self._draining and self.idle else []

    def _stop(self, error: PenstockError) -> list[Command]:
        if self._stopped:
            return []
        self._stopped = True
        return [Stop(error)]


def _intents_of(batches: Iterable[_Batch]) -> list[Intent]:
    return [batch.intent for batch in batches if batch.intent]
