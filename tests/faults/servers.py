"""Faults of servers: brokers and ClickHouse killed, frozen and restarted, leaders moved, the dead-letter topic lost."""

from __future__ import annotations

import os
import signal
import time
from random import Random

from confluent_kafka import ElectionType, KafkaError, KafkaException, TopicPartition

from pipeline.embedded.child import StartFailed
from tests.faults.scene import Scene
from tests.faults.stage import patiently

STILL_S = 0.4
"""With the workers frozen, what they had sent arrives within this time."""


def kill_broker(scene: Scene, rng: Random) -> None:
    node = rng.choice(scene.stage.servers.nodes)
    scene.stage.servers.kafka.kill(node)
    scene.tally.add("process", "broker killed")
    scene.note(f"broker {node} killed")
    scene.wait(rng.uniform(0.5, 6.0))
    _start_broker(scene, node)


def restart_broker(scene: Scene, rng: Random) -> None:
    """SIGTERM: it hands its leaderships over first, if it can."""
    node = rng.choice(scene.stage.servers.nodes)
    scene.note(f"broker {node} stops")
    scene.stage.servers.kafka.stop(node)
    scene.tally.add("process", "broker restarted")
    scene.wait(rng.uniform(0.0, 2.0))
    _start_broker(scene, node)


def freeze_broker(scene: Scene, rng: Random) -> None:
    """Long enough, sometimes, that the others take it for dead."""
    node, seconds = rng.choice(scene.stage.servers.nodes), rng.uniform(1.0, 7.0)
    os.kill(scene.stage.servers.kafka.pid(node), signal.SIGSTOP)
    scene.tally.add("process", "broker frozen")
    scene.note(f"broker {node} frozen for {seconds:.1f} s")
    try:
        scene.wait(seconds)
    finally:
        os.kill(scene.stage.servers.kafka.pid(node), signal.SIGCONT)


def move_leaders(scene: Scene, rng: Random) -> None:
    """Every leadership back to where it was at first; most have moved with the faults before."""
    partitions = [TopicPartition(*partition) for partition in scene.stage.partitions]
    try:
        answer = scene.stage.servers.admin.elect_leaders(ElectionType.PREFERRED, partitions).result(30)
    except (KafkaException, TimeoutError) as error:
        scene.note(f"no leaders moved: {error}")
        return
    moved = sum(error is None for error in answer.values())
    if moved:
        scene.tally.add("cluster", "leaders moved")
    scene.note(f"leaders of {moved} partitions moved")


def kill_clickhouse(scene: Scene, rng: Random) -> None:
    scene.stage.servers.clickhouse.kill()
    scene.tally.add("process", "ClickHouse killed")
    scene.note("ClickHouse killed")
    scene.wait(rng.uniform(0.0, 5.0))
    scene.stage.servers.start_clickhouse()
    scene.note("ClickHouse is back")


def lose_letters_topic(scene: Scene, rng: Random) -> None:
    """Deleted, and made again later. The workers stand still until its letters are read, so that none is lost unseen."""
    frozen = [number for number in scene.fleet.running() if scene.fleet.freeze(number)]
    try:
        time.sleep(STILL_S)
        scene.book.drain(timeout_s=2.0)
        scene.book.end()
        scene.stage.servers.kafka.delete_topic(scene.stage.letters)
        gone_s = time.monotonic()
    except (TimeoutError, KafkaException) as error:
        scene.note(f"the dead-letter topic stays: {error}")
        if scene.book.ended:
            scene.book.begin(scene.book.at)
        return
    finally:
        for number in frozen:
            scene.fleet.thaw(number)
    scene.tally.add("cluster", "dead-letter topic lost")
    scene.note("the dead-letter topic is deleted")
    scene.wait(rng.uniform(2.0, 8.0))
    patiently(lambda: _make_letters_topic(scene), (KafkaException, StartFailed, KeyError), 60.0)
    scene.letters_gone.append((gone_s, time.monotonic()))
    scene.book.begin()
    scene.note("the dead-letter topic is made again")


def _make_letters_topic(scene: Scene) -> None:
    try:
        scene.stage.servers.kafka.create_topic(scene.stage.letters, 1)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def _start_broker(scene: Scene, node: int) -> None:
    patiently(lambda: scene.stage.servers.kafka.start(node), StartFailed, 60.0)
    scene.note(f"broker {node} is back")
