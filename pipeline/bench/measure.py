"""The rounds of `penstock bench`: floor, worker and engine in turn, medians and spread, and the condition they hold under."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.bench import rows, stage
from pipeline.bench.stage import Plan, Stage
from pipeline.errors import InvariantViolated
from pipeline.kafka import librdkafka_version
from pipeline.version import VERSION

RATIO_TO_FLOOR_MAX = 5.0
JSON_TO_NATIVE_MIN = 4.0
US = 1e6
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 2 * 1024**3

Round = dict[str, float]
Narrate = Callable[[str], None]


def run(plan: Plan, rounds: int, narrate: Narrate) -> dict[str, Any]:
    """Measures and gives the figures, all with stable keys; `ok` says whether the bar is met."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        memory = stack.enter_context(_memory_directory(directory))
        narrate(f"writing {plan.records:,} records into {plan.partitions} partitions")
        scene = stack.enter_context(stage.opened(directory, plan))
        engine = Engines(memory, rows.write(scene, directory, plan.seed))
        taken = []
        for number in range(rounds):
            taken.append(_round(scene, engine, number))
            narrate(f"round {number + 1} of {rounds}: " + ", ".join(_short(taken[-1])))
        files = "disk" if memory == directory else "memory"
        return _summary(scene, taken) | {"condition": _condition(scene) | {"engine_files": files}}


class Engines(NamedTuple):
    """Where the engines of the rounds keep their files, and the columns of the blocks they get."""

    directory: Path
    columns: tuple[str, ...]


@contextlib.contextmanager
def _memory_directory(fallback: Path) -> Iterator[Path]:
    """A directory in memory where there is one with room, so that the engine's figures hold no work of a file system."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_BYTES_MIN:
        yield fallback
        return
    with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=MEMORY) as directory:
        yield Path(directory)


def _short(figures: Round) -> list[str]:
    keys = ("floor_us", "worker_us", "clickhouse_us", "clickhouse_json_us")
    return [f"{key.removesuffix('_us')} {figures[key]:.3f} us" for key in keys]


def _round(scene: Stage, engine: Engines, number: int) -> Round:
    """One of each, so that whatever the machine does meanwhile hits all of them."""
    return _floor(scene) | _worker(scene, f"r{number}") | _engine(scene, engine, number)


def _floor(scene: Stage) -> Round:
    read = stage.child("pipeline.bench.floor", scene.kafka.brokers, stage.TOPIC, str(scene.plan.partitions))
    if read["records"] != scene.records:
        raise InvariantViolated(f"bench: the floor read {read['records']} of {scene.records} records")
    return {"floor_us": read["cpu_s"] / scene.records * US, "floor_wall_us": read["wall_s"] / scene.records * US}


def _worker(scene: Stage, name: str) -> Round:
    table = f"bench_{name}"
    scene.create_table(table)
    config = scene.write_config(name, table)
    engine_before_s = scene.engine.cpu_seconds()
    told = stage.child("pipeline.bench.member", str(config))
    engine_s = scene.engine.cpu_seconds() - engine_before_s
    stored = scene.clickhouse.query_rows(f"SELECT count(), uniqExact(event_id) FROM {table}")[0]
    accounted = told["rows"] + told["duplicates"] + told["rejects"]
    if told["records"] != scene.records or accounted != scene.records or stored != (told["rows"], told["rows"]):
        raise InvariantViolated(
            f"bench: the worker accounts for {told} of {scene.records} records, the table has {stored}"
        )
    figures = {"worker_us": told["cpu_s"] / scene.records * US, "clickhouse_worker_us": engine_s / told["rows"] * US}
    figures |= {"worker_wall_us": told["wall_s"] / scene.records * US}
    figures |= {key: told[key] for key in ("start_cpu_s", "peak_mib", "rows", "duplicates", "rejects", "commits")}
    stages = {key.removesuffix("_s") + "_us": value for key, value in told.items() if key.startswith("stage_")}
    return figures | {key: value / scene.records * US for key, value in stages.items()}


def _engine(scene: Stage, engine: Engines, number: int) -> Round:
    """An engine of its own for each round; nothing is deleted in between, which would cost the file system CPU too."""
    table = scene.directory / "table.sql"
    table.write_text(scene.clickhouse.query_rows("SHOW CREATE TABLE bench_contract")[0][0].replace("default.", "", 1))
    directory = engine.directory / f"engine-{number}"
    told = stage.child("pipeline.bench.engine", str(scene.directory), str(directory), str(table), *engine.columns)
    return {
        "clickhouse_us": told["native_cpu_s"] / told["rows"] * US,
        "clickhouse_json_us": told["json_cpu_s"] / told["rows"] * US,
    }


def _summary(scene: Stage, taken: list[Round]) -> dict[str, Any]:
    """Medians by figure; `ratio_to_floor` is the median of the rounds' own ratios."""
    for figures in taken:
        figures["ratio_to_floor"] = figures["worker_us"] / figures["floor_us"]
        figures["json_to_native"] = figures["clickhouse_json_us"] / figures["clickhouse_us"]
    median = {key: round(statistics.median(figures[key] for figures in taken), 4) for key in taken[0]}
    spread = {
        key: [round(min(figures[key] for figures in taken), 4), round(max(figures[key] for figures in taken), 4)]
        for key in taken[0]
        if key.endswith("_us") or key in ("ratio_to_floor", "json_to_native")
    }
    ok = median["ratio_to_floor"] <= RATIO_TO_FLOOR_MAX and median["json_to_native"] >= JSON_TO_NATIVE_MIN
    return {
        **median,
        "spread": spread,
        "rounds": len(taken),
        "records": scene.records,
        "record_bytes": round(scene.nbytes / scene.records, 1),
        "partitions": scene.plan.partitions,
        "seed": scene.plan.seed,
        "events_per_second": round(US / median["worker_wall_us"]),
        "ok": ok,
    }


def _condition(scene: Stage) -> dict[str, Any]:
    """The machine, the versions and the commit: without them a figure means nothing."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "librdkafka": librdkafka_version(),
        "clickhouse": ".".join(map(str, scene.clickhouse.version())),
        "penstock": VERSION,
        "commit": _commit(),
        "reader": scene.kafka.reader,
        "compression": scene.plan.compression,
        "duplicates": stage.DUPLICATES,
        "poison": stage.POISON,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    """The commit of the source tree this runs from, with "+" when it has changes; '' outside of one."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
