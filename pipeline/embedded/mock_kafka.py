"""librdkafka's mock cluster as a context manager: real protocol, groups, commit metadata, faults; no store to keep data in.

The cluster lives in the process that opens it (one thread of librdkafka, listening on 127.0.0.1); any client of any
process may connect. It is driven through ctypes on the very library that confluent-kafka loaded, which exports the
whole `rd_kafka_mock_*` interface (librdkafka: src/rdkafka_mock.h).

What a partition keeps (librdkafka: src/rdkafka_mock.c, `rd_kafka_mock_msgset_new`): record batches, whole and exactly
as the producer sent them. When a batch arrives, the oldest ones go while the ones already there hold more than 5 MiB
*as sent* (so: compressed, when the producer compresses) or are more than 100,000 batches. What goes, goes silently: the
low watermark moves up and a consumer that was behind is out of range. Producers must be paced.

Classic groups (src/rdkafka_mock_cgrp.c): every rebalance of a group that has members waits for `session.timeout.ms` less a
second, whoever has joined; there is no lower bound on that timeout, so tests set 2 seconds. Offset commits are refused
with REBALANCE_IN_PROGRESS meanwhile. Groups of the consumer protocol move on with the heartbeats.

What it does not do: topic ids and cluster administration, enforcing `offset.metadata.max.bytes`, storing transaction
markers, authentication.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Self

from confluent_kafka import cimpl

PARTITION_BYTES_MAX = 5 * 1024 * 1024
PARTITION_BATCHES_MAX = 100_000
ALL_BROKERS = -1
TRANSPORT_ERROR = -195
"""`RD_KAFKA_RESP_ERR__TRANSPORT`: pushed as a request error it makes the broker drop the connection."""

_PRODUCER = 0
_ERROR_TEXT_BYTES = 512
_BROKERS_MAX = 32


class ApiKey(IntEnum):
    """Kafka protocol requests that tests inject faults into."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    INIT_PRODUCER_ID = 22
    CONSUMER_GROUP_HEARTBEAT = 68


class Request(NamedTuple):
    """One request a broker received, with the time in microseconds at which it arrived (monotonic clock of librdkafka)."""

    broker: int
    api_key: int
    timestamp_us: int


class MockKafka:
    """A mock cluster with brokers 1 to `brokers` and the given topics (name to number of partitions).

    `rebalance_delay_ms` is the time a new classic group waits for further members, `session_ms` and `heartbeat_ms` are
    what the brokers dictate to members of `group.protocol=consumer`; all are short because tests wait for them.
    Methods may be called from any thread. Raises RuntimeError when librdkafka refuses.
    """

    def __init__(
        self,
        brokers: int = 1,
        topics: Mapping[str, int] | None = None,
        *,
        rebalance_delay_ms: int = 200,
        session_ms: int = 6_000,
        heartbeat_ms: int = 300,
    ) -> None:
        if not 1 <= brokers <= _BROKERS_MAX:
            raise ValueError(f"brokers = {brokers}: a mock cluster has 1 to {_BROKERS_MAX}")
        self._library = _load_library()
        self._client = _new_client(self._library)
        self._cluster: int | None = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        if not self._cluster:
            self._library.rd_kafka_destroy(self._client)
            raise RuntimeError("librdkafka could not start a mock cluster on 127.0.0.1")
        self.brokers = brokers
        self.bootstrap: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, rebalance_delay_ms)
        self._library.rd_kafka_mock_set_group_consumer_session_timeout_ms(self._cluster, session_ms)
        self._library.rd_kafka_mock_set_group_consumer_heartbeat_interval_ms(self._cluster, heartbeat_ms)
        for topic, partitions in (topics or {}).items():
            self.create_topic(topic, partitions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the cluster; its data are gone. Closing twice does nothing."""
        if self._cluster is not None:
            cluster, self._cluster = self._cluster, None
            self._library.rd_kafka_mock_cluster_destroy(cluster)
            self._library.rd_kafka_destroy(self._client)

    # Topics

    def create_topic(self, topic: str, partitions: int) -> None:
        """Creates a topic with a copy on every broker (at most three). The admin protocol's CreateTopics is not supported."""
        self._check(
            self._call("topic_create", topic.encode(), partitions, min(self.brokers, 3)), f"create topic {topic}"
        )

    def delete_topic(self, topic: str) -> None:
        self._check(self._call("topic_delete", topic.encode()), f"delete topic {topic}")

    def set_topic_error(self, topic: str, error: int) -> None:
        """Metadata answers for this topic carry `error` (0: none)."""
        self._call("topic_set_error", topic.encode(), error)

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        """Moves the low watermark up, so that a reader below it is out of range. Whole batches only."""
        code = self._call("partition_delete_records", topic.encode(), partition, before_offset)
        self._check(code, f"delete records of {topic}/{partition}")

    def set_leader(self, topic: str, partition: int, broker: int) -> None:
        """Moves the leadership of a partition; -1 leaves it without a leader."""
        code = self._call("partition_set_leader", topic.encode(), partition, broker)
        self._check(code, f"move the leader of {topic}/{partition}")

    # Faults

    def push_request_errors(self, api_key: int, errors: Sequence[int]) -> None:
        """The next requests of this kind, at any broker, fail with these codes, in this order (0: this one succeeds)."""
        self._call("push_request_errors_array", api_key, len(errors), (ctypes.c_int * len(errors))(*errors))

    def push_broker_errors(self, broker: int, api_key: int, errors: Sequence[tuple[int, int]]) -> None:
        """Like `push_request_errors` at one broker, each error together with a delay of its answer in milliseconds."""
        for code, delay_ms in errors:
            result = self._call(
                "broker_push_request_error_rtts",
                broker,
                api_key,
                ctypes.c_size_t(1),
                ctypes.c_int(code),
                ctypes.c_int(delay_ms),
            )
            self._check(result, f"push an error at broker {broker}")

    def clear_request_errors(self, api_key: int) -> None:
        self._call("clear_request_errors", api_key)

    def broker_down(self, broker: int = ALL_BROKERS) -> None:
        """Closes the broker's connections and accepts no new ones. Leaders and coordinators do not move by themselves."""
        self._check(self._call("broker_set_down", broker), f"take broker {broker} down")

    def broker_up(self, broker: int = ALL_BROKERS) -> None:
        self._check(self._call("broker_set_up", broker), f"bring broker {broker} up")

    def set_rtt(self, rtt_ms: int, broker: int = ALL_BROKERS) -> None:
        """Every answer leaves this much later."""
        self._check(self._call("broker_set_rtt", broker, rtt_ms), f"set the round trip of broker {broker}")

    def coordinator(self, group: str, broker: int) -> None:
        """Moves the coordinator of a group. A broker that does not exist means: no coordinator available."""
        self._check(self._call("coordinator_set", b"group", group.encode(), broker), f"move the coordinator of {group}")

    def set_api_version(self, api_key: int, lowest: int, highest: int) -> None:
        """Limits the versions of a request the brokers offer; -1, -1 switches the request off."""
        self._check(self._call("set_apiversion", api_key, lowest, highest), f"set the versions of request {api_key}")

    # Observation

    def track_requests(self, on: bool = True) -> None:
        """Records every request from now on (unbounded: for the length of a test), or stops doing so."""
        self._call("start_request_tracking" if on else "stop_request_tracking")

    def requests(self) -> list[Request]:
        """The requests recorded since tracking started or `clear_requests`, in order of arrival."""
        count = ctypes.c_size_t()
        found = self._call("get_requests", ctypes.byref(count))
        read = self._library
        result = [
            Request(
                read.rd_kafka_mock_request_id(found[index]),
                read.rd_kafka_mock_request_api_key(found[index]),
                read.rd_kafka_mock_request_timestamp(found[index]),
            )
            for index in range(count.value)
        ]
        read.rd_kafka_mock_request_destroy_array(found, count.value)
        return result

    def clear_requests(self) -> None:
        self._call("clear_requests")

    def _call(self, name: str, *arguments: Any) -> Any:
        if self._cluster is None:
            raise RuntimeError("the mock cluster is closed")
        return getattr(self._library, f"rd_kafka_mock_{name}")(self._cluster, *arguments)

    def _check(self, code: int, action: str) -> None:
        if code:
            reason = self._library.rd_kafka_err2str(code).decode()
            raise RuntimeError(f"mock cluster: could not {action}: {reason} (code {code})")


def _load_library() -> Any:
    """The librdkafka that confluent-kafka itself uses: symbols of a library are also looked up in the ones it needs."""
    library = ctypes.CDLL(cimpl.__file__)
    pointer, text, number, int16 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int16
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "conf_new": (pointer, ()),
        "conf_set": (ctypes.c_int, (pointer, text, text, text, ctypes.c_size_t)),
        "new": (pointer, (ctypes.c_int, pointer, text, ctypes.c_size_t)),
        "destroy": (None, (pointer,)),
        "err2str": (text, (ctypes.c_int,)),
        "mock_cluster_new": (pointer, (pointer, ctypes.c_int)),
        "mock_cluster_destroy": (None, (pointer,)),
        "mock_cluster_bootstraps": (text, (pointer,)),
        "mock_topic_create": (ctypes.c_int, (pointer, text, ctypes.c_int, ctypes.c_int)),
        "mock_topic_delete": (ctypes.c_int, (pointer, text)),
        "mock_topic_set_error": (None, (pointer, text, ctypes.c_int)),
        "mock_partition_delete_records": (ctypes.c_int, (pointer, text, number, ctypes.c_int64)),
        "mock_partition_set_leader": (ctypes.c_int, (pointer, text, number, number)),
        "mock_push_request_errors_array": (None, (pointer, int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int))),
        # The last of these has C varargs after `cnt`, which the caller passes with explicit C types.
        "mock_broker_push_request_error_rtts": (ctypes.c_int, (pointer, number, int16, ctypes.c_size_t)),
        "mock_clear_request_errors": (None, (pointer, int16)),
        "mock_broker_set_down": (ctypes.c_int, (pointer, number)),
        "mock_broker_set_up": (ctypes.c_int, (pointer, number)),
        "mock_broker_set_rtt": (ctypes.c_int, (pointer, number, ctypes.c_int)),
        "mock_coordinator_set": (ctypes.c_int, (pointer, text, text, number)),
        "mock_set_apiversion": (ctypes.c_int, (pointer, int16, int16, int16)),
        "mock_group_initial_rebalance_delay_ms": (None, (pointer, number)),
        "mock_set_group_consumer_session_timeout_ms": (None, (pointer, ctypes.c_int)),
        "mock_set_group_consumer_heartbeat_interval_ms": (None, (pointer, ctypes.c_int)),
        "mock_start_request_tracking": (None, (pointer,)),
        "mock_stop_request_tracking": (None, (pointer,)),
        "mock_clear_requests": (None, (pointer,)),
        "mock_get_requests": (ctypes.POINTER(pointer), (pointer, ctypes.POINTER(ctypes.c_size_t))),
        "mock_request_id": (number, (pointer,)),
        "mock_request_api_key": (int16, (pointer,)),
        "mock_request_timestamp": (ctypes.c_int64, (pointer,)),
        "mock_request_destroy_array": (None, (ctypes.POINTER(pointer), ctypes.c_size_t)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"rd_kafka_{name}")
        function.restype = result
        function.argtypes = arguments
    return library


