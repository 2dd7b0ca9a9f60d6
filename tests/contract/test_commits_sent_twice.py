"""What the membership says of commits that librdkafka sends again by itself, over the mock cluster and by its own counters."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaError

from pipeline.clock import SystemClock
from pipeline.commands import Commit, CommitEntry, CommitOutcome
from pipeline.config.schema import Kafka
from pipeline.embedded.mock_kafka import ApiKey, MockKafka
from pipeline.kafka import Clients
from pipeline.membership import CommitDone, Membership, PartitionsAssigned
from pipeline.threads import Threads
from pipeline.types import Partition

WAIT_S = 60.0


class Member(NamedTuple):
    kafka: MockKafka
    membership: Membership
    epochs: dict[Partition, int]
    told: SimpleQueue[Any]

    def commit(self, number: int) -> CommitDone:
        entries = {partition: CommitEntry(epoch, number, "intent") for partition, epoch in self.epochs.items()}
        self.membership.commit(Commit(number, entries))
        done = self.told.get(timeout=WAIT_S)
        assert isinstance(done, CommitDone), done
        assert done.number == number
        return done


@pytest.fixture
def member() -> Iterator[Member]:
    told: SimpleQueue[Any] = SimpleQueue()
    with MockKafka(topics={"t": 2}, brokers=3) as kafka:
        config = Kafka(brokers=kafka.bootstrap, group="g", commit_timeout_ms=4_000)
        membership = Membership(config, ["t"], told.put, SystemClock(), lambda: True, Threads(), Clients())
        membership.start()
        try:
            assigned = told.get(timeout=WAIT_S)
            assert isinstance(assigned, PartitionsAssigned), assigned
            epochs = {partition: entry.epoch for partition, entry in assigned.partitions.items()}
            yield Member(kafka, membership, epochs, told)
        finally:
            assert membership.stop(WAIT_S)


@pytest.mark.parametrize(
    ("errors", "outcome"),
    [
        ([], CommitOutcome.ACCEPTED),
        ([KafkaError._TRANSPORT], CommitOutcome.UNKNOWN),
        ([KafkaError._TRANSPORT] * 2, CommitOutcome.UNKNOWN),
        # These were answered, so nothing of them is left.
        ([KafkaError.NOT_COORDINATOR], CommitOutcome.ACCEPTED),
        ([KafkaError.COORDINATOR_LOAD_IN_PROGRESS], CommitOutcome.ACCEPTED),
        ([KafkaError._TRANSPORT, KafkaError.REBALANCE_IN_PROGRESS], CommitOutcome.UNKNOWN),
    ],
)
def test_a_commit_that_was_sent_again_because_none_was_answered_is_unknown(
    member: Member, errors: list[int], outcome: CommitOutcome
) -> None:
    assert member.commit(1).outcome is CommitOutcome.ACCEPTED
    assert member.commit(2).outcome is CommitOutcome.ACCEPTED
    member.kafka.push_request_errors(ApiKey.OFFSET_COMMIT, errors)
    assert member.commit(3).outcome is outcome
    member.kafka.clear_request_errors(ApiKey.OFFSET_COMMIT)
    assert member.commit(4).outcome is CommitOutcome.ACCEPTED


def test_a_commit_that_takes_long_was_sent_once_all_the_same(member: Member) -> None:
    for broker in (1, 2, 3):
        member.kafka.push_broker_errors(broker, ApiKey.OFFSET_COMMIT, [(0, 1_500)])
    done = member.commit(1)
    assert (done.outcome, done.seconds > 1) == (CommitOutcome.ACCEPTED, True)


def test_a_commit_whose_answer_comes_after_the_timeout_is_unknown(member: Member) -> None:
    """librdkafka sends it again then, and says that it was stored."""
    for broker in (1, 2, 3):
        member.kafka.push_broker_errors(broker, ApiKey.OFFSET_COMMIT, [(0, 6_000)])
    assert member.commit(1).outcome is CommitOutcome.UNKNOWN


def test_a_commit_that_waits_for_a_coordinator_was_sent_once(member: Member) -> None:
    """When a broker goes down the whole fleet commits late, and must not leave the group for that."""
    assert member.commit(1).outcome is CommitOutcome.ACCEPTED
    member.kafka.broker_down()
    back = threading.Timer(2.0, member.kafka.broker_up)
    back.start()
    done = member.commit(2)
    back.join()
    assert (done.outcome, done.seconds > 1) == (CommitOutcome.ACCEPTED, True)
