"""Reads records from given positions, through confluent-kafka or the native reader; never joins a group, never commits."""

from __future__ import annotations

import logging
import threading
from array import array
from collections.abc import Iterable, Sequence
from itertools import compress, groupby
from operator import itemgetter
from typing import Any, NamedTuple, cast

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition, cimpl

from pipeline.config.schema import Kafka
from pipeline.errors import SourceError, invariant
from pipeline.kafka import Trouble, Troubles, Unrepeated, properties, trouble_of
from pipeline.native import Reader, bind
from pipeline.types import Headers, Partition, PartitionEnd, Records, Source, SourceEvent, SourceFault

log = logging.getLogger("penstock.source")
log.addFilter(Unrepeated())

POLL_SLICE_S = 0.1
"""A close from another thread waits at the most this long for a poll to return."""

READER_RECORDS_MAX = 100_000
"""Room for the messages of one native poll; a poll that asks for more gets this many."""

_LEVELS = (50, 50, 50, 40, 30, 20, 20, 10)
"""Syslog level, as librdkafka logs, to Python's."""

_TRANSIENT = frozenset(
    {
        # librdkafka keeps trying after these by itself; the log says so, the partition is not at fault
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._RETRY,
        KafkaError._WAIT_COORD,
        KafkaError._IN_PROGRESS,
        KafkaError._NODE_UPDATE,
        KafkaError._DESTROY_BROKER,
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError.FETCH_SESSION_ID_NOT_FOUND,
        KafkaError.INVALID_FETCH_SESSION_EPOCH,
    }
)


class Signal(NamedTuple):
    """What librdkafka put in the place of a record: an error or the end of a partition. `topic` is '' for the whole client."""

    topic: str
    number: int
    offset: int
    code: int
    name: str
    text: str


class Reading:
    """The positions of one assignment. Turns signals into events and refuses what the protocol excludes."""

    def __init__(self, *, end_events: bool) -> None:
        self._end_events = end_events
        self._next: dict[Partition, int] = {}

    def restart(self, positions: dict[Partition, int]) -> None:
        invariant(all(position >= 0 for position in positions.values()), "a source position is below zero")
        self._next = dict(positions)

    def events(self, runs: Iterable[Records], signals: Iterable[Signal]) -> list[SourceEvent]:
        """Records first, then ends and faults, so that an end never precedes the records before it."""
        result: list[SourceEvent] = []
        for run in runs:
            expected = self._next.get(run.partition)
            if expected is None:
                # librdkafka discards what belongs to an earlier assignment; this only guards against that failing.
                log.warning("records of %s came out, which is not assigned; ignored", run.partition)
            elif run.offsets[0] < expected:
                result.append(_went_back(run, expected))
            else:
                self._next[run.partition] = run.next_offset
                result.append(run)
        for signal in signals:
            result.extend(self._event(signal))
        return result

    def faults(self, trouble: Trouble) -> list[SourceEvent]:
        """Errors of the whole client, of which some are about one partition and say so at the start of their text only.

        (librdkafka, rd_kafka_toppar_enq_error: "TOPIC [PARTITION]: reason". A missing topic is reported like this.)
        """
        if trouble.code in _TRANSIENT:
            return []
        return [
            SourceFault(partition, -1, trouble.code, trouble.name, trouble.reason)
            for partition in self._next
            if trouble.reason.startswith(f"{partition.topic} [{partition.number}]:")
        ]

    def _event(self, signal: Signal) -> Iterable[SourceEvent]:
        partition = Partition(signal.topic, signal.number)
        if signal.code in _TRANSIENT:
            log.warning("%s (%s), still trying: %s", signal.name, signal.topic or "client", signal.text)
        elif not signal.topic:
            # Nothing says which partition: as for all of them.
            for assigned in self._next:
                yield SourceFault(assigned, -1, signal.code, signal.name, signal.text)
        elif partition not in self._next:
            log.warning("%s for %s, which is not assigned; ignored", signal.name, partition)
        elif signal.code != KafkaError._PARTITION_EOF:
            yield SourceFault(partition, signal.offset, signal.code, signal.name, signal.text)
        elif self._end_events and signal.offset >= self._next[partition]:
            yield PartitionEnd(partition, signal.offset)


def _went_back(run: Records, expected: int) -> SourceFault:
    detail = f"offset {run.offsets[0]} came after {expected - 1}: the log was truncated below what was read"
    return SourceFault(run.partition, run.offsets[0], KafkaError._LOG_TRUNCATION, "_LOG_TRUNCATION", detail)


class ConfluentRecords:
    """A run of records over confluent-kafka's messages; keys and headers stay inside them until asked for."""

    __slots__ = (
        "_messages",
        "largest_bytes",
        "nbytes",
        "next_offset",
        "offsets",
        "oldest_ms",
        "partition",
        "timestamps",
        "values",
    )

    def __init__(self, partition: Partition, messages: Sequence[Any]) -> None:
        self.partition = partition
        self._messages = messages
        self.offsets: array[int] = array("q", map(Message.offset, messages))  # type: ignore[arg-type]
        self.timestamps: array[int] = array("q", map(itemgetter(1), map(Message.timestamp, messages)))
        self.values: list[bytes | None] = list(map(Message.value, messages))
        self.next_offset: int = self.offsets[-1] + 1
        lengths = list(map(len, filter(None, self.values)))
        self.nbytes = sum(lengths)
        self.largest_bytes = max(lengths, default=0)
        self.oldest_ms: int = min(self.timestamps)

    def __len__(self) -> int:
        return len(self._messages)

    def value(self, index: int) -> bytes | None:
        return self.values[index]

    def key(self, index: int) -> bytes | None:
        key: bytes | None = self._messages[index].key()
        return key

    def headers(self, index: int) -> Headers:
        headers: Headers = self._messages[index].headers() or ()
        return headers


class ConfluentSource:
    """The source over confluent-kafka's `Consumer.consume`. One thread at a time; `close` may come from another."""

    def __init__(self, config: Kafka, *, end_events: bool = True, logger: logging.Logger = log) -> None:
        self._reading = Reading(end_events=end_events)
        self._lock = threading.Lock()
        self._closing = False
        self._faults: list[SourceEvent] = []
        self.troubles = Troubles()
        conf: dict[str, Any] = {**properties(config, "source"), "error_cb": self._on_error}
        self._consumer: Any = Consumer(conf, logger=logger)

    def assign(self, positions: dict[Partition, int]) -> None:
        with self._lock:
            self._check_open()
            self._reading.restart(positions)
            self._consumer.assign([TopicPartition(p.topic, p.number, offset) for p, offset in positions.items()])

    def poll(self, records_max: int, timeout_s: float) -> list[SourceEvent]:
        with self._lock:
            self._check_open()
            # `consume` waits until it has as many as asked for, so first take what is there, then wait for one.
            messages = self._consumer.consume(records_max, 0)
            while not messages and timeout_s > 0 and not self._closing:
                messages = self._consumer.consume(1, min(timeout_s, POLL_SLICE_S))
                timeout_s -= POLL_SLICE_S
                if messages and records_max > 1:
                    messages += self._consumer.consume(records_max - 1, 0)
            faults, self._faults = self._faults, []
            return self._reading.events(*_split(messages)) + faults

    def _on_error(self, error: KafkaError) -> None:
        """Called by `consume`, in the thread that polls."""
        self.troubles(error)
        self._faults += self._reading.faults(trouble_of(error))

    def close(self) -> None:
        self._closing = True
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None

    def _check_open(self) -> None:
        if self._consumer is None:
            raise SourceError("the source is closed; a read after the close is a mistake of the caller")


def _split(messages: list[Any]) -> tuple[list[ConfluentRecords], list[Signal]]:
    """Messages as runs by partition, and what were not records."""
    errors = list(map(Message.error, messages))
    signals: list[Signal] = []
    if any(errors):
        signals = [_signal(message) for message in compress(messages, errors)]
        messages = [message for message in messages if message.error() is None]
    by_partition: dict[Any, list[Any]] = {}
    places = zip(map(Message.topic, messages), map(Message.partition, messages), strict=True)
    start = 0
    for place, group in groupby(places):
        end = start + sum(1 for _ in group)
        by_partition.setdefault(place, []).extend(messages[start:end])
        start = end
    return [ConfluentRecords(Partition(*place), found) for place, found in by_partition.items()], signals


def _signal(message: Any) -> Signal:
    error = message.error()
    partition = -1 if message.partition() is None else message.partition()
    offset = -1 if message.offset() is None else message.offset()
    return Signal(message.topic() or "", partition, offset, error.code(), error.name(), error.str())


class NativeSource:
    """The source over librdkafka's C API: no object per record but its value. One thread at a time; `close` from any."""

    def __init__(self, config: Kafka, *, end_events: bool = True, logger: logging.Logger = log) -> None:
        self._reading = Reading(end_events=end_events)
        self._lock = threading.Lock()
        self._closing = False
        self._log = logger
        self.troubles = Troubles()
        self._reader: Reader | None = open_reader(config)

    def assign(self, positions: dict[Partition, int]) -> None:
        with self._lock:
            reader = self._open()
            self._reading.restart(positions)
            reader.assign([(partition.topic, partition.number, offset) for partition, offset in positions.items()])

    def poll(self, records_max: int, timeout_s: float) -> list[SourceEvent]:
        with self._lock:
            reader = self._open()
            runs, signals = reader.poll(records_max, 0 if self._closing else int(timeout_s * 1000))
            for run in runs:
                run.partition = Partition(run.topic, run.number)
            result = self._reading.events(cast("list[Records]", runs), map(Signal._make, signals))
            for event in reader.events():
                result += self._reported(*event)
            return result

    def _reported(self, code: int, level: int, facility: str, text: str) -> list[SourceEvent]:
        """A log line (code 0) or an error of the client."""
        self._log.log(_LEVELS[level], "%s %s", facility, text)
        if code == 0:
            return []
        trouble = Trouble(code, facility, text)
        self.troubles.note(trouble)
        return self._reading.faults(trouble)

    def close(self) -> None:
        self._closing = True
        if self._reader is not None:
            self._reader.interrupt()
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    def _open(self) -> Reader:
        if self._reader is None:
            raise SourceError("the source is closed; a read after the close is a mistake of the caller")
        return self._reader


def open_reader(config: Kafka) -> Reader:
    """The native reader by itself, with the properties of a source."""
    bind(cimpl.__file__)
    return Reader(properties(config, "source"), READER_RECORDS_MAX)


def open_source(config: Kafka, *, end_events: bool = True, logger: logging.Logger = log) -> Source:
    """The source that `kafka.reader` names. Nothing is read until `assign`."""
    kind = NativeSource if config.reader == "native" else ConfluentSource
    return kind(config, end_events=end_events, logger=logger)
