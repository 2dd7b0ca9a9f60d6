"""Questions about the cluster, asked through an admin client and, about its group, a consumer. It changes nothing there."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec

from pipeline.config.schema import Kafka
from pipeline.errors import ConfigurationError, DependencyDown
from pipeline.kafka.assignment import assigned_to
from pipeline.kafka.clients import properties, refused_properties
from pipeline.kafka.trouble import Trouble, Troubles, log, trouble_of, wait_for_brokers
from pipeline.types import Partition

T = TypeVar("T")

_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]

RETRY_S = 0.1
_MOVING = frozenset(
    {KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS}
)
_OLD_EPOCH = frozenset({KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH})
"""A partition has another leader epoch than librdkafka remembers. Its questions for offsets do not make it look again: all of
them would fail until it does so by itself, after five minutes (`topic.metadata.refresh.interval.ms`)."""


class Cluster:
    """Metadata, watermarks and ids of the cluster, asked through one admin client. Thread-safe; each call blocks.

    Every call raises `DependencyDown` when the brokers do not answer within `timeout_s`; the first, making it, raises
    ConfigurationError when librdkafka refuses the configuration.
    """

    def __init__(self, config: Kafka, *, timeout_s: float = 10.0, logger: logging.Logger = log) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._troubles = Troubles()
        if problems := refused_properties(config):
            raise ConfigurationError(problems)
        self._logger = logger
        self._admin = self._new_admin()
        self._lock = threading.Lock()
        self._consumer: Consumer | None = None
        """Never subscribes, so it never joins: it only asks what the group has committed."""

    def _new_admin(self) -> AdminClient:
        conf: dict[str, Any] = {**properties(self._config, "admin"), "error_cb": self._troubles}
        return AdminClient(conf, logger=self._logger)

    def wait(self, deadline_s: float) -> None:
        """Returns when a broker has answered; raises `DependencyDown` with the cause otherwise."""
        self._metadata(None, deadline_s)

    def cluster_id(self) -> str:
        return str(self._metadata().cluster_id or "")

    def is_mock(self) -> bool:
        """Whether this is librdkafka's mock cluster, which answers every time that is asked for with the end."""
        return self.cluster_id().startswith("mockCluster")

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
        metadata = self._metadata()
        if metadata.controller_id not in metadata.brokers:
            return {}  # Topics are asked of the controller: without one (as in the mock cluster) that is a long wait.
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
        with self._explained():
            found = self._ask_coordinator(wanted)
        for one in found:
            if one.error is not None:
                raise DependencyDown(trouble_of(one.error).message(self._config.brokers))
        return {Partition(one.topic, one.partition): (max(-1, one.offset), one.metadata or "") for one in found}

    def unassigned(self, topics: Iterable[str]) -> frozenset[Partition] | None:
        """The partitions that no member of the configured group has; None unless the group is stable.

        Asked the old way, of all brokers: the admin client's own question aborts the process when a broker answers after
        its time is up (librdkafka issue 4605).
        """
        every = {Partition(topic, number) for topic in topics for number in range(self.topic_partitions(topic))}
        with self._explained():
            groups: Any = self._admin.list_groups(self._config.group, timeout=self._timeout_s)
        if [group.state for group in groups] != ["Stable"]:
            return None
        assigned = (partition for member in groups[0].members for partition in assigned_to(member.assignment))
        return frozenset(every.difference(assigned))

    def close(self) -> None:
        """Lets go of the clients; the admin client's threads end with its last reference."""
        self._admin.poll(0)
        with self._lock:
            consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _ask_coordinator(self, wanted: list[TopicPartition]) -> list[TopicPartition]:
        """Asks again while the group has no coordinator that can answer: it moves when its broker goes."""
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._outsider().committed(wanted, timeout=max(0.1, deadline_s - time.monotonic()))
            except KafkaException as exception:
                if exception.args[0].code() not in _MOVING or time.monotonic() >= deadline_s:
                    raise
            time.sleep(RETRY_S)

    def _outsider(self) -> Consumer:
        """A consumer that names the group. The admin client's own question crashes the process when the coordinator answers
        with an error (librdkafka issue 5040)."""
        with self._lock:
            if self._consumer is None:
                conf: dict[str, Any] = {**properties(self._config, "source"), "client.id": "penstock-offsets"}
                self._consumer = Consumer({**conf, "error_cb": self._troubles}, logger=self._logger)
            return self._consumer

    def _list_offsets(self, wanted: Mapping[Partition, OffsetSpec]) -> dict[Partition, int]:
        if not wanted:
            return {}
        committed = self._config.isolation == "read_committed"
        isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        request = {TopicPartition(partition.topic, partition.number): spec for partition, spec in wanted.items()}
        with self._explained():
            futures = self._admin.list_offsets(request, isolation_level=isolation, request_timeout=self._timeout_s)
            try:
                found = {
                    Partition(asked.topic, asked.partition): int(self._result(future).offset)
                    for asked, future in futures.items()
                }
            except KafkaException as exception:
                if exception.args[0].code() in _OLD_EPOCH:
                    self._admin = self._new_admin()
                raise
            if OFFSET_INVALID in found.values():
                # A question that ran out of time ends in success; taken for "none so late", it would skip the partition.
                raise TimeoutError
            return found

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
            if self._consumer is not None:
                self._consumer.poll(0)
            error = exception.args[0] if isinstance(exception, KafkaException) else None
            failure = trouble_of(error) if isinstance(error, KafkaError) else Trouble(-185, "_TIMED_OUT", "no answer")
            timed_out = failure.code in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)
            cause = self._troubles.last if timed_out and self._troubles.last else failure
            raise DependencyDown(cause.message(self._config.brokers)) from exception


def _topic_id(description: Any) -> str:
    """Brokers older than topic ids answer with the zero id."""
    text = str(description.topic_id)
    return "" if set(text) <= {"A", "="} else text
