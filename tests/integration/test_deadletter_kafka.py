"""Dead letters against the mock cluster: what arrives, outages, refusals, searches after a crash."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from pipeline import deadletter
from pipeline.clock import SystemClock
from pipeline.config.schema import Kafka
from pipeline.deadletter import DeadLetters
from pipeline.embedded.mock_kafka import ApiKey
from pipeline.errors import ConfigurationError, DependencyDown, PipelineStopped
from pipeline.kafka import Clients, Cluster
from pipeline.letter import record_of
from pipeline.metrics import Metrics
from pipeline.patience import Stopping
from pipeline.types import DeadLetter, Partition, Reject, RejectCode, Span, Stage

if TYPE_CHECKING:
    from pipeline.embedded.mock_kafka import MockKafka

SOURCE = Partition("orders", 3)
CLIENTS = Clients()


def letter(
    offset: int, value: bytes | None = b"v", *, key: bytes | None = None, partition: Partition = SOURCE
) -> DeadLetter:
    reject = Reject(Stage.DECODE, RejectCode.UNDECODABLE, f"offset {offset}")
    return DeadLetter(partition, offset, 1_000 + offset, key, value, [("own", b"\x00\xff")], reject, "m:C@1")


class Letters:
    """Dead letters on a topic with two partitions, and a look at what is in it."""

    def __init__(
        self, kafka: MockKafka, *, create: bool = True, pipeline: str = "pipe", wait_ms_max: int = 100
    ) -> None:
        self.kafka = kafka
        self.config = Kafka(brokers=kafka.bootstrap, group="g")
        self.stopping = threading.Event()
        if create:
            kafka.create_topic("letters", 2)
        self.letters = self.new(pipeline, wait_ms_max)

    def new(self, pipeline: str = "pipe", wait_ms_max: int = 100, clients: Clients = CLIENTS) -> DeadLetters:
        return DeadLetters(
            self.config,
            "letters",
            SystemClock(),
            Metrics(),
            pipeline=pipeline,
            stopping=self.stopping,
            random=random.Random(1),
            clients=clients,
            wait_ms_max=wait_ms_max,
        )

    def all(self) -> list[Any]:
        """Every message of the topic."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.kafka.bootstrap,
                "group.id": "reader",
                "enable.partition.eof": True,
                "message.max.bytes": 1_000_000_000,
            }
        )
        consumer.assign([TopicPartition("letters", number, 0) for number in range(2)])
        found, ended = [], 0
        while ended < 2:
            message = consumer.poll(10)
            assert message is not None
            if message.error() is None:
                found.append(message)
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF
                ended += 1
        consumer.close()
        return sorted(found, key=lambda message: int(dict(message.headers())["penstock-offset"]))

    def offsets(self) -> list[int]:
        return [int(dict(message.headers())["penstock-offset"]) for message in self.all()]


@pytest.fixture
def bench(mock_kafka: MockKafka) -> Iterator[Letters]:
    made = Letters(mock_kafka)
    yield made
    made.stopping.set()
    made.letters.close()


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[Exception]]:
    raised: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, raised


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_letters_arrive_byte_for_byte(bench: Letters) -> None:
    sent = [
        letter(0, None),
        letter(1, b""),
        letter(2, bytes(range(256)), key=b""),
        letter(3, b"x" * 2_000_000, key=b"k"),
    ]
    bench.letters.write(sent)
    assert bench.letters.waiting == ""
    found = bench.all()
    assert [(one.key(), one.value()) for one in found] == [(one.key, one.value) for one in sent]
    assert [record_of(one.headers(), "pipe") for one in found] == [(SOURCE, n) for n in range(4)]
    headers = dict(found[1].headers())
    assert headers["own"] == b"\x00\xff"
    assert headers["penstock-detail"] == b"offset 1"
    assert headers["penstock-attempt"] == b"1"
    assert "penstock-truncated" not in headers


def test_nothing_to_write_opens_nothing(bench: Letters) -> None:
    bench.kafka.broker_down()
    bench.letters.write([])


def test_the_search_finds_this_pipelines_letters_of_the_spans(bench: Letters) -> None:
    other = Partition("orders", 4)
    bench.letters.write([letter(n) for n in range(50)] + [letter(n, partition=other) for n in range(50)])
    foreign = bench.new("another pipeline")
    foreign.write([letter(n) for n in range(50, 60)])
    foreign.close()
    spans = [Span(SOURCE, 10, 12), Span(SOURCE, 48, 60), Span(other, 0, 1), Span(Partition("x", 0), 0, 100)]
    records = [(SOURCE, 10), (SOURCE, 11), (SOURCE, 48), (SOURCE, 49), (other, 0)]
    assert bench.letters.written(spans, 0) == dict.fromkeys(records, Stage.DECODE)
    assert bench.letters.written([], 0) == {}


