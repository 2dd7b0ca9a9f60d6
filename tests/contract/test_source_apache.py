"""Both sources and the questions about the cluster on a real broker: what the mock cluster does not have."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.config.schema import Kafka
from pipeline.kafka import Cluster
from pipeline.source import open_source
from pipeline.types import Partition, PartitionEnd, Source, SourceFault

pytestmark = pytest.mark.kafka


@pytest.fixture
def place(apache_kafka: Any) -> Partition:
    """One partition of a topic of its own."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    apache_kafka.create_topic(name, 1)
    return Partition(name, 0)


@pytest.fixture(params=["native", "confluent"])
def source(request: pytest.FixtureRequest, apache_kafka: Any) -> Iterator[Source]:
    opened = open_source(Kafka(brokers=apache_kafka.bootstrap, group="g", reader=request.param))
    yield opened
    opened.close()


def transactions(bootstrap: str, place: Partition) -> int:
    """Writes committed, aborted and committed records; gives where the partition ends, after the last marker."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    for outcome in ("a", "aborted", "b"):
        producer.begin_transaction()
        for index in range(3):
            producer.produce(place.topic, f"{outcome}{index}", partition=place.number)
        # An abort drops what has not been sent yet.
        producer.flush(30)
        (producer.abort_transaction if outcome == "aborted" else producer.commit_transaction)(30)
    return 12


def read_to_end(source: Source, place: Partition, position: int) -> tuple[list[tuple[int, Any]], list[Any]]:
    """(offset, value) of every record, and everything that is no record."""
    source.assign({place: position})
    records, others = [], []
    deadline = time.monotonic() + 30
    while not others:
        assert time.monotonic() < deadline
        for event in source.poll(1_000, 0.5):
            if isinstance(event, PartitionEnd | SourceFault):
                others.append(event)
            else:
                records += zip(event.offsets, event.values, strict=True)
    return records, others


def test_aborted_records_and_markers_are_gaps(apache_kafka: Any, place: Partition, source: Source) -> None:
    end = transactions(apache_kafka.bootstrap, place)
    records, others = read_to_end(source, place, 0)
    assert records == [(0, b"a0"), (1, b"a1"), (2, b"a2"), (8, b"b0"), (9, b"b1"), (10, b"b2")]
    assert others == [PartitionEnd(place, end)], "the end is after the last marker, not after the last record"


def test_a_position_inside_a_gap_goes_on_after_it(apache_kafka: Any, place: Partition, source: Source) -> None:
    end = transactions(apache_kafka.bootstrap, place)
    records, others = read_to_end(source, place, 5)
    assert [offset for offset, _ in records] == [8, 9, 10]
    assert others == [PartitionEnd(place, end)]


def test_an_open_transaction_is_not_read_past(apache_kafka: Any, place: Partition, source: Source) -> None:
    producer = Producer({"bootstrap.servers": apache_kafka.bootstrap, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(place.topic, b"open", partition=0)
    producer.flush(10)
    plain = Producer({"bootstrap.servers": apache_kafka.bootstrap})
    plain.produce(place.topic, b"behind", partition=0)
    assert plain.flush(10) == 0
    records, others = read_to_end(source, place, 0)
    assert (records, others) == ([], [PartitionEnd(place, 0)])
    assert Cluster(Kafka(brokers=apache_kafka.bootstrap, group="g")).watermarks([place]) == {place: (0, 0)}
    producer.commit_transaction(30)
    records, _ = read_to_end(source, place, 0)
    assert [value for _, value in records] == [b"open", b"behind"]


def test_a_position_below_the_log_is_a_fault(apache_kafka: Any, place: Partition, source: Source) -> None:
    producer = Producer({"bootstrap.servers": apache_kafka.bootstrap})
    for index in range(10):
        producer.produce(place.topic, str(index), partition=0)
    assert producer.flush(10) == 0
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap})
    for future in admin.delete_records([TopicPartition(place.topic, 0, 6)]).values():
        future.result(30)
    records, others = read_to_end(source, place, 2)
    assert records == []
    assert [(fault.partition, fault.code) for fault in others] == [(place, KafkaError._AUTO_OFFSET_RESET)]
    assert "out of range" in others[0].detail
    assert [offset for offset, _ in read_to_end(source, place, 6)[0]] == [6, 7, 8, 9]


def test_ids_and_times(apache_kafka: Any, place: Partition) -> None:
    producer = Producer({"bootstrap.servers": apache_kafka.bootstrap})
    for index in range(10):
        producer.produce(place.topic, str(index), partition=0, timestamp=1_700_000_000_000 + index * 1_000)
    assert producer.flush(10) == 0
    cluster = Cluster(Kafka(brokers=apache_kafka.bootstrap, group="g"))
    assert cluster.cluster_id()
    assert cluster.watermarks([place]) == {place: (0, 10)}
    assert cluster.offsets_for_times({place: 1_700_000_004_500}) == {place: 5}
    assert cluster.offsets_for_times({place: 1_800_000_000_000}) == {place: 10}
    first = cluster.topic_ids([place.topic])[place.topic]
    assert first
    assert cluster.topic_ids([place.topic]) == {place.topic: first}
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap})
    admin.delete_topics([place.topic], operation_timeout=30)[place.topic].result(30)
    deadline = time.monotonic() + 20
    while cluster.topic_exists(place.topic):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    apache_kafka.create_topic(place.topic, 1)
    assert cluster.topic_ids([place.topic])[place.topic] not in ("", first), "a topic made again is another topic"
