"""The worker's own code under random schedules of faults, and what the simulation finds when a part of the protocol is off.

PENSTOCK_SIM_SEED and PENSTOCK_SIM_SEEDS choose the seeds; `make sim` runs many more.
"""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.simulation.faults import Fault
from tests.simulation.runner import explain, quiet, try_seed
from tests.simulation.schedule import Schedule, Switches, draw
from tests.simulation.shrink import kind_of, shrink
from tests.simulation.world import run

SEED = int(os.environ.get("PENSTOCK_SIM_SEED") or random.SystemRandom().randrange(2**31))
SEEDS = int(os.environ.get("PENSTOCK_SIM_SEEDS") or "200")
SEARCHED_MAX = 400

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    quiet()
    yield
    logging.disable(logging.NOTSET)
    gc.enable()


def test_every_row_exactly_once_under_random_schedules() -> None:
    print(f"PENSTOCK_SIM_SEED={SEED} PENSTOCK_SIM_SEEDS={SEEDS}")
    for seed in range(SEED, SEED + SEEDS):
        findings, _ = try_seed(seed)
        if seed % 50 == 0:
            gc.collect()
        assert not findings, f"PENSTOCK_SIM_SEED={seed} PENSTOCK_SIM_SEEDS=1\n{explain(seed)}"


def test_a_seed_is_the_same_run_every_time() -> None:
    print(f"PENSTOCK_SIM_SEED={SEED}")
    for seed in range(SEED, SEED + 5):
        one, two = run(draw(seed), traced=True), run(draw(seed), traced=True)
        assert one.trace == two.trace
        assert one.steps == two.steps


# The check of the checkers

OMISSIONS = {
    "no intents": (Switches(intents=False), {"lineage": False}, "doubled"),
    "offsets committed before the insert": (Switches(commit_after_insert=False), {}, "lost"),
    "no tokens": (Switches(tokens=False), {}, "doubled"),
    "no lineage and a window that overflows": (Switches(), {"lineage": False, "window_blocks": 2}, "doubled"),
}


@pytest.mark.parametrize("omission", OMISSIONS)
def test_the_simulation_finds_what_an_omission_costs(omission: str) -> None:
    print(f"PENSTOCK_SIM_SEED={SEED}")
    switches, shape, expected = OMISSIONS[omission]
    for searched, seed in enumerate(range(SEED, SEED + SEARCHED_MAX), 1):
        schedule = replace(draw(seed), switches=switches, partitioned=False, **shape)  # type: ignore[arg-type]
        if kind_of(run(schedule).findings) == expected:
            print(f"{omission}: the simulation reports {expected} rows or records, after {searched} seeds")
            return
    pytest.fail(f"{omission}: nothing {expected} in {SEARCHED_MAX} seeds")


def test_a_failing_schedule_becomes_small() -> None:
    switches = Switches(commit_after_insert=False)
    failing = next(s for s in (replace(draw(seed), switches=switches) for seed in range(500)) if run(s).findings)
    small = shrink(failing)
    assert run(small).findings
    assert len(small.faults) < len(failing.faults)
    assert small.records <= failing.records


# What was found, each as the smallest schedule that showed it