def _new_client(library: Any) -> int:
    """A client that never connects: the cluster needs one for its timers and its log, and runs on its own thread."""
    text = ctypes.create_string_buffer(_ERROR_TEXT_BYTES)
    settings = library.rd_kafka_conf_new()
    if library.rd_kafka_conf_set(settings, b"log_level", b"3", text, _ERROR_TEXT_BYTES):
        raise RuntimeError(f"librdkafka refused log_level: {text.value.decode()}")
    client: int | None = library.rd_kafka_new(_PRODUCER, settings, text, _ERROR_TEXT_BYTES)
    if not client:
        raise RuntimeError(f"librdkafka could not start a client: {text.value.decode()}")
    return client


def main(arguments: Sequence[str] | None = None) -> int:
    """A mock cluster in a process of its own: prints `{"bootstrap": ...}` as one line and serves until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.embedded.mock_kafka", description=main.__doc__)
    parser.add_argument("--brokers", type=int, default=1)
    parser.add_argument("--topic", action="append", default=[], metavar="NAME:PARTITIONS")
    options = parser.parse_args(arguments)
    topics = {name: int(count) for name, _, count in (topic.rpartition(":") for topic in options.topic)}
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    with MockKafka(options.brokers, topics) as kafka:
        print(json.dumps({"bootstrap": kafka.bootstrap}), flush=True)
        signal.sigwait(stops)
    return 0


if __name__ == "__main__":
    sys.exit(main())
