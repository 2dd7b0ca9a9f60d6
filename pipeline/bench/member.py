"""A worker as `penstock run --until-caught-up` runs it, which tells at its end what CPU it used from its first read on.

`python -m pipeline.bench.member CONFIG [--steady] [--beside PID]` prints one JSON object; with `--steady` the worker works
until it gets SIGTERM and tells the freshness of every batch. What it used before its first read (the interpreter, imports,
joining the group, the window) is told apart as `start_cpu_s`: it is paid once, not per record, and the floor leaves it out
too. So is what the engine, the process PID, had used by then: it is told as `beside_cpu_s`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
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
    options = _options(arguments)
    config = configuration.load(options.config, os.environ)
    logs.configure(config.log)
    parts = assemble(config)
    freshness_s = _kept_freshness(parts.metrics) if options.steady else []
    beginning = _kept_beginning(parts.metrics, options.beside)
    worker = Worker(parts, until_caught_up=not options.steady)
    started = _moment(options.beside)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = int(runner.run(worker.run()))
    figures = told(parts.metrics)
    begun = beginning[0] if beginning else started
    # From the first read on, as the floor is: what comes before is paid once, whatever there is to read.
    figures |= {"cpu_s": cpu_s() - begun.cpu_s, "start_cpu_s": begun.cpu_s, "beside_cpu_s": begun.beside_cpu_s}
    figures |= {"wall_s": time.monotonic() - started.at_s, "reading_s": time.monotonic() - begun.at_s}
    figures["peak_mib"] = peak_mib()
    print(json.dumps(figures | ({"freshness_s": freshness_s} if options.steady else {})))
    return code


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.bench.member")
    parser.add_argument("config", type=Path)
    parser.add_argument("--steady", action="store_true")
    parser.add_argument("--beside", type=int, default=0, metavar="PID")
    return parser.parse_args(arguments)


def _kept_freshness(metrics: Metrics) -> list[float]:
    """Every value that the histogram of the metric gets: its buckets are too wide for a percentile."""
    kept: list[float] = []
    observe = metrics.freshness_seconds

    def keep(seconds: float) -> None:
        kept.append(seconds)
        observe(seconds)

    metrics.freshness_seconds = keep  # type: ignore[method-assign]
    return kept


class Moment(NamedTuple):
    """A time, and the CPU time used before it, by this process and by the one beside it."""

    at_s: float
    cpu_s: float
    beside_cpu_s: float


def _moment(beside: int) -> Moment:
    used = psutil.Process(beside).cpu_times() if beside else None
    return Moment(time.monotonic(), cpu_s(), used.user + used.system if used else 0.0)


def _kept_beginning(metrics: Metrics, beside: int) -> list[Moment]:
    """When the first partitions were prepared and nothing had been fetched yet, as a list of one."""
    kept: list[Moment] = []
    count = metrics.recovered

    def keep(batches: int, rows: int) -> None:
        if not kept:
            kept.append(_moment(beside))
        count(batches, rows)

    metrics.recovered = keep  # type: ignore[method-assign]
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