def test_an_empty_topic_is_searched_at_once(bench: Letters) -> None:
    assert bench.letters.written([Span(SOURCE, 0, 100)], 0) == {}


def test_several_threads_write_at_once(bench: Letters) -> None:
    def work(first: int) -> Callable[[], None]:
        return lambda: bench.letters.write([letter(n) for n in range(first, first + 100)])

    started = [in_thread(work(first)) for first in range(0, 800, 100)]
    for thread, raised in started:
        thread.join(60)
        assert raised == []
    assert bench.offsets() == list(range(800))


def test_an_outage_is_waited_out_and_each_letter_written_once(bench: Letters) -> None:
    bench.letters.write([letter(0)])
    bench.kafka.broker_down()
    thread, raised = in_thread(lambda: bench.letters.write([letter(n) for n in range(1, 200)]))
    until(lambda: "writing to the dead-letter topic letters" in bench.letters.waiting)
    bench.kafka.broker_up()
    thread.join(60)
    assert not thread.is_alive()
    assert raised == []
    assert bench.letters.waiting == ""
    assert bench.offsets() == list(range(200))


def test_refused_requests_are_retried_in_the_producer_and_each_letter_written_once(bench: Letters) -> None:
    errors = [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.REQUEST_TIMED_OUT, KafkaError.NOT_ENOUGH_REPLICAS]
    bench.kafka.push_request_errors(ApiKey.PRODUCE, errors * 2)
    bench.letters.write([letter(n) for n in range(100)])
    assert bench.offsets() == list(range(100))


def test_a_dropped_connection_leaves_each_letter_once(bench: Letters) -> None:
    """One request at a time: the mock cluster compares no sequence numbers, and drops what is under way beside it. A broker
    that does is killed in test_deadletter_apache.py."""
    for number in range(10):
        bench.kafka.push_request_errors(ApiKey.PRODUCE, [-195, -195])
        bench.letters.write([letter(number)])
    assert bench.offsets() == list(range(10))


def test_stopping_ends_the_wait_at_once(bench: Letters) -> None:
    bench.letters.write([letter(0)])
    bench.kafka.broker_down()
    thread, raised = in_thread(lambda: bench.letters.write([letter(n) for n in range(1, 200)]))
    time.sleep(0.5)
    assert thread.is_alive()
    began_s = time.monotonic()
    bench.stopping.set()
    thread.join(30)
    assert time.monotonic() - began_s < 5
    assert [type(error) for error in raised] == [Stopping]


def test_a_missing_topic_is_a_configuration_error_with_the_command(mock_kafka: MockKafka) -> None:
    bench = Letters(mock_kafka, create=False)
    with pytest.raises(ConfigurationError, match="there is no such topic") as caught:
        bench.letters.check()
    assert "kafka-topics.sh --bootstrap-server" in str(caught.value)
    assert "--topic letters" in str(caught.value)
    mock_kafka.create_topic("letters", 2)
    bench.letters.check()
    bench.letters.close()


def test_no_broker_at_start_is_a_dependency_that_is_down(mock_kafka: MockKafka) -> None:
    bench = Letters(mock_kafka)
    mock_kafka.broker_down()
    impatient = CLIENTS._replace(cluster=lambda config, **_: Cluster(config, timeout_s=0.5))
    with pytest.raises(DependencyDown, match="can be reached"):
        bench.new(clients=impatient).check()


@pytest.mark.slow
def test_a_topic_that_goes_missing_later_is_waited_for(bench: Letters) -> None:
    bench.letters.write([letter(0)])
    bench.kafka.delete_topic("letters")
    thread, raised = in_thread(lambda: bench.letters.write([letter(n) for n in range(1, 20)]))
    until(lambda: "the topic is missing; create it: kafka-topics.sh" in bench.letters.waiting, 60)
    bench.kafka.create_topic("letters", 2)
    thread.join(60)
    assert not thread.is_alive()
    assert raised == []
    assert bench.offsets() == list(range(1, 20))


def test_a_letter_too_large_for_the_topic_becomes_a_pointer(bench: Letters) -> None:
    """Refused together with its neighbours, then alone, it is replaced; the neighbours arrive whole."""
    bench.kafka.push_request_errors(ApiKey.PRODUCE, [KafkaError.MSG_SIZE_TOO_LARGE] * 2)
    bench.letters.write([letter(7, b"x" * 1_000)])
    (found,) = bench.all()
    assert found.value() is None
    assert dict(found.headers())["penstock-truncated"] == b"value=1000 headers=1"
    assert record_of(found.headers(), "pipe") == (SOURCE, 7)
    bench.kafka.push_request_errors(ApiKey.PRODUCE, [KafkaError.MSG_SIZE_TOO_LARGE])
    bench.letters.write([letter(n, b"y", key=b"same partition") for n in range(10, 15)])
    assert [one.value() for one in bench.all()] == [None] + [b"y"] * 5


