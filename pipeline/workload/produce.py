"""Sends a workload into a topic so that each record's offset is the offset it was made for. It never reads a record back."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pipeline.config.schema import Kafka
from pipeline.errors import DependencyDown, GaveUp, PenstockError
from pipeline.kafka import Cluster, Troubles, log, properties, trouble_of
from pipeline.types import Partition
from pipeline.workload.make import BLOCK_RECORDS, START_MS, STEP_MS, Generator, Made, Outcome

SAMPLE_EVERY = 64
"""One record in this many, and the last of every run, asks for a delivery report: it is timed and its offset is checked."""
QUEUE_BYTES_MAX = 64 * 1024 * 1024
LINGER_MS = 20
"""Unless `kafka.librdkafka` has its own: full message sets are cheaper for everybody."""
BURST_S = 0.05
"""How much of a second's rate may be sent at once."""
IDLE_S = 0.01
COUNT_RECORDS = 64 * BLOCK_RECORDS
"""How many fates are looked at at a time."""

Horizon = Callable[[], Mapping[int, int] | None]
"""Partition -> the offset that may not be reached yet; None: no limit."""


class Latency(NamedTuple):
    """Time from handing a record to the client until its acknowledgement, in milliseconds, of the sampled records."""

    samples: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Histogram:
    """Durations in buckets that grow by 2 %, so that memory does not grow with their number."""

    GROWTH = math.log(1.02)

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._count = 0
        self._max_s = 0.0

    def add(self, seconds: float) -> None:
        bucket = int(math.log(max(seconds, 1e-6) / 1e-6) / self.GROWTH)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self._count += 1
        self._max_s = max(self._max_s, seconds)

    def quantile_s(self, share: float) -> float:
        """The upper edge of the bucket that holds this share of all durations."""
        left = share * self._count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min(self._max_s, 1e-6 * math.exp((bucket + 1) * self.GROWTH))
        return self._max_s

    def summary(self) -> Latency:
        p50, p99 = (round(self.quantile_s(share) * 1000, 3) for share in (0.5, 0.99))
        return Latency(self._count, p50, p99, round(self._max_s * 1000, 3))


@dataclass
class Produced:
    """What a run of the feed sent. `first` and `next` are offsets by partition."""

    first: dict[int, int]
    next: dict[int, int]
    nbytes: int
    seconds: float
    latency: Latency

    @property
    def events(self) -> int:
        return sum(self.next.values()) - sum(self.first.values())


