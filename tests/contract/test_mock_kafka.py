"""What penstock needs of a Kafka, shown on the mock cluster and on Apache Kafka alike; then what only the mock can do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from pipeline.embedded.mock_kafka import PARTITION_BYTES_MAX, TRANSPORT_ERROR, ApiKey, MockKafka

METADATA = "intent:" + "x" * 3_000


@pytest.fixture(params=["mock", pytest.param("apache", marks=pytest.mark.kafka)])
def cluster(request: pytest.FixtureRequest) -> Any:
    """Has `bootstrap` and `create_topic(name, partitions)`."""
    return request.getfixturevalue("mock_kafka" if request.param == "mock" else "apache_kafka")


@pytest.fixture
def topic(cluster: Any) -> str:
    name = f"events-{uuid.uuid4().hex[:8]}"
    cluster.create_topic(name, 4)
    return name


@pytest.fixture
def consumers(cluster: Any, protocol: str) -> Iterator[Callable[..., Consumer]]:
    """Makes consumers of one group; all are closed at the end."""
    made: list[Consumer] = []
    group = f"group-{uuid.uuid4().hex[:8]}"

    def make(**config: Any) -> Consumer:
        base = {
            "bootstrap.servers": cluster.bootstrap,
            "group.id": group,
            "group.protocol": protocol,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
        if protocol == "classic":
            base |= {"partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": 2000}
            base["heartbeat.interval.ms"] = 200
        made.append(Consumer(base | config))
        return made[-1]

    yield make
    for consumer in made:
        consumer.close()


def produce(bootstrap: str, topic: str, partition: int, values: list[bytes], **config: Any) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 0, **config})
    failed: list[KafkaError] = []
    for value in values:
        producer.produce(topic, value, partition=partition, on_delivery=lambda error, _: error and failed.append(error))
        producer.poll(0)
    assert producer.flush(30) == 0
    assert not failed


def until(condition: Callable[[], bool], *polled: Consumer, timeout_s: float = 40) -> None:
    """Polls the consumers until the condition holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "not in time"
        for consumer in polled:
            message = consumer.poll(0.02)
            assert message is None or message.error() is None, message.error()


def owned(consumer: Consumer) -> set[int]:
    return {assigned.partition for assigned in consumer.assignment()}


def all_of(topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in range(4)]


# On both


def test_group_gives_every_partition_to_one_member(topic: str, consumers: Callable[..., Consumer]) -> None:
    first, second = consumers(), consumers()
    first.subscribe([topic])
    until(lambda: owned(first) == {0, 1, 2, 3}, first)
    second.subscribe([topic])
    until(lambda: len(owned(first)) == len(owned(second)) == 2, first, second)
    assert owned(first) | owned(second) == {0, 1, 2, 3}
    second.close()
    until(lambda: owned(first) == {0, 1, 2, 3}, first)


def test_commit_carries_metadata_to_the_next_owner(topic: str, consumers: Callable[..., Consumer]) -> None:
    first = consumers()
    first.subscribe([topic])
    until(lambda: owned(first) == {0, 1, 2, 3}, first)
    offsets = [TopicPartition(topic, n, 100 + n, f"{n}:{METADATA}") for n in range(4)]
    done = first.commit(offsets=offsets, asynchronous=False)
    assert [part.error for part in done] == [None] * 4
    assert [(part.offset, part.metadata) for part in first.committed(all_of(topic), timeout=10)] == [
        (100 + n, f"{n}:{METADATA}") for n in range(4)
    ]
    # An offset without metadata wipes it.
    first.commit(offsets=[TopicPartition(topic, 0, 100)], asynchronous=False)
    first.close()

    seen: dict[int, tuple[int, str]] = {}

    def on_assign(consumer: Consumer, assigned: list[TopicPartition]) -> None:
        found = consumer.committed([TopicPartition(topic, part.partition) for part in assigned], timeout=10)
        seen.update({part.partition: (part.offset, part.metadata or "") for part in found})

    second = consumers()
    second.subscribe([topic], on_assign=on_assign)
    until(lambda: len(seen) == 4, second)
    assert seen == {0: (100, "")} | {n: (100 + n, f"{n}:{METADATA}") for n in (1, 2, 3)}