FOUND: dict[str, Schedule] = {
    "an empty batch behind an undeclared one": Schedule(
        seed=20960,
        protocol="classic",
        workers=2,
        partitions=4,
        records=60,
        faults=(
            Fault(on="commit", at=7, what="refused", code=16),
            Fault(on="commit", at=23, what="refused", code=27),
            Fault(on="time", at=2.8875102151277736, what="stopped", seconds=4.0),
        ),
        lineage=False,
        partitioned=False,
        window_blocks=200,
        window_s=None,
        one_server=False,
        dedup=True,
        rebuild="kafka",
        dedup_window_s=3600,
        duplicates=0.4,
        poison=0.05,
        gaps=0.0,
        rows_max=8,
    ),
    "a refused record that compaction removed": Schedule(
        seed=21120,
        protocol="classic",
        workers=2,
        partitions=1,
        records=24,
        faults=(
            Fault(on="time", at=8.571343602019137, what="clickhouse outage", seconds=5.490777126765615),
            Fault(on="time", at=13.90179360595645, what="compaction", code=955),
        ),
        lineage=True,
        partitioned=False,
        window_blocks=200,
        window_s=None,
        one_server=True,
        dedup=True,
        rebuild="clickhouse",
        dedup_window_s=3600,
        duplicates=0.0,
        poison=0.2,
        gaps=0.3,
        rows_max=8,
    ),
    "rows left out are read again after a rebalance": Schedule(
        seed=1166,
        protocol="classic",
        workers=3,
        partitions=4,
        records=40,
        faults=(
            Fault(on="time", at=0.6789059665880217, what="planned restart", seconds=4.952098902490565),
            Fault(on="time", at=4.706774394708509, what="retention", code=77),
            Fault(on="time", at=4.752005431982754, what="rebalance"),
        ),
        lineage=True,
        partitioned=True,
        window_blocks=200,
        window_s=None,
        one_server=True,
        dedup=True,
        rebuild="kafka",
        dedup_window_s=3600,
        duplicates=0.4,
        poison=0.05,
        gaps=0.0,
        rows_max=20,
    ),
    "rows left out have claims": Schedule(
        seed=1812,
        protocol="classic",
        workers=2,
        partitions=3,
        records=40,
        faults=(
            Fault(on="time", at=5.0299450935103645, what="retention", code=596),
            Fault(on="time", at=8.353274669966385, what="rebalance"),
        ),
        lineage=True,
        partitioned=False,
        window_blocks=200,
        window_s=None,
        one_server=True,
        dedup=True,
        rebuild="kafka",
        dedup_window_s=3600,
        duplicates=0.0,
        poison=0.05,
        gaps=0.0,
        rows_max=8,
    ),
    "claims of a declared batch outlive its partition": Schedule(
        seed=102700,
        protocol="consumer",
        workers=3,
        partitions=3,
        records=20,
        faults=(
            Fault(on="insert", at=2, what="late", seconds=62.07864813361932),
            Fault(on="insert", at=10, what="late", seconds=1.118610379471022),
            Fault(on="time", at=0.23591617469563791, what="planned restart", seconds=4.160984703925225, whom=2),
            Fault(on="time", at=3.6687548571433677, what="planned restart", seconds=2.3245702126858325, whom=1),
            Fault(on="time", at=8.605900796297954, what="stopped", seconds=6.0),
        ),
        lineage=False,
        partitioned=False,
        window_blocks=200,
        window_s=3600,
        one_server=True,
        dedup=True,
        rebuild="clickhouse",
        dedup_window_s=30,
        duplicates=0.4,
        poison=0.2,
        gaps=0.0,
        rows_max=3,
    ),
    "claims of a partition that goes before it is ready": Schedule(
        seed=2135682097,
        protocol="classic",
        workers=2,
        partitions=2,
        records=45,
        faults=(
            Fault(on="query", at=2, what="error", code=252),
            Fault(on="query", at=6, what="error", code=242),
            Fault(on="query", at=10, what="error", code=242),
            Fault(on="time", at=0.9965189083729338, what="rebalance"),
            Fault(on="time", at=3.7243678818376162, what="rebalance"),
            Fault(on="time", at=4.361224997803414, what="rebalance"),
            Fault(on="time", at=5.054272491927335, what="rebalance"),
            Fault(on="time", at=6.36701078521555, what="crash"),
        ),
        lineage=True,
        partitioned=True,
        window_blocks=200,
        window_s=None,
        one_server=True,
        dedup=True,
        rebuild="kafka",
        dedup_window_s=3600,
        duplicates=0.4,
        poison=0.2,
        gaps=0.3,
        rows_max=3,
    ),
    "a copy dropped for a record that is dropped with its partition": Schedule(
        seed=63256,
        protocol="classic",
        workers=2,
        partitions=2,
        records=10,
        faults=(
            Fault(on="commit", at=1, what="refused", code=16),
            Fault(on="commit", at=10, what="in_part", code=3),
            Fault(on="committed", at=2, what="no answer"),
        ),
        lineage=False,
        partitioned=False,
        window_blocks=200,
        window_s=None,
        one_server=True,
        dedup=True,
        rebuild="clickhouse",
        dedup_window_s=30,
        duplicates=0.4,
        poison=0.0,
        gaps=0.0,
        rows_max=3,
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_found_before(name: str) -> None:
    assert run(FOUND[name]).findings == []


def test_a_wide_schedule_meets_every_kind_of_fault() -> None:
    """A fault that no schedule draws any more would go unnoticed."""
    wanted = {"crash", "stopped", "rebalance", "planned restart", "contract changed", "compaction", "clock jump"}
    drawn: set[str] = {fault.what for seed in range(300) for fault in draw(seed).faults}
    assert wanted <= drawn
    assert {"reply_lost", "request_lost", "late", "partial", "missing_topic", "other writers fill the window"} <= drawn
    assert {"in_part", "hung data plane"} <= drawn
    assert any(fault.on == "join" for seed in range(300) for fault in draw(seed).faults)
    assert isinstance(draw(0).faults[0], Fault)
