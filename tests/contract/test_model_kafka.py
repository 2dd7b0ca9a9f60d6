"""The simulation's Kafka against librdkafka with its mock cluster and with Apache Kafka: what all three must do alike.

The clients are used as `pipeline.membership` and `pipeline.source` use them: cooperative callbacks, synchronous commits
with metadata, manual assignment.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.config.schema import Kafka
from pipeline.kafka import classify_commit
from pipeline.source import open_source
from pipeline.types import Partition, PartitionEnd, Source, SourceFault
from tests.simulation.faults import Faults
from tests.simulation.kafka_clients import Machine, SimConsumer, SimSource
from tests.simulation.kafka_model import Cluster
from tests.simulation.loop import Loop, Process
from tests.simulation.schedule import Switches

TOPIC = "events"
ALL = frozenset(range(4))
METADATA = "intent:" + "x" * 3_000


class Member:
    """A consumer with the callbacks of `pipeline.membership`, and what they were told."""

    def __init__(self, consumer: Any, topic: str) -> None:
        self.consumer = consumer
        self.topic = topic
        self.revoked: list[frozenset[int]] = []
        self.lost: list[frozenset[int]] = []
        self.at_revoke: Callable[[Any], None] = lambda consumer: None
        consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(entry.partition for entry in self.consumer.assignment())

    def commit(self, partition: int, offset: int, metadata: str) -> None:
        entries = [TopicPartition(self.topic, partition, offset, metadata)]
        for answer in self.consumer.commit(offsets=entries, asynchronous=False):
            if answer.error is not None:
                raise KafkaException(answer.error)

    def may_commit(self, partition: int, offset: int, metadata: str) -> bool:
        """Commits, unless the group is in a rebalance, or has been in one, of which this member has not heard yet."""
        try:
            self.commit(partition, offset, metadata)
        except KafkaException as error:
            if error.args[0].code() not in (KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION):
                raise
            return False
        return True

    def committed(self, partition: int) -> tuple[int, str]:
        found = self.consumer.committed([TopicPartition(self.topic, partition)], timeout=10)[0]
        return found.offset, found.metadata or ""

    def _on_assign(self, consumer: Any, entries: list[Any]) -> None:
        consumer.incremental_assign(entries)

    def _on_revoke(self, consumer: Any, entries: list[Any]) -> None:
        self.at_revoke(consumer)
        self.revoked.append(frozenset(entry.partition for entry in entries))
        consumer.incremental_unassign(entries)

    def _on_lost(self, consumer: Any, entries: list[Any]) -> None:
        self.lost.append(frozenset(entry.partition for entry in entries))
        consumer.incremental_unassign(entries)


class Model:
    """The model of the simulation, driven from outside: a wait lets everything else happen."""

    def __init__(self, protocol: str) -> None:
        self.topic = TOPIC
        self.loop = Loop(random.Random(7).random)
        self.cluster = Cluster(self.loop, {TOPIC: 4}, protocol)

    def machine(self) -> Machine:
        return Machine(Process(self.loop, "test"), self.cluster, Faults(()), Switches())

    def member(self, instance: str = "") -> Member:
        return Member(SimConsumer(self.machine(), {"group.instance.id": instance}), TOPIC)

    def until(self, condition: Callable[[], bool], *members: Member) -> None:
        for _ in range(2_000):
            if condition():
                return
            for member in members:
                member.consumer.poll(0.05)
        raise AssertionError("not in time")

    def fall_silent(self, member: Member) -> None:
        member.consumer.vanish()

    def source(self) -> Source:
        return SimSource(self.machine())

    def produce(self, partition: int, count: int) -> None:
        for number in range(count):
            self.cluster.logs[TOPIC, partition].append(str(number).encode(), 1_000 + number)

    def delete_before(self, partition: int, offset: int) -> bool:
        self.cluster.logs[TOPIC, partition].retain_from(offset)
        return True

    def close(self) -> None:
        pass


class Real:
    """A cluster that speaks the protocol."""

    def __init__(self, cluster: Any, protocol: str) -> None:
        self.topic = f"events-{uuid.uuid4().hex[:8]}"
        cluster.create_topic(self.topic, 4)
        self._bootstrap = cluster.bootstrap
        self._protocol = protocol
        self._group = f"group-{uuid.uuid4().hex[:8]}"
        self._opened: list[Any] = []

    def member(self, instance: str = "") -> Member:
        conf = {
            "bootstrap.servers": self._bootstrap,
            "group.id": self._group,
            "group.protocol": self._protocol,
            "enable.auto.commit": False,
            "max.poll.interval.ms": 3_000,
            "log_level": 0,
        }
        if instance:
            conf["group.instance.id"] = instance
        if self._protocol == "classic":
            conf |= {"partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": 2_500}
            conf["heartbeat.interval.ms"] = 200
        consumer = Consumer(conf)
        self._opened.append(consumer)
        return Member(consumer, self.topic)

    def until(self, condition: Callable[[], bool], *members: Member) -> None:
        deadline_s = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline_s, f"not in time: {[(m.owned, m.revoked, m.lost) for m in members]}"
            for member in members:
                member.consumer.poll(0.02)

    def fall_silent(self, member: Member) -> None:
        """Not polled any more: its own client leaves the group for it after max.poll.interval.ms."""

    def source(self) -> Source:
        source = open_source(Kafka(brokers=self._bootstrap, group="reader"))
        self._opened.append(source)
        return source

    def produce(self, partition: int, count: int) -> None:
        producer = Producer({"bootstrap.servers": self._bootstrap, "log_level": 0})
        for number in range(count):
            producer.produce(self.topic, str(number), partition=partition, timestamp=1_000 + number)
        assert producer.flush(30) == 0

    def delete_before(self, partition: int, offset: int) -> bool:
        admin = AdminClient({"bootstrap.servers": self._bootstrap, "log_level": 0})
        (answer,) = admin.delete_records([TopicPartition(self.topic, partition, offset)]).values()
        try:
            answer.result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError._UNSUPPORTED_FEATURE:
                raise
            return False
        return True

    def close(self) -> None:
        for client in self._opened:
            client.close()


REAL = pytest.param("apache", marks=pytest.mark.kafka)


@pytest.fixture(params=["model", "mock", REAL])
def place(request: pytest.FixtureRequest, protocol: str) -> Iterator[Any]:
    """The model and the real thing, in one of the group protocols."""
    if request.param == "model":
        made: Any = Model(protocol)
    else:
        made = Real(request.getfixturevalue(f"{request.param}_kafka"), protocol)
    yield made
    made.close()


@pytest.fixture(params=["model", "mock", REAL])
def log(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The same, to be read without a group."""
    made: Any = Model("classic")
    if request.param != "model":
        made = Real(request.getfixturevalue(f"{request.param}_kafka"), "classic")
    yield made
    made.close()


