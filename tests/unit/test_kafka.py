"""Client properties, what commit errors mean, and how a missing broker is explained."""

from __future__ import annotations

import logging
from typing import Any, get_args

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition, cimpl
from confluent_kafka.admin import AdminClient

from pipeline.config.schema import Kafka, Sasl, Tls
from pipeline.embedded.mock_kafka import ApiKey, MockKafka
from pipeline.errors import DependencyDown, Exit
from pipeline.kafka import (
    OWNED_KEYS,
    Cluster,
    Role,
    Trouble,
    Troubles,
    Unrepeated,
    classify_commit,
    properties,
    wait_for_brokers,
)
from pipeline.native import Reader, bind
from pipeline.types import Partition

NOWHERE = "127.0.0.1:1"
QUIET = {"log_level": 0}

CONFIGS = {
    "plain": Kafka(brokers=NOWHERE, group="g", librdkafka=QUIET),
    "static": Kafka(brokers=NOWHERE, group="g", instance_id="i", librdkafka=QUIET),
    "new protocol": Kafka(brokers=NOWHERE, group="g", group_protocol="consumer", instance_id="i", librdkafka=QUIET),
    "tls": Kafka(brokers=NOWHERE, group="g", tls=Tls(enabled=True, verify=False), librdkafka=QUIET),
    "scram": Kafka(
        brokers=NOWHERE,
        group="g",
        tls=Tls(enabled=True),
        sasl=Sasl(mechanism="SCRAM-SHA-512", username="u", password="p"),
        librdkafka=QUIET,
    ),
    "tuned": Kafka(
        brokers=NOWHERE,
        group="g",
        librdkafka={**QUIET, "fetch.wait.max.ms": 7, "linger.ms": 3, "compression.type": "zstd", "client.id": "mine"},
    ),
}


@pytest.mark.parametrize("role", get_args(Role))
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_librdkafka_takes_the_properties_without_a_word(
    config: Kafka, role: Role, caplog: pytest.LogCaptureFixture
) -> None:
    given: dict[str, Any] = {**properties(config, role), "log_level": 6}
    logger = logging.getLogger("test.librdkafka")
    with caplog.at_level(logging.INFO):
        if role in ("membership", "source"):
            client: Any = Consumer(given, logger=logger)
            client.poll(0.05)
            client.close()
        else:
            client = Producer(given, logger=logger) if role == "producer" else AdminClient(given, logger=logger)
            client.poll(0.05)
    assert "CONFWARN" not in caplog.text


def test_every_owned_key_is_one_of_librdkafka() -> None:
    bind(cimpl.__file__)
    handled_by_confluent_kafka = {"error_cb", "logger", "log_cb", "stats_cb", "throttle_cb", "on_delivery"}
    for key in OWNED_KEYS - handled_by_confluent_kafka:
        # The second, impossible property keeps a client from being made.
        with pytest.raises(ValueError, match=r"no\.such\.thing|[Ii]nvalid|[Ee]xpected"):
            Reader({key: "1", "no.such.thing": 1}, 1)


def test_the_pass_through_reaches_the_clients_it_concerns() -> None:
    config = CONFIGS["tuned"]
    assert properties(config, "source")["fetch.wait.max.ms"] == 7
    assert "linger.ms" not in properties(config, "source")
    assert properties(config, "producer")["linger.ms"] == 3
    assert properties(config, "producer")["compression.type"] == "zstd"
    assert "fetch.wait.max.ms" not in properties(config, "producer")
    assert properties(config, "admin")["client.id"] == "mine"


@pytest.mark.parametrize("role", get_args(Role))
def test_the_pass_through_never_overrides_what_is_owned(role: Role) -> None:
    plain = properties(CONFIGS["plain"], role)
    hostile = Kafka(brokers=NOWHERE, group="g", librdkafka={**QUIET, **dict.fromkeys(OWNED_KEYS & plain.keys(), "x")})
    assert {k: v for k, v in properties(hostile, role).items() if v == "x"} == {}


def test_no_client_commits_by_itself_or_makes_topics() -> None:
    for role in ("membership", "source"):
        given = properties(CONFIGS["plain"], role)
        assert given["enable.auto.commit"] is False
        assert given["enable.auto.offset.store"] is False
    assert all(properties(CONFIGS["plain"], role)["allow.auto.create.topics"] is False for role in get_args(Role))
    assert properties(CONFIGS["plain"], "source")["auto.offset.reset"] == "error"


