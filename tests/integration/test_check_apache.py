"""`penstock check` on a real Apache Kafka, put into each state that a check is about: topics, the group, limits, rights."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from pipeline.config.schema import Kafka
from pipeline.kafka import properties
from tests.integration.doctor import Report, Setup
from tests.integration.harness import COORDINATOR_STARTING

if TYPE_CHECKING:
    from pipeline.embedded.apache_kafka import ApacheKafka

pytestmark = pytest.mark.kafka
HOUR_MS = 3_600_000


class Cluster(Setup):
    """A setup with topics and a group of its own on a real cluster."""

    def __init__(self, directory: Path, kafka: ApacheKafka, database: Any) -> None:
        super().__init__(directory, kafka.bootstrap, database)
        unique = uuid.uuid4().hex[:8]
        self.kafka = kafka
        self.admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        self.topic, self.letters, self.group = f"orders-{unique}", f"dead-{unique}", f"group-{unique}"

    def topics(self, letters: dict[str, str] | None = None, **source: str) -> None:
        """Both topics with their configuration; `_` stands for a dot."""
        room = {"max.message.bytes": "8000000"}
        self.kafka.create_topic(self.topic, 1, **{key.replace("_", "."): value for key, value in source.items()})
        self.kafka.create_topic(self.letters, 1, **(room | (letters or {})))

    def produce(self, *ages_ms: int) -> None:
        """One record for each age, the oldest first."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 0, "log_level": 0})
        now_ms = int(time.time() * 1000)
        for age_ms in ages_ms:
            producer.produce(self.topic, b"{}", key=b"k", partition=0, timestamp=now_ms - age_ms)
        assert producer.flush(30) == 0

    def commit(self, offset: int) -> None:
        """Through the admin client, and again while the coordinator of a fresh cluster is taking office."""
        wanted = ConsumerGroupTopicPartitions(self.group, [TopicPartition(self.topic, 0, offset)])
        deadline_s = time.monotonic() + 30
        while True:
            try:
                (done,) = self.admin.alter_consumer_group_offsets([wanted])[self.group].result(30).topic_partitions
                error = done.error
            except KafkaException as exception:
                error = exception.args[0]
            if error is None:
                return
            assert error.code() in COORDINATOR_STARTING
            assert time.monotonic() < deadline_s
            time.sleep(0.2)

    def remove_before(self, offset: int) -> None:
        """What retention does, at once."""
        wanted = TopicPartition(self.topic, 0, offset)
        self.admin.delete_records([wanted])[wanted].result(30)


@pytest.fixture
def cluster(tmp_path: Path, apache_kafka: ApacheKafka, chdb_server: Any) -> Cluster:
    made = Cluster(tmp_path, apache_kafka, chdb_server)
    made.table()
    made.write()
    return made


