"""The engine step by step: what it asks for, in which order, and what it refuses to do."""

from __future__ import annotations

from typing import TypeVar

import pytest

from pipeline import intent as intents
from pipeline.clock import ManualClock
from pipeline.commands import (
    Assigned,
    Command,
    Commit,
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
from pipeline.engine import Engine
from pipeline.errors import InvariantViolated, PipelineStopped
from pipeline.intent import Identity, Intent
from pipeline.types import Partition, Span

T = TypeVar("T")
A, B = Partition("t", 0), Partition("t", 1)
IDENTITY = Identity("test", "cluster", {"t": "id"})


class Driver:
    """An engine with partitions A and B assigned, prepared at offset 10 and committed there."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.engine = Engine(IDENTITY, bytes(8), self.clock, advance_ms_max=1_000)
        assigned = {A: Assigned(1, 10, ""), B: Assigned(2, 10, "")}
        assert only(self.engine.assigned(assigned), Prepare).partitions == assigned
        commands = self.engine.prepared({A: 1, B: 2}, {A: 10, B: 10})
        assert only(commands, Read).positions == {A: 10, B: 10}
        self.accept(only(commands, Commit))

    def accept(self, commit: Commit) -> list[Command]:
        return self.engine.commit_done(commit.number, CommitOutcome.ACCEPTED)

    def seal(self, *spans: Span, empty: bool = False) -> list[Command]:
        return self.engine.sealed(spans, Payload(), empty=empty, flow_epoch=self.engine.flow_epoch)


def only(commands: list[Command], kind: type[T]) -> T:
    found = [command for command in commands if isinstance(command, kind)]
    assert len(found) == 1, commands
    return found[0]


def none(commands: list[Command], kind: type) -> bool:
    return not any(isinstance(command, kind) for command in commands)


def declared(commit: Commit, partition: Partition) -> list[tuple[Span, ...]]:
    return [i.spans for i in intents.decode(commit.entries[partition].metadata, IDENTITY, partition)]


def test_a_batch_is_declared_then_inserted_then_committed() -> None:
    driver = Driver()
    spans = (Span(A, 10, 15), Span(B, 10, 12))
    commit = only(driver.seal(*spans), Commit)
    assert commit.entries[A].offset == commit.entries[B].offset == 10
    assert declared(commit, A) == declared(commit, B) == [spans]
    insert = only(driver.accept(commit), Insert)
    assert insert.spans == spans
    assert none(driver.engine.inserted(insert.batch), Commit)  # The next declare would carry it; there is none yet.
    driver.clock.advance(1.1)
    advance = only(driver.engine.tick(), Commit)
    assert {p: (e.offset, e.metadata) for p, e in advance.entries.items()} == {A: (15, ""), B: (12, "")}
    driver.accept(advance)
    assert driver.engine.idle


def test_a_refused_advance_is_tried_again_though_nothing_more_arrives() -> None:
    """Seen in the demo: a rebalance refused the last commit, and the offsets stood still until the next record."""
    driver = Driver()
    insert = only(driver.accept(only(driver.seal(Span(A, 10, 15)), Commit)), Insert)
    driver.engine.inserted(insert.batch)
    driver.clock.advance(1.1)
    refused = only(driver.engine.tick(), Commit)
    assert driver.engine.commit_done(refused.number, CommitOutcome.REFUSED) == []
    driver.clock.advance(1.1)
    again = only(driver.engine.tick(), Commit)
    assert again.entries[A].offset == 15
    driver.accept(again)
    assert driver.engine.idle


def test_nothing_is_inserted_before_its_declare_is_accepted() -> None:
    driver = Driver()
    first = only(driver.seal(Span(A, 10, 15)), Commit)
    assert driver.seal(Span(A, 15, 20)) == []
    second = driver.accept(first)
    assert only(second, Insert).spans == (Span(A, 10, 15),)
    assert declared(only(second, Commit), A) == [(Span(A, 10, 15),), (Span(A, 15, 20),)]


def test_a_batch_that_finishes_early_stays_declared_until_the_one_before_it_has_finished() -> None:
    driver = Driver()
    one = only(driver.accept(only(driver.seal(Span(A, 10, 15)), Commit)), Insert)
    two = only(driver.accept(only(driver.seal(Span(A, 15, 20)), Commit)), Insert)
    driver.engine.inserted(two.batch)
    commit = only(driver.seal(Span(A, 20, 21)), Commit)
    assert commit.entries[A].offset == 10
    assert len(declared(commit, A)) == 3
    driver.accept(commit)
    driver.engine.inserted(one.batch)
    driver.clock.advance(2)
    commit = only(driver.engine.tick(), Commit)
    assert commit.entries[A].offset == 20
    assert declared(commit, A) == [(Span(A, 20, 21),)]


def test_a_partition_does_not_pass_a_batch_while_one_before_it_is_open() -> None:
    """Its records may have been dropped as copies of that one's. Passed, they would be claimed first, and the original be
    the copy, for whoever builds the window from Kafka and recovers the open batch then."""
    driver = Driver()
    one = only(driver.accept(only(driver.seal(Span(A, 10, 15)), Commit)), Insert)
    commit = only(driver.seal(Span(B, 10, 12)), Commit)
    assert declared(commit, A) == [(Span(A, 10, 15),)]
    assert declared(commit, B) == [(Span(A, 10, 15),), (Span(B, 10, 12),)]
    two = only(driver.accept(commit), Insert)
    driver.engine.inserted(two.batch)
    driver.seal(Span(B, 12, 13), empty=True)
    driver.clock.advance(2)
    assert none(driver.engine.tick(), Commit)
    driver.engine.inserted(one.batch)
    driver.clock.advance(2)
    commit = only(driver.engine.tick(), Commit)
    assert {p: (e.offset, e.metadata) for p, e in commit.entries.items()} == {A: (15, ""), B: (13, "")}


def test_an_open_batch_of_an_earlier_membership_holds_nothing_back() -> None:
    driver = Driver()
    old = only(driver.accept(only(driver.seal(Span(A, 10, 15)), Commit)), Insert)
    driver.engine.lost()
    driver.engine.assigned({B: Assigned(3, 10, "")})
    driver.accept(only(driver.engine.prepared({B: 3}, {B: 10}), Commit))
    commit = only(driver.seal(Span(B, 10, 12)), Commit)
    assert declared(commit, B) == [(Span(B, 10, 12),)]
    driver.engine.inserted(only(driver.accept(commit), Insert).batch)
    driver.clock.advance(2)
    assert only(driver.engine.tick(), Commit).entries[B].offset == 12
    driver.engine.inserted(old.batch)


def test_an_empty_batch_needs_no_declare() -> None:
    driver = Driver()
    assert none(driver.seal(Span(A, 10, 15), empty=True), Insert)
    driver.clock.advance(2)
    assert only(driver.engine.tick(), Commit).entries[A].offset == 15


@pytest.mark.parametrize("outcome", [CommitOutcome.UNKNOWN, CommitOutcome.FENCED])
def test_after_a_commit_of_unknown_outcome_everything_is_lost_and_the_group_joined_again(
    outcome: CommitOutcome,
) -> None:
    driver = Driver()
    commit = only(driver.seal(Span(A, 10, 15)), Commit)
    commands = driver.engine.commit_done(commit.number, outcome, "timed out")
    assert only(commands, Discard).positions == {}
    assert only(commands, Rejoin)
    assert only(commands, Release)
    assert none(commands, Commit)
    assert driver.engine.held == ()
    assert driver.engine.tick() == []


def test_a_refused_declare_is_tried_again_with_the_same_batch() -> None:
    driver = Driver()
    commit = only(driver.seal(Span(A, 10, 15)), Commit)
    assert driver.engine.commit_done(commit.number, CommitOutcome.REFUSED) == []
    assert driver.engine.tick() == []
    driver.clock.advance(0.2)
    again = only(driver.engine.tick(), Commit)
    assert declared(again, A) == [(Span(A, 10, 15),)]


def test_a_denied_commit_stops() -> None:
    driver = Driver()
    commit = only(driver.seal(Span(A, 10, 15)), Commit)
    stop = only(driver.engine.commit_done(commit.number, CommitOutcome.DENIED, "GROUP_AUTHORIZATION_FAILED"), Stop)
    assert "GROUP_AUTHORIZATION_FAILED" in str(stop.error)


def test_a_revoke_drops_what_is_undeclared_and_waits_for_what_is_declared() -> None:
    driver = Driver()
    declared_batch = only(driver.accept(only(driver.seal(Span(A, 10, 15), Span(B, 10, 15)), Commit)), Insert)
    undeclared = only(driver.seal(Span(A, 15, 20), Span(B, 15, 20)), Commit)
    driver.engine.commit_done(undeclared.number, CommitOutcome.REFUSED)
    commands = driver.engine.revoking([A])
    discard = only(commands, Discard)
    # B is read again when A is gone. A copy in it must not be dropped for a record of A that someone else reads again.
    assert discard.positions == discard.void_from == {}
    assert only(commands, Release)
    assert none(commands, RevokeReady)
    commit = only([*driver.engine.inserted(declared_batch.batch), *_later(driver)], Commit)
    assert {p: e.offset for p, e in commit.entries.items()} == {A: 15, B: 15}
    assert only(driver.accept(commit), RevokeReady).partitions == {A}
    discard = only(driver.engine.revoked([A]), Discard)
    assert (discard.positions, discard.void_from) == ({B: 15}, {A: 15})
    assert driver.engine.held == (B,)


def _later(driver: Driver) -> list[Command]:
    driver.clock.advance(0.2)
    return driver.engine.tick()


def test_a_partition_that_went_and_came_back_is_another_one() -> None:
    driver = Driver()
    insert = only(driver.accept(only(driver.seal(Span(A, 10, 15)), Commit)), Insert)
    assert only(driver.engine.revoked([A]), Discard).void_from == {A: 10}
    metadata = ""
    driver.engine.assigned({A: Assigned(3, 15, metadata)})
    driver.accept(only(driver.engine.prepared({A: 3}, {A: 15}), Commit))
    # The late acknowledgement belongs to the old assignment and must not touch the new one.
    driver.engine.inserted(insert.batch)
    commit = only(driver.seal(Span(A, 15, 16)), Commit)
    assert commit.entries[A].offset == 15
    assert commit.entries[A].epoch == 3


def test_claims_of_a_partition_that_goes_before_it_is_ready_are_good_up_to_its_committed_offset() -> None:
    """They may stand for copies in the partitions that stay, which have rows as well and no claim of their own."""
    driver = Driver()
    driver.engine.assigned({Partition("t", 2): Assigned(3, 7, "")})
    discard = only(driver.engine.revoked([Partition("t", 2)]), Discard)
    assert discard.void_from == {Partition("t", 2): 7}


def test_a_late_prepare_of_a_partition_that_was_lost_is_ignored() -> None:
    driver = Driver()
    driver.engine.lost()
    driver.engine.assigned({A: Assigned(3, 10, "")})
    driver.engine.lost()
    assert driver.engine.prepared({A: 3}, {A: 10}) == []


def test_a_batch_cut_before_a_discard_is_dropped() -> None:
    driver = Driver()
    epoch = driver.engine.flow_epoch
    driver.engine.revoked([B])
    assert only(driver.engine.sealed([Span(A, 10, 15)], Payload(), empty=False, flow_epoch=epoch), Release)
    assert driver.engine.batches_in_flight == 0


def test_declared_batches_found_in_metadata_are_recovered_once() -> None:
    driver = Driver()
    commit = only(driver.seal(Span(A, 10, 15), Span(B, 10, 15)), Commit)
    metadata = commit.entries[A].metadata
    other = Engine(IDENTITY, bytes(8), ManualClock(), advance_ms_max=1_000)
    prepare = only(other.assigned({A: Assigned(1, 10, metadata), B: Assigned(2, 10, metadata)}), Prepare)
    assert [intent.spans for intent in prepare.intents] == [(Span(A, 10, 15), Span(B, 10, 15))]


def test_foreign_metadata_stops() -> None:
    engine = Engine(Identity("other", "cluster", {}), bytes(8), ManualClock(), advance_ms_max=1_000)
    metadata = intents.encode(IDENTITY, [intents.Intent((Span(A, 1, 2),), 0, bytes(8))])
    assert isinstance(only(engine.assigned({A: Assigned(1, 1, metadata)}), Stop).error, PipelineStopped)


def test_a_batch_that_does_not_follow_the_last_is_a_bug() -> None:
    driver = Driver()
    with pytest.raises(InvariantViolated, match="expected it to begin at 10"):
        driver.seal(Span(A, 11, 15))


def test_drained_when_all_is_durable_and_committed() -> None:
    driver = Driver()
    insert = only(driver.accept(only(driver.seal(Span(A, 10, 15)), Commit)), Insert)
    assert driver.engine.drain() == []
    commit = only(driver.engine.inserted(insert.batch), Commit)
    assert only(driver.accept(commit), Drained)


def test_only_as_many_batches_are_declared_as_fit() -> None:
    clock = ManualClock()
    engine = Engine(IDENTITY, bytes(8), clock, advance_ms_max=1_000)
    partitions = [Partition("t", number) for number in range(64)]
    first = 10**10
    engine.assigned({p: Assigned(1, first, "") for p in partitions})
    commit = only(engine.prepared(dict.fromkeys(partitions, 1), dict.fromkeys(partitions, first)), Commit)
    for index in range(6):
        at = first + index * 9_000
        assert engine.sealed([Span(p, at, at + 9_000) for p in partitions], Payload(), empty=False, flow_epoch=0) == []
    commit = only(engine.commit_done(commit.number, CommitOutcome.ACCEPTED), Commit)
    inserts = [c for c in engine.commit_done(commit.number, CommitOutcome.ACCEPTED) if isinstance(c, Insert)]
    assert 2 <= len(inserts) < 6
    commands = engine.inserted(inserts[0].batch)
    assert len(declared(only(commands, Commit), partitions[0])) <= len(inserts) + 1


def test_batches_are_recovered_in_the_order_of_their_offsets_whatever_the_clocks_said() -> None:
    """A later batch decided its duplicates knowing the earlier one; the other way round a copy passes for the original."""
    one = Intent((Span(B, 10, 20),), 5, bytes(8))
    two = Intent((Span(A, 10, 20), Span(B, 20, 30)), 5, bytes(8))
    three = Intent((Span(A, 20, 30),), 4, bytes(8))
    metadata = {A: intents.encode(IDENTITY, [two, three]), B: intents.encode(IDENTITY, [one, two])}
    engine = Engine(IDENTITY, bytes(8), ManualClock(), advance_ms_max=1_000)
    commands = engine.assigned({A: Assigned(1, 10, metadata[A]), B: Assigned(2, 10, metadata[B])})
    assert only(commands, Prepare).intents == (one, two, three)


def test_batches_declared_at_once_are_recovered_in_the_order_of_their_declare() -> None:
    one, two = Intent((Span(B, 10, 20),), 5, bytes(8)), Intent((Span(A, 10, 20),), 5, bytes(8))
    metadata = {A: intents.encode(IDENTITY, [one, two]), B: intents.encode(IDENTITY, [one])}
    engine = Engine(IDENTITY, bytes(8), ManualClock(), advance_ms_max=1_000)
    commands = engine.assigned({A: Assigned(1, 10, metadata[A]), B: Assigned(2, 10, metadata[B])})
    assert only(commands, Prepare).intents == (one, two)


def test_an_empty_batch_behind_an_undeclared_one_goes_with_it() -> None:
    """Otherwise the records before it would be passed over: neither inserted nor read again."""
    driver = Driver()
    commit = only(driver.seal(Span(A, 10, 12)), Commit)
    driver.engine.commit_done(commit.number, CommitOutcome.REFUSED)
    assert driver.seal(Span(A, 12, 13), empty=True)
    driver.engine.revoking([B])
    assert only(driver.engine.revoked([B]), Discard).positions == {A: 10}
    driver.clock.advance(1)
    again = driver.engine.sealed([Span(A, 10, 13)], Payload(), empty=False, flow_epoch=driver.engine.flow_epoch)
    assert only(again, Commit).entries[A].offset == 10