def test_what_is_committed_with_metadata_comes_to_the_next_owner(place: Any) -> None:
    first = place.member()
    place.until(lambda: first.owned == ALL, first)
    offset, metadata = first.committed(2)
    assert offset < 0
    assert metadata == ""
    first.commit(0, 100, METADATA)
    first.commit(1, 7, METADATA)
    first.commit(1, 7, "")
    assert first.committed(0) == (100, METADATA)
    first.consumer.close()
    second = place.member()
    place.until(lambda: second.owned == ALL, second)
    assert second.committed(0) == (100, METADATA)
    assert second.committed(1) == (7, "")


def test_a_rebalance_moves_only_what_has_to_move(place: Any) -> None:
    first = place.member()
    place.until(lambda: first.owned == ALL, first)
    second = place.member()
    place.until(lambda: second.owned and first.owned | second.owned == ALL, first, second)
    assert not first.owned & second.owned
    moved = frozenset().union(*first.revoked)
    assert moved == second.owned
    assert first.lost == []
    # And back, when the second leaves.
    second.consumer.close()
    place.until(lambda: first.owned == ALL, first)


def test_a_static_member_that_comes_back_has_its_partitions_and_nobody_else_hears_of_it(place: Any) -> None:
    first, second = place.member("one"), place.member("two")
    place.until(lambda: first.owned and second.owned and first.owned | second.owned == ALL, first, second)
    first.commit(min(first.owned), 5, METADATA)
    had, kept, told = first.owned, second.owned, len(second.revoked)
    first.consumer.close()
    again = place.member("one")
    place.until(lambda: again.owned == had, again, second)
    assert again.committed(min(had)) == (5, METADATA)
    place.until(lambda: again.may_commit(min(had), 6, ""), again, second)
    assert (second.owned, len(second.revoked), second.lost) == (kept, told, [])


def test_a_member_may_commit_while_it_gives_partitions_up(place: Any, request: pytest.FixtureRequest) -> None:
    first = place.member()
    place.until(lambda: first.owned == ALL, first)
    done: set[int] = set()
    refused: list[str] = []

    def drain(_: Any) -> None:
        """An error must not leave a callback: it would surface as something that ends the whole run."""
        for number in ALL:
            try:
                first.commit(number, 50 + number, "drained")
                done.add(number)
            except KafkaException as error:
                refused.append(classify_commit(error.args[0].code()))

    first.at_revoke = drain
    second = place.member()
    place.until(lambda: second.owned and first.owned | second.owned == ALL, first, second)
    # The mock cluster refuses commits while any member is about to join, the others only while they answer the joins.
    assert set(refused) <= ({"refused"} if "mock-classic" in request.node.name else set())
    assert refused or done == ALL
    for number in second.owned & done:
        assert second.committed(number) == (50 + number, "drained")
    first.at_revoke = lambda consumer: None


