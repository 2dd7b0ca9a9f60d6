"""A worker while records arrive: how old a record is when its row is stored, and how much memory a worker takes.

`python -m pipeline.bench.live BROKERS TOPIC RATE SECONDS WORKLOAD` is the producer, a process of its own. It makes its records,
prints "ready" and waits for a line: what it costs to make them is not taken from the worker, which shares the cores with it.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import workload
from pipeline.bench import stage
from pipeline.bench.rounds import Narrate
from pipeline.bench.stage import MIX, Plan, Stage
from pipeline.config.schema import Kafka
from pipeline.errors import GaveUp
from pipeline.kafka import Cluster
from pipeline.workload import Generator
from pipeline.workload.premade import Premade
from pipeline.workload.produce import Feed, shares

SHARE_OF_CAPACITY = 0.7
OVERLOAD_SHARE = 0.5
"""How long more is offered than can be taken, as a share of the time that freshness is measured: the embedded broker drops
what has waited for too long."""
PROBE_RECORDS = 200
READY_S_MAX = 90.0
SETTLED_BATCHES = 3
"""The first batches hold what came in before the worker was ready."""
STOP_S_MAX = 60.0
PROBE_SEED, LIVE_SEED = 1_000, 1_001


def measure(plan: Plan, seconds: float, rounds: int, narrate: Narrate) -> dict[str, Any]:
    """Memory by reading a full topic without claims; capacity under overload; then freshness at a share of the capacity.

    Reading a full topic with claims only tells what to offer: the producer is not there, which takes its part of the cores,
    and neither are the merges of many small inserts.
    """
    with (
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory,
        stage.opened(Path(directory), plan, live_topics=2 * rounds) as scene,
    ):
        peaks, readings, capacities, ages, rates = [], [], [], [], []
        for number in range(rounds):
            peaks.append(_full_speed(scene, f"memory{number}", claims=False)["peak_mib"])
            told = _full_speed(scene, f"reading{number}", claims=True)
            readings.append(told["records"] / told["wall_s"])
        offered = statistics.median(readings)
        for number in range(rounds):
            capacities.append(_live(scene, rounds + number, offered, seconds * OVERLOAD_SHARE).taken_per_second)
            narrate(
                f"capacity: round {number + 1} of {rounds}: {capacities[-1]:,.0f} of {offered:,.0f} records/s offered"
            )
        capacity = statistics.median(capacities)
        for number in range(rounds):
            run = _live(scene, number, capacity * SHARE_OF_CAPACITY, seconds)
            if not run.ages:
                raise GaveUp("freshness: too few batches; measure longer")
            ages.append(p99(run.ages))
            rates.append(run.sent_per_second)
            narrate(f"freshness: round {number + 1} of {rounds}: p99 {ages[-1]:.2f} s at {rates[-1]:,.0f} records/s")
    return {
        "freshness_p99_s": round(statistics.median(ages), 3),
        "freshness_rate": round(statistics.median(rates)),
        "reading_per_second": round(offered),
        "capacity_per_second": round(capacity),
        "partitions": plan.partitions,
        "share_of_capacity": round(statistics.median(rates) / capacity, 3),
        "peak_mib_without_claims": round(statistics.median(peaks), 1),
        "spread": {
            "freshness_p99_s": [round(min(ages), 3), round(max(ages), 3)],
            "capacity_per_second": [round(min(capacities)), round(max(capacities))],
            "peak_mib_without_claims": [round(min(peaks), 1), round(max(peaks), 1)],
        },
    }


def _full_speed(scene: Stage, name: str, *, claims: bool) -> dict[str, Any]:
    """A worker that reads the whole topic."""
    table = f"bench_{name}"
    scene.create_tables(table)
    told = stage.child("pipeline.bench.member", str(scene.write_config(name, table, claims=claims)))
    scene.drop_tables(table)
    return told


class Live(NamedTuple):
    """What became of a worker while a producer sent. `ages` are those of each settled batch's oldest record, in seconds."""

    sent_per_second: float
    taken_per_second: float
    """Records from the start of the producer to the end of the worker, which stops when everything was sent."""
    ages: list[float]


def _live(scene: Stage, number: int, rate: float, seconds: float) -> Live:
    """Offers `rate` records a second to a worker of its own, for so long. Its window is full, as after hours of this."""
    table, topic = f"bench_live{number}", stage.live_topic(number)
    scene.create_tables(table)
    config = scene.write_config(f"live{number}", table, live_topic=topic)
    producer = ("pipeline.bench.live", scene.kafka.brokers, topic, str(rate), str(seconds), scene.plan.workload)
    with (
        stage.waiting_child(*producer) as feeding,
        stage.running("pipeline.bench.member", str(config), "--endless", "--warm", str(PROBE_RECORDS)) as worker,
    ):
        _probe(scene, topic, table)
        started_s = time.monotonic()
        stage.let_go(feeding)
        sent = stage.answer(feeding)
        worker.send_signal(signal.SIGTERM)
        told = stage.answer(worker, STOP_S_MAX)
        taken_s = time.monotonic() - started_s
    scene.drop_tables(table)
    return Live(sent["records"] / sent["seconds"], told["records"] / taken_s, told["freshness_s"][SETTLED_BATCHES:])


def _probe(scene: Stage, topic: str, table: str) -> None:
    """Sends a few records and waits until the worker has joined and stored some."""
    firsts = dict.fromkeys(range(scene.plan.partitions), 0)
    generator = Generator(scene.shape, PROBE_SEED, MIX)
    Feed(scene.kafka, topic, generator).run(shares(PROBE_RECORDS, firsts), firsts, _unseen)
    deadline_s = time.monotonic() + READY_S_MAX
    while scene.stored(table)[0] == 0:
        if time.monotonic() > deadline_s:
            raise GaveUp("the worker stored nothing; its messages are above")
        time.sleep(0.2)


def p99(values: Sequence[float]) -> float:
    """The smallest value that 99 % of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * 99 // 100) - 1)]


def feed(brokers: str, topic: str, rate: float, seconds: float, name: str) -> dict[str, float]:
    """The producer: makes its records, waits for the line, sends them."""
    kafka = Kafka(brokers=brokers, group="bench-live")
    generator = Generator(workload.shape(name), LIVE_SEED, MIX)
    counts = shares(int(rate * seconds), dict.fromkeys(range(Cluster(kafka).topic_partitions(topic)), 0))
    made = [[record.value for record in generator.records(number, 0, count)] for number, count in counts.items()]
    producer = Premade(kafka, topic, made)
    print("ready", flush=True)
    sys.stdin.readline()
    return producer.send(rate)._asdict()


def _unseen(sent: int) -> None:
    """No progress is shown."""


if __name__ == "__main__":
    _brokers, _topic, _rate, _seconds, _name = sys.argv[1:]
    print(json.dumps(feed(_brokers, _topic, float(_rate), float(_seconds), _name)))
