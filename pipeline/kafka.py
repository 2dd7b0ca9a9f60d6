"""How this project speaks to Kafka: client properties per role, what a commit's error means, and questions about the cluster.

It never reads a record, never joins a group and never commits; those are `source` and `membership`.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple, TypeVar

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
    libversion,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec

from pipeline.config import owned
from pipeline.config.memory import FETCH_BYTES_MAX, SOURCE_QUEUE_BYTES_MAX
from pipeline.config.schema import Kafka, Tls
from pipeline.errors import DependencyDown
from pipeline.types import Partition

Role = Literal["membership", "source", "producer", "admin"]
Property = str | int | float | bool
CommitOutcome = Literal["refused", "fenced", "denied", "unknown"]
T = TypeVar("T")

log = logging.getLogger("penstock.kafka")


class Unrepeated(logging.Filter):
    """Lets a message through once in `interval_s`, numbers aside: an unreachable broker would be logged 20 times a second."""

    def __init__(self, interval_s: float = 10.0, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._now = now
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        kind = _DIGITS.sub("", text)
        now = self._now()
        last, dropped = self._seen.get(kind, (-self._interval_s, 0))
        if now - last < self._interval_s:
            self._seen[kind] = (last, dropped + 1)
            return False
        if len(self._seen) >= 256:
            self._seen.clear()
        self._seen[kind] = (now, 0)
        if dropped:
            record.msg, record.args = f"{text} ({dropped} more of the kind in between)", ()
        return True


_DIGITS = re.compile(r"\d+")
log.addFilter(Unrepeated())

OWNED_KEYS: frozenset[str] = frozenset(owned.OWNED_KEYS)
"""librdkafka keys that the pass-through (`kafka.librdkafka`) may not set; why is told in `config.owned`."""

_CONSUMER_ONLY: tuple[str, ...] = (
    "fetch.",
    "max.partition.fetch",
    "queued.",
    "consume.",
    "heartbeat.interval",
    "coordinator.query",
)
_PRODUCER_ONLY: tuple[str, ...] = (
    "linger.",
    "batch.",
    "compression.",
    "queue.buffering.",
    "message.timeout",
    "delivery.",
    "partitioner",
    "sticky.",
    "retries",
    "message.send.max.retries",
    "max.in.flight",
)


def properties(config: Kafka, role: Role) -> dict[str, Property]:
    """The librdkafka properties of one client. The pass-through is applied before the keys the pipeline owns."""
    result: dict[str, Property] = {"client.id": f"penstock-{role}", "socket.keepalive.enable": True}
    result |= _security(config)
    foreign = _PRODUCER_ONLY if role in ("membership", "source") else _CONSUMER_ONLY
    foreign = foreign + _PRODUCER_ONLY if role == "admin" else foreign
    result |= {key: value for key, value in config.librdkafka.items() if not key.startswith(foreign)}
    result |= {"bootstrap.servers": config.brokers, "allow.auto.create.topics": False}
    match role:
        case "membership":
            result |= _membership(config)
        case "source":
            result |= _source(config)
        case "producer":
            # `message.max.bytes` at librdkafka's maximum: only the broker decides what is too large for a topic.
            result |= {"enable.idempotence": True, "acks": "all", "message.max.bytes": 1_000_000_000}
            result.setdefault("linger.ms", 20)
            result.setdefault("compression.type", "lz4")
        case "admin":
            pass
    return result


def _security(config: Kafka) -> dict[str, Property]:
    tls, sasl = config.tls, config.sasl
    result: dict[str, Property] = {
        "security.protocol": ("SASL_" if sasl.mechanism else "") + ("SSL" if tls.enabled else "PLAINTEXT")
    }
    if tls.enabled:
        result |= _tls(tls)
    if sasl.mechanism:
        result |= {"sasl.mechanism": sasl.mechanism, "sasl.username": sasl.username, "sasl.password": sasl.password}
    return result


def _tls(tls: Tls) -> dict[str, Property]:
    files = {
        "ssl.ca.location": tls.ca_file,
        "ssl.certificate.location": tls.certificate_file,
        "ssl.key.location": tls.key_file,
    }
    result: dict[str, Property] = {key: value for key, value in files.items() if value}
    if not tls.verify:
        result |= {"enable.ssl.certificate.verification": False, "ssl.endpoint.identification.algorithm": "none"}
    return result


def _consumer(config: Kafka) -> dict[str, Property]:
    return {
        "group.id": config.group,
        # Automatic commits carry no metadata and would wipe the intents.
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": config.isolation,
    }


def _membership(config: Kafka) -> dict[str, Property]:
    """Group membership only: partitions stay paused, so the position that `earliest` would choose is never read from."""
    result = _consumer(config) | {
        "auto.offset.reset": "earliest",
        "enable.partition.eof": False,
        "group.protocol": config.group_protocol,
        "max.poll.interval.ms": max(config.max_poll_interval_ms, config.session_timeout_ms),
        "queued.max.messages.kbytes": 1_024,
        "fetch.max.bytes": FETCH_BYTES_MAX,
    }
    if config.group_protocol == "classic":
        # With `group.protocol=consumer` these two belong to the broker and librdkafka refuses them.
        result |= {"session.timeout.ms": config.session_timeout_ms}
        result |= {"partition.assignment.strategy": "cooperative-sticky"}
    if config.instance_id:
        result["group.instance.id"] = config.instance_id
    return result


def _source(config: Kafka) -> dict[str, Property]:
    """Manual assignment. It names the group because librdkafka wants one, but never subscribes, so it never joins."""
    result = _consumer(config) | {
        # A position outside the log is an error, not a jump: the operator decides what is lost.
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "check.crcs": True,
        # Not polling is our backpressure; it must not look like a hung consumer.
        "max.poll.interval.ms": 86_400_000,
        "queued.max.messages.kbytes": SOURCE_QUEUE_BYTES_MAX // 1_024,
        "fetch.max.bytes": FETCH_BYTES_MAX,
    }
    # One second by default: a partition whose queue was full for a moment would not be fetched for that long.
    backoff = {"fetch.queue.backoff.ms": 10, "fetch.wait.max.ms": 100}
    return result | {key: value for key, value in backoff.items() if key not in config.librdkafka}


# -- what the error of a commit means --------------------------------------------------------------------------------

_REFUSED = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)
_FENCED = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.UNRELEASED_INSTANCE_ID,
        KafkaError._FENCED,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._MAX_POLL_EXCEEDED,
    }
)
_DENIED = frozenset(
    {
        KafkaError.OFFSET_METADATA_TOO_LARGE,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.INVALID_COMMIT_OFFSET_SIZE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.GROUP_ID_NOT_FOUND,
        KafkaError._INVALID_ARG,
        KafkaError._UNKNOWN_GROUP,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError._NOT_CONFIGURED,
    }
)


def classify_commit(code: int) -> CommitOutcome:
    """What is known after a commit failed with librdkafka error `code`.

    refused   the coordinator did not take it, and a later try may succeed
    fenced    this member is no longer one: nothing it owned may be committed again
    denied    not taken, and no retry will help: authorization, configuration
    unknown   it may or may not have been taken (timeouts, transport, everything not listed)

    `retriable()` of the error object is no help: it is false even for a rebalance in progress.
    """
    if code in _REFUSED:
        return "refused"
    if code in _FENCED:
        return "fenced"
    if code in _DENIED:
        return "denied"
    return "unknown"


# -- credentials and access ------------------------------------------------------------------------------------------

CREDENTIAL_CODES = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)
ACCESS_CODES = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.DELEGATION_TOKEN_AUTHORIZATION_FAILED,
    }
)


class Trouble(NamedTuple):
    """Why the brokers cannot be used, in words for an operator."""

    code: int
    name: str
    reason: str

    @property
    def lasting(self) -> bool:
        """Waiting will not cure it: credentials, rights or certificates."""
        return self.code in CREDENTIAL_CODES or self.code in ACCESS_CODES or self.code == KafkaError._SSL

    def message(self, brokers: str) -> str:
        if self.code in CREDENTIAL_CODES:
            return (
                f"the brokers at {brokers} refuse our credentials ({self.name}: {self.reason}). "
                "Check kafka.sasl.mechanism, kafka.sasl.username and the password"
            )
        if self.code in ACCESS_CODES:
            return f"the brokers at {brokers} refuse access ({self.name}: {self.reason}). Grant the right to this user"
        if self.code == KafkaError._SSL:
            return f"TLS to {brokers} fails ({self.reason}). Check kafka.tls and the brokers' certificates"
        return (
            f"no broker at {brokers} can be reached ({self.name}: {self.reason}). "
            "Check kafka.brokers, the network, and that the listener speaks what kafka.tls and kafka.sasl say"
        )


def trouble_of(error: KafkaError) -> Trouble:
    return Trouble(error.code(), error.name(), error.str())


class Troubles:
    """Collects what librdkafka reports through `error_cb`, so that a timeout can be explained by its cause."""

    def __init__(self) -> None:
        self.last: Trouble | None = None

    def __call__(self, error: KafkaError) -> None:
        self.note(trouble_of(error))

    def note(self, trouble: Trouble) -> None:
        # "All brokers down" follows the message that says why; it must not hide it.
        if self.last is None or trouble.code != KafkaError._ALL_BROKERS_DOWN:
            self.last = trouble


def wait_for_brokers(
    list_topics: Callable[[float], Any],
    poll: Callable[[], object],
    troubles: Troubles,
    brokers: str,
    deadline_s: float,
) -> Any:
    """Returns the cluster's metadata, or raises `DependencyDown` at the deadline, or at once when waiting cannot help."""
    end = time.monotonic() + deadline_s
    while True:
        left = end - time.monotonic()
        try:
            metadata = list_topics(max(0.05, min(0.5, left)))
            troubles.last = None
            return metadata
        except KafkaException as exception:
            failure = trouble_of(exception.args[0])
        poll()
        trouble = troubles.last or failure
        if trouble.lasting or time.monotonic() >= end:
            raise DependencyDown(trouble.message(brokers)) from None