def test_commit_of_a_member_that_lost_its_place_is_refused(topic: str, consumers: Callable[..., Consumer]) -> None:
    """A zombie's commit fails, and what the group holds stays."""
    zombie = consumers(**{"max.poll.interval.ms": 2000})
    zombie.subscribe([topic])
    until(lambda: owned(zombie) == {0, 1, 2, 3}, zombie)
    zombie.commit(offsets=[TopicPartition(topic, 0, 1, "mine")], asynchronous=False)
    heir = consumers()
    heir.subscribe([topic])
    # Only the heir polls: the zombie's background thread leaves the group for it after max.poll.interval.ms.
    until(lambda: owned(heir) == {0, 1, 2, 3}, heir)
    with pytest.raises(KafkaException) as caught:
        zombie.commit(offsets=[TopicPartition(topic, 0, 2, "zombie")], asynchronous=False)
    assert caught.value.args[0].code() in (
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError._NO_OFFSET,
        KafkaError._STATE,
    )
    found = heir.committed([TopicPartition(topic, 0)], timeout=10)[0]
    assert (found.offset, found.metadata) == (1, "mine")


def test_manual_assignment_reads_any_span_without_the_group(cluster: Any, topic: str) -> None:
    produce(cluster.bootstrap, topic, 2, [str(n).encode() for n in range(1_000)])
    reader = Consumer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "group.id": "no-group",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "log_level": 0,
        }
    )
    try:
        reader.assign([TopicPartition(topic, 2, 400)])
        messages = []
        while not messages or messages[-1].error() is None:
            messages += reader.consume(1_000, 0.5)
        assert messages.pop().error().code() == KafkaError._PARTITION_EOF
        assert [(m.offset(), m.value()) for m in messages] == [(n, str(n).encode()) for n in range(400, 1_000)]
        assert reader.get_watermark_offsets(TopicPartition(topic, 2), timeout=10) == (0, 1_000)
        reader.assign([TopicPartition(topic, 2, 5_000)])
        error = reader.consume(1, 10)[0].error()
        assert error is not None
        assert error.code() in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET)
    finally:
        reader.close()


def test_topics_have_their_partitions_and_missing_ones_stay_missing(cluster: Any, topic: str) -> None:
    client = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "look", "log_level": 0})
    try:
        assert len(client.list_topics(topic, timeout=10).topics[topic].partitions) == 4
        missing = client.list_topics("no-such-topic", timeout=10).topics["no-such-topic"]
        assert missing.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
    finally:
        client.close()


# On the mock only


def watermarks(kafka: MockKafka, topic: str) -> tuple[int, int]:
    client = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "look", "log_level": 0})
    try:
        return client.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
    finally:
        client.close()


def test_a_partition_keeps_five_megabytes_as_sent(mock_kafka: MockKafka) -> None:
    value = b"0123456789" * 100
    for compression, kept_all in (("none", False), ("zstd", True)):
        topic = f"filled-{compression}"
        mock_kafka.create_topic(topic, 1)
        produce(mock_kafka.bootstrap, topic, 0, [value] * 12_000, **{"compression.type": compression, "linger.ms": 50})
        low, high = watermarks(mock_kafka, topic)
        assert high == 12_000
        assert (low == 0) == kept_all
        if not kept_all:
            # What is left is about the bound: the batch that goes over it is still taken in.
            assert PARTITION_BYTES_MAX * 0.7 < (high - low) * len(value) < PARTITION_BYTES_MAX * 1.3


def test_request_errors_come_in_order_and_end(mock_kafka: MockKafka) -> None:
    mock_kafka.create_topic("t", 1)
    consumer = Consumer({"bootstrap.servers": mock_kafka.bootstrap, "group.id": "g", "log_level": 0})
    try:
        denied = KafkaError.GROUP_AUTHORIZATION_FAILED
        mock_kafka.push_request_errors(ApiKey.OFFSET_COMMIT, [denied, 0, denied])
        outcomes = []
        for offset in range(4):
            try:
                consumer.commit(offsets=[TopicPartition("t", 0, offset, "m")], asynchronous=False)
                outcomes.append(0)
            except KafkaException as error:
                outcomes.append(error.args[0].code())
        assert outcomes == [denied, 0, denied, 0]
    finally:
        consumer.close()


def test_delayed_commit_times_out_yet_may_be_applied(mock_kafka: MockKafka) -> None:
    """The outcome a client cannot know: no answer in time, and the broker has it."""
    mock_kafka.create_topic("t", 1)
    config = {"bootstrap.servers": mock_kafka.bootstrap, "group.id": "g", "socket.timeout.ms": 1000, "log_level": 0}
    consumer = Consumer(config)
    try:
        consumer.commit(offsets=[TopicPartition("t", 0, 1)], asynchronous=False)
        mock_kafka.push_broker_errors(1, ApiKey.OFFSET_COMMIT, [(0, 3_000)])
        with suppress(KafkaException):
            consumer.commit(offsets=[TopicPartition("t", 0, 7, "late")], asynchronous=False)
        found = consumer.committed([TopicPartition("t", 0)], timeout=10)[0]
        assert (found.offset, found.metadata) == (7, "late")
    finally:
        consumer.close()


