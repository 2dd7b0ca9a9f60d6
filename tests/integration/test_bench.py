"""`penstock bench` from end to end, too small for its figures to mean much: they must all be there and fit together."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.bench import gate, rounds, stage
from pipeline.bench.stage import Plan

US = ("floor_us", "worker_us", "clickhouse_us", "clickhouse_json_us")
SMALL = ("--records", "12000", "--partitions", "2", "--rounds", "1")


def bench(*options: str) -> tuple[dict[str, Any], str]:
    """What it measured, and its tables."""
    command = [sys.executable, "-m", "pipeline", "bench", *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode in (0, 1), done.stderr
    *table, last = done.stdout.strip().splitlines()
    result = json.loads(last)
    assert done.returncode == (0 if result["ok"] else 1)
    return result, "\n".join(table)


@pytest.mark.slow
def test_bench_measures_every_part(tmp_path: Path) -> None:
    chart, page = tmp_path / "chart.svg", tmp_path / "page.md"
    result, table = bench(*SMALL, "--svg", str(chart), "--markdown", str(page))
    for key in US:
        assert 0.01 < result[key] < 1_000, key
        assert result["spread"][key] == [result[key], result[key]]
    assert result["ratio_to_floor"] == pytest.approx(result["worker_us"] / result["floor_us"], rel=0.01)
    assert result["json_to_native"] == pytest.approx(result["clickhouse_json_us"] / result["clickhouse_us"], rel=0.01)
    assert result["records"] == 12_000
    assert result["rows"] + result["duplicates"] + result["rejects"] == 12_000
    assert result["duplicates"] > 0
    explained = sum(result[f"cpu_{name}_us"] for name in ("take", "block", "lz4", "rest"))
    assert explained == pytest.approx(result["worker_us"] - result["floor_us"], abs=0.01)
    assert result["condition"]["commit"] is not None
    assert result["workloads"]["flat"]["worker_us"] == result["worker_us"]
    assert [figure["key"] for figure in result["figures"]] == ["ratio_to_floor_flat"]
    assert "librdkafka" in table
    assert chart.read_text().startswith("<svg")
    assert "| flat | 203 |" in page.read_text()
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps(result))
    assert bench("--from", str(saved)) == (result, table)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["commerce", "nested"])
def test_a_union_and_rows_that_json_cannot_give_are_measured_too(name: str) -> None:
    result, _ = bench("--workload", name, "--records", "4000", "--partitions", "2", "--rounds", "1")
    one = result["workloads"][name]
    assert one["rows"] + one["duplicates"] + one["rejects"] == 4_000
    assert ("clickhouse_json_us" in one) is (name not in rounds.INEXACT_JSON)
    assert (one["json_comparable"] is True) is (name not in rounds.INEXACT_JSON)


@pytest.mark.slow
def test_every_baseline_stores_every_row() -> None:
    """A program that loses a row fails the command."""
    result, table = bench(*SMALL, "--baselines")
    names = {"plain", "columns", "lines"} | ({"bytewax"} if importlib.util.find_spec("bytewax") else set())
    assert set(result["baselines"]) == names
    flat = result["workloads"]["flat"]
    for name in names:
        both = flat[f"baseline_{name}_us"] + flat[f"baseline_{name}_clickhouse_us"]
        assert flat[f"baseline_{name}_total_us"] == pytest.approx(both, rel=0.01)
    assert flat["baseline_lines_us"] < flat["baseline_columns_us"]
    assert {"total_to_json", "best_python_baseline"} <= {figure["key"] for figure in result["figures"]}
    assert "JSONEachRow into ClickHouse (as its Kafka engine)" in table


def test_a_baseline_that_loses_rows_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage.opened(tmp_path, Plan(records=2_000, partitions=2)) as scene:
        monkeypatch.setattr(stage, "child", lambda *_: {"records": 2_000, "rows": 2_000, "cpu_s": 1.0, "wall_s": 1.0})
        with pytest.raises(Exception, match="the table has 0"):
            rounds._baseline(scene, "plain", 0)


@pytest.mark.slow
def test_claims_and_two_workers() -> None:
    result, _ = bench(*SMALL, "--claims", "--scale", "0.005")
    claims, scaling = result["claims"], result["scaling"]
    assert claims["ids"] == 100_000
    assert claims["claims_per_second"] > 1_000
    assert claims["records_large"] == 500_000
    assert claims["ids_held_large"] >= 500_000
    assert claims["cost_growth"] > 0
    assert 0 < scaling["scaling_two_workers"] < 10
    keys = {figure["key"] for figure in result["figures"]}
    assert {"claims_per_second", "bytes_per_id", "cost_growth", "scaling_two_workers"} <= keys


@pytest.mark.slow
def test_freshness_and_memory() -> None:
    result, _ = bench(*SMALL, "--live", "--scale", "0.1")
    live = result["live"]
    assert 0 < live["freshness_p99_s"] < 120
    assert 0 < live["share_of_capacity"] <= 0.75
    assert 20 < live["peak_mib_without_claims"] < 2_000


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed")
def test_instructions_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "KERNELS", {"flat": 1_000})
    counted = gate.instructions()["flat"]
    assert 500 < counted["total"] < 100_000
    assert counted["take"] > counted["lz4"] > counted["block"] > 0
    assert counted["total"] == pytest.approx(sum(counted[name] for name in gate.kernels.STAGES), rel=0.01)


@pytest.mark.parametrize(
    "options",
    [
        ["--records", "0"],
        ["--rounds", "0"],
        ["--scale", "0"],
        ["--records", "1000000", "--partitions", "4"],
        ["--reader", "none"],
        ["--workload", "flat,round"],
        ["--workload", "logs", "--baselines"],
        ["--from", "nowhere.json"],
    ],
)
def test_options_that_cannot_be_are_a_usage_error(options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "bench", *options], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr
