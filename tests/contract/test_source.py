"""One suite for both sources: what pipeline.types.Source promises, on librdkafka's mock cluster."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from confluent_kafka import KafkaError, Producer

from pipeline.config.schema import Kafka, Sasl
from pipeline.embedded.mock_kafka import ApiKey, MockKafka
from pipeline.errors import InvariantViolated, SourceError
from pipeline.source import open_source
from pipeline.types import Partition, PartitionEnd, Source, SourceEvent, SourceFault

PARTITIONS = 4


class Cluster:
    """A mock cluster inside a producer, and what was written to it."""

    def __init__(self) -> None:
        # One attempt at a time keeps offsets in the order of `write`.
        self.producer = Producer(
            {"test.mock.num.brokers": 1, "log_level": 0, "message.max.bytes": 20_000_000, "linger.ms": 5}
        )
        self.brokers = ",".join(
            f"{broker.host}:{broker.port}" for broker in self.producer.list_topics(timeout=10).brokers.values()
        )
        self._topics = 0

    def topic(self) -> str:
        self._topics += 1
        name = f"topic-{self._topics}"
        self.producer.list_topics(name, timeout=10)
        return name

    def write(self, topic: str, partition: int, values: list[bytes | None], **more: Any) -> None:
        for value in values:
            self.producer.produce(topic, value, partition=partition, **more)
            self.producer.poll(0)
        assert self.producer.flush(30) == 0


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster()


OpenSource = Callable[..., Source]


@pytest.fixture(params=["native", "confluent"])
def source_of(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[OpenSource]:
    opened: list[Source] = []

    def open_one(end_events: bool = True, **config: Any) -> Source:
        kafka = Kafka(brokers=cluster.brokers, group="g", reader=request.param, **config)
        opened.append(open_source(kafka, end_events=end_events))
        return opened[-1]

    yield open_one
    for source in opened:
        source.close()


def read(source: Source, *, until: Callable[[list[SourceEvent]], bool], records_max: int = 10_000) -> list[SourceEvent]:
    events: list[SourceEvent] = []
    deadline = time.monotonic() + 20
    while not until(events):
        assert time.monotonic() < deadline, f"not seen in time; events so far: {summary(events)}"
        events.extend(source.poll(records_max, 0.2))
    return events


def summary(events: list[SourceEvent]) -> list[Any]:
    return [e if isinstance(e, tuple) else (e.partition, e.offsets[0], e.next_offset) for e in events]


def runs(events: list[SourceEvent]) -> list[Any]:
    return [event for event in events if not isinstance(event, PartitionEnd | SourceFault)]


def ended(*partitions: Partition) -> Callable[[list[SourceEvent]], bool]:
    return lambda events: {e.partition for e in events if isinstance(e, PartitionEnd)} >= set(partitions)


def faulted(events: list[SourceEvent]) -> bool:
    return any(isinstance(event, SourceFault) for event in events)


def values_of(events: list[SourceEvent], partition: Partition) -> list[bytes | None]:
    return [value for run in runs(events) if run.partition == partition for value in run.values]


def test_every_record_in_order_from_the_position(cluster: Cluster, source_of: OpenSource) -> None:
    place = Partition(cluster.topic(), 1)
    written = [b"value %d" % i for i in range(5_000)]
    cluster.write(place.topic, 1, written)
    source = source_of()
    source.assign({place: 17})
    events = read(source, until=ended(place), records_max=700)
    assert values_of(events, place) == written[17:]
    offsets = [offset for run in runs(events) for offset in run.offsets]
    assert offsets == list(range(17, 5_000))
    assert all(len(run) <= 700 for run in runs(events))
    assert all(len(run) == len(run.values) == len(run.offsets) == len(run.timestamps) for run in runs(events))
    assert [run.next_offset for run in runs(events)] == [run.offsets[-1] + 1 for run in runs(events)]
    assert sum(run.nbytes for run in runs(events)) == sum(map(len, written[17:]))
    assert all(run.largest_bytes == max(map(len, run.values)) for run in runs(events))
    assert all(run.oldest_ms == min(run.timestamps) > 0 for run in runs(events))
    assert events[-1] == PartitionEnd(place, 5_000)


def test_keys_headers_timestamps_and_tombstones(cluster: Cluster, source_of: OpenSource) -> None:
    place = Partition(cluster.topic(), 0)
    produce = cluster.producer.produce
    produce(
        place.topic,
        b"a",
        b"key",
        partition=0,
        timestamp=1_700_000_000_123,
        headers=[("x", b"1"), ("x", None), ("ü", b"")],
    )
    produce(place.topic, None, b"", partition=0, timestamp=1_700_000_000_124)
    produce(place.topic, b"", None, partition=0, timestamp=1)
    cluster.producer.flush(10)
    source = source_of()
    source.assign({place: 0})
    events = read(source, until=ended(place))
    records = [(run, index) for run in runs(events) for index in range(len(run))]
    assert values_of(events, place) == [b"a", None, b""]
    assert [run.key(index) for run, index in records] == [b"key", b"", None]
    assert [list(run.headers(index)) for run, index in records] == [[("x", b"1"), ("x", None), ("ü", b"")], [], []]
    assert [run.timestamps[index] for run, index in records] == [1_700_000_000_123, 1_700_000_000_124, 1]
    assert sum(run.nbytes for run in runs(events)) == 1


def test_values_as_lines(cluster: Cluster) -> None:
    """What the baseline with JSONEachRow hands on: of the native reader only."""
    topic = cluster.topic()
    cluster.write(topic, 0, [b'{"a":1}', None, b"", b"x" * 100_000, b"\xff\x00end"])
    source = open_source(Kafka(brokers=cluster.brokers, group="g", reader="native"))
    source.assign({Partition(topic, 0): 0})
    events: Any = read(source, until=ended(Partition(topic, 0)))
    lines = b"".join(event.lines() for event in events if not isinstance(event, PartitionEnd))
    assert lines == b'{"a":1}\n' + b"\n" + b"x" * 100_000 + b"\n" + b"\xff\x00end\n"
    source.close()


def test_partitions_interleaved(cluster: Cluster, source_of: OpenSource, rng: random.Random) -> None:
    topic = cluster.topic()
    written: dict[Partition, list[bytes | None]] = {Partition(topic, n): [] for n in range(PARTITIONS)}
    for i in range(300):
        place = rng.choice(list(written))
        values: list[bytes | None] = [b"%d-%d" % (i, j) for j in range(rng.randrange(1, 8))]
        written[place] += values
        for value in values:
            cluster.producer.produce(topic, value, partition=place.number)
    cluster.producer.flush(10)
    source = source_of()
    source.assign(dict.fromkeys(written, 0))
    events = read(source, until=ended(*written), records_max=97)
    for place, values in written.items():
        assert values_of(events, place) == values
        end = next(e for e in events if isinstance(e, PartitionEnd) and e.partition == place)
        assert end.next_offset == len(values)
        last = max(index for index, e in enumerate(events) if not isinstance(e, tuple) and e.partition == place)
        assert last < events.index(end), "an end came before the records in front of it"


def test_an_assignment_shows_nothing_of_the_one_before(
    cluster: Cluster, source_of: OpenSource, rng: random.Random
) -> None:
    topic = cluster.topic()
    for number in range(PARTITIONS):
        cluster.write(topic, number, [b"%d:%d" % (number, i) for i in range(2_000)])
    source = source_of()
    for _ in range(60):
        places = rng.sample(range(PARTITIONS), rng.randrange(1, PARTITIONS + 1))
        positions = {Partition(topic, number): rng.randrange(1_990) for number in places}
        source.assign(positions)
        expected = dict(positions)
        for event in [event for _ in range(rng.randrange(4)) for event in source.poll(rng.randrange(1, 3_000), 0.05)]:
            assert event.partition in expected, "a partition that is not assigned"
            if not isinstance(event, tuple):
                assert event.offsets[0] == expected[event.partition], f"of {positions}"
                for offset, value in zip(event.offsets, event.values, strict=True):
                    assert offset == expected[event.partition]
                    assert value == b"%d:%d" % (event.partition.number, offset)
                    expected[event.partition] += 1


def test_an_end_is_told_again_after_new_records(cluster: Cluster, source_of: OpenSource) -> None:
    place = Partition(cluster.topic(), 0)
    source = source_of()
    source.assign({place: 0})
    assert read(source, until=ended(place)) == [PartitionEnd(place, 0)]
    cluster.write(place.topic, 0, [b"later"])
    events = read(source, until=lambda events: PartitionEnd(place, 1) in events)
    assert values_of(events, place) == [b"later"]


def test_without_end_events(cluster: Cluster, source_of: OpenSource) -> None:
    place = Partition(cluster.topic(), 0)
    cluster.write(place.topic, 0, [b"x"])
    source = source_of(end_events=False)
    source.assign({place: 0})
    events = read(source, until=lambda events: bool(runs(events)))
    events += [event for _ in range(5) for event in source.poll(10, 0.1)]
    assert values_of(events, place) == [b"x"]
    assert len(events) == 1


def test_a_position_beyond_the_log_is_a_fault_and_the_others_go_on(cluster: Cluster, source_of: OpenSource) -> None:
    topic = cluster.topic()
    for number in range(2):
        cluster.write(topic, number, [b"x"] * 10)
    source = source_of()
    source.assign({Partition(topic, 0): 10_000_000_000, Partition(topic, 1): 0})
    events = read(source, until=lambda events: faulted(events) and ended(Partition(topic, 1))(events))
    faults = [event for event in events if isinstance(event, SourceFault)]
    assert [(f.partition, f.offset, f.code) for f in faults] == [
        (Partition(topic, 0), 10_000_000_000, KafkaError._AUTO_OFFSET_RESET)
    ]
    assert "out of range" in faults[0].detail
    assert len(values_of(events, Partition(topic, 1))) == 10


def test_a_position_that_retention_has_passed_is_a_fault(cluster: Cluster, source_of: OpenSource) -> None:
    place = Partition(cluster.topic(), 0)
    # The mock cluster keeps some 5 MB of a partition and drops the oldest.
    for _ in range(20):
        cluster.write(place.topic, 0, [random.randbytes(50_000) for _ in range(10)])
    source = source_of()
    source.assign({place: 0})
    fault = next(e for e in read(source, until=faulted) if isinstance(e, SourceFault))
    assert (fault.partition, fault.offset, fault.code) == (place, 0, KafkaError._AUTO_OFFSET_RESET)


def test_the_end_itself_is_a_good_position(cluster: Cluster, source_of: OpenSource) -> None:
    place = Partition(cluster.topic(), 0)
    cluster.write(place.topic, 0, [b"x"] * 10)
    source = source_of()
    source.assign({place: 10})
    assert read(source, until=ended(place)) == [PartitionEnd(place, 10)]


def test_a_topic_that_does_not_exist_is_a_fault(source_of: OpenSource) -> None:
    place = Partition("nowhere", 0)
    source = source_of(librdkafka={"topic.metadata.propagation.max.ms": 200, "topic.metadata.refresh.interval.ms": 500})
    source.assign({place: 0})
    fault = next(e for e in read(source, until=faulted) if isinstance(e, SourceFault))
    assert fault.partition == place
    assert fault.code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_records(cluster: Cluster, source_of: OpenSource, compression: str) -> None:
    place = Partition(cluster.topic(), 0)
    producer = Producer({"bootstrap.servers": cluster.brokers, "compression.type": compression, "linger.ms": 50})
    written = [b"%d " % i * 40 for i in range(2_000)]
    for value in written:
        producer.produce(place.topic, value, b"k", partition=0, headers={"h": b"v"})
    producer.flush(10)
    source = source_of()
    source.assign({place: 1_234})
    events = read(source, until=ended(place))
    assert values_of(events, place) == written[1_234:]
    assert runs(events)[0].key(0) == b"k"


def test_a_record_larger_than_every_fetch_limit(cluster: Cluster, source_of: OpenSource) -> None:
    place = Partition(cluster.topic(), 0)
    large = random.randbytes(4_000_000)
    cluster.write(place.topic, 0, [b"before", large, b"after"])
    source = source_of(librdkafka={"max.partition.fetch.bytes": 10_000})
    source.assign({place: 0})
    assert values_of(read(source, until=ended(place)), place) == [b"before", large, b"after"]


def test_nothing_assigned_gives_nothing_in_time(source_of: OpenSource) -> None:
    source = source_of()
    assert source.poll(10, 0.0) == []
    source.assign({})
    begun = time.monotonic()
    assert source.poll(10, 0.3) == []
    assert 0.2 < time.monotonic() - begun < 2


def test_one_record_is_not_kept_waiting_for_company(cluster: Cluster, source_of: OpenSource) -> None:
    place = Partition(cluster.topic(), 0)
    source = source_of()
    source.assign({place: 0})
    read(source, until=ended(place))
    cluster.write(place.topic, 0, [b"x"])
    begun = time.monotonic()
    assert values_of(source.poll(10_000, 10.0), place) == [b"x"]
    assert time.monotonic() - begun < 5


def test_close_while_another_thread_polls(cluster: Cluster, source_of: OpenSource) -> None:
    place = Partition(cluster.topic(), 0)
    cluster.write(place.topic, 0, [b"x"] * 1_000)
    for _ in range(5):
        source = source_of()
        source.assign({place: 0})
        outcome: list[BaseException] = []

        def poll_for_ever(source: Source = source, outcome: list[BaseException] = outcome) -> None:
            try:
                while True:
                    source.poll(10, 30.0)
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=poll_for_ever)
        thread.start()
        time.sleep(random.random() / 5)
        begun = time.monotonic()
        source.close()
        thread.join(10)
        assert not thread.is_alive()
        assert isinstance(outcome[0], SourceError)
        assert time.monotonic() - begun < 5
        source.close()


def test_records_outlive_the_source(cluster: Cluster, source_of: OpenSource) -> None:
    place = Partition(cluster.topic(), 0)
    cluster.write(place.topic, 0, [b"value"], key=b"key", headers=[("h", b"v")])
    source = source_of()
    source.assign({place: 0})
    run = runs(read(source, until=lambda events: bool(runs(events))))[0]
    source.close()
    assert (run.key(0), list(run.headers(0)), run.values) == (b"key", [("h", b"v")], [b"value"])
    with pytest.raises(IndexError):
        run.key(1)


@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer keeps freed memory for a while"
)
def test_memory_is_given_back(cluster: Cluster, source_of: OpenSource) -> None:
    topic = cluster.topic()
    for number in range(PARTITIONS):
        cluster.write(topic, number, [random.randbytes(1_000) for _ in range(4_000)])
    places = [Partition(topic, number) for number in range(PARTITIONS)]
    source = source_of()

    def read_all() -> None:
        source.assign(dict.fromkeys(places, 0))
        events = read(source, until=ended(*places))
        assert sum(run.nbytes for run in runs(events)) == 16_000_000

    process = psutil.Process()
    for _ in range(3):
        read_all()
    gc.collect()
    before = process.memory_info().rss
    for _ in range(6):
        read_all()
    gc.collect()
    # One leaked round would be 16 MB, six of them 96.
    assert process.memory_info().rss - before < 30_000_000


def test_wrong_credentials_are_kept_as_the_trouble_and_are_no_fault(cluster: Cluster, source_of: OpenSource) -> None:
    source: Any = source_of(sasl=Sasl(mechanism="PLAIN", username="u", password="p"))
    source.assign({Partition("any", 0): 0})
    events: list[SourceEvent] = []
    deadline = time.monotonic() + 10
    while source.troubles.last is None and time.monotonic() < deadline:
        events += source.poll(10, 0.1)
    assert source.troubles.last.lasting
    assert events == []


def test_a_position_below_zero_is_a_bug(source_of: OpenSource) -> None:
    with pytest.raises(InvariantViolated):
        source_of().assign({Partition("any", 0): -1})


def test_a_refused_property_is_named(source_of: OpenSource) -> None:
    with pytest.raises(Exception, match=r"fetch\.wait\.max\.ms"):
        source_of(librdkafka={"fetch.wait.max.ms": "soon"})


@pytest.mark.parametrize("reader", ["native", "confluent"])
def test_a_broker_that_goes_and_comes_is_no_fault(reader: Any) -> None:
    with MockKafka(topics={"t": 1}) as kafka:
        place = Partition("t", 0)
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        producer.produce("t", b"before", partition=0)
        assert producer.flush(10) == 0
        fast = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200}
        source = open_source(Kafka(brokers=kafka.bootstrap, group="g", reader=reader, librdkafka=fast))
        source.assign({place: 0})
        assert values_of(read(source, until=ended(place)), place) == [b"before"]
        kafka.broker_down()
        events = [event for _ in range(10) for event in source.poll(10, 0.1)]
        assert events == []
        kafka.broker_up()
        producer.produce("t", b"after", partition=0)
        assert producer.flush(20) == 0
        events = read(source, until=lambda events: bool(runs(events)))
        assert values_of(events, place) == [b"after"]
        assert not faulted(events)
        source.close()


@pytest.mark.parametrize("reader", ["native", "confluent"])
@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (KafkaError.NOT_LEADER_FOR_PARTITION, False),
        (KafkaError.KAFKA_STORAGE_ERROR, False),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, True),
    ],
)
def test_which_fetch_errors_are_faults(reader: Any, code: int, fault: bool) -> None:
    with MockKafka(topics={"t": 1}) as kafka:
        place = Partition("t", 0)
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        producer.produce("t", b"x", partition=0)
        assert producer.flush(10) == 0
        kafka.push_request_errors(ApiKey.FETCH, [code] * 2)
        source = open_source(Kafka(brokers=kafka.bootstrap, group="g", reader=reader))
        source.assign({place: 0})
        events = read(source, until=lambda events: faulted(events) or bool(runs(events)))
        assert faulted(events) == fault
        source.close()
