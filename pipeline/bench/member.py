"""A worker as `penstock run --until-caught-up` runs it, which tells at its end what CPU it used from the moment it began.

`python -m pipeline.bench.member CONFIG [steady]` prints one JSON object; with `steady` the worker works until it gets SIGTERM
and tells the freshness of every batch. The start of the interpreter and the imports are told
apart (`start_cpu_s`): they are paid once, not per record.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from pipeline import config as configuration
from pipeline import logs
from pipeline.assembly import assemble
from pipeline.metrics import Metrics
from pipeline.worker import Worker

COUNTERS = {
    "records": "penstock_records_consumed_total",
    "bytes": "penstock_consumed_bytes_total",
    "duplicates": "penstock_records_duplicate_total",
    "commits": "penstock_commit_duration_seconds_count",
}


def main(arguments: Sequence[str]) -> int:
    """Gives the worker's own exit code."""
    config = configuration.load(Path(arguments[0]), os.environ)
    logs.configure(config.log)
    parts = assemble(config)
    steady = arguments[1:] == ["steady"]
    freshness_s = _kept_freshness(parts.metrics) if steady else []
    first_read_s = _kept_first_read(parts.metrics)
    worker = Worker(parts, until_caught_up=not steady)
    before_s, started_s = cpu_s(), time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = int(runner.run(worker.run()))
    figures = told(parts.metrics)
    figures |= {"cpu_s": cpu_s() - before_s, "wall_s": time.monotonic() - started_s, "start_cpu_s": before_s}
    figures["peak_mib"] = peak_mib()
    # From the first read on: joining the group takes seconds, whatever there is to read.
    figures["reading_s"] = time.monotonic() - (first_read_s[0] if first_read_s else started_s)
    print(json.dumps(figures | ({"freshness_s": freshness_s} if steady else {})))
    return code


def _kept_freshness(metrics: Metrics) -> list[float]:
    """Every value that the histogram of the metric gets: its buckets are too wide for a percentile."""
    kept: list[float] = []
    observe = metrics.freshness_seconds

    def keep(seconds: float) -> None:
        kept.append(seconds)
        observe(seconds)

    metrics.freshness_seconds = keep  # type: ignore[method-assign]
    return kept


def _kept_first_read(metrics: Metrics) -> list[float]:
    """When the first poll of the source came back with its time, as a list of one."""
    kept: list[float] = []
    count = metrics.stage_seconds

    def keep(stage: str, seconds: float) -> None:
        if not kept:
            kept.append(time.monotonic() - seconds)
        count(stage, seconds)

    metrics.stage_seconds = keep  # type: ignore[method-assign]
    return kept


def cpu_s() -> float:
    """CPU time of this process, all its threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mib() -> float:
    """The largest resident set. On Linux `ru_maxrss` begins with that of the process that started this one."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


def told(metrics: Metrics) -> dict[str, float]:
    """The counters of the run, and the wall time of each stage as `stage_NAME_s`."""
    result: dict[str, float] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            for key, name in COUNTERS.items():
                if sample.name == name:
                    result[key] = sample.value
            if sample.name == "penstock_stage_seconds_total":
                result[f"stage_{sample.labels['stage']}_s"] = sample.value
            if sample.name == "penstock_rows_inserted_total":
                result["rows"] = result.get("rows", 0.0) + sample.value
            if sample.name == "penstock_records_rejected_total":
                result["rejects"] = result.get("rejects", 0.0) + sample.value
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
