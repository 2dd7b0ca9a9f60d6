"""Faults of the network, and answers of ClickHouse that are refusals or do not come."""

from __future__ import annotations

import urllib.error
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from tests.faults.network import CLICKHOUSE, broker
from tests.faults.proxy import Happening
from tests.faults.scene import Scene
from tests.faults.stage import INSERT_TIMEOUT_S

SPRING_S = 4.0
"""How long a trap waits for its request."""
LATE_S_MAX = 5.0


_SHOWN: Mapping[Happening, str] = {
    "lose_reply": "reply lost",
    "late": "late",
    "late_and_cut": "late, connection cut",
    "cut": "lost",
    "half_open": "lost, half-open",
}


def cut_broker(scene: Scene, rng: Random) -> None:
    """All connections to a broker reset, or some of them."""
    _cut(scene, rng, broker(rng.choice(scene.stage.servers.nodes)))


def cut_clickhouse(scene: Scene, rng: Random) -> None:
    _cut(scene, rng, CLICKHOUSE)


def delay_broker(scene: Scene, rng: Random) -> None:
    _delay(scene, rng, broker(rng.choice(scene.stage.servers.nodes)), 0.3)


def delay_clickhouse(scene: Scene, rng: Random) -> None:
    """Sometimes longer than an insert may take."""
    _delay(scene, rng, CLICKHOUSE, rng.choice((0.3, INSERT_TIMEOUT_S)))


def half_open_broker(scene: Scene, rng: Random) -> None:
    _half_open(scene, rng, broker(rng.choice(scene.stage.servers.nodes)))


def half_open_clickhouse(scene: Scene, rng: Random) -> None:
    _half_open(scene, rng, CLICKHOUSE)


def commit_reply_lost(scene: Scene, rng: Random) -> None:
    """The coordinator takes the commit, and the worker does not learn it."""
    _trap(scene, scene.stage.servers.network.brokers, "commit", "lose_reply", rng.uniform(0.05, 1.5))


def commit_late(scene: Scene, rng: Random) -> None:
    """A commit arrives seconds later; by then the worker may be another member, or dead."""
    _trap(scene, scene.stage.servers.network.brokers, "commit", "late", rng.uniform(0.5, LATE_S_MAX))


def commit_sent_twice(scene: Scene, rng: Random) -> None:
    """The connection breaks, librdkafka sends the commit again, and the first copy arrives when it was answered already."""
    _trap(scene, scene.stage.servers.network.brokers, "commit", "late_and_cut", rng.uniform(0.5, LATE_S_MAX))


def commit_lost(scene: Scene, rng: Random) -> None:
    _trap(scene, scene.stage.servers.network.brokers, "commit", rng.choice(("cut", "half_open")), 0.0)


def insert_reply_lost(scene: Scene, rng: Random) -> None:
    _trap(scene, [CLICKHOUSE], "insert", "lose_reply", rng.uniform(0.05, 1.5))


def insert_late(scene: Scene, rng: Random) -> None:
    """An insert arrives after its worker has given it up and sent it again, or after the worker has died."""
    _trap(scene, [CLICKHOUSE], "insert", "late", rng.uniform(1.0, LATE_S_MAX))


def insert_lost(scene: Scene, rng: Random) -> None:
    _trap(scene, [CLICKHOUSE], "insert", rng.choice(("cut", "half_open")), 0.0)


def letter_reply_lost(scene: Scene, rng: Random) -> None:
    _trap(scene, scene.stage.servers.network.brokers, "produce", "lose_reply", rng.uniform(0.05, 1.0))


def heartbeat_reply_lost(scene: Scene, rng: Random) -> None:
    _trap(scene, scene.stage.servers.network.brokers, "heartbeat", "lose_reply", rng.uniform(0.05, 3.0))


def fetch_reply_lost(scene: Scene, rng: Random) -> None:
    _trap(scene, scene.stage.servers.network.brokers, "fetch", "lose_reply", rng.uniform(0.05, 1.0))


def query_reply_lost(scene: Scene, rng: Random) -> None:
    _trap(scene, [CLICKHOUSE], "query", "lose_reply", rng.uniform(0.05, 1.0))


def too_many_parts(scene: Scene, rng: Random) -> None:
    text = (
        "Too many parts (3000 with average size of 1.00 KiB). Merges are processing significantly slower than inserts"
    )
    _refuse(scene, rng, 252, "TOO_MANY_PARTS", text)


