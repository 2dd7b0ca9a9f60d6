"""A dead-letter topic that is deleted and made again, with its leader elsewhere: the letters go on."""

from __future__ import annotations

import random
import threading
import time

import pytest
from confluent_kafka.admin import AdminClient

from pipeline.clock import SystemClock
from pipeline.config.schema import Kafka
from pipeline.deadletter import DeadLetters
from pipeline.kafka import Clients
from pipeline.metrics import Metrics
from pipeline.types import DeadLetter, Partition, Reject, RejectCode, Span, Stage
from tests.faults.stage import Servers
from tests.integration.harness import wait_until

pytestmark = pytest.mark.kafka
SOURCE, TOPIC = Partition("orders", 0), "letters-made-anew"


def letter(offset: int) -> DeadLetter:
    return DeadLetter(SOURCE, offset, -1, None, b"v", [], Reject(Stage.DECODE, RejectCode.UNDECODABLE, ""), "m:C@1")


def leader(servers: Servers) -> int:
    """Asked by a client of its own: one that knew an earlier topic has the very trouble that is tested here."""
    admin = AdminClient({"bootstrap.servers": servers.kafka.bootstrap, "log_level": 0})
    partitions = wait_until(lambda: admin.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions, 30, "the partition")
    return int(partitions[0].leader)


def move_leader(servers: Servers) -> None:
    """So that the producer has seen an epoch above the first, which the topic made anew begins with."""
    node = leader(servers)
    servers.kafka.stop(node)
    deadline_s = time.monotonic() + 30
    while leader(servers) in (node, -1):
        assert time.monotonic() < deadline_s, "the leader does not move"
        time.sleep(0.2)
    servers.kafka.start(node)


def make_anew_elsewhere(servers: Servers) -> None:
    before = leader(servers)
    for _ in range(20):
        servers.kafka.delete_topic(TOPIC)
        servers.kafka.create_topic(TOPIC, 1)
        if leader(servers) != before:
            return
    raise AssertionError("the leader never changes")


@pytest.mark.slow
def test_letters_go_on_into_a_topic_made_anew(three_brokers: Servers) -> None:
    three_brokers.kafka.create_topic(TOPIC, 1)
    stopping = threading.Event()
    config = Kafka(brokers=three_brokers.kafka.bootstrap, group="g")
    letters = DeadLetters(
        config,
        TOPIC,
        SystemClock(),
        Metrics(),
        pipeline="pipe",
        stopping=stopping,
        random=random.Random(1),
        clients=Clients(),
    )
    letters.write([letter(0)])
    move_leader(three_brokers)
    letters.write([letter(1)])
    make_anew_elsewhere(three_brokers)
    writing = threading.Thread(target=lambda: letters.write([letter(2), letter(3)]), daemon=True)
    writing.start()
    writing.join(60)
    stuck = writing.is_alive()
    letters_there = {} if stuck else letters.written([Span(SOURCE, 0, 10)], 0)
    stopping.set()
    letters.close()
    assert not stuck, "no letter was acknowledged within a minute"
    assert set(letters_there) == {(SOURCE, 2), (SOURCE, 3)}
