"""Dead letters on a real Apache Kafka: what only a real broker refuses, finds by time, or loses when it is killed."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from pipeline.clock import SystemClock
from pipeline.config.schema import Kafka
from pipeline.deadletter import DeadLetters
from pipeline.errors import ConfigurationError, PipelineStopped
from pipeline.kafka import Clients
from pipeline.metrics import Metrics
from pipeline.types import DeadLetter, Partition, Reject, RejectCode, Span, Stage

if TYPE_CHECKING:
    from pipeline.embedded.apache_kafka import ApacheKafka

pytestmark = pytest.mark.kafka
SOURCE = Partition("orders", 0)
NEIGHBOURS = 5


def letter(offset: int, value: bytes | None = b"v") -> DeadLetter:
    reject = Reject(Stage.DECODE, RejectCode.UNDECODABLE, "")
    # All with one key, so that they travel in one request.
    return DeadLetter(SOURCE, offset, -1, b"key", value, [], reject, "m:C@1")


class Letters:
    """A dead-letter topic of its own for one test."""

    def __init__(self, kafka: ApacheKafka) -> None:
        self.kafka = kafka
        self.topic = f"letters-{uuid.uuid4().hex[:8]}"
        self.stopping = threading.Event()
        config = Kafka(brokers=kafka.bootstrap, group="g", librdkafka={"linger.ms": 200})
        parts = (config, self.topic, SystemClock(), Metrics())
        more: dict[str, Any] = {"pipeline": "pipe", "stopping": self.stopping, "random": random.Random(1)}
        more["clients"] = Clients()
        self.letters = DeadLetters(*parts, **more, wait_ms_max=200)

    def messages(self, expected: int) -> list[Any]:
        """Everything in the topic, in the order of the records."""
        consumer = Consumer(
            {"bootstrap.servers": self.kafka.bootstrap, "group.id": "reader", "enable.partition.eof": True}
        )
        consumer.assign([TopicPartition(self.topic, 0, 0)])
        found = []
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s:
            message = consumer.poll(1)
            if message is not None and message.error() is None:
                found.append(message)
            elif message is not None and len(found) >= expected:
                break
        consumer.close()
        return sorted(found, key=lambda message: int(dict(message.headers())["penstock-offset"]))


@pytest.fixture
def bench(apache_kafka: ApacheKafka) -> Iterator[Letters]:
    made = Letters(apache_kafka)
    yield made
    made.stopping.set()
    made.letters.close()


def test_a_missing_topic_is_named_and_never_made(bench: Letters) -> None:
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="there is no such topic"):
            bench.letters.check()
    bench.kafka.create_topic(bench.topic, 1)
    bench.letters.check()


def test_what_the_topic_is_too_small_for_becomes_a_pointer_and_its_neighbours_arrive(bench: Letters) -> None:
    bench.kafka.create_topic(bench.topic, 1, **{"max.message.bytes": "4000"})
    large = bytes(random.Random(1).randbytes(20_000))
    letters = [letter(n) for n in range(NEIGHBOURS)] + [letter(NEIGHBOURS, large)]
    bench.letters.write([*letters, *(letter(n) for n in range(NEIGHBOURS + 1, 2 * NEIGHBOURS))])
    found = bench.messages(2 * NEIGHBOURS)
    assert [int(dict(one.headers())["penstock-offset"]) for one in found] == list(range(2 * NEIGHBOURS))
    assert [one.value() for one in found] == [b"v"] * NEIGHBOURS + [None] + [b"v"] * (NEIGHBOURS - 1)
    assert dict(found[NEIGHBOURS].headers())["penstock-truncated"] == b"value=20000"


def test_a_letter_of_many_megabytes_arrives_where_the_topic_takes_it(bench: Letters) -> None:
    bench.kafka.create_topic(bench.topic, 1, **{"max.message.bytes": "40000000"})
    large = bytes(random.Random(1).randbytes(20_000_000))
    bench.letters.write([letter(0, large), letter(1)])
    assert [one.value() for one in bench.messages(2)] == [large, b"v"]


def test_a_compacted_topic_refuses_letters_without_a_key_and_says_so(bench: Letters) -> None:
    bench.kafka.create_topic(bench.topic, 1, **{"cleanup.policy": "compact"})
    bench.letters.write([letter(0)])
    keyless = letter(1)
    with pytest.raises(PipelineStopped, match=r"cleanup\.policy"):
        bench.letters.write([DeadLetter(SOURCE, 1, -1, None, b"v", [], keyless.reject, "")])


def test_the_search_begins_at_the_time_given(bench: Letters) -> None:
    bench.kafka.create_topic(bench.topic, 3)
    bench.letters.write([letter(0)])
    time.sleep(0.2)
    between_ms = SystemClock().wall_ms()
    time.sleep(0.2)
    bench.letters.write([letter(1)])
    spans = [Span(SOURCE, 0, 10)]
    assert set(bench.letters.written(spans, between_ms)) == {(SOURCE, 1)}
    assert set(bench.letters.written(spans, 0)) == {(SOURCE, 0), (SOURCE, 1)}
    assert bench.letters.written(spans, SystemClock().wall_ms() + 1_000) == {}


@pytest.mark.slow
def test_a_broker_killed_in_the_middle_leaves_each_letter_once(bench: Letters) -> None:
    bench.kafka.create_topic(bench.topic, 1)
    raised: list[Exception] = []

    def work() -> None:
        try:
            for first in range(0, 2_000, 100):
                bench.letters.write([letter(n) for n in range(first, first + 100)])
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(2)
    bench.kafka.kill(1)
    time.sleep(1)
    bench.kafka.start(1)
    thread.join(120)
    assert not thread.is_alive()
    assert raised == []
    assert [int(dict(one.headers())["penstock-offset"]) for one in bench.messages(2_000)] == list(range(2_000))