def test_broker_down_and_up_loses_nothing(mock_kafka: MockKafka) -> None:
    mock_kafka.create_topic("t", 1)
    produce(mock_kafka.bootstrap, "t", 0, [b"before"])
    consumer = Consumer(
        {"bootstrap.servers": mock_kafka.bootstrap, "group.id": "g", "reconnect.backoff.max.ms": 200, "log_level": 0}
    )
    try:
        consumer.assign([TopicPartition("t", 0, 0)])
        assert consumer.consume(1, 10)[0].value() == b"before"
        mock_kafka.broker_down()
        assert all(message.error() is not None for message in consumer.consume(1, 0.5))
        mock_kafka.broker_up()
        produce(mock_kafka.bootstrap, "t", 0, [b"after"])
        found: list[bytes] = []
        deadline_s = time.monotonic() + 20
        while not found and time.monotonic() < deadline_s:
            found = [message.value() for message in consumer.consume(1, 0.5) if message.error() is None]
        assert found == [b"after"]
    finally:
        consumer.close()


def test_coordinator_and_leader_move(mock_kafka_3: MockKafka) -> None:
    kafka = mock_kafka_3
    kafka.create_topic("t", 1)
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "g", "log_level": 0})
    try:
        for broker in (1, 3):
            kafka.set_leader("t", 0, broker)
            assert consumer.list_topics("t", timeout=10).topics["t"].partitions[0].leader == broker
            kafka.coordinator("g", broker)
            kafka.push_request_errors(ApiKey.OFFSET_COMMIT, [KafkaError.NOT_COORDINATOR])
            kafka.track_requests()
            kafka.clear_requests()
            consumer.commit(offsets=[TopicPartition("t", 0, broker)], asynchronous=False)
            asked = {request.broker for request in kafka.requests() if request.api_key == ApiKey.OFFSET_COMMIT}
            assert broker in asked
    finally:
        consumer.close()


def test_deleted_records_are_out_of_range(mock_kafka: MockKafka) -> None:
    mock_kafka.create_topic("t", 1)
    for _ in range(3):
        produce(mock_kafka.bootstrap, "t", 0, [b"x"] * 100)
    mock_kafka.delete_records("t", 0, 150)
    low, high = watermarks(mock_kafka, "t")
    assert 100 <= low <= 150
    assert high == 300


def test_faults_of_topic_and_connection(mock_kafka: MockKafka) -> None:
    mock_kafka.create_topic("t", 1)
    client = Consumer({"bootstrap.servers": mock_kafka.bootstrap, "group.id": "g", "log_level": 0})
    try:
        mock_kafka.set_topic_error("t", KafkaError.TOPIC_AUTHORIZATION_FAILED)
        found = client.list_topics("t", timeout=10).topics["t"].error
        assert found.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
        mock_kafka.set_topic_error("t", 0)
        mock_kafka.push_request_errors(ApiKey.METADATA, [TRANSPORT_ERROR])
        # The request that meets the cut connection may be this one or one of the client's own.
        with suppress(KafkaException):
            client.list_topics("t", timeout=10)
        assert client.list_topics("t", timeout=10).topics["t"].error is None
        mock_kafka.set_rtt(300)
        started_s = time.monotonic()
        client.list_topics("t", timeout=10)
        assert time.monotonic() - started_s >= 0.3
        mock_kafka.delete_topic("t")
        assert client.list_topics("t", timeout=10).topics["t"].error is not None
    finally:
        client.close()


def test_misuse_is_said(mock_kafka: MockKafka) -> None:
    with pytest.raises(ValueError, match="brokers = 0"):
        MockKafka(brokers=0)
    with pytest.raises(RuntimeError, match="could not"):
        mock_kafka.broker_down(99)
    mock_kafka.close()
    mock_kafka.close()
    with pytest.raises(RuntimeError, match="closed"):
        mock_kafka.create_topic("t", 1)


def test_in_a_process_of_its_own() -> None:
    command = [
        sys.executable,
        "-m",
        "pipeline.embedded.mock_kafka",
        "--brokers",
        "2",
        "--topic",
        "a:3",
        "--topic",
        "b:1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        bootstrap = json.loads(process.stdout.readline())["bootstrap"]
        client = Consumer({"bootstrap.servers": bootstrap, "group.id": "look", "log_level": 0})
        found = client.list_topics(timeout=10)
        client.close()
        assert {name: len(entry.partitions) for name, entry in found.topics.items()} == {"a": 3, "b": 1}
        assert len(found.brokers) == 2
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0