class TokenBucket:
    """Lets `rate` records a second through, with bursts of a twentieth of a second. A rate of 0 lets everything through."""

    def __init__(self, rate: float, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._now = now
        self._last_s = now()
        self._burst = max(1.0, rate * BURST_S)
        self._tokens = 1.0

    def take(self, wanted: int) -> int:
        """How many of the wanted records may go now."""
        if self._rate <= 0:
            return wanted
        now_s = self._now()
        self._tokens = min(self._burst, self._tokens + (now_s - self._last_s) * self._rate)
        self._last_s = now_s
        granted = min(wanted, int(self._tokens))
        self._tokens -= granted
        return granted


class Pace:
    """Keeps a producer at the most `ahead` records per partition before what a group has committed.

    The mock cluster keeps 5 MiB a partition and drops older records silently, so a producer that runs away would make
    them unreadable. Asks the coordinator at the most every `interval_s`.
    """

    def __init__(self, cluster: Cluster, partitions: Sequence[Partition], ahead: int, interval_s: float = 0.05) -> None:
        self._cluster = cluster
        self._partitions = partitions
        self._ahead = ahead
        self._interval_s = interval_s
        self._asked_s = -math.inf
        self._horizon = {partition.number: ahead for partition in partitions}

    def __call__(self) -> Mapping[int, int]:
        now_s = time.monotonic()
        if now_s - self._asked_s >= self._interval_s:
            self._asked_s = now_s
            try:
                found = self._cluster.committed(self._partitions)
            except DependencyDown as error:
                # The producer waits where it is, and asks again.
                log.warning("cannot read the committed offsets: %s", error)
            else:
                self._horizon = {one.number: max(0, offset) + self._ahead for one, (offset, _) in found.items()}
        return self._horizon


class Feed:
    """Sends what a generator makes, once. `run` in one thread; `stop` and `abandon` end it early from any other."""

    def __init__(
        self,
        kafka: Kafka,
        topic: str,
        generator: Generator,
        *,
        rate: float = 0.0,
        wall_clock: bool = True,
        compression: str = "zstd",
        horizon: Horizon | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        """`wall_clock` dates records now (late ones hours ago) instead of at the event time they were made with.

        `timeout_s` is how long a broker may keep a record unacknowledged before the feed gives up.
        """
        self._kafka = kafka
        self._topic = topic
        self._generator = generator
        self._bucket = TokenBucket(rate)
        self._rate = rate
        self._wall_clock = wall_clock
        self._horizon = horizon
        self._stopping = threading.Event()
        self._latency = Histogram()
        self._turn = 0
        self._failure: PenstockError | None = None
        self._nbytes = 0
        self._troubles = Troubles()
        settings: dict[str, Any] = {
            "linger.ms": LINGER_MS,
            **properties(kafka, "producer"),
            "compression.type": compression,
            "queue.buffering.max.messages": 500_000,
            "queue.buffering.max.kbytes": QUEUE_BYTES_MAX // 1024,
            "message.timeout.ms": int(timeout_s * 1000),
            "error_cb": self._troubles,
        }
        self._producer: Any = Producer(settings, logger=log)

    def run(self, ends: Mapping[int, int], firsts: Mapping[int, int], progress: Callable[[int], None]) -> Produced:
        """Sends the offsets `[firsts[p], ends[p])` of each partition; `firsts` must be where each partition ends now.

        `progress` gets the number of records handed over since its last call. Raises GaveUp when the brokers take no
        record for the allowed time, DependencyDown when they refuse one, or when somebody else writes to the topic.
        """
        try:
            return self._run(ends, firsts, progress)
        finally:
            # Without it the client would look for its brokers, and log, for as long as a traceback holds this.
            self._producer.purge()
            self._producer.close()

    def stop(self) -> None:
        """Nothing more is sent; `run` returns when what was is acknowledged."""
        self._stopping.set()

    def abandon(self) -> None:
        """`run` raises GaveUp at once; what is not acknowledged is given up."""
        self._failure = self._failure or GaveUp(f"{self._topic}: sending was given up")
        self._stopping.set()

    def _run(self, ends: Mapping[int, int], firsts: Mapping[int, int], progress: Callable[[int], None]) -> Produced:
        at, started_s = dict(firsts), time.monotonic()
        while not self._stopping.is_set():
            open_ = [number for number, end in ends.items() if at[number] < end]
            if not open_:
                break
            sent = self._round(at, ends, open_)
            self._producer.poll(0 if sent else self._wait_s())
            self._raise_failure()
            progress(sent)
        self._drain()
        return Produced(dict(firsts), at, self._nbytes, time.monotonic() - started_s, self._latency.summary())

    def _wait_s(self) -> float:
        """Until the next record of a slow rate is due."""
        return max(IDLE_S, min(0.2, 1.0 / self._rate)) if self._rate > 0 else IDLE_S

    def _round(self, at: dict[int, int], ends: Mapping[int, int], open_: list[int]) -> int:
        """One run of records to each partition that may have some."""
        horizon = self._horizon() if self._horizon is not None else None
        share = self._share(len(open_))
        total = 0
        # Another one comes first each time: at a slow rate the first would get most of what there is.
        self._turn += 1
        first = self._turn % len(open_)
        for number in open_[first:] + open_[:first]:
            edge = ends[number] if horizon is None else min(ends[number], horizon[number])
            # To the end of the generator's block: the next run begins with a new one.
            wanted = min(share, edge - at[number], BLOCK_RECORDS - at[number] % BLOCK_RECORDS)
            granted = self._bucket.take(wanted) if wanted > 0 else 0
            if granted:
                self._send(number, at[number], granted)
                at[number] += granted
                total += granted
        return total

    def _share(self, partitions: int) -> int:
        """At a low rate each partition gets its part of a burst; otherwise the first would get all."""
        if self._rate <= 0:
            return BLOCK_RECORDS
        return max(1, min(BLOCK_RECORDS, int(self._rate * BURST_S / partitions)))

    def _send(self, number: int, first: int, count: int) -> None:
        shift = time.time_ns() // 1_000_000 - START_MS if self._wall_clock else None
        last = first + count - 1
        records = self._generator.records(number, first, count)
        for offset, record in enumerate(records, first):
            callback = None
            if offset == last or offset % SAMPLE_EVERY == 0:
                callback = partial(self._delivered, offset)
            timestamp = record.timestamp_ms if shift is None else record.timestamp_ms - offset * STEP_MS + shift
            self._hand_over(number, record, timestamp, callback)

    def _hand_over(self, number: int, record: Made, timestamp_ms: int, callback: Any) -> None:
        arguments: dict[str, Any] = {"timestamp": timestamp_ms}
        if callback is not None:
            arguments["on_delivery"] = callback
        if record.headers:
            arguments["headers"] = list(record.headers)
        while True:
            try:
                self._producer.produce(self._topic, record.value, record.key, number, **arguments)
            except BufferError:
                # The queue is full: the brokers set the pace.
                self._producer.poll(IDLE_S)
                self._raise_failure()
                continue
            except KafkaException as exception:
                raise DependencyDown(trouble_of(exception.args[0]).message(self._kafka.brokers)) from exception
            self._nbytes += len(record.value or b"")
            return

    def _delivered(self, offset: int, error: Any, message: Any) -> None:
        """A delivery report. With an idempotent producer a record that was lost would shift every later offset."""
        if self._failure is not None:
            return
        where = Partition(self._topic, message.partition())
        if error is not None:
            trouble = self._troubles.last or trouble_of(error)
            self._failure = GaveUp(f"{where}: record {offset} was not taken: {trouble.message(self._kafka.brokers)}")
        elif message.offset() != offset:
            self._failure = DependencyDown(
                f"{where}: the record made for offset {offset} is at {message.offset()}: somebody else writes to this topic, "
                "or a record was lost. A workload needs its topic for itself"
            )
        else:
            self._latency.add(message.latency())

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _drain(self) -> None:
        """Waits until all is acknowledged. The records' own timeout ends it when the brokers are gone."""
        while len(self._producer):
            self._producer.poll(0.05)
            self._raise_failure()
        self._raise_failure()


def positions(cluster: Cluster, topic: str) -> dict[int, int]:
    """Partition -> the offset its next record will have."""
    marks = cluster.watermarks(Partition(topic, number) for number in range(cluster.topic_partitions(topic)))
    return {partition.number: next_offset for partition, (_, next_offset) in marks.items()}


def shares(events: int, firsts: Mapping[int, int]) -> dict[int, int]:
    """Where each partition ends when `events` more records are spread over all of them evenly."""
    each, rest = divmod(events, len(firsts))
    return {number: first + each + (index < rest) for index, (number, first) in enumerate(sorted(firsts.items()))}


def create_topic(kafka: Kafka, topic: str, partitions: int) -> None:
    """Creates a topic with the cluster's default replication. Raises DependencyDown when the brokers refuse."""
    admin: Any = AdminClient({**properties(kafka, "admin")}, logger=log)
    try:
        admin.create_topics([NewTopic(topic, partitions)], request_timeout=10.0)[topic].result(15.0)
    except KafkaException as exception:
        error = exception.args[0]
        if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise DependencyDown(
                f"the topic {topic!r} could not be created: {error.name()}: {error.str()}"
            ) from exception


def delete_topics(kafka: Kafka, topics: list[str]) -> None:
    """Deletes topics; what cannot be deleted is logged and left."""
    admin: Any = AdminClient({**properties(kafka, "admin")}, logger=log)
    for topic, future in admin.delete_topics(topics, request_timeout=10.0).items():
        try:
            future.result(15.0)
        except (KafkaException, TimeoutError) as error:
            log.warning("the topic %s was not deleted: %s", topic, error)


def expected(generator: Generator, ranges: Mapping[int, tuple[int, int]]) -> Counter[str]:
    """How many records of `[first, next)` of each partition must end as what, by `Outcome`, and letters also by code."""
    found: Counter[str] = Counter(dict.fromkeys(Outcome, 0))
    for number, (first, next_) in ranges.items():
        for start in range(first, next_, COUNT_RECORDS):
            count = min(COUNT_RECORDS, next_ - start)
            fates = generator.fates(number, start, count)
            outcomes = Counter(fate.outcome.value for fate in fates.values())
            found[Outcome.ROW] += count - len(fates)
            found.update(outcomes)
            found.update(f"letter:{fate.code}" for fate in fates.values() if fate.outcome is Outcome.LETTER)
    return found