@pytest.mark.parametrize(
    ("code", "number", "outcome"),
    [
        ("COORDINATOR_LOAD_IN_PROGRESS", 14, "refused"),
        ("COORDINATOR_NOT_AVAILABLE", 15, "refused"),
        ("NOT_COORDINATOR", 16, "refused"),
        ("REBALANCE_IN_PROGRESS", 27, "refused"),
        ("STALE_MEMBER_EPOCH", 113, "refused"),
        ("ILLEGAL_GENERATION", 22, "refused"),
        ("UNKNOWN_MEMBER_ID", 25, "fenced"),
        ("FENCED_INSTANCE_ID", 82, "fenced"),
        ("FENCED_MEMBER_EPOCH", 110, "fenced"),
        ("_FENCED", -144, "fenced"),
        ("_ASSIGNMENT_LOST", -142, "fenced"),
        ("OFFSET_METADATA_TOO_LARGE", 12, "denied"),
        ("TOPIC_AUTHORIZATION_FAILED", 29, "denied"),
        ("GROUP_AUTHORIZATION_FAILED", 30, "denied"),
        ("SASL_AUTHENTICATION_FAILED", 58, "denied"),
        ("REQUEST_TIMED_OUT", 7, "unknown"),
        ("NETWORK_EXCEPTION", 13, "unknown"),
        ("_TRANSPORT", -195, "unknown"),
        ("_TIMED_OUT", -185, "unknown"),
        ("_DESTROY", -197, "unknown"),
        ("_WAIT_COORD", -180, "unknown"),
        ("UNKNOWN", -1, "unknown"),
    ],
)
def test_what_a_failed_commit_means(code: str, number: int, outcome: str) -> None:
    assert getattr(KafkaError, code) == number
    assert classify_commit(number) == outcome


def test_a_code_nobody_has_heard_of_is_unknown() -> None:
    assert classify_commit(9_999) == "unknown"
    assert classify_commit(-9_999) == "unknown"


def test_a_broker_that_is_not_there_is_named_with_the_reason() -> None:
    with pytest.raises(DependencyDown, match=r"127\.0\.0\.1:1 can be reached.*Connection refused") as caught:
        Cluster(CONFIGS["plain"]).wait(1.0)
    assert caught.value.exit_code == Exit.UNAVAILABLE


@pytest.fixture(scope="module")
def mock() -> Producer:
    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    for i in range(40):
        producer.produce("t", b"x", partition=i % 4)
    assert producer.flush(10) == 0
    return producer


def config_of(mock: Producer, **more: Any) -> Kafka:
    brokers = mock.list_topics(timeout=10).brokers.values()
    address = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    return Kafka(brokers=address, group="g", librdkafka=QUIET, **more)


def test_wrong_credentials_are_told_at_once_and_as_such(mock: Producer) -> None:
    sasl = Sasl(mechanism="PLAIN", username="u", password="secret-word")
    with pytest.raises(DependencyDown, match="refuse our credentials") as caught:
        Cluster(config_of(mock, sasl=sasl)).wait(60.0)
    assert caught.value.exit_code == Exit.UNAVAILABLE
    assert "secret-word" not in str(caught.value)


def test_questions_about_the_cluster(mock: Producer) -> None:
    cluster = Cluster(config_of(mock))
    cluster.wait(10)
    assert cluster.cluster_id().startswith("mockCluster")
    assert cluster.topic_partitions("t") == 4
    assert cluster.topic_exists("t")
    assert not cluster.topic_exists("missing")
    assert not cluster.topic_exists("missing"), "asking must not make it"
    assert cluster.topic_ids(["t"]) == {"t": ""}
    places = [Partition("t", number) for number in range(4)]
    assert cluster.watermarks(places) == dict.fromkeys(places, (0, 10))
    # The mock cluster answers no question about times: "none at or after", which is the end.
    assert cluster.offsets_for_times(dict.fromkeys(places, 5)) == dict.fromkeys(places, 10)
    assert cluster.watermarks([]) == {}
    cluster.close()


def test_an_answer_that_does_not_come_is_a_dependency_down(mock: Producer) -> None:
    cluster = Cluster(config_of(mock), timeout_s=1.0)
    with pytest.raises(DependencyDown):
        cluster.watermarks([Partition("missing", 3)])


def test_waiting_ends_with_the_first_answer() -> None:
    answers: list[Any] = [KafkaException(KafkaError(KafkaError._TRANSPORT)), "metadata"]

    def ask(timeout_s: float) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    troubles = Troubles()
    troubles.note(Trouble(KafkaError._TRANSPORT, "_TRANSPORT", "refused"))
    assert wait_for_brokers(ask, lambda: None, troubles, "b:1", 10) == "metadata"
    assert troubles.last is None, "what has healed explains no later failure"