def test_all_is_well(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.topics()
    cluster.produce(1_000, 0)
    cluster.commit(1)
    report = cluster.check(capsys, 0)
    assert report.statuses() == {"ok"}
    assert report.one("group").text == "has committed 1 of 1 partitions"
    assert report.one("retention").text == "kept 7 days, lag 1"
    assert report.one("broker-settings").text.startswith(
        "offset metadata up to 4096 bytes, group protocols classic,consumer"
    )
    assert report.one("kafka-privileges").text == "User:ANONYMOUS may do what a worker does"


def test_the_consumer_protocol_is_offered(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.topics()
    cluster.write(kafka='group_protocol = "consumer"')
    assert cluster.check(capsys, 0).well("broker-settings")


# Topics


def test_topics_that_are_compacted(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.topics({"cleanup.policy": "compact"}, cleanup_policy="compact,delete")
    source, letters = cluster.check(capsys, 1).of("compaction")
    assert (source.name, source.status) == (f"topic {cluster.topic}", "warning")
    assert (letters.name, letters.status) == (f"topic {cluster.letters}", "problem")


def test_a_dead_letter_topic_that_is_too_narrow(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.topics({"max.message.bytes": "1000000"})
    found = cluster.check(capsys, 0).one("dead-letter-size")
    assert (found.status, "takes records up to 1000000 bytes" in found.text) == ("warning", True)


def test_unread_records_that_grow_old(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Ages of 95, 60 and 0 percent of the retention time."""
    cluster.topics(retention_ms=str(HOUR_MS))
    cluster.produce(57 * 60_000, 36 * 60_000, 0)
    cluster.commit(0)
    found = cluster.check(capsys, 1).one("retention")
    assert (found.status, "older than 90% of retention.ms = 3600000 (partition 0)" in found.text) == ("problem", True)
    cluster.commit(1)
    found = cluster.check(capsys, 0).one("retention")
    assert (found.status, "older than 50%" in found.text) == ("warning", True)
    cluster.commit(2)
    assert cluster.check(capsys, 0).one("retention").text == "kept 60 min, lag 1"


def test_records_that_were_removed_before_they_were_read(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.topics()
    cluster.produce(*[0] * 10)
    cluster.commit(3)
    assert cluster.check(capsys, 0).well("retention")
    cluster.remove_before(5)
    found = cluster.check(capsys, 1).one("retention")
    assert (found.status, "partition 0: offsets 3 to 4 were removed before they were read" in found.text) == (
        "problem",
        True,
    )
    assert f"--group {cluster.group} --topic {cluster.topic}:0" in found.fix


def test_a_log_that_is_kept_by_size(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.topics(retention_ms="-1", retention_bytes="100000000")
    cluster.produce(*[0] * 100)
    cluster.commit(20)
    assert cluster.check(capsys, 0).one("retention").text == "kept without a limit of time, lag 80"
    cluster.remove_before(18)
    found = cluster.check(capsys, 0).one("retention")
    assert (found.status, "among the oldest in a log of retention.bytes = 100000000" in found.text) == ("warning", True)


def test_records_from_the_future(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.topics(message_timestamp_after_max_ms=str(10 * HOUR_MS))
    cluster.produce(0)
    assert not cluster.check(capsys, 0).of("record-clock")
    cluster.produce(-2 * HOUR_MS)
    found = cluster.check(capsys, 0).one("record-clock")
    assert (found.status, "a record from 2 h in the future" in found.text.replace("120 min", "2 h")) == (
        "warning",
        True,
    )


# The group


class Members:
    """Members of the group, kept in it by a thread that polls them. A context manager."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._members: list[Consumer] = []
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        for member in self._members:
            member.close()

    def join(self, client_id: str = "penstock-membership") -> None:
        config = properties(Kafka(brokers=self._cluster.bootstrap, group=self._cluster.group), "membership")
        consumer = Consumer(config | {"client.id": client_id, "log_level": 0})
        consumer.subscribe([self._cluster.topic])
        self._members.append(consumer)

    def _poll(self) -> None:
        while not self._left.wait(0.01):
            for member in list(self._members):
                member.poll(0.02)


def told(cluster: Cluster, capsys: pytest.CaptureFixture[str], text: str) -> Report:
    """What check says once it says this of the members; rebalances take their time."""
    deadline_s = time.monotonic() + 40
    while True:
        report = cluster.check(capsys)
        if any(text in one.text for one in report.of("group-members")) or time.monotonic() > deadline_s:
            return report


def test_members_of_the_group(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.topics()
    assert not cluster.check(capsys, 0).of("group-members")
    with Members(cluster) as members:
        members.join()
        report = told(cluster, capsys, "1 worker, classic protocol")
        assert report.well("group-members")
        assert "1 worker, a batch each 500 to 1000 ms" in report.one("window-rate").text
        members.join()
        report = told(cluster, capsys, "has 2 workers for 1 partition")
        assert report.one("group-members").status == "warning"
        assert "2 workers, a batch each 500 to 1000 ms" in report.one("window-rate").text
        members.join("somebody-else")
        assert told(cluster, capsys, "not penstock's: somebody-else").one("group-members").status == "problem"


# Brokers with other limits, and an authorizer


@pytest.fixture(scope="module")
def strict_kafka(needs_apache_kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """Small limits, no consumer protocol, and an authorizer; who comes without credentials may do everything."""
    from pipeline.embedded.apache_kafka import ApacheKafka

    limits = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "offset.metadata.max.bytes": "1024",
        "offsets.retention.minutes": "60",
        "group.coordinator.rebalance.protocols": "classic",
        "group.max.session.timeout.ms": "30000",
    }
    users = {"reader": "reader-secret"}
    with ApacheKafka(tmp_path_factory.mktemp("strict"), properties=limits, users=users) as kafka:
        yield kafka


@pytest.fixture
def strict(tmp_path: Path, strict_kafka: ApacheKafka, chdb_server: Any) -> Cluster:
    made = Cluster(tmp_path, strict_kafka, chdb_server)
    made.table()
    made.write(kafka="session_timeout_ms = 20000")
    return made


def test_limits_of_the_brokers(strict: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    strict.topics()
    report = strict.check(capsys, 1, "--outage", "0.5")
    assert report.one("offset-metadata").status == "problem"
    assert "offset.metadata.max.bytes is 1024" in report.one("offset-metadata").text
    assert not report.of("session-timeout") + report.of("offset-retention") + report.of("group-protocol")
    strict.write()
    report = strict.check(capsys, 1)
    assert report.one("session-timeout").fix == "Set kafka.session_timeout_ms to 30000"
    assert report.one("offset-retention").status == "warning"
    strict.write(kafka='group_protocol = "consumer"')
    assert "they offer classic" in strict.check(capsys, 1).one("group-protocol").text


def allow(cluster: Cluster, kind: ResourceType, name: str, operation: AclOperation) -> None:
    binding = AclBinding(
        kind, name, ResourcePatternType.LITERAL, "User:reader", "*", operation, AclPermissionType.ALLOW
    )
    cluster.admin.create_acls([binding])[binding].result(30)


def as_reader(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK__KAFKA__SASL__PASSWORD", "reader-secret")
    cluster.bootstrap = cluster.kafka.sasl_bootstrap
    cluster.write(kafka='session_timeout_ms = 20000\nsasl = {mechanism = "PLAIN", username = "reader"}')


def test_rights_one_after_the_other(
    strict: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fix that the check names is carried out, until nothing is missing."""
    strict.topics()
    as_reader(strict, monkeypatch)
    report = strict.check(capsys, 1)
    assert {one.status for one in report.of("topic")} == {"skipped"}
    missing = [one.text for one in report.of("kafka-privileges", "problem")]
    assert missing == [
        f"User:reader may not READ topic {strict.topic} (records)",
        f"User:reader may not READ group {strict.group} (membership and offsets)",
        f"User:reader may not WRITE and READ topic {strict.letters} (dead letters, dead letters that are written already)",
    ]
    kinds = {"--topic": ResourceType.TOPIC, "--group": ResourceType.GROUP}
    operations = {"Read": AclOperation.READ, "Write": AclOperation.WRITE}
    for fix in [one.fix for one in report.of("kafka-privileges", "problem")]:
        words = fix.split()
        assert words[0] == "kafka-acls.sh"
        for word, operation in pairwise(words):
            if word == "--operation":
                allow(strict, kinds[words[-2]], words[-1], operations[operation])
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        report = strict.check(capsys, 0)
        if report.well("kafka-privileges"):
            break
    assert report.one("kafka-privileges").text == "User:reader may do what a worker does"
    assert report.one("group").status == "ok"
    assert report.one("broker-settings").status == "skipped", "that takes DescribeConfigs on the cluster"
    allow(strict, ResourceType.BROKER, "kafka-cluster", AclOperation.DESCRIBE_CONFIGS)
    while time.monotonic() < deadline_s:
        report = strict.check(capsys)
        if report.of("offset-metadata"):
            break
    assert report.one("offset-metadata").status == "problem"