def test_a_topic_that_takes_not_even_a_pointer_stops(bench: Letters) -> None:
    bench.kafka.push_request_errors(ApiKey.PRODUCE, [KafkaError.MSG_SIZE_TOO_LARGE] * 3)
    with pytest.raises(PipelineStopped, match=r"max\.message\.bytes"):
        bench.letters.write([letter(7)])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "Grant this user WRITE"),
        (KafkaError.INVALID_RECORD, "cleanup.policy"),
        (KafkaError.POLICY_VIOLATION, "policy"),
    ],
)
def test_what_an_operator_must_mend_stops(bench: Letters, code: int, words: str) -> None:
    bench.kafka.push_request_errors(ApiKey.PRODUCE, [code])
    with pytest.raises(PipelineStopped, match=words):
        bench.letters.write([letter(7)])


def test_a_full_queue_is_waited_for(bench: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadletter, "QUEUE_KBYTES_MAX", 64)
    values = [bytes([n]) * 10_000 for n in range(100)]
    bench.letters.write([letter(n, value) for n, value in enumerate(values)])
    assert [one.value() for one in bench.all()] == values


@pytest.mark.parametrize(
    "code", [KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED]
)
def test_a_broken_producer_is_replaced(bench: Letters, code: int) -> None:
    """The first of these is fatal for librdkafka's producer, which takes nothing more."""
    bench.letters.write([letter(0)])
    bench.kafka.push_request_errors(ApiKey.PRODUCE, [code])
    started = [in_thread(lambda n=n: bench.letters.write([letter(n) for n in range(n, n + 20)])) for n in (1, 21)]
    for thread, raised in started:
        thread.join(60)
        assert not thread.is_alive()
        assert raised == []
    assert bench.offsets() == list(range(41))


def test_letters_that_came_into_a_producer_after_it_was_given_up_are_sent_by_the_next(
    bench: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken producer neither sends them nor gives them back, and has told another thread that it is broken."""
    bench.letters.write([letter(0)])
    bench.kafka.broker_down()
    broken = bench.letters._open()
    thread, raised = in_thread(lambda: bench.letters.write([letter(n) for n in range(1, 5)]))
    until(lambda: len(broken) == 4)
    given_back = threading.Event()
    arrived = bench.letters._arrived
    monkeypatch.setattr(bench.letters, "_arrived", lambda *given: (given_back.set(), arrived(*given))[1])
    monkeypatch.setattr(deadletter, "_give_up", lambda _: None)
    bench.letters._discard(broken)
    assert given_back.wait(30)
    bench.kafka.broker_up()
    thread.join(60)
    assert not thread.is_alive()
    assert raised == []
    assert bench.offsets() == list(range(5))


def test_a_producer_without_the_right_to_be_idempotent_stops(bench: Letters) -> None:
    bench.kafka.push_request_errors(ApiKey.INIT_PRODUCER_ID, [KafkaError.CLUSTER_AUTHORIZATION_FAILED] * 10)
    with pytest.raises(PipelineStopped, match="IDEMPOTENT_WRITE"):
        bench.letters.write([letter(0)])


@pytest.mark.parametrize("code", [KafkaError._FATAL, KafkaError._DESTROY])
def test_letters_given_back_with_their_fate_open_are_searched_before_they_are_sent_again(
    bench: Letters, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A producer that breaks for good, or gives up a topic that was made anew: half of its letters had arrived."""
    first = bench.new()
    first.write([letter(n) for n in range(0, 40, 2)])
    first.close()
    send, sent = DeadLetters._send, []

    def broken_once(self: DeadLetters, messages: Any, show: Any) -> list[deadletter.Failure]:
        sent.append(len(messages))
        if len(sent) == 1:
            return [deadletter._failure(n, KafkaError(code)) for n in range(len(messages))]
        return send(self, messages, show)

    monkeypatch.setattr(DeadLetters, "_send", broken_once)
    bench.letters.write([letter(n) for n in range(40)])
    assert sent == [40, 20]
    assert bench.offsets() == list(range(40))


def test_a_search_waits_for_brokers(bench: Letters) -> None:
    bench.letters.write([letter(n) for n in range(10)])
    bench.kafka.broker_down()
    found: list[Any] = []
    thread, raised = in_thread(lambda: found.append(bench.letters.written([Span(SOURCE, 3, 5)], 0)))
    time.sleep(1)
    bench.kafka.broker_up()
    thread.join(60)
    assert raised == []
    assert found == [dict.fromkeys([(SOURCE, 3), (SOURCE, 4)], Stage.DECODE)]


def test_after_close_nothing_is_written(bench: Letters) -> None:
    bench.letters.write([letter(0)])
    bench.letters.close()
    bench.letters.close()
    with pytest.raises(Stopping):
        bench.letters.write([letter(1)])
