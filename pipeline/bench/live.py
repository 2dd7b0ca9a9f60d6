"""A worker while records arrive: how old a record is when its row is stored, and how much memory a worker takes.

`python -m pipeline.bench.live BROKERS RATE SECONDS WORKLOAD` is the producer, a process of its own.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import workload
from pipeline.bench import stage
from pipeline.bench.rounds import Narrate
from pipeline.bench.stage import LIVE_TOPIC, MIX, Plan, Stage, environment
from pipeline.config.schema import Kafka
from pipeline.errors import DependencyDown, GaveUp
from pipeline.workload import Generator
from pipeline.workload.produce import Feed, shares

SHARE_OF_CAPACITY = 0.7
PROBE_RATE = 200.0
PROBE_S = 1.0
READY_S_MAX = 90.0
SETTLED_BATCHES = 3
"""The first batches hold what came in before the worker was ready."""
STOP_S_MAX = 60.0
LIVE_SEED = 1_000


def measure(plan: Plan, seconds: float, rounds: int, narrate: Narrate) -> dict[str, Any]:
    """Memory and capacity by reading a full topic, without and with claims; then freshness at a share of the capacity."""
    with (
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory,
        stage.opened(Path(directory), plan) as scene,
    ):
        peaks, capacities, ages, rates = [], [], [], []
        for number in range(rounds):
            peaks.append(_full_speed(scene, f"memory{number}", claims=False)["peak_mib"])
            told = _full_speed(scene, f"capacity{number}", claims=True)
            capacities.append(told["records"] / told["reading_s"])
        capacity = statistics.median(capacities)
        for number in range(rounds):
            age_s, rate = _freshness(scene, number, capacity * SHARE_OF_CAPACITY, seconds)
            ages.append(age_s)
            rates.append(rate)
            narrate(f"freshness: round {number + 1} of {rounds}: p99 {age_s:.2f} s at {rate:,.0f} records/s")
    return {
        "freshness_p99_s": round(statistics.median(ages), 3),
        "freshness_rate": round(statistics.median(rates)),
        "capacity_per_second": round(capacity),
        "share_of_capacity": round(statistics.median(rates) / capacity, 3),
        "peak_mib_without_claims": round(statistics.median(peaks), 1),
        "spread": {
            "freshness_p99_s": [round(min(ages), 3), round(max(ages), 3)],
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


def _freshness(scene: Stage, number: int, rate: float, seconds: float) -> tuple[float, float]:
    """(p99 over the batches of the age of their oldest record when they are acknowledged, the rate that was reached)."""
    name = f"live{number}"
    table = f"bench_{name}"
    scene.create_tables(table)
    config = scene.write_config(name, table, live=True)
    command = [sys.executable, "-m", "pipeline.bench.member", str(config), "steady"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as worker:
        try:
            _feed(scene, PROBE_RATE, PROBE_S)
            _await_rows(scene, table)
            sent = _feed(scene, rate, seconds)
            worker.send_signal(signal.SIGTERM)
            out, _ = worker.communicate(timeout=STOP_S_MAX)
        except subprocess.TimeoutExpired:
            raise GaveUp("the worker did not stop; its messages are above") from None
        finally:
            worker.kill()
    if worker.returncode != 0:
        raise DependencyDown(f"the worker ended with {worker.returncode}; its messages are above")
    told = json.loads(out.strip().splitlines()[-1])
    scene.drop_tables(table)
    ages = told["freshness_s"][SETTLED_BATCHES:]
    if not ages:
        raise GaveUp("freshness: too few batches; measure longer")
    return p99(ages), sent["events"] / sent["seconds"]


def _feed(scene: Stage, rate: float, seconds: float) -> dict[str, Any]:
    arguments = (scene.kafka.brokers, str(rate), str(seconds), scene.plan.workload)
    return stage.child("pipeline.bench.live", *arguments)


def _await_rows(scene: Stage, table: str) -> None:
    """Until the worker has joined and stored something."""
    deadline_s = time.monotonic() + READY_S_MAX
    while scene.stored(table)[0] == 0:
        if time.monotonic() > deadline_s:
            raise GaveUp("the worker stored nothing; its messages are above")
        time.sleep(0.2)


def p99(values: Sequence[float]) -> float:
    """The smallest value that 99 % of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * 99 // 100) - 1)]


def feed(arguments: Sequence[str]) -> dict[str, float]:
    """Sends records, dated now, at a steady rate; goes on where the topic ends."""
    from pipeline.kafka import Cluster
    from pipeline.workload.produce import positions

    brokers, rate, seconds, name = arguments
    kafka = Kafka(brokers=brokers, group="bench-live")
    firsts = positions(Cluster(kafka), LIVE_TOPIC)
    # Each offset is a record of its own, so that every round sends new ids.
    generator = Generator(workload.shape(name), LIVE_SEED, MIX)
    produced = Feed(kafka, LIVE_TOPIC, generator, rate=float(rate)).run(
        shares(int(float(rate) * float(seconds)), firsts), firsts, _unseen
    )
    return {"events": produced.events, "seconds": produced.seconds}


def _unseen(sent: int) -> None:
    """No progress is shown."""


if __name__ == "__main__":
    print(json.dumps(feed(sys.argv[1:])))
