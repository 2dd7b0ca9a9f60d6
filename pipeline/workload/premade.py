"""Sends values that were made beforehand, at a steady rate: a producer that shares its cores with what is measured.

`produce` makes each record when it sends it, checks where it arrived and costs several times as much.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from confluent_kafka import Producer

from pipeline.config.schema import Kafka
from pipeline.errors import DependencyDown
from pipeline.kafka import Cluster, log, properties
from pipeline.workload.produce import BURST_S, IDLE_S, LINGER_MS, TokenBucket, positions

COMPRESSION = "lz4"
"""The cheapest that is still compressed."""
QUEUE_BYTES_MAX = 1024 * 1024 * 1024


class Sent(NamedTuple):
    """`seconds` until the last record was acknowledged."""

    records: int
    seconds: float


class Premade:
    """The values of each partition of a topic, by number. Nobody else may write to the topic meanwhile."""

    def __init__(self, kafka: Kafka, topic: str, made: Sequence[Sequence[bytes | None]]) -> None:
        self._kafka = kafka
        self._topic = topic
        self._made = made
        self._records = sum(map(len, made))
        settings: dict[str, Any] = {
            "linger.ms": LINGER_MS,
            **properties(kafka, "producer"),
            "compression.type": COMPRESSION,
            "queue.buffering.max.messages": self._records + 1,
            "queue.buffering.max.kbytes": QUEUE_BYTES_MAX // 1024,
        }
        self._producer: Any = Producer(settings, logger=log)

    def send(self, rate: float) -> Sent:
        """Sends all of them, dated as they are handed over, `rate` a second. Raises DependencyDown when some do not arrive."""
        before = self._ends()
        started_s = time.monotonic()
        self._hand_over(TokenBucket(rate), max(1, int(rate * BURST_S)))
        self._producer.flush()
        seconds, sent = time.monotonic() - started_s, self._ends() - before
        if sent != self._records:
            raise DependencyDown(
                f"{sent} of {self._records} records arrived in {self._topic}; the client's messages are above"
            )
        return Sent(sent, seconds)

    def _hand_over(self, bucket: TokenBucket, burst: int) -> None:
        """Each partition gets its part of every burst; of fewer records than partitions, others come first each time."""
        count = len(self._made)
        at = [0] * count
        left = self._records
        turn = 0
        while left:
            # Every burst has time to fill: a few records at a time would cost more than they are worth.
            self._producer.poll(IDLE_S)
            granted = bucket.take(min(left, burst))
            turn += granted
            for place in range(count):
                number = (place + turn) % count
                values = self._made[number][at[number] : at[number] + (granted + place) // count]
                for value in values:
                    self._producer.produce(self._topic, value, None, number)
                at[number] += len(values)
                left -= len(values)

    def _ends(self) -> int:
        """How many records the topic has had."""
        return sum(positions(Cluster(self._kafka), self._topic).values())
