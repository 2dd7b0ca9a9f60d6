"""A worker as `penstock run --until-caught-up` runs it, which tells at its end what CPU it used.

`python -m pipeline.bench.member CONFIG [--endless] [--warm RECORDS] [--beside PID]` prints one JSON object (see
`Steady.figures`); `--endless`: the worker works until it gets SIGTERM and tells the freshness of every batch. What it used
before its first read is the interpreter, imports, joining the group, the window. PID is the engine. With RECORDS, which are
read before anything is counted, the window is full from the start, of ids that no record has: each new one drops one of these.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from pipeline import config as configuration
from pipeline import logs
from pipeline.assembly import assemble
from pipeline.bench import claims
from pipeline.bench.steady import Steady
from pipeline.dedup import OFFSET_MAX, Dedup
from pipeline.metrics import Metrics
from pipeline.types import Partition
from pipeline.worker import Worker

GONE = Partition("gone", 0)
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
    freshness_s = _kept_freshness(parts.metrics) if options.endless else []
    steady = _watched(parts.metrics, Steady(options.warm, options.beside))
    worker = Worker(parts, until_caught_up=not options.endless)
    if options.warm:
        _fill(worker._flow._dedup, config.dedup.ids_max)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = int(runner.run(worker.run()))
    figures = told(parts.metrics)
    figures |= steady.figures(int(figures["records"]))
    figures["peak_mib"] = peak_mib()
    print(json.dumps(figures | ({"freshness_s": freshness_s} if options.endless else {})))
    return code


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.bench.member")
    parser.add_argument("config", type=Path)
    parser.add_argument("--endless", action="store_true")
    parser.add_argument("--warm", type=int, default=0, metavar="RECORDS")
    parser.add_argument("--beside", type=int, default=0, metavar="PID")
    return parser.parse_args(arguments)


def _fill(dedup: Dedup, ids: int) -> None:
    """As after a long life: that many ids are held, of records long stored."""
    if dedup.enabled:
        dedup.open(GONE)
        claims.fill(dedup, GONE, ids)
        dedup.freeze(GONE, OFFSET_MAX)


def _kept_freshness(metrics: Metrics) -> list[float]:
    """Every value that the histogram of the metric gets: its buckets are too wide for a percentile."""
    kept: list[float] = []
    observe = metrics.freshness_seconds

    def keep(seconds: float) -> None:
        kept.append(seconds)
        observe(seconds)

    metrics.freshness_seconds = keep  # type: ignore[method-assign]
    return kept


def _watched(metrics: Metrics, steady: Steady) -> Steady:
    """Its beginning is when the first partitions were prepared and nothing had been fetched yet.

    A record counts as read when its batch is sealed: what is still to be done for it is about what is done ahead for others.
    """
    recovered, consumed = metrics.recovered, metrics.consumed
    records = 0

    def begin(batches: int, rows: int) -> None:
        steady.begin()
        recovered(batches, rows)

    def read(newly: int, nbytes: int) -> None:
        nonlocal records
        records += newly
        consumed(newly, nbytes)
        steady.read(records)

    metrics.recovered = begin  # type: ignore[method-assign]
    metrics.consumed = read  # type: ignore[method-assign, assignment]
    return steady


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
