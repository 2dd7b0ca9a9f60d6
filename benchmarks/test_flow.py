"""The whole flow: a worker with everything on, between the mock cluster and the embedded engine, each in its own process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.bench import stage
from pipeline.bench.stage import Plan

RECORDS = 320_000
PARTITIONS = 16
MIB = 1024 * 1024


# The work is done in another process: its CPU time is told by itself, and the time here is wall time with its start.
@pytest.mark.benchmark(timer=time.perf_counter)
@pytest.mark.parametrize("reader", ["native", "confluent"])
def test_flow(stated: Any, benchmark: Any, tmp_path: Path, reader: Any) -> None:
    with stage.opened(tmp_path, Plan(RECORDS, PARTITIONS, reader=reader)) as scene:
        scene.create_tables("t")
        config = scene.write_config("flow", "t")
        told = benchmark.pedantic(stage.child, ("pipeline.bench.member", str(config)), rounds=1, iterations=1)
        assert told["records"] == RECORDS
        assert told["rows"] + told["duplicates"] + told["rejects"] == RECORDS
        stated.state(
            told["cpu_s"],
            rows=RECORDS,
            nbytes=scene.nbytes,
            peak_bytes=int(told["peak_mib"] * MIB),
            wall_rows_per_s=round(RECORDS / told["wall_s"]),
            commits=int(told["commits"]),
        )
