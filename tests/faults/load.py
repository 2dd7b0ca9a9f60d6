"""The producer of a run, in a thread: paced, straight to the brokers, and deterministic by seed, partition and offset."""

from __future__ import annotations

import threading

from pipeline.config.schema import Kafka
from pipeline.workload.produce import Feed, Produced
from tests.faults.stage import Stage

ENDLESS = 2**62
GIVE_UP_S = 180.0
LINGER_MS = 100
"""The three brokers share the machine's cores with the workers: fewer requests leave more of them to what is tested."""


class Load(threading.Thread):
    """Sends until it is told to stop, or `events` a partition. `stop` returns where each partition ends."""

    def __init__(self, stage: Stage, events: int = ENDLESS, rate: float | None = None) -> None:
        super().__init__(name="load", daemon=True)
        self._stopping = threading.Event()
        self._ends = dict.fromkeys(range(stage.setting.partitions), events)
        self._feed = Feed(
            Kafka(brokers=stage.servers.kafka.bootstrap, group="load", librdkafka={"linger.ms": LINGER_MS}),
            stage.topic,
            stage.setting.generator(),
            rate=stage.setting.events_per_s if rate is None else rate,
            stopping=self._stopping,
            timeout_s=GIVE_UP_S,
            compression="lz4",
        )
        self._result: Produced | BaseException | None = None
        self.sent = 0

    def run(self) -> None:
        try:
            self._result = self._feed.run(self._ends, dict.fromkeys(self._ends, 0), self._count)
        except BaseException as error:
            self._result = error

    def _count(self, records: int) -> None:
        self.sent += records

    def stop(self) -> dict[int, int]:
        """Waits until everything sent is acknowledged; raises what ended it early."""
        self._stopping.set()
        return self.wait()

    def wait(self) -> dict[int, int]:
        self.join(GIVE_UP_S + 30)
        if isinstance(self._result, BaseException):
            raise self._result
        assert self._result is not None, "the producer does not end"
        return dict(self._result.next)

    def check(self) -> None:
        if isinstance(self._result, BaseException):
            raise self._result