def test_a_member_that_fell_silent_cannot_commit(place: Any, request: pytest.FixtureRequest) -> None:
    zombie = place.member()
    place.until(lambda: zombie.owned == ALL, zombie)
    zombie.commit(0, 1, "mine")
    place.fall_silent(zombie)
    heir = place.member()
    place.until(lambda: heir.owned == ALL, heir)
    assert heir.committed(0) == (1, "mine")
    with pytest.raises(KafkaException) as caught:
        zombie.commit(0, 2, "zombie")
    assert classify_commit(caught.value.args[0].code()) in ("fenced", "refused", "unknown")
    assert heir.committed(0) == (1, "mine")
    if "mock-classic" in request.node.name:
        # A client that leaves in the middle of a rebalance may keep partitions without a word (seen, here only). Who was not
        # polled for so long joins anew therefore: test_membership_poll.py.
        return
    # When it is polled again it learns what it has lost, and takes part anew.
    place.until(lambda: frozenset().union(*zombie.lost, *zombie.revoked) == ALL and bool(zombie.owned), zombie, heir)


def test_a_commit_of_a_member_that_was_left_out_is_fenced_by_the_coordinator() -> None:
    """Of the model alone, at the wire: a member that is none, and one of an old generation."""
    for protocol, code in (("classic", KafkaError.ILLEGAL_GENERATION), ("consumer", KafkaError.STALE_MEMBER_EPOCH)):
        place = Model(protocol)
        member = place.member()
        place.until(lambda m=member: m.owned == ALL, member)
        group, consumer = place.cluster.group, member.consumer
        entries = {(TOPIC, 0): (5, "")}
        assert group.commit(consumer.member_id, consumer.generation - 1, entries) == code
        assert group.commit("nobody", consumer.generation, entries) == KafkaError.UNKNOWN_MEMBER_ID
        assert group.offsets == {}
        assert group.commit(consumer.member_id, consumer.generation, entries) == 0


# Reading without a group


def read(source: Source, polls: int = 400) -> tuple[list[int], list[Any]]:
    """Offsets up to the first event that is no record, and that event with what came together with it."""
    offsets: list[int] = []
    for _ in range(polls):
        others = []
        for event in source.poll(1_000, 0.1):
            if isinstance(event, PartitionEnd | SourceFault):
                others.append(event)
            else:
                offsets += event.offsets
        if others:
            return offsets, others
    raise AssertionError(f"no end in time, after {offsets}")


def test_records_come_in_order_and_then_the_end_once_each_time(log: Any) -> None:
    log.produce(1, 30)
    source, here = log.source(), Partition(log.topic, 1)
    source.assign({here: 4})
    assert read(source) == (list(range(4, 30)), [PartitionEnd(here, 30)])
    assert [event for _ in range(5) for event in source.poll(100, 0.05)] == []
    log.produce(1, 5)
    assert read(source) == (list(range(30, 35)), [PartitionEnd(here, 35)])
    # An assignment anew tells it again, also in an empty partition.
    source.assign({Partition(log.topic, 2): 0})
    assert read(source) == ([], [PartitionEnd(Partition(log.topic, 2), 0)])


def test_a_position_outside_the_log_is_a_fault(log: Any) -> None:
    log.produce(1, 10)
    source, here = log.source(), Partition(log.topic, 1)
    # The mock cluster cannot delete records.
    for position in (2, 11) if log.delete_before(1, 6) else (11,):
        source.assign({here: position})
        offsets, others = read(source)
        assert offsets == []
        assert [(event.partition, event.code) for event in others] == [(here, KafkaError._AUTO_OFFSET_RESET)]
    source.assign({here: 6})
    assert read(source)[0] == [6, 7, 8, 9]


def transaction_on(place: Any) -> None:
    """Three records and the marker of their transaction."""
    if isinstance(place, Model):
        place.produce(3, 3)
        place.cluster.logs[TOPIC, 3].mark()
        return
    producer = Producer({"bootstrap.servers": place._bootstrap, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    producer.begin_transaction()
    for number in range(3):
        producer.produce(place.topic, str(number), partition=3)
    producer.commit_transaction(30)


@pytest.mark.parametrize("log", ["model", REAL], indirect=True)
def test_a_marker_is_an_offset_without_a_record(log: Any) -> None:
    transaction_on(log)
    source, here = log.source(), Partition(log.topic, 3)
    source.assign({here: 0})
    assert read(source) == ([0, 1, 2], [PartitionEnd(here, 4)])
    transaction_on(log)
    source.assign({here: 3})
    assert read(source) == ([4, 5, 6], [PartitionEnd(here, 8)])
