"""Makes a failing schedule small: fewer faults, records, partitions and workers, as long as it still fails alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.simulation.schedule import Schedule
from tests.simulation.world import run

RUNS_MAX = 300


def kind_of(findings: list[str]) -> str:
    """What kind of finding the first is: the words before its first colon."""
    return findings[0].partition(":")[0] if findings else ""


def shrink(schedule: Schedule) -> Schedule:
    """The smallest failing schedule that a bounded search finds."""
    wanted = kind_of(run(schedule).findings)
    runs = 0
    smaller = True
    while smaller and runs < RUNS_MAX:
        smaller = False
        for candidate in _candidates(schedule):
            runs += 1
            if kind_of(run(candidate).findings) == wanted:
                schedule, smaller = candidate, True
                break
    return schedule


def _candidates(schedule: Schedule) -> Iterator[Schedule]:
    faults = schedule.faults
    for index in range(0, len(faults), max(1, len(faults) // 2)):
        yield replace(schedule, faults=faults[:index] + faults[index + max(1, len(faults) // 2) :])
    for index in range(len(faults)):
        yield replace(schedule, faults=faults[:index] + faults[index + 1 :])
    if schedule.records > 4:
        yield replace(schedule, records=schedule.records // 2)
        yield replace(schedule, records=schedule.records - 1)
    if schedule.partitions > 1:
        yield replace(schedule, partitions=schedule.partitions - 1)
    if schedule.workers > 1:
        yield replace(schedule, workers=schedule.workers - 1)
    for field in ("gaps", "poison", "duplicates"):
        if getattr(schedule, field):
            yield replace(schedule, **{field: 0.0})  # type: ignore[arg-type]
