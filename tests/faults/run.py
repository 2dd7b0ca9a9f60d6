"""One run of the suite: starts everything, lets the faults loose for a time, mends, waits, and has it all accounted for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import ModuleType

from pipeline.workload.sender import Sender
from tests.faults import plan, wires, workers
from tests.faults import servers as server_faults
from tests.faults.account import Account, account, prove
from tests.faults.fleet import Exit, Fleet
from tests.faults.letters import LetterBook
from tests.faults.load import load
from tests.faults.scene import WORKERS, Narrator, Scene, Tally
from tests.faults.stage import Servers, Setting, Stage

BEGIN_S_MAX = 120.0
"""From the start of the workers to the first committed offset of every partition, on a machine that is busy."""
WARM_S = 5.0
"""The workers have their partitions and the first rows are there before anything goes wrong."""
SETTLE_S_MAX = 120.0
"""Once the faults are over, everything produced is committed within this time."""
REBUILD_S_MAX = 60.0
"""The bound on rebuilding a window: it includes whatever outages of ClickHouse fall into it, on a machine that is busy."""
_PASSING_EXITS = {0, 69, 75}
"""Codes with which a worker may end by itself: a server was away at its start. 70 and the like are findings."""
_NO_LETTERS_TOPIC = 78
START_S_MAX = 30.0
"""From a look at the dead-letter topic to the exit of a worker that starts on a busy machine."""
_MODULES: dict[plan.Track, ModuleType] = {"workers": workers, "servers": server_faults, "wires": wires}


@dataclass
class Outcome:
    """What a run found. `findings` is empty when it is clean."""

    setting: Setting
    seconds: float
    tally: Tally
    account: Account
    findings: list[str]
    exits: list[Exit]
    rebuilds: list[tuple[int, float]]
    verified: dict[str, int] = field(default_factory=dict)
    settle_s: float = 0.0


def run(
    servers: Servers, directory: Path, setting: Setting, seconds: float, *, sabotage: str = "", quiet: bool = False
) -> Outcome:
    """Every worker that was started is gone afterwards, also after an exception, and the servers run."""
    with _scene(servers, directory, setting, sabotage, quiet) as scene, load(scene.stage) as sender:
        _warm_up(scene)
        findings = _let_loose(scene, sender, seconds)
        scene.note("the faults are over")
        _mend(scene)
        ends = sender.stop().next
        settled_s, unsettled = _settle(scene, ends)
        findings += unsettled + _stop_workers(scene)
        return _judge(scene, setting, seconds, ends, findings, settled_s)


@contextmanager
def _scene(servers: Servers, directory: Path, setting: Setting, sabotage: str, quiet: bool) -> Iterator[Scene]:
    with Stage(servers, directory, setting) as stage:
        fleet = Fleet(stage, sabotage=sabotage)
        with fleet, LetterBook(stage) as book:
            yield Scene(stage, fleet, book, Tally(), Narrator(directory / "events.log", quiet=quiet))


def _warm_up(scene: Scene) -> None:
    for number in range(1, WORKERS + 1):
        scene.fleet.start(number)
    deadline_s = time.monotonic() + BEGIN_S_MAX
    while not scene.stage.moved():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the workers do not begin within {BEGIN_S_MAX:.0f} s. {_state(scene)}")
        time.sleep(0.2)
    scene.note("every partition moves; the faults begin")
    time.sleep(WARM_S)


def _state(scene: Scene) -> str:
    """What is committed and what the workers said last: the facts behind a wait that was in vain."""
    exits = "".join(f"\nworker {one.worker} ended by itself with code {one.code}" for one in scene.fleet.exits)
    return f"Committed are (offset, metadata): {scene.stage.committed()}{exits}\n{scene.fleet.last_words()}"


def _let_loose(scene: Scene, sender: Sender, seconds: float) -> list[str]:
    """Runs the three tracks side by side; what breaks inside one ends the run and is a finding."""
    failures: list[str] = []
    threads = [
        threading.Thread(target=_track, args=(scene, track, failures), name=track, daemon=True) for track in _MODULES
    ]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline_s and not failures:
            sender.check()
            time.sleep(0.2)
    finally:
        scene.ending.set()
        for thread in threads:
            thread.join(120)
    return failures


def _track(scene: Scene, track: plan.Track, failures: list[str]) -> None:
    lock = {"workers": threading.RLock(), "servers": scene.servers, "wires": scene.wires}[track]
    for fault in plan.faults(scene.stage.setting.seed, track):
        scene.wait(fault.pause_s)
        if scene.ending.is_set():
            return
        inject: Callable[[Scene, Random], None] = getattr(_MODULES[track], fault.kind)
        try:
            with lock:
                inject(scene, Random(fault.seed))
        except Exception as error:
            scene.note(f"the fault {fault.kind} failed: {type(error).__name__}: {error}")
            failures.append(f"the fault {fault.kind} could not be carried out: {type(error).__name__}: {error}")
            return


def _mend(scene: Scene) -> None:
    scene.stage.servers.network.heal()
    scene.stage.servers.kafka.start()
    scene.stage.servers.clickhouse.clear_faults()
    for number in range(1, WORKERS + 1):
        scene.fleet.start(number)


def _settle(scene: Scene, ends: dict[int, int]) -> tuple[float, list[str]]:
    """Waits until every partition is committed to its end and no batch is in flight."""
    started_s = time.monotonic()
    while True:
        committed = scene.stage.committed()
        left = {
            number: (committed.get(number, (0, ""))[0], end)
            for number, end in ends.items()
            if committed.get(number, (-1, "?")) != (end, "")
        }
        seconds = time.monotonic() - started_s
        if not left:
            scene.note(f"everything is committed, {seconds:.1f} s after the faults ended")
            return seconds, []
        if seconds > SETTLE_S_MAX:
            found = f"no progress: {seconds:.0f} s after the faults ended these are not at their end: {left}"
            return seconds, [f"{found}. {_state(scene)}"]
        time.sleep(0.2)


def _stop_workers(scene: Scene) -> list[str]:
    codes = {number: scene.fleet.stop(number) for number in list(scene.fleet.workers)}
    return [f"worker {number} drained with exit code {code}" for number, code in codes.items() if code]


def _judge(
    scene: Scene, setting: Setting, seconds: float, ends: dict[int, int], findings: list[str], settle_s: float
) -> Outcome:
    scene.book.drain()
    found = account(scene.stage, ends, scene.book)
    faults, counts = prove(scene.stage)
    findings = [*findings, *found.examples, *faults, *_bad_exits(scene)]
    rebuilds = scene.fleet.rebuilds()
    longest_s = max((seconds for _, seconds in rebuilds), default=0.0)
    if longest_s > REBUILD_S_MAX:
        findings.append(f"a window took {longest_s:.1f} s to rebuild, more than {REBUILD_S_MAX:.0f} s")
    return Outcome(setting, seconds, scene.tally, found, findings, scene.fleet.exits, rebuilds, counts, settle_s)


def _bad_exits(scene: Scene) -> list[str]:
    """Workers that ended by themselves with a code that nothing of what was done to them explains."""
    found = []
    for one in scene.fleet.exits:
        gone = any(first - 1 <= one.at_s <= last + START_S_MAX for first, last in scene.letters_gone)
        if one.code not in _PASSING_EXITS and not (one.code == _NO_LETTERS_TOPIC and gone):
            found.append(f"worker {one.worker} ended by itself with code {one.code}: {one.said[-600:]}")
    return found