def test_all_brokers_down_does_not_hide_the_reason() -> None:
    troubles = Troubles()
    troubles(KafkaError(KafkaError._SSL, "certificate has expired"))
    troubles(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    assert troubles.last is not None
    assert "certificate has expired" in troubles.last.message("b:1")


def test_a_repeated_log_line_passes_once_in_a_while() -> None:
    now = 0.0
    quiet = Unrepeated(10.0, lambda: now)

    def seen(text: str, *args: object) -> str | None:
        record = logging.LogRecord("n", logging.INFO, "f", 1, text, args, None)
        return record.getMessage() if quiet.filter(record) else None

    assert seen("down after %d ms", 3) == "down after 3 ms"
    assert seen("down after %d ms", 4) is None
    assert seen("something else") == "something else"
    now = 11.0
    assert seen("down after %d ms", 5) == "down after 5 ms (1 more of the kind in between)"
    for i in range(1_000):
        seen("x" * i)
    assert len(quiet._seen) <= 256


def test_commits_with_metadata_are_possible_with_the_membership_properties(mock: Producer) -> None:
    config = config_of(mock)
    consumer = Consumer(properties(config, "membership"))
    consumer.subscribe(["t"])
    while not consumer.assignment():
        consumer.poll(0.1)
    consumer.commit(offsets=[TopicPartition("t", 0, 3, "spans")], asynchronous=False)
    found = consumer.committed([TopicPartition("t", 0)], timeout=5)[0]
    assert (found.offset, found.metadata) == (3, "spans")
    consumer.close()


@pytest.mark.parametrize("code", [KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS])
def test_committed_offsets_outlast_a_coordinator_that_moves(mock_kafka: MockKafka, code: int) -> None:
    """Asked through the admin client, librdkafka ends the whole process here (its issue 5040)."""
    mock_kafka.create_topic("t", 2)
    cluster = Cluster(Kafka(brokers=mock_kafka.bootstrap, group="g"))
    mock_kafka.push_request_errors(ApiKey.OFFSET_FETCH, [code])
    assert cluster.committed([Partition("t", 0), Partition("t", 1)]) == {
        Partition("t", 0): (-1, ""),
        Partition("t", 1): (-1, ""),
    }
    cluster.close()


def test_offsets_that_nobody_gave_in_time_are_no_offsets(mock_kafka: MockKafka) -> None:
    """librdkafka's admin client ends such a question with success, and with -1001 for every partition."""
    mock_kafka.create_topic("t", 2)
    partitions = [Partition("t", 0), Partition("t", 1)]
    cluster = Cluster(Kafka(brokers=mock_kafka.bootstrap, group="g"), timeout_s=1.0)
    mock_kafka.push_broker_errors(1, ApiKey.LIST_OFFSETS, [(0, 5_000)] * 4)
    with pytest.raises(DependencyDown):
        cluster.watermarks(partitions)
    with pytest.raises(DependencyDown):
        cluster.offsets_for_times(dict.fromkeys(partitions, 0))
    cluster.close()


@pytest.mark.parametrize(
    ("code", "forgotten"), [(KafkaError.FENCED_LEADER_EPOCH, True), (KafkaError.NOT_LEADER_FOR_PARTITION, False)]
)
def test_an_old_leader_epoch_is_forgotten(mock_kafka: MockKafka, code: int, forgotten: bool) -> None:
    """librdkafka asks with it for five minutes, in vain (seen in the fault suite); of a moved leader it learns by itself."""
    mock_kafka.create_topic("t", 1)
    place = Partition("t", 0)
    cluster = Cluster(Kafka(brokers=mock_kafka.bootstrap, group="g"))
    before = cluster._admin
    mock_kafka.push_request_errors(ApiKey.LIST_OFFSETS, [code])
    with pytest.raises(DependencyDown):
        cluster.watermarks([place])
    assert (cluster._admin is not before) == forgotten
    assert cluster.watermarks([place]) == {place: (0, 0)}
    cluster.close()


def test_a_member_learns_of_a_rebalance_within_a_second() -> None:
    def interval_ms(**options: Any) -> Any:
        return properties(Kafka(brokers=NOWHERE, group="g", **options), "membership").get("heartbeat.interval.ms")

    assert interval_ms() == 1_000
    assert interval_ms(session_timeout_ms=3_000) == 500
    assert interval_ms(librdkafka={"heartbeat.interval.ms": 2_000}) == 2_000
    assert interval_ms(group_protocol="consumer") is None


def test_a_commit_waits_for_its_answer_as_long_as_configured() -> None:
    assert (
        properties(Kafka(brokers=NOWHERE, group="g", commit_timeout_ms=3_000), "membership")["socket.timeout.ms"]
        == 3_000
    )
