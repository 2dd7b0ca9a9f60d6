"""`penstock bench` from end to end, too small for its figures to mean much: they must all be there and fit together."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

US = ("floor_us", "worker_us", "clickhouse_us", "clickhouse_json_us")


@pytest.mark.slow
def test_bench_measures_every_part() -> None:
    command = [sys.executable, "-m", "pipeline", "bench", "--records", "40000", "--partitions", "4", "--rounds", "1"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode in (0, 1), done.stderr
    *table, last = done.stdout.strip().splitlines()
    figures = json.loads(last)
    assert done.returncode == (0 if figures["ok"] else 1)
    for key in US:
        assert 0.01 < figures[key] < 1_000, key
        assert figures["spread"][key] == [figures[key], figures[key]]
    assert figures["ratio_to_floor"] == pytest.approx(figures["worker_us"] / figures["floor_us"], rel=0.01)
    assert figures["json_to_native"] == pytest.approx(
        figures["clickhouse_json_us"] / figures["clickhouse_us"], rel=0.01
    )
    assert figures["records"] == 40_000
    assert figures["rows"] + figures["duplicates"] + figures["rejects"] == 40_000
    assert figures["duplicates"] > 0
    assert figures["condition"]["commit"] is not None
    assert "ClickHouse, our Native blocks" in "\n".join(table)
    assert "librdkafka" in "\n".join(table)


@pytest.mark.parametrize(
    "options",
    [["--records", "0"], ["--rounds", "0"], ["--records", "1000000", "--partitions", "4"], ["--reader", "none"]],
)
def test_options_that_cannot_be_are_a_usage_error(options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "bench", *options], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr
