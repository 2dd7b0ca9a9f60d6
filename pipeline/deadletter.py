"""The dead-letter topic: every reject, acknowledged by all in-sync replicas before it counts as written.

It owns the producer, the search for letters that are there already, and the limit on the share of rejects. It never
decides what is a reject and never reads the value of a letter. The form of a letter is in `letter`.

librdkafka's idempotent producer with an endless delivery time does the ordinary retries: in order, and once. What is left
for this module is what librdkafka gives up on: a missing topic (waits, loudly), a letter too large for the topic (a
pointer takes its place), a fatal error of the producer (a new one; the topic is searched for the letters whose fate is
open, so that they are not written twice), a topic that was deleted and made anew (a new producer too: the old one takes
the new topic's leader epochs for outdated and waits for ever), and what an operator must mend (stops).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, NamedTuple, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from pipeline.clock import Clock
from pipeline.config.schema import Kafka
from pipeline.errors import ConfigurationError, DependencyDown, PipelineStopped, Problem, RejectLimitExceeded
from pipeline.kafka import Clients, Troubles, properties, trouble_of
from pipeline.kafka import log as kafka_log
from pipeline.letter import Message, message, pointer, record_of, stage_of
from pipeline.patience import Patience, Stopping
from pipeline.types import DeadLetter, Partition, Span

QUEUE_KBYTES_MAX = 64 * 1024
"""Letters handed to librdkafka and not acknowledged yet (`queue.buffering.max.kbytes`)."""
POLL_S = 0.2
QUIET_S = 5.0
"""Without an acknowledgement for this long a wait becomes visible."""
TOPIC_ID_S_MAX = 2.0
SEARCH_QUIET_S_MAX = 30.0
"""Without a record for this long a search begins again."""
SEARCH_RECORDS = 1_000
SKEW_MS = 300_000
"""Clocks of workers and brokers may differ by this much when letters are searched by time."""

Show = Callable[[str, int], None]

_NOT_WRITTEN: frozenset[int] = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError._QUEUE_FULL,
    }
)
"""The letter is certainly not in the topic, and a later try may succeed."""

_PERHAPS_WRITTEN: frozenset[int] = frozenset(
    {
        KafkaError._MSG_TIMED_OUT,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._DESTROY,
        KafkaError._FATAL,
        KafkaError._GAPLESS_GUARANTEE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.DUPLICATE_SEQUENCE_NUMBER,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.PRODUCER_FENCED,
    }
)
"""Nobody knows: the topic is searched for the letter before it is sent again."""

_BROKEN = frozenset({KafkaError._FATAL, KafkaError._DESTROY})
"""A new producer is needed. `_DESTROY`: the partition that the letter waited for is gone, the topic may be made anew."""

_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_MISSING_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})

_NEXT_STEP: Mapping[int, str] = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Grant this user WRITE and DESCRIBE on the topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "Grant this user IDEMPOTENT_WRITE on the cluster",
    KafkaError.INVALID_RECORD: "A compacted topic takes no letter without a key: set its cleanup.policy to delete",
    KafkaError.POLICY_VIOLATION: "Look up the broker's policy for records of this topic",
    KafkaError.INVALID_TIMESTAMP: "Set the topic's message.timestamp.type to LogAppendTime",
}


class Failure(NamedTuple):
    """Why librdkafka gave one message back. `place` is its index among those sent."""

    place: int
    code: int
    name: str
    fatal: bool


class Metrics(Protocol):
    """What the dead letters count."""

    def retried(self, error_class: str) -> None: ...


class DeadLetters:
    """Writes to one dead-letter topic and searches it. Thread-safe; each call blocks its thread.

    During an outage calls wait without end and say so in `waiting`. They raise Stopping as soon as the worker stops, and
    PipelineStopped for what an operator must mend (rights, an unsuitable topic).
    """

    def __init__(
        self,
        kafka: Kafka,
        topic: str,
        clock: Clock,
        metrics: Metrics,
        *,
        pipeline: str,
        stopping: threading.Event,
        random: Random,
        clients: Clients,
        wait_ms_max: int = 10_000,
    ) -> None:
        self._kafka = kafka
        self._clients = clients
        self._topic = topic
        self._clock = clock
        self._pipeline = pipeline
        self._patience = Patience(clock, stopping, random, metrics, wait_ms_max=wait_ms_max)
        self._lock = threading.Lock()
        self._troubles = Troubles()
        self._producer: Producer | None = None
        self._topic_id = ""
        """Of the topic the producer knows; '' when it could not be asked."""
        self._closed = False

    @property
    def waiting(self) -> str:
        """What has waited longest for the dead-letter topic, why and for how long; empty when nothing waits."""
        return self._patience.described

    def check(self) -> None:
        """Raises ConfigurationError when the topic is missing, DependencyDown when no broker answers."""
        cluster = self._clients.cluster(self._kafka)
        try:
            exists = cluster.topic_exists(self._topic)
        finally:
            cluster.close()
        if not exists:
            raise ConfigurationError(
                [Problem("dead_letters.topic", self._topic, "there is no such topic", f"Create it: {self._creation()}")]
            )

    def write(self, letters: Sequence[DeadLetter]) -> None:
        """Returns when every letter, or a pointer in its place, is acknowledged by all in-sync replicas."""
        since_ms = self._clock.wall_ms() - SKEW_MS
        with self._patience.visibly(f"writing to the dead-letter topic {self._topic}") as show:
            # A message that is too large takes others of its request with it: each is tried again alone.
            for letter in self._write(letters, message, since_ms, show):
                if not self._write([letter], message, since_ms, show):
                    continue
                if self._write([letter], pointer, since_ms, show):
                    raise PipelineStopped(
                        f"the dead-letter topic {self._topic} refuses even a letter without a value as too large. "
                        "Raise its max.message.bytes to 65536 at least"
                    )

    def written(self, spans: Sequence[Span], since_ms: int) -> dict[tuple[Partition, int], str]:
        """The records of the spans with a letter of this pipeline, written at `since_ms` or later, and the stage of each.

        Reads headers only.
        """
        ranges: dict[Partition, list[tuple[int, int]]] = {}
        for partition, first, next_offset in spans:
            ranges.setdefault(partition, []).append((first, next_offset))

        def inside(partition: Partition, offset: int) -> bool:
            return any(first <= offset < next_offset for first, next_offset in ranges.get(partition, ()))

        return self._found(inside, since_ms)

    def close(self) -> None:
        """Lets go of the producer. Letters whose `write` has not returned are given up; they never counted as written."""
        with self._lock:
            producer, self._producer, self._closed = self._producer, None, True
        if producer is not None:
            _give_up(producer)

    # -- sending -------------------------------------------------------------------------------------------------------

    def _write(
        self, letters: Sequence[DeadLetter], form: Callable[[DeadLetter, str], Message], since_ms: int, show: Show
    ) -> list[DeadLetter]:
        """Sends until each letter is acknowledged; returns those that are refused as too large."""
        todo, large, attempts = list(letters), [], 0
        while todo:
            failures = self._send([partial(form, letter, self._pipeline) for letter in todo], show)
            large += [todo[failure.place] for failure in failures if failure.code in _TOO_LARGE]
            failures = [failure for failure in failures if failure.code not in _TOO_LARGE]
            if not failures:
                break
            self._stop_unless_passing(failures)
            attempts += 1
            missing = failures[0].code in _MISSING_TOPIC
            show(f"the topic is missing; create it: {self._creation()}" if missing else failures[0].name, attempts)
            self._patience.pause(attempts, "missing_topic" if missing else "kafka")
            there = self._arrived([todo[f.place] for f in failures if f.code in _PERHAPS_WRITTEN], since_ms)
            todo = [todo[f.place] for f in failures if _record(todo[f.place]) not in there]
        return large

    def _send(self, messages: Sequence[Callable[[], Message]], show: Show) -> list[Failure]:
        """Hands messages to librdkafka and waits until each is acknowledged or given back; returns the latter."""
        producer = self._open()
        outcomes: dict[int, Failure | None] = {}
        wait = _AcknowledgementWait(
            producer,
            self._clock,
            self._patience,
            self._troubles,
            show,
            made_anew=self._topic_made_anew,
            discarded=lambda: self._producer is not producer,
        )
        try:
            for index, make in enumerate(messages):
                one = make()
                while not self._hand_over(producer, one, index, outcomes):
                    wait.once(len(outcomes))
            while len(outcomes) < len(messages):
                wait.once(len(outcomes))
        except BaseException:
            # Nobody waits for these any more; recovery asks the topic whether they arrived.
            producer.purge()
            raise
        failures = sorted(failure for failure in outcomes.values() if failure is not None)
        if wait.fatal or any(failure.fatal for failure in failures):
            self._discard(producer)
        return failures

    def _hand_over(self, producer: Producer, one: Message, index: int, outcomes: dict[int, Failure | None]) -> bool:
        """False when the queue is full. What librdkafka refuses at once is an outcome like any other."""

        def delivered(error: KafkaError | None, _: object) -> None:
            outcomes[index] = None if error is None else _failure(index, error)

        try:
            producer.produce(self._topic, on_delivery=delivered, **one)
        except BufferError:
            if len(producer):
                return False
            # The queue is empty and yet has no room for this one.
            outcomes[index] = Failure(index, KafkaError.MSG_SIZE_TOO_LARGE, "MSG_SIZE_TOO_LARGE", False)
        except KafkaException as exception:
            outcomes[index] = _failure(index, exception.args[0])
        return True

    def _stop_unless_passing(self, failures: Sequence[Failure]) -> None:
        """Raises PipelineStopped for what waiting does not cure."""
        trouble = self._troubles.last
        if trouble is not None and trouble.lasting and any(failure.code in _PERHAPS_WRITTEN for failure in failures):
            step = _NEXT_STEP.get(trouble.code, "")
            raise PipelineStopped(f"dead-letter topic {self._topic}: {trouble.message(self._kafka.brokers)}. {step}")
        for failure in failures:
            if failure.code not in _NOT_WRITTEN and failure.code not in _PERHAPS_WRITTEN:
                step = _NEXT_STEP.get(failure.code, "Look the error up in the brokers' documentation")
                raise PipelineStopped(f"the dead-letter topic {self._topic} refuses letters: {failure.name}. {step}")

    def _open(self) -> Producer:
        with self._lock:
            if self._closed:
                raise Stopping("the dead letters are closed")
            if self._producer is None:
                conf: dict[str, Any] = dict(properties(self._kafka, "producer"))
                conf |= {"delivery.timeout.ms": 0, "queue.buffering.max.kbytes": QUEUE_KBYTES_MAX}
                # A missing topic is given back after this long, and then named; 30 s otherwise.
                conf |= {"topic.metadata.propagation.max.ms": 5_000, "error_cb": self._troubles}
                self._troubles.last = None
                self._topic_id = self._present_topic_id()
                self._producer = self._clients.producer(conf, logger=kafka_log)
            return self._producer

    def _topic_made_anew(self) -> bool:
        """Whether there is another topic of this name now than when the producer was made."""
        present = self._present_topic_id()
        return present not in ("", self._topic_id)

    def _present_topic_id(self) -> str:
        cluster = self._clients.cluster(self._kafka, timeout_s=TOPIC_ID_S_MAX)
        try:
            return cluster.topic_ids([self._topic])[self._topic]
        except DependencyDown:
            return ""
        finally:
            cluster.close()

    def _discard(self, broken: Producer) -> None:
        """An idempotent producer takes nothing more after a fatal error; the next `_open` makes another."""
        with self._lock:
            if self._producer is broken:
                self._producer = None
        _give_up(broken)

    def _creation(self) -> str:
        return (
            f"kafka-topics.sh --bootstrap-server {self._kafka.brokers} --create --topic {self._topic} "
            "--partitions 3 --replication-factor 3"
        )

    # -- searching -----------------------------------------------------------------------------------------------------

    def _arrived(self, letters: Sequence[DeadLetter], since_ms: int) -> set[tuple[Partition, int]]:
        """Which of these letters, given back with their fate unknown, are in the topic."""
        records = {_record(letter) for letter in letters}
        # A letter carries the time of its sending, and the clock may have been set back since the first of them.
        since_ms = min(since_ms, self._clock.wall_ms() - SKEW_MS)
        return (
            set(self._found(lambda partition, offset: (partition, offset) in records, since_ms)) if records else set()
        )

    def _found(self, wanted: Callable[[Partition, int], bool], since_ms: int) -> dict[tuple[Partition, int], str]:
        def search() -> dict[tuple[Partition, int], str]:
            return {record: stage for record, stage in self._search(since_ms) if wanted(*record)}

        def outage(error: Exception) -> tuple[str, str] | None:
            return ("kafka", str(error)) if isinstance(error, DependencyDown) else None

        return self._patience.until_done(f"searching the dead-letter topic {self._topic}", search, outage)

    def _search(self, since_ms: int) -> Iterator[tuple[tuple[Partition, int], str]]:
        """The records that letters of this pipeline stand for, and their stages, from `since_ms` to the end of the topic.

        Raises DependencyDown when the brokers fall silent, after which the search begins anew.
        """
        bounds = self._bounds(since_ms)
        conf: dict[str, Any] = {**properties(self._kafka, "source"), "error_cb": self._troubles}
        consumer = self._clients.consumer(conf, logger=kafka_log)
        try:
            consumer.assign([TopicPartition(self._topic, number, first) for number, (first, _) in bounds.items()])
            heard_s = self._clock.monotonic_s()
            while bounds:
                self._patience.check()
                messages = consumer.consume(SEARCH_RECORDS, POLL_S)
                if messages:
                    heard_s = self._clock.monotonic_s()
                elif self._clock.monotonic_s() - heard_s > SEARCH_QUIET_S_MAX:
                    raise DependencyDown(f"no records of {self._topic} for {SEARCH_QUIET_S_MAX:.0f} s")
                for one in messages:
                    number, error = one.partition(), one.error()
                    if error is not None and error.code() != KafkaError._PARTITION_EOF:
                        raise DependencyDown(trouble_of(error).message(self._kafka.brokers))
                    if error is None and (record := record_of(one.headers(), self._pipeline)) is not None:
                        yield record, stage_of(one.headers())
                    if number in bounds and (error is not None or _offset(one) + 1 >= bounds[number][1]):
                        del bounds[number]
        finally:
            consumer.close()

    def _bounds(self, since_ms: int) -> dict[int, tuple[int, int]]:
        """For each partition with letters since then: the first offset to read, and the end."""
        cluster = self._clients.cluster(self._kafka)
        try:
            partitions = [Partition(self._topic, number) for number in range(cluster.topic_partitions(self._topic))]
            marks = cluster.watermarks(partitions)
            # librdkafka's mock cluster answers every time with "none so late": there everything is read.
            mock = cluster.cluster_id().startswith("mockCluster")
            first = {} if mock else cluster.offsets_for_times(dict.fromkeys(partitions, since_ms))
        finally:
            cluster.close()
        bounds = {p.number: (max(first.get(p, low), low), end) for p, (low, end) in marks.items()}
        return {number: (low, end) for number, (low, end) in bounds.items() if low < end}


class _AcknowledgementWait:
    """Serves librdkafka's callbacks, and says why when they do not come."""

    def __init__(
        self,
        producer: Producer,
        clock: Clock,
        patience: Patience,
        troubles: Troubles,
        show: Show,
        *,
        made_anew: Callable[[], bool],
        discarded: Callable[[], bool],
    ) -> None:
        self._producer = producer
        self._made_anew = made_anew
        self._discarded = discarded
        self._clock = clock
        self._patience = patience
        self._troubles = troubles
        self._show = show
        self.fatal = False
        """The producer is broken for good."""
        self._done = -1
        self._heard_s = clock.monotonic_s()
        self._shown = 0

    def once(self, done: int) -> None:
        """Waits a moment. `done` is how many messages have an outcome; raises Stopping when the worker stops."""
        try:
            self._producer.poll(POLL_S)
        except KafkaException as exception:
            if not exception.args[0].fatal():
                raise
            self._troubles(exception.args[0])
            self._give_up()
        self._patience.check()
        if self._discarded():
            # Another thread heard that it is broken, and letters of this one may have come in after that one's purge.
            self._give_up()
        now_s = self._clock.monotonic_s()
        if done != self._done:
            self._done, self._heard_s = done, now_s
        elif now_s - self._heard_s >= QUIET_S * (self._shown + 1):
            self._shown += 1
            trouble = self._troubles.last
            self._show("no acknowledgement" if trouble is None else f"{trouble.name}: {trouble.reason}", self._shown)
            if self._made_anew():
                self._give_up()

    def _give_up(self) -> None:
        """librdkafka gives back what waits in its queue by itself, sometimes; this makes it give back everything."""
        self.fatal = True
        self._producer.purge()


def _give_up(producer: Producer) -> None:
    producer.purge()
    producer.flush(1.0)


def _failure(index: int, error: KafkaError) -> Failure:
    return Failure(index, error.code(), error.name(), error.fatal() or error.code() in _BROKEN)


def _offset(one: Any) -> int:
    """Typed as optional; a record that was read and an end of a partition always have one."""
    return int(one.offset())


def _record(letter: DeadLetter) -> tuple[Partition, int]:
    return letter.partition, letter.offset


class RatioLimit:
    """Stops the pipeline before a bad deploy drains a topic into the dead letters. Not thread-safe.

    Looks at the last `records_max` records, as they are added; more rejects among them than `ratio_max` allows raise
    RejectLimitExceeded. With fewer records seen than that, the same number of rejects is allowed, so that the first
    reject of a new worker does not stop it.
    """

    def __init__(self, ratio_max: float, records_max: int) -> None:
        self._ratio_max = ratio_max
        self._records_max = records_max
        self._runs: deque[tuple[int, int]] = deque()
        self._records = 0
        self._rejects = 0

    def add(self, records: int, rejects: int) -> None:
        """Takes note of `records` in a row, `rejects` of which were rejected. Raises RejectLimitExceeded."""
        if not records:
            return
        if records > self._records_max:
            # Only the last of them count, and where in the run the rejects were is not known.
            records, rejects = self._records_max, round(rejects * self._records_max / records)
        self._runs.append((records, rejects))
        self._records += records
        self._rejects += rejects
        while self._records - self._runs[0][0] >= self._records_max:
            old_records, old_rejects = self._runs.popleft()
            self._records -= old_records
            self._rejects -= old_rejects
        if self._rejects > self._ratio_max * max(self._records, self._records_max):
            raise RejectLimitExceeded(
                f"{self._rejects} of the last {self._records} records were rejected, more than dead_letters.ratio_max = "
                f"{self._ratio_max} of {self._records_max} allows. Look at the newest dead letters: a producer or the "
                "contract has changed; raise the ratio or set it to 1 to go on as it is"
            )