def librdkafka_version() -> str:
    """The version of the library under confluent-kafka."""
    return str(libversion()[0])


# -- questions about the cluster ---------------------------------------------------------------------------------------


_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class Cluster:
    """Metadata, watermarks and ids of the cluster, asked through one admin client. Thread-safe; each call blocks.

    Every call raises `DependencyDown` when the brokers do not answer within `timeout_s`.
    """

    def __init__(self, config: Kafka, *, timeout_s: float = 10.0, logger: logging.Logger = log) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._troubles = Troubles()
        conf: dict[str, Any] = {**properties(config, "admin"), "error_cb": self._troubles}
        self._admin = AdminClient(conf, logger=logger)

    def wait(self, deadline_s: float) -> None:
        """Returns when a broker has answered; raises `DependencyDown` with the cause otherwise."""
        self._metadata(None, deadline_s)

    def cluster_id(self) -> str:
        return str(self._metadata().cluster_id or "")

    def topic_exists(self, topic: str) -> bool:
        return self.topic_partitions(topic) > 0

    def topic_partitions(self, topic: str) -> int:
        """Number of partitions; 0 when there is no such topic."""
        found = self._metadata(topic).topics[topic]
        if found.error is None:
            return len(found.partitions)
        if found.error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return 0
        raise DependencyDown(trouble_of(found.error).message(self._config.brokers))

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Topic -> its id, which a topic deleted and made again does not share. '' where the cluster has no ids.

        librdkafka's mock cluster has none and no controller to ask. On every other cluster a missing answer is an error,
        never '': the id goes into tokens, on which all workers must agree.
        """
        names = list(topics)
        metadata = self._metadata()
        if metadata.controller_id not in metadata.brokers and str(metadata.cluster_id).startswith("mockCluster"):
            return dict.fromkeys(names, "")
        with self._explained():
            futures = self._admin.describe_topics(TopicCollection(names), request_timeout=self._timeout_s)
            return {name: _topic_id(self._result(future)) for name, future in futures.items()}

    def watermarks(self, partitions: Iterable[Partition]) -> dict[Partition, tuple[int, int]]:
        """Partition -> (first offset, next offset); the second is the last stable offset when reading committed only."""
        wanted = list(partitions)
        low = self._list_offsets(dict.fromkeys(wanted, _EARLIEST))
        high = self._list_offsets(dict.fromkeys(wanted, _LATEST))
        return {partition: (low[partition], high[partition]) for partition in wanted}

    def offsets_for_times(self, times_ms: Mapping[Partition, int]) -> dict[Partition, int]:
        """The first offset at or after each time; the end of the partition when there is none."""
        found = self._list_offsets({p: OffsetSpec.for_timestamp(time_ms) for p, time_ms in times_ms.items()})
        after = [partition for partition, offset in found.items() if offset < 0]
        return found | self._list_offsets(dict.fromkeys(after, _LATEST))

    def brokers(self) -> list[int]:
        """The ids of the brokers that are up."""
        return sorted(self._metadata().brokers)

    def settings(self, kind: Literal["broker", "topic"], name: str) -> dict[str, str]:
        """The configuration of a broker (by id) or topic; empty where it cannot be read: no right to, or not supported."""
        resource = ConfigResource(kind, name)
        try:
            futures = self._admin.describe_configs([resource], request_timeout=self._timeout_s)
            found: dict[str, Any] = self._result(futures[resource])
        except (KafkaException, TimeoutError):
            return {}
        return {key: str(entry.value) for key, entry in found.items() if entry.value is not None}

    def committed(self, partitions: Iterable[Partition]) -> dict[Partition, tuple[int, str]]:
        """Partition -> (committed offset, metadata) of the configured group; -1 and '' where nothing is committed."""
        wanted = [TopicPartition(partition.topic, partition.number) for partition in partitions]
        if not wanted:
            return {}
        group = self._config.group
        with self._explained():
            futures = self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, wanted)], request_timeout=self._timeout_s
            )
            found = self._result(futures[group]).topic_partitions
        for one in found:
            if one.error is not None:
                raise DependencyDown(trouble_of(one.error).message(self._config.brokers))
        return {Partition(one.topic, one.partition): (max(-1, one.offset), one.metadata or "") for one in found}

    def close(self) -> None:
        """Lets go of the client; librdkafka's threads end with its last reference."""
        self._admin.poll(0)

    def _list_offsets(self, wanted: Mapping[Partition, OffsetSpec]) -> dict[Partition, int]:
        if not wanted:
            return {}
        committed = self._config.isolation == "read_committed"
        isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        request = {TopicPartition(partition.topic, partition.number): spec for partition, spec in wanted.items()}
        with self._explained():
            futures = self._admin.list_offsets(request, isolation_level=isolation, request_timeout=self._timeout_s)
            return {
                Partition(asked.topic, asked.partition): int(self._result(future).offset)
                for asked, future in futures.items()
            }

    def _metadata(self, topic: str | None = None, deadline_s: float | None = None) -> Any:
        def ask(timeout_s: float) -> Any:
            return self._admin.list_topics(*([topic] if topic else []), timeout=timeout_s)

        deadline_s = self._timeout_s if deadline_s is None else deadline_s
        return wait_for_brokers(ask, lambda: self._admin.poll(0), self._troubles, self._config.brokers, deadline_s)

    def _result(self, future: Future[T]) -> T:
        # The request carries its own timeout; the margin only guards against a future that is never resolved.
        return future.result(self._timeout_s + 5.0)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (KafkaException, TimeoutError) as exception:
            self._admin.poll(0)
            error = exception.args[0] if isinstance(exception, KafkaException) else None
            failure = trouble_of(error) if isinstance(error, KafkaError) else Trouble(-185, "_TIMED_OUT", "no answer")
            timed_out = failure.code in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)
            cause = self._troubles.last if timed_out and self._troubles.last else failure
            raise DependencyDown(cause.message(self._config.brokers)) from exception


def _topic_id(description: Any) -> str:
    """Brokers older than topic ids answer with the zero id."""
    text = str(description.topic_id)
    return "" if set(text) <= {"A", "="} else text
