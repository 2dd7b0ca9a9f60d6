"""The worker's own code under random schedules of faults, and what the simulation finds when a part of the protocol is off.

PENSTOCK_SIM_SEED and PENSTOCK_SIM_SEEDS choose the seeds; `make sim` runs many more.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.simulation.faults import Fault
from tests.simulation.runner import explain, quiet, try_seed
from tests.simulation.sabotage import FIXES, taken_out
from tests.simulation.schedule import Switches, draw
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
    gc.unfreeze()
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
def test_the_simulation_finds_what_an_omission_costs(omission: str, tell: Callable[[str], None]) -> None:
    print(f"PENSTOCK_SIM_SEED={SEED}")
    switches, shape, expected = OMISSIONS[omission]
    for searched, seed in enumerate(range(SEED, SEED + SEARCHED_MAX), 1):
        schedule = replace(draw(seed), switches=switches, partitioned=False, **shape)  # type: ignore[arg-type]
        if kind_of(run(schedule).findings) == expected:
            tell(f"simulation, {omission}: {expected} rows or records, after {searched} seeds")
            return
    pytest.fail(f"{omission}: nothing {expected} in {SEARCHED_MAX} seeds")


def test_a_failing_schedule_becomes_small() -> None:
    switches = Switches(commit_after_insert=False)
    failing = next(s for s in (replace(draw(seed), switches=switches) for seed in range(500)) if run(s).findings)
    small = shrink(failing)
    assert run(small).findings
    assert len(small.faults) < len(failing.faults)
    assert small.records <= failing.records


def test_every_fix_can_be_taken_out() -> None:
    """What the simulation then finds takes minutes to see: `python -m tests.simulation.sabotage`."""
    for fix in FIXES.values():
        with taken_out(fix):
            pass


def test_a_wide_schedule_meets_every_kind_of_fault() -> None:
    """A fault that no schedule draws any more would go unnoticed."""
    wanted = {"crash", "stopped", "rebalance", "planned restart", "contract changed", "compaction", "clock jump"}
    drawn: set[str] = {fault.what for seed in range(300) for fault in draw(seed).faults}
    assert wanted <= drawn
    assert {"reply_lost", "request_lost", "late", "partial", "missing_topic", "other writers fill the window"} <= drawn
    assert {"in_part", "hung data plane", "table emptied", "view_fails", "offsets lost"} <= drawn
    assert any(fault.on == "join" for seed in range(300) for fault in draw(seed).faults)
    assert isinstance(draw(0).faults[0], Fault)
