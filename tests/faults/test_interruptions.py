"""How long rows stop: after kill -9 of a worker, and in a rolling restart under load. The figures are in the output."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.directed import accounted
from tests.faults.fleet import Fleet, Worker
from tests.faults.stage import SESSION_S, Servers, Setting, Stage
from tests.integration.harness import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(400)]
TAKEOVER_S_MAX = SESSION_S + 2.0
ATTEMPTS = 3
"""The bound is about the protocol. On a machine that is busy with something else the best of some attempts counts."""
LOOK_S = 0.03
BUSY_PER_S = 10_000.0


class Watch:
    """Asks in a thread, again and again, how far the rows of each partition reach."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: list[tuple[float, dict[int, int]]] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        sql = f"SELECT _partition, max(_offset) FROM {self._stage.table} GROUP BY _partition"
        while not self._ending.wait(LOOK_S):
            found = {int(number): int(offset) for number, offset in self._stage.tables.query_rows(sql)}
            self.seen.append((time.monotonic(), found))

    def after(self, at_s: float) -> list[tuple[float, dict[int, int]]]:
        return [one for one in self.seen if one[0] >= at_s]

    def longest_gap_s(self, numbers: set[int]) -> float:
        """The longest time without a new row of any of these partitions."""
        longest_s, last_s, last = 0.0, self.seen[0][0], -1
        for at_s, offsets in self.seen:
            rows = sum(offsets.get(number, 0) for number in numbers)
            if rows != last:
                longest_s, last_s, last = max(longest_s, at_s - last_s), at_s, rows
        return longest_s


def stage_of(servers: Servers, directory: Path, setting: Setting, name: str) -> Stage:
    return Stage(servers, directory, setting, f"{name}_{setting.protocol}")


def reads(worker: Worker) -> bool:
    lines = [line for line in worker.get("/metrics").splitlines() if line.startswith("penstock_records_consumed")]
    return any(float(line.rpartition(" ")[2]) > 0 for line in lines)


def taken_over_after_s(watch: Watch, killed_s: float) -> tuple[float, float]:
    """From the kill to the first row of a partition of the dead worker, and to the first row of each of them."""
    while time.monotonic() < killed_s + 2.5:
        time.sleep(0.05)
    early = [offsets for _, offsets in watch.after(killed_s + 1.0)]
    dead = {number for number, offset in early[0].items() if early[-1][number] == offset}
    assert 0 < len(dead) < len(early[0]), f"one of two workers was killed, and of {early[0]} these stand still: {dead}"
    came: dict[int, float] = {}
    while len(came) < len(dead):
        assert time.monotonic() < killed_s + 60, f"of {dead} only {came} were taken over within a minute"
        time.sleep(0.05)
        for at_s, offsets in watch.after(killed_s + 2.0):
            for number in dead - came.keys():
                if offsets[number] > early[-1][number]:
                    came[number] = at_s - killed_s
    return min(came.values()), max(came.values())


def test_a_takeover_ends_two_seconds_after_the_session(
    three_brokers: Servers, tmp_path: Path, protocol: str, tell: Callable[[str], None]
) -> None:
    setting = Setting(protocol=protocol, events_per_s=200, static=False)
    seen: list[tuple[float, float]] = []

    def kill_one(stage: Stage, fleet: Fleet) -> None:
        with Watch(stage) as watch:
            for attempt in range(ATTEMPTS):
                # A worker that was killed comes back under another number, as a new member of the group.
                dying, staying = attempt + 1, attempt + 2
                for number in (dying, staying):
                    fleet.start(number)
                wait_until(
                    lambda: stage.moved() and reads(fleet.workers[dying]) and reads(fleet.workers[staying]),  # noqa: B023
                    60,
                    "both workers read",
                )
                time.sleep(2.0)
                fleet.kill(dying)
                seen.append(taken_over_after_s(watch, time.monotonic()))
                if seen[-1][0] <= TAKEOVER_S_MAX:
                    return

    with stage_of(three_brokers, tmp_path, setting, "takeover") as stage:
        found = accounted(stage, kill_one)
    for first_s, last_s in seen:
        tell(f"takeover ({protocol}): first row {first_s:.1f} s after kill -9, of the last partition {last_s:.1f} s")
    assert found.ok, found
    assert min(first_s for first_s, _ in seen) <= TAKEOVER_S_MAX, seen


def test_a_rolling_restart_under_load(
    three_brokers: Servers, tmp_path: Path, protocol: str, tell: Callable[[str], None]
) -> None:
    """Static members: each is back before its session ends, so that nobody else's partitions stop meanwhile."""
    setting = Setting(protocol=protocol, events_per_s=BUSY_PER_S, static=True)
    watches: list[Watch] = []

    def restart_each(stage: Stage, fleet: Fleet) -> None:
        for number in (1, 2, 3):
            fleet.start(number)
        wait_until(lambda: stage.moved() and all(map(reads, fleet.workers.values())), 60, "three workers read")
        with Watch(stage) as watch:
            watches.append(watch)
            time.sleep(2.0)
            for number in (1, 2, 3):
                assert fleet.stop(number) == 0
                fleet.start(number)
                wait_until(lambda: reads(fleet.workers[number]), 60, f"worker {number} reads again")  # noqa: B023
            time.sleep(1.0)

    with stage_of(three_brokers, tmp_path, setting, "rolling") as stage:
        found = accounted(stage, restart_each)
    [watch] = watches
    numbers = set(range(setting.partitions))
    longest_s = max(watch.longest_gap_s({number}) for number in numbers)
    tell(
        f"rolling restart ({protocol}) of 3 workers at {BUSY_PER_S:,.0f} records/s: no row at all for at most "
        f"{watch.longest_gap_s(numbers):.1f} s, none of one partition for at most {longest_s:.1f} s"
    )
    assert found.ok, found
