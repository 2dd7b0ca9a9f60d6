"""Faults of workers: killed, frozen beyond their session, restarted as planned, scaled, and their offsets forgotten."""

from __future__ import annotations

import time
from random import Random

from tests.faults.scene import WORKERS, Scene
from tests.faults.stage import SESSION_S, delete_group

SETTLED_S = 6.0
"""Longer than any insert is held back, by the network or by ClickHouse."""


def kill_worker(scene: Scene, rng: Random) -> None:
    """SIGKILL, and a new process after a while: sometimes at once, sometimes after its partitions have gone to others."""
    number = _victim(scene, rng)
    if number is None:
        return
    scene.fleet.kill(number)
    scene.tally.add("process", "worker killed")
    pause_s = rng.choice((0.0, rng.uniform(0.0, 3.0), rng.uniform(0.0, SESSION_S + 3.0)))
    scene.note(f"worker {number} killed; back in {pause_s:.1f} s")
    scene.wait(pause_s)
    scene.fleet.start(number)


def kill_all_workers(scene: Scene, rng: Random) -> None:
    for number in scene.fleet.running():
        scene.fleet.kill(number)
        scene.tally.add("process", "worker killed")
    scene.note("all workers killed")
    scene.wait(rng.uniform(0.0, 2.0))
    _bring_up(scene)


def zombie(scene: Scene, rng: Random) -> None:
    """Frozen until the group has given its partitions to others, and a while longer; then it goes on where it was."""
    _freeze(scene, rng, rng.uniform(SESSION_S + 1.5, SESSION_S + 5.0), "worker frozen beyond its session")


def pause_worker(scene: Scene, rng: Random) -> None:
    _freeze(scene, rng, rng.uniform(0.5, SESSION_S - 2.0), "worker frozen for a moment")


def rolling_restart(scene: Scene, rng: Random) -> None:
    """Each in turn is drained and started again."""
    for number in scene.fleet.running():
        if scene.ending.is_set():
            return
        code = scene.fleet.stop(number)
        scene.tally.add("process", "worker restarted as planned")
        scene.note(f"worker {number} drained with code {code}; started again")
        scene.fleet.start(number)
        scene.wait(rng.uniform(0.5, 2.0))


def scale(scene: Scene, rng: Random) -> None:
    """Down to one worker, up to four, back to three."""
    for number in scene.fleet.running()[1:]:
        scene.note(f"scaling down: worker {number} drained with code {scene.fleet.stop(number)}")
        scene.tally.add("process", "worker scaled away")
    scene.wait(rng.uniform(1.0, 4.0))
    for number in range(1, WORKERS + 2):
        scene.fleet.start(number)
    scene.note("scaled up to four")
    scene.wait(rng.uniform(3.0, 6.0))
    scene.fleet.stop(WORKERS + 1)
    scene.tally.add("process", "worker scaled away")
    scene.note("back to three")


def forget_offsets(scene: Scene, rng: Random) -> None:
    """As when offsets expire: no worker runs, nothing is on its way any more, and the group has no offsets left.

    Then everything is read again from the beginning, and only the lineage of the rows says what is there already.
    """
    with scene.servers, scene.wires, scene.fleet.none_restarted():
        scene.stage.servers.network.heal()
        for number in scene.fleet.running():
            if rng.random() < 0.5:
                scene.fleet.kill(number)
                scene.tally.add("process", "worker killed")
            else:
                scene.fleet.stop(number)
                scene.tally.add("process", "worker restarted as planned")
        time.sleep(SETTLED_S)
        delete_group(scene.stage, 60.0)
        scene.tally.add("cluster", "committed offsets forgotten")
        scene.note("the committed offsets are forgotten")
        _bring_up(scene)


def _victim(scene: Scene, rng: Random) -> int | None:
    running = scene.fleet.running()
    return rng.choice(running) if running else None


def _freeze(scene: Scene, rng: Random, seconds: float, kind: str) -> None:
    number = _victim(scene, rng)
    if number is None or not scene.fleet.freeze(number):
        return
    scene.tally.add("process", kind)
    scene.note(f"worker {number} frozen for {seconds:.1f} s")
    scene.wait(seconds)
    scene.fleet.thaw(number)


def _bring_up(scene: Scene) -> None:
    for number in range(1, WORKERS + 1):
        scene.fleet.start(number)
