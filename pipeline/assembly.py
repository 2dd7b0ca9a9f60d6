"""Builds the parts of a worker from its configuration, after checking that Kafka, ClickHouse and the contracts fit together.

It opens clients and reads schemas; it consumes and inserts nothing.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline import contract as contracts
from pipeline.batch import Target
from pipeline.clickhouse import ClickHouse
from pipeline.clock import Clock, SystemClock
from pipeline.config.schema import Config
from pipeline.contract import Contract
from pipeline.deadletter import DeadLetters
from pipeline.decode import Decoder
from pipeline.dedup import Dedup
from pipeline.delivery import Delivery
from pipeline.errors import ConfigurationError, DependencyDown, Problem
from pipeline.flow import Event as FlowEvent
from pipeline.flow import Flow
from pipeline.intent import Identity, digest
from pipeline.kafka import Cluster
from pipeline.lane import Lane
from pipeline.metrics import Metrics
from pipeline.native import BlockBuilder
from pipeline.recovery import Recovery
from pipeline.sink import Sink
from pipeline.source import open_source
from pipeline.types import Partition
from pipeline.window import Window


@dataclass
class Assembly:
    """Everything a worker consists of but its threads."""

    config: Config
    clock: Clock
    metrics: Metrics
    stopping: threading.Event
    cluster: Cluster
    clickhouse: ClickHouse
    identity: Identity
    contracts: Mapping[str, Contract]
    sink: Sink
    dead_letters: DeadLetters | None
    delivery: Delivery
    config_digest: bytes

    @property
    def topics(self) -> list[str]:
        return [route.topic for route in self.config.routes]

    def flow(self, post: Callable[[FlowEvent], None]) -> Flow:
        """The data plane with its recovery; they share the claims and nothing else."""
        dedup = Dedup(self.config.dedup)
        live, again = self._lanes(dedup), self._lanes(dedup)
        flow: Flow

        def heartbeat() -> None:
            flow.heartbeat()

        window = Window(
            self.config.dedup,
            dedup,
            self.contracts,
            again,
            self.sink,
            self.cluster,
            self.open_source,
            self.clock,
            heartbeat,
        )
        recovery = Recovery(
            again,
            dedup,
            window,
            self.sink,
            self.delivery,
            self.dead_letters,
            self._start_positions,
            self.open_source,
            self.clock,
            heartbeat,
            self.sink.token_life_ms,
        )
        flow = Flow(self.config, live, dedup, recovery, self.open_source, post, self.metrics, self.clock, self.stopping)
        return flow

    def open_source(self):  # type: ignore[no-untyped-def]
        """A source of its own, for whoever reads."""
        return open_source(self.config.kafka)

    def waiting(self) -> list[str]:
        """What ClickHouse or the dead-letter topic makes us wait for."""
        return [text for part in (self.sink, self.dead_letters) if part is not None and (text := part.waiting)]

    def close(self) -> None:
        if self.dead_letters is not None:
            self.dead_letters.close()
        self.clickhouse.close()
        self.cluster.close()

    def _lanes(self, dedup: Dedup) -> dict[str, Lane]:
        return {topic: _lane(topic, contract, self.config, dedup) for topic, contract in self.contracts.items()}

    def _start_positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Where partitions without a committed offset begin (`kafka.start`)."""
        start = self.config.kafka.start
        if start in ("earliest", "latest"):
            index = 0 if start == "earliest" else 1
            return {partition: marks[index] for partition, marks in self.cluster.watermarks(partitions).items()}
        time_ms = int(datetime.fromisoformat(start).timestamp() * 1000)
        return self.cluster.offsets_for_times(dict.fromkeys(partitions, time_ms))
