"""`penstock bench` from end to end, too small for its figures to mean much: they must all be there and fit together."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline import cli
from pipeline.bench import rounds, stage
from pipeline.bench.stage import Plan

US = ("floor_us", "worker_us", "clickhouse_us", "clickhouse_json_us")
RECORDS = 6_000
WORKLOADS = ("flat", "commerce", "nested")
pytestmark = pytest.mark.timeout(400)


class Measured(NamedTuple):
    """One run of everything, and what it wrote."""

    result: dict[str, Any]
    table: str
    chart: str
    page: str


def bench(*options: str) -> tuple[dict[str, Any], str]:
    """What it measured, and its tables."""
    command = [sys.executable, "-m", "pipeline", "bench", *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=390, check=False)
    assert done.returncode in (0, 1), done.stderr
    *table, last = done.stdout.strip().splitlines()
    result = json.loads(last)
    assert done.returncode == (0 if result["ok"] else 1)
    return result, "\n".join(table)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    directory = tmp_path_factory.mktemp("bench")
    chart, page = directory / "chart.svg", directory / "page.md"
    small = ("--workload", ",".join(WORKLOADS), "--records", str(RECORDS), "--partitions", "2", "--rounds", "1")
    more = ("--baselines", "--claims", "--live", "--scale", "0.005", "--svg", str(chart), "--markdown", str(page))
    return Measured(*bench(*small, *more), chart.read_text(), page.read_text())


@pytest.mark.slow
def test_bench_measures_every_part(measured: Measured, tmp_path: Path) -> None:
    result = measured.result
    for key in US:
        assert 0.01 < result[key] < 1_000, key
        assert result["spread"][key] == [result[key], result[key]]
    assert result["ratio_to_floor"] == pytest.approx(result["worker_us"] / result["floor_us"], rel=0.01)
    assert result["json_to_native"] == pytest.approx(result["clickhouse_json_us"] / result["clickhouse_us"], rel=0.01)
    assert result["records"] == RECORDS
    assert result["duplicates"] > 0
    explained = sum(result[f"cpu_{name}_us"] for name in ("take", "block", "lz4", "rest"))
    assert explained == pytest.approx(result["worker_us"] - result["floor_us"], abs=0.01)
    assert result["condition"]["commit"] is not None
    assert result["workloads"]["flat"]["worker_us"] == result["worker_us"]
    assert {"ratio_to_floor_flat", "ratio_to_floor_commerce"} <= {figure["key"] for figure in result["figures"]}
    assert "librdkafka" in measured.table
    assert measured.chart.startswith("<svg")
    assert "| flat | 203 |" in measured.page
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps(result))
    assert bench("--from", str(saved)) == (result, measured.table)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_is_measured_and_said_where_json_cannot_give_its_rows(measured: Measured, name: str) -> None:
    one = measured.result["workloads"][name]
    assert one["rows"] + one["duplicates"] + one["rejects"] == RECORDS
    assert ("clickhouse_json_us" in one) is (name not in rounds.INEXACT_JSON)
    assert (one["json_comparable"] is True) is (name not in rounds.INEXACT_JSON)


@pytest.mark.slow
def test_every_baseline_stores_every_row(measured: Measured) -> None:
    """A program that loses a row fails the command."""
    names = {"plain", "columns", "lines"} | ({"bytewax"} if importlib.util.find_spec("bytewax") else set())
    assert set(measured.result["baselines"]) == names
    flat = measured.result["workloads"]["flat"]
    for name in names:
        both = flat[f"baseline_{name}_us"] + flat[f"baseline_{name}_clickhouse_us"]
        assert flat[f"baseline_{name}_total_us"] == pytest.approx(both, rel=0.01)
    assert flat["baseline_lines_us"] < flat["baseline_columns_us"]
    assert {"total_to_json", "best_python_baseline"} <= {figure["key"] for figure in measured.result["figures"]}
    assert "JSONEachRow into ClickHouse (as its Kafka engine)" in measured.table


def test_a_baseline_that_loses_rows_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage.opened(tmp_path, Plan(records=2_000, partitions=2)) as scene:
        monkeypatch.setattr(stage, "child", lambda *_: {"records": 2_000, "rows": 2_000})
        with pytest.raises(Exception, match="the table has 0"):
            rounds._baseline(scene, "plain", 0)


@pytest.mark.slow
def test_claims_and_two_workers(measured: Measured) -> None:
    claims, scaling = measured.result["claims"], measured.result["scaling"]
    assert claims["ids"] == 100_000
    assert claims["claims_per_second"] > 1_000
    assert claims["records_large"] == 500_000
    assert 50_000 < claims["ids_held"] <= claims["ids_held_wide"] <= 100_000
    assert claims["cost_growth"] > 0
    assert claims["cost_wider"] > 0
    assert 0 < scaling["scaling_two_workers"] < 10
    keys = {figure["key"] for figure in measured.result["figures"]}
    assert {"claims_per_second", "bytes_per_id", "cost_growth", "scaling_two_workers"} <= keys


@pytest.mark.slow
def test_freshness_and_memory(measured: Measured) -> None:
    live = measured.result["live"]
    assert 0 < live["freshness_p99_s"] < 120
    assert 0 < live["share_of_capacity"] <= 0.75
    assert 20 < live["peak_mib_without_claims"] < 2_000


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
def test_options_that_cannot_be_are_a_usage_error(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = cli.main(["bench", *options])
    except SystemExit as refused:
        code = refused.code
    assert code == 2
    assert capsys.readouterr().err
