"""The rounds of one workload: floor, worker, engine and baselines in turn, so that what the machine does hits all of them."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.bench import baselines, rows, stage
from pipeline.bench.baselines.common import Job
from pipeline.bench.stage import Plan, Stage
from pipeline.errors import InvariantViolated

US = 1e6
RATIO_TO_FLOOR_MAX = 1.8
JSON_TO_NATIVE_MIN = 4.0
BASELINE_WORKLOAD = "flat"
BASELINE_PARTITIONS_MAX = dict.fromkeys(baselines.PYTHON, 8) | {"lines": 32}
"""The baselines read a part of the topic: those in Python need many times a worker's time. The other one inserts as much
at once as a worker, and is counted from an insert on: of a smaller part little would be left."""
KERNEL_RECORDS = 10_000
INEXACT_JSON = {"nested": "a null that is kept as JSON text becomes an empty string there"}
"""Workloads whose text JSONEachRow does not read into the same rows, and why."""

Round = dict[str, float]
Narrate = Callable[[str], None]


def missing_baselines() -> list[str]:
    """Baselines whose distribution is not installed."""
    return [name for name, module in baselines.EXTRA.items() if importlib.util.find_spec(module) is None]


def measure(
    directory: Path, memory: Path, plan: Plan, rounds: int, names: Sequence[str], narrate: Narrate
) -> dict[str, Any]:
    """Fills a topic, measures it that many times, and gives medians and spread. `names` are the baselines to run."""
    narrate(f"{plan.workload}: writing {plan.records:,} records into {plan.partitions} partitions")
    with stage.opened(directory, plan) as scene:
        rows.write(scene, directory, plan.seed)
        taken = []
        for number in range(rounds):
            taken.append(_round(scene, memory, number, names))
            narrate(f"{plan.workload}: round {number + 1} of {rounds}: " + ", ".join(_short(taken[-1])))
        version = ".".join(map(str, scene.clickhouse.version()))
        return summary(taken) | _constants(scene) | {"rounds": rounds, "clickhouse": version}


def _short(figures: Round) -> list[str]:
    return [
        f"{key.removesuffix('_us')} {value:.2f} us"
        for key, value in figures.items()
        if key in ("floor_us", "worker_us", "clickhouse_us", "clickhouse_json_us")
        or (key.startswith("baseline_") and key.endswith("_total_us"))
    ]


def _round(scene: Stage, memory: Path, number: int, names: Sequence[str]) -> Round:
    figures = floor_and_worker(scene, number) | _engine(scene, memory, number)
    figures |= _stages(scene, figures["worker_us"] - figures["floor_us"])
    for name in names:
        figures |= _baseline(scene, name, number)
    figures["ratio_to_floor"] = figures["worker_us"] / figures["floor_us"]
    if "clickhouse_json_us" in figures:
        figures["json_to_native"] = figures["clickhouse_json_us"] / figures["clickhouse_us"]
    return figures | _against_baselines(figures)


def floor_and_worker(scene: Stage, number: int) -> Round:
    """The two that belong together most; `number` tells the rounds of a scene apart."""
    return _floor(scene) | _worker(scene, f"r{number}")


def _floor(scene: Stage) -> Round:
    plan = scene.plan
    arguments = (scene.kafka.brokers, stage.TOPIC, str(plan.partitions), str(plan.warm_records))
    read = stage.child("pipeline.bench.floor", *arguments)
    if read["records"] != scene.records:
        raise InvariantViolated(f"bench: the floor read {read['records']} of {scene.records} records")
    return {"floor_us": read["cpu_us"], "floor_wall_us": read["wall_us"], "floor_cold_us": read["cold_us"]}


def _worker(scene: Stage, name: str) -> Round:
    table = f"bench_{name}"
    scene.create_tables(table)
    scene.stop_merges(table)
    more = ("--warm", str(scene.plan.warm_records), "--beside", str(scene.engine.pid))
    told = stage.child("pipeline.bench.member", str(scene.write_config(name, table)), *more)
    stored = scene.stored(table)
    accounted = told["rows"] + told["duplicates"] + told["rejects"]
    if told["records"] != scene.records or accounted != scene.records or stored != (told["rows"], told["rows"]):
        raise InvariantViolated(
            f"bench: the worker accounts for {told} of {scene.records} records, the table has {stored}"
        )
    scene.drop_tables(table)
    # By record, not by row: it is added to the worker's.
    figures = {"worker_us": told["cpu_us"], "clickhouse_worker_us": told["beside_us"]}
    figures |= {"worker_wall_us": told["wall_us"], "worker_cold_us": told["cold_us"]}
    figures |= {key: told[key] for key in ("start_cpu_s", "peak_mib", "rows", "duplicates", "rejects", "commits")}
    stages = {key.removesuffix("_s") + "_us": value for key, value in told.items() if key.startswith("stage_")}
    return figures | {key: value / scene.records * US for key, value in stages.items()}


def _engine(scene: Stage, memory: Path, number: int) -> Round:
    """An engine of its own for each round; nothing is deleted in between, which would cost the file system CPU too."""
    directory = memory / f"engine-{scene.plan.workload}-{number}"
    told = stage.child("pipeline.bench.engine", str(scene.directory), str(directory))
    figures = {"clickhouse_us": told["native_cpu_s"] / told["rows"] * US}
    if scene.plan.workload in INEXACT_JSON:
        return figures
    if told["different"]:
        raise InvariantViolated(f"bench: JSONEachRow gave other rows than our blocks in {told['different']}")
    return figures | {"clickhouse_json_us": told["json_cpu_s"] / told["rows"] * US}


def _stages(scene: Stage, above_floor_us: float) -> Round:
    """Where the CPU above the floor goes: the kernels, measured by themselves, and what is left for everything else."""
    name = scene.plan.workload
    told = stage.child("pipeline.bench.kernels", f"{name}:{min(KERNEL_RECORDS, scene.records)}")[name]
    figures = {f"cpu_{stage_}_us": float(value) for stage_, value in told.items()}
    return figures | {"cpu_rest_us": above_floor_us - sum(told.values())}


def _baseline(scene: Stage, name: str, number: int) -> Round:
    """One program on a part of the topic. Every record that the table can take must be in it."""
    table = f"bench_{name}_{number}"
    scene.create_tables(table)
    scene.stop_merges(table)
    if name == "lines":
        scene.clickhouse.command(f"ALTER TABLE {table} MODIFY COLUMN viewed_at Int64")
    partitions = min(BASELINE_PARTITIONS_MAX[name], scene.plan.partitions)
    wanted = scene.records_in(partitions)
    job = Job(
        scene.kafka.brokers,
        stage.TOPIC,
        partitions,
        scene.engine.url,
        table,
        warm_records=scene.plan.warm_records * wanted // scene.records,
        engine=scene.engine.pid,
    )
    told = stage.child(f"pipeline.bench.baselines.{name}", *map(str, job))
    rows_stored, _ = scene.stored(table)
    # The one that hands bytes on does not know what ClickHouse skips.
    claimed = rows_stored if name == "lines" else told["rows"]
    if told["records"] != wanted or rows_stored != claimed or not 0 <= wanted - rows_stored <= scene.poison(partitions):
        raise InvariantViolated(
            f"bench: the baseline {name} tells {told} of {wanted} records, the table has {rows_stored}"
        )
    scene.drop_tables(table)
    key = f"baseline_{name}"
    own_us, engine_us = told["cpu_us"], told["beside_us"]
    figures = {f"{key}_us": own_us, f"{key}_clickhouse_us": engine_us, f"{key}_total_us": own_us + engine_us}
    return figures | {f"{key}_wall_us": told["wall_us"]}


def _against_baselines(figures: Round) -> Round:
    """The worker against the baselines of the same round."""
    ratios: Round = {}
    total = figures["worker_us"] + figures["clickhouse_worker_us"]
    if "baseline_lines_total_us" in figures:
        ratios["total_to_json"] = total / figures["baseline_lines_total_us"]
    python = [name for name in baselines.PYTHON if f"baseline_{name}_us" in figures]
    if python:
        best = min(figures[f"baseline_{name}_us"] for name in python)
        best_total = min(figures[f"baseline_{name}_total_us"] for name in python)
        ratios["best_python_baseline"] = best / figures["worker_us"]
        ratios["best_python_baseline_total"] = best_total / total
    return ratios


RATIOS = ("ratio_to_floor", "json_to_native", "total_to_json", "best_python_baseline", "best_python_baseline_total")


def summary(taken: Sequence[Round]) -> dict[str, Any]:
    """Medians by figure; a ratio is the median of the rounds' own ratios."""
    median = {key: round(statistics.median(figures[key] for figures in taken), 4) for key in taken[0]}
    spread = {
        key: [round(min(figures[key] for figures in taken), 4), round(max(figures[key] for figures in taken), 4)]
        for key in taken[0]
        if key.endswith("_us") or key in RATIOS or key == "peak_mib"
    }
    return {**median, "spread": spread}


def _constants(scene: Stage) -> dict[str, Any]:
    return {
        "records": scene.records,
        "record_bytes": round(scene.nbytes / scene.records, 1),
        "partitions": scene.plan.partitions,
        "warm_records": scene.plan.warm_records,
        "seed": scene.plan.seed,
        "json_comparable": INEXACT_JSON.get(scene.plan.workload, "") or True,
    }