def memory_limit(scene: Scene, rng: Random) -> None:
    _refuse(scene, rng, 241, "MEMORY_LIMIT_EXCEEDED", "Memory limit (total) exceeded")


def read_only(scene: Scene, rng: Random) -> None:
    _refuse(scene, rng, 242, "TABLE_IS_READ_ONLY", "Table is in readonly mode")


def slow_insert(scene: Scene, rng: Random) -> None:
    """Applied after the worker has stopped waiting."""
    _order(
        scene, rng, "answer", "insert slower than its timeout", action="delay", delay_ms=INSERT_TIMEOUT_S * 1000 + 1_500
    )


def applied_and_refused(scene: Scene, rng: Random) -> None:
    """An error is the answer, and the insert was applied all the same."""
    refusal = {"code": 210, "name": "NETWORK_ERROR", "message": "I/O error"}
    _order(scene, rng, "answer", "insert applied, answered with an error", action="fail_after", **refusal)


def applied_and_dropped(scene: Scene, rng: Random) -> None:
    """ClickHouse itself closes the connection in the place of an answer."""
    _order(scene, rng, "network", "insert applied, answer lost by the server", action="drop_after")


def _cut(scene: Scene, rng: Random, name: str) -> None:
    cut = scene.stage.servers.network.cut(name, rng.choice((1, 2, None)))
    if cut:
        scene.tally.add("network", f"connections cut, {_kind(name)}")
        scene.note(f"{cut} connections to {name} cut")


def _delay(scene: Scene, rng: Random, name: str, seconds_max: float) -> None:
    seconds, lasts_s = rng.uniform(0.02, seconds_max), rng.uniform(0.5, 3.0)
    scene.stage.servers.network.delay(name, seconds)
    scene.tally.add("network", f"latency, {_kind(name)}")
    scene.note(f"{name} answers {seconds:.2f} s late for {lasts_s:.1f} s")
    scene.wait(lasts_s)
    scene.stage.servers.network.delay(name, 0.0)


def _half_open(scene: Scene, rng: Random, name: str) -> None:
    """The connections there are say nothing any more, for ever; new ones neither, for a while."""
    count, lasts_s = scene.stage.servers.network.half_open(name), rng.uniform(0.2, 3.0)
    scene.stage.servers.network.silence(name, True)
    if count:
        scene.tally.add("network", f"half-open, {_kind(name)}")
        scene.note(f"{count} connections to {name} fell silent; new ones for {lasts_s:.1f} s")
    scene.wait(lasts_s)
    scene.stage.servers.network.silence(name, False)


def _trap(scene: Scene, names: Sequence[str], request: str, happening: Happening, seconds: float) -> None:
    trap = scene.stage.servers.network.trap(names, request, happening, seconds)
    waited_s = 0.0
    while not trap.sprung and waited_s < SPRING_S and not scene.ending.is_set():
        scene.wait(0.05)
        waited_s += 0.05
    scene.stage.servers.network.disarm(trap)
    if trap.sprung:
        shown = _SHOWN[happening]
        scene.tally.add("network", f"{request} {shown}")
        scene.note(f"{request}: {shown} ({seconds:.2f} s)")


def _refuse(scene: Scene, rng: Random, code: int, name: str, message: str) -> None:
    _order(scene, rng, "answer", f"{name} ({code})", action="fail", code=code, name=name, message=message)


def _order(scene: Scene, rng: Random, category: Any, kind: str, **fault: Any) -> None:
    """Some of the next inserts meet it. What has not been met after a while is taken back and not counted."""
    times = rng.randint(1, 4)
    try:
        scene.stage.servers.clickhouse.fault(times=times, **fault)
        waited_s = 0.0
        while waited_s < SPRING_S and scene.stage.servers.clickhouse.faults_left() and not scene.ending.is_set():
            scene.wait(0.25)
            waited_s += 0.25
        met = times - scene.stage.servers.clickhouse.faults_left()
        scene.stage.servers.clickhouse.clear_faults()
    except (urllib.error.URLError, OSError):
        return  # ClickHouse is down, and with it the order.
    if met:
        scene.tally.add(category, kind, met)
        scene.note(f"{kind}: {met} times")


def _kind(name: str) -> str:
    return "ClickHouse" if name == CLICKHOUSE else "Kafka"
