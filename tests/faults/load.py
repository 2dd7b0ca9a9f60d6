"""The producer of a run: paced, straight to the brokers, and deterministic by seed, partition and offset."""

from __future__ import annotations

from pipeline.config.schema import Kafka
from pipeline.workload.produce import Feed
from pipeline.workload.sender import Sender
from tests.faults.stage import Stage

ENDLESS = 2**62
GIVE_UP_S = 180.0
LINGER_MS = 300
"""The three brokers share the machine's cores with the workers: fewer requests leave more of them to what is tested."""


def load(stage: Stage) -> Sender:
    """Sends until it is told to stop."""
    feed = Feed(
        Kafka(brokers=stage.servers.kafka.bootstrap, group="load", librdkafka={"linger.ms": LINGER_MS}),
        stage.topic,
        stage.setting.generator(),
        rate=stage.setting.events_per_s,
        timeout_s=GIVE_UP_S,
        compression="lz4",
    )
    return Sender(feed, dict.fromkeys(range(stage.setting.partitions), ENDLESS))
