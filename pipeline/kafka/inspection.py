"""Questions of `penstock check` to the cluster: what this user may see and do there, and who is in the group."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin._listoffsets import OffsetSpec

from pipeline.errors import DependencyDown
from pipeline.kafka.cluster import Cluster
from pipeline.kafka.trouble import ACCESS_CODES, trouble_of
from pipeline.types import Partition

_NEWEST: OffsetSpec = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]


_NOT_IN_OFFICE = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)


class Group(NamedTuple):
    """The members of a consumer group."""

    client_ids: Sequence[str] = ()
    protocol: str = ""
    """`classic` or `consumer`; empty where the brokers do not tell."""


class Inspection(Cluster):
    """Like Cluster. What brokers do not answer, because they are old or do not allow it, comes back as not known."""

    def visible(self, topics: Iterable[str]) -> dict[str, int | None]:
        """Topic -> number of partitions, 0 when there is no such topic, None when this user may not see it."""
        found: dict[str, int | None] = {}
        for topic in topics:
            error = self._metadata(topic).topics[topic].error
            if error is not None and error.code() in ACCESS_CODES:
                found[topic] = None
            else:
                found[topic] = self.topic_partitions(topic)
        return found

    def allowed(self, topics: Iterable[str], group: str) -> dict[tuple[str, str], frozenset[str] | None]:
        """(`topic` or `group`, name) -> the operations this user may do there, None where the brokers do not tell."""
        found: dict[tuple[str, str], frozenset[str] | None] = {}
        for topic in topics if self._has_controller() else ():
            futures = self._admin.describe_topics(
                TopicCollection([topic]), include_authorized_operations=True, request_timeout=self._timeout_s
            )
            found["topic", topic] = self._operations(futures[topic])
        found["group", group] = self._operations(self._described_group(group, include_authorized_operations=True))
        return found

    def group(self) -> Group:
        """The members of the configured group now."""
        name = self._config.group
        try:
            found: Any = self._result(self._described_group(name))
        except (KafkaException, TimeoutError):
            return Group()
        protocol = found.type.name.lower() if found.type is not None else ""
        return Group(
            [member.client_id for member in found.members], protocol if protocol in ("classic", "consumer") else ""
        )

    def newest_ms(self, partitions: Iterable[Partition]) -> int | None:
        """The latest timestamp in the partitions; None where the brokers (before 3.0) do not tell, or hold no record."""
        request = {TopicPartition(partition.topic, partition.number): _NEWEST for partition in partitions}
        if not request:
            return None
        try:
            futures = self._admin.list_offsets(request, request_timeout=self._timeout_s)
            newest = max(int(self._result(future).timestamp) for future in futures.values())
        except (KafkaException, TimeoutError):
            return None
        return newest if newest >= 0 else None

    def _described_group(self, group: str, **options: Any) -> Any:
        """The future of a group's description, asked again while its coordinator is only just taking office."""
        end_s = time.monotonic() + self._timeout_s
        while True:
            future = self._admin.describe_consumer_groups([group], request_timeout=self._timeout_s, **options)[group]
            try:
                self._result(future)
            except KafkaException as exception:
                if exception.args[0].code() in _NOT_IN_OFFICE and time.monotonic() < end_s:
                    time.sleep(0.1)
                    continue
            except TimeoutError:
                pass
            return future

    def _has_controller(self) -> bool:
        """Topics are described by the controller: without one (as in the mock cluster) that is a long wait for nothing."""
        metadata = self._metadata()
        return metadata.controller_id in metadata.brokers

    def _operations(self, future: Any) -> frozenset[str] | None:
        try:
            found: Any = self._result(future)
        except (KafkaException, TimeoutError) as exception:
            error = exception.args[0] if isinstance(exception, KafkaException) else None
            if not isinstance(error, KafkaError) or error.code() == KafkaError._UNSUPPORTED_FEATURE:
                return None
            if error.code() in ACCESS_CODES:
                return frozenset()
            raise DependencyDown(trouble_of(error).message(self._config.brokers)) from exception
        operations = found.authorized_operations
        return None if operations is None else frozenset(operation.name for operation in operations)
