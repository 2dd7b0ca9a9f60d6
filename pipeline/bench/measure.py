"""What `penstock bench` measures, and the one result it gives: workloads, baselines, claims, and their condition."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.bench import baselines, claims, live, mocked, rounds, stage
from pipeline.bench.condition import condition
from pipeline.bench.rounds import BASELINE_WORKLOAD, US, Narrate
from pipeline.bench.stage import Plan
from pipeline.bench.verdicts import figures_of
from pipeline.config.schema import Batch
from pipeline.errors import DependencyDown, PenstockError

MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 2 * 1024**3


@dataclass(frozen=True)
class Job:
    """One run of the command."""

    plans: Sequence[Plan]
    rounds: int
    baselines: bool = False
    claims: claims.Sizes | None = None
    mocked: mocked.Sizes | None = None
    live_s: float = 0.0
    """How long freshness is measured; 0: it is not."""


def run(job: Job, narrate: Narrate) -> dict[str, Any]:
    """Measures and gives the figures, all with stable keys; `ok` says whether every bar that was measured is met.

    The figures of the first workload are at the top as well, where scripts have always found them.
    """
    names: list[str] = []
    if job.baselines:
        missing = rounds.missing_baselines()
        names = [name for name in baselines.NAMES if name not in missing]
        for name in missing:
            narrate(f"the baseline {name} is left out: install the extra: pip install 'penstock[bench]'")
    under = condition() | {
        "reader": job.plans[0].reader,
        "compression": job.plans[0].compression,
        "duplicates": stage.DUPLICATES,
        "poison": stage.POISON,
    }
    attempt = Attempt(narrate)
    workloads: dict[str, dict[str, Any]] = {}
    for plan in job.plans:
        run_baselines = names if plan.workload == BASELINE_WORKLOAD else []
        if found := attempt(plan.workload, partial(_workload, plan, job.rounds, run_baselines, narrate)):
            under |= {key: found.pop(key) for key in ("clickhouse", "engine_files")}
            workloads[plan.workload] = found
    if not workloads:
        raise DependencyDown("no workload could be measured; the messages are above")
    first = next(iter(workloads.values()))
    result = {**first, "workloads": workloads}
    result |= {"baselines": names, **_parts(job, narrate, attempt), "condition": under, "failed": attempt.failed}
    result["figures"] = figures_of(result)
    result["ok"] = not attempt.failed and all(figure["ok"] for figure in result["figures"])
    return result


class Attempt:
    """Runs the parts of a measurement: one that fails does not take the figures of the others with it."""

    def __init__(self, narrate: Narrate) -> None:
        self._narrate = narrate
        self.failed: dict[str, str] = {}
        """Part -> why it has no figures."""

    def __call__(self, part: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Its figures; none when it failed."""
        try:
            return measure()
        except PenstockError as error:
            self.failed[part] = str(error)
            self._narrate(f"{part}: not measured: {error}")
            return {}


def _workload(plan: Plan, rounds_: int, names: Sequence[str], narrate: Narrate) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name, _memory(Path(name)) as memory:
        found = rounds.measure(Path(name), memory, plan, rounds_, names, narrate)
    found["engine_files"] = "disk" if memory == Path(name) else "memory"
    found["events_per_second"] = round(US / found["worker_wall_us"])
    return found


def _parts(job: Job, narrate: Narrate, attempt: Attempt) -> dict[str, Any]:
    """What is measured apart from the rounds of a workload."""
    parts: dict[str, Any] = {}
    if job.claims is not None:
        parts["claims"] = attempt("claims", partial(claims.measure, job.claims, job.rounds, narrate))
    if job.mocked is not None:
        parts["scaling"] = attempt("scaling", partial(mocked.measure, job.mocked, job.rounds, narrate))
    if job.live_s > 0:
        parts["live"] = attempt("live", partial(live.measure, _live(job.plans[0]), job.live_s, job.rounds, narrate))
    return parts


def _live(plan: Plan) -> Plan:
    """As many partitions as one batch spans at the most: with more, records wait for the next one."""
    partitions = min(plan.partitions, Batch().partitions_max)
    return replace(plan, partitions=partitions, records=plan.records * partitions // plan.partitions, warm_records=0)


@contextlib.contextmanager
def _memory(fallback: Path) -> Iterator[Path]:
    """A directory in memory where there is one with room, so that the engine's figures hold no work of a file system."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_BYTES_MIN:
        yield fallback
        return
    with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=MEMORY) as directory:
        yield Path(directory)
