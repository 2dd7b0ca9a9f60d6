"""How clients of librdkafka are opened, as a value that is passed in: the simulation opens clients of its own model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from confluent_kafka import Consumer, Producer

from pipeline.kafka.cluster import Cluster


class Clients(NamedTuple):
    """librdkafka's own."""

    consumer: Callable[..., Consumer] = Consumer
    producer: Callable[..., Producer] = Producer
    cluster: Callable[..., Cluster] = Cluster
