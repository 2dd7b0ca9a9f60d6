"""The producer of workloads against librdkafka's mock cluster: offsets are those the records were made for, pace is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition

from pipeline.config.schema import Kafka
from pipeline.embedded.mock_kafka import MockKafka
from pipeline.errors import DependencyDown, GaveUp
from pipeline.kafka import Cluster
from pipeline.source import open_source
from pipeline.types import Partition, PartitionEnd, SourceFault
from pipeline.workload import Generator, Mix, shape
from pipeline.workload.produce import Feed, Pace, Produced, positions, shares
from pipeline.workload.sender import Sender

MIX = Mix(duplicates=0.1, poison=0.05, late=0.02, unknown_version=0.02, tombstones=0.02, keys=True, headers=True)


@pytest.fixture
def broker() -> Iterator[MockKafka]:
    with MockKafka(topics={"events": 3}) as kafka:
        yield kafka


def settings(broker: MockKafka) -> Kafka:
    return Kafka(brokers=broker.bootstrap, group="g", reader="confluent")


def feed(broker: MockKafka, events: int, **options: object) -> Produced:
    kafka = settings(broker)
    firsts = positions(Cluster(kafka), "events")
    generator = Generator(shape("flat"), 5, MIX)
    return Feed(kafka, "events", generator, **options).run(shares(events, firsts), firsts, lambda _: None)


def test_what_is_in_the_topic_is_what_the_generator_says(broker: MockKafka) -> None:
    """Also when a second run goes on where the first ended."""
    before_ms = time.time_ns() // 1_000_000
    first = feed(broker, 4_001)
    second = feed(broker, 2_000)
    assert (first.events, second.events) == (4_001, 2_000)
    assert second.first == first.next
    assert 0 < first.latency.p50_ms <= first.latency.p99_ms <= first.latency.max_ms
    generator = Generator(shape("flat"), 5, MIX)
    source = open_source(settings(broker))
    source.assign({Partition("events", number): 0 for number in range(3)})
    ended: set[Partition] = set()
    seen = 0
    while len(ended) < 3:
        for event in source.poll(1_000, 1.0):
            assert not isinstance(event, SourceFault)
            if isinstance(event, PartitionEnd):
                ended.add(event.partition)
                continue
            made = list(generator.records(event.partition.number, event.offsets[0], len(event)))
            assert event.values == [record.value for record in made]
            assert [event.key(i) for i in range(len(event))] == [record.key for record in made]
            assert dict(event.headers(0))["event-id"] == made[0].key
            for record, timestamp_ms in zip(made, event.timestamps, strict=True):
                late = record.fate.kind == "late"
                assert (timestamp_ms < before_ms - 3_000_000) if late else (timestamp_ms >= before_ms - 1)
            seen += len(event)
    source.close()
    assert seen == 6_001


def test_the_pace_follows_the_committed_offsets(broker: MockKafka) -> None:
    kafka = settings(broker)
    pace = Pace(Cluster(kafka), [Partition("events", number) for number in range(3)], ahead=500)
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "g"})
    done = threading.Event()
    sent = 0

    def count(records: int) -> None:
        nonlocal sent
        sent += records

    def run() -> None:
        firsts = dict.fromkeys(range(3), 0)
        Feed(kafka, "events", Generator(shape("flat"), 1), horizon=pace).run(
            dict.fromkeys(firsts, 1_200), firsts, count
        )
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for committed in (0, 400, 700):
            if committed:
                offsets = [TopicPartition("events", number, committed) for number in range(3)]
                consumer.commit(offsets=offsets, asynchronous=False)
            wanted = 3 * min(committed + 500, 1_200)
            deadline_s = time.monotonic() + 10
            while sent < wanted and time.monotonic() < deadline_s:
                time.sleep(0.01)
            time.sleep(0.15)
            assert sent == wanted
    finally:
        thread.join(10)
        consumer.close()
    assert done.is_set()


def test_a_rate_is_kept(broker: MockKafka) -> None:
    produced = feed(broker, 300, rate=600.0)
    assert 0.4 < produced.seconds < 2.0


def endless() -> tuple[dict[int, int], dict[int, int]]:
    """Where every partition ends, and where it begins."""
    return dict.fromkeys(range(3), 10**9), dict.fromkeys(range(3), 0)


def test_stopping_ends_a_feed_early(broker: MockKafka) -> None:
    feed = Feed(settings(broker), "events", Generator(shape("flat"), 5, MIX), rate=1_000.0)
    threading.Timer(0.3, feed.stop).start()
    produced = feed.run(*endless(), lambda _: None)
    assert 0 < produced.events < 1_000
    assert positions(Cluster(settings(broker)), "events") == produced.next


def test_somebody_else_in_the_topic_is_noticed(broker: MockKafka) -> None:
    kafka = settings(broker)
    feed(broker, 30)
    with pytest.raises(DependencyDown, match="somebody else writes to this topic"):
        Feed(kafka, "events", Generator(shape("flat"), 1)).run({0: 20}, {0: 9}, lambda _: None)


def test_brokers_that_go_away(broker: MockKafka) -> None:
    feed(broker, 30)
    broker.broker_down()
    firsts = {0: 10}
    with pytest.raises(GaveUp, match="was not taken: no broker at"):
        Feed(settings(broker), "events", Generator(shape("flat"), 5, MIX), timeout_s=2.0).run(
            {0: 20}, firsts, lambda _: None
        )


def test_a_sender_that_is_left_gives_up_at_once(broker: MockKafka) -> None:
    """Not after the time that records may stay unacknowledged: its brokers may be gone for good."""
    sender = Sender(Feed(settings(broker), "events", Generator(shape("flat"), 5, MIX), rate=1_000.0), endless()[0])
    with sender:
        time.sleep(0.3)
        broker.broker_down()
        time.sleep(0.3)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 5
    with pytest.raises(GaveUp, match="given up"):
        sender.check()
    assert "producer" not in {thread.name for thread in threading.enumerate()}


def test_a_slow_rate_is_shared_evenly(broker: MockKafka) -> None:
    """With less than a record a turn and partition, whoever comes first would get all of them."""
    feed = Feed(settings(broker), "events", Generator(shape("flat"), 5, MIX), rate=200)
    threading.Timer(2.0, feed.stop).start()
    produced = feed.run(*endless(), lambda _: None)
    # How evenly depends on the machine; not shared, the last partition gets none.
    assert min(produced.next.values()) > 0.3 * max(produced.next.values()), produced.next
