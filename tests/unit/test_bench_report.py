"""What `penstock bench` says of a result: verdicts against bar and stretch, tables, Markdown, the chart."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from pipeline import workload as workloads
from pipeline.bench import baselines, chart, claims, live, report, sizes
from pipeline.bench.measure import Attempt
from pipeline.bench.verdicts import FIGURES, figures_of
from pipeline.cli.bench import WORKLOADS
from pipeline.errors import GaveUp


def workload(**more: float) -> dict[str, Any]:
    figures = {
        "floor_us": 0.5,
        "worker_us": 0.8,
        "floor_cold_us": 0.6,
        "worker_cold_us": 1.3,
        "clickhouse_worker_us": 0.3,
        "clickhouse_us": 0.25,
        "clickhouse_json_us": 1.8,
        "ratio_to_floor": 1.6,
        "json_to_native": 7.2,
        "peak_mib": 240.0,
        "cpu_take_us": 0.11,
        "cpu_block_us": 0.02,
        "cpu_lz4_us": 0.08,
        "cpu_rest_us": 0.09,
        **more,
    }
    spread = {key: [value * 0.9, value * 1.2] for key, value in figures.items()}
    rest = {"records": 1000, "record_bytes": 203.0, "partitions": 4, "json_comparable": True, "commits": 3}
    rest["warm_records"] = 400
    return {**figures, **rest, "start_cpu_s": 0.5, "events_per_second": 400_000, "spread": spread}


@pytest.fixture
def result() -> dict[str, Any]:
    programs = {f"baseline_{name}{part}_us": 4.0 for name in baselines.NAMES for part in ("", "_clickhouse", "_total")}
    flat = workload(**programs, total_to_json=0.45, best_python_baseline=5.1)
    found = {
        **flat,
        "rounds": 5,
        "workloads": {"flat": flat, "nested": workload() | {"json_comparable": "of a <reason>"}},
        "baselines": list(baselines.NAMES),
        "claims": {
            "claims_per_second": 21e6,
            "bytes_per_id": 43.0,
            "cost_growth": 1.2,
            "cost_wider": 1.3,
            "ids_held": 1_000,
            "ids_held_wide": 10_000,
            "spread": {"cost_wider": [1.1, 1.4]},
        },
        "live": {"freshness_rate": 70_000, "share_of_capacity": 0.7, "capacity_per_second": 100_000, "partitions": 4}
        | {"reading_per_second": 250_000},
        "scaling": {"scaling_two_workers_cpu": 1.93, "one_worker_per_second": 900_000},
        "condition": {
            "cpu": "A & B <CPU>",
            "cores": 2,
            "load": 0.5,
            "system": "Linux",
            "python": "3.11",
            "librdkafka": "2.16",
            "clickhouse": "26.9",
            "penstock": "0.1",
            "commit": "abc1234",
            "compression": "zstd",
            "duplicates": 0.05,
            "poison": 0.001,
            "engine_files": "memory",
        },
    }
    found["figures"] = figures_of(found)
    found["ok"] = all(figure["ok"] for figure in found["figures"])
    return found


def test_figures_that_were_measured_are_judged_and_no_others(result: dict[str, Any]) -> None:
    verdicts = {figure["key"]: (figure["ok"], figure["stretch_ok"]) for figure in result["figures"]}
    assert verdicts == {
        "ratio_to_floor_flat": (True, False),
        "total_to_json": (True, False),
        "best_python_baseline": (True, False),
        "claims_per_second": (True, True),
        "bytes_per_id": (True, False),
        "cost_growth": (False, False),
    }
    assert result["ok"] is False


def test_every_workload_can_be_asked_for() -> None:
    assert WORKLOADS == workloads.NAMES == tuple(sizes.SIZES)
    for name, size in sizes.SIZES.items():
        assert sizes.fits(name, size.records, sizes.DEFAULT_PARTITIONS, "zstd")
        assert set(size.kept) == {"zstd", "lz4", "none"}
    assert not sizes.fits("flat", 40_001, 1, "zstd")


def test_every_figure_of_the_promise_is_there() -> None:
    assert len(FIGURES) == 10
    for figure in FIGURES:
        assert figure.stretch < figure.bar if figure.at_most else figure.stretch > figure.bar


def test_text_and_markdown_hold_the_figures_with_bar_and_spread(result: dict[str, Any]) -> None:
    text = report.text(result, lambda rows: "\n".join("  ".join(row) for row in rows))
    for part in (
        "0.80 [0.72 .. 0.96]",
        "<= 1.80x",
        "bar missed: cost_growth",
        "abc1234",
        "of a <reason>",
        "70,000 records/s, 70% of the 100,000",
        "1.93x",
        "10,000 ids, which is in no cache, it is 1.30x [1.10 .. 1.40]",
    ):
        assert part in text
    markdown = report.markdown(result)
    assert "| flat | 203 |" in markdown
    assert "21.0 million/s" in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("| ---")]
    assert len(tables) == 4
    assert "| flat | 0.50 | 0.11 | 0.02 | 0.08 | 0.09 |" in markdown


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(1.416, "x", "1.42x"), (12_345_678, "1/s", "12.3 million/s"), (151.2, "MiB", "151 MiB"), (0.333, "x", "0.333x")],
)
def test_amounts(value: float, unit: str, text: str) -> None:
    assert report.amount(value, unit) == text


def test_the_chart_is_one_wellformed_picture_of_its_own_background(result: dict[str, Any]) -> None:
    picture = chart.svg(result)
    root = ET.fromstring(picture)
    height = float(root.attrib["height"])
    assert root[0].tag.endswith("rect")
    assert root[0].attrib["fill"] == chart.PAGE
    texts = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert any("A & B <CPU>" in text and "abc1234" in text for text in texts)
    assert any("0.80 (1.60x)" in text for text in texts)
    for element in root.iter():
        if element.tag.endswith("rect"):
            assert float(element.attrib["x"]) + float(element.attrib["width"]) <= chart.WIDTH
            assert float(element.attrib["y"]) <= height


def test_the_chart_without_baselines_has_one_panel(result: dict[str, Any]) -> None:
    less = copy.deepcopy(result) | {"baselines": []}
    assert chart.svg(less).count('font-weight="600" fill="#1f2328" text-anchor="start">What') == 1
    assert "JSONEachRow" not in chart.svg(less)


@pytest.mark.parametrize("largest", [0.03, 0.5, 1.0, 4.2, 9.99, 48.0, 1234.0])
def test_the_scale_reaches_the_largest_in_round_steps(largest: float) -> None:
    step, end = chart.scale(largest)
    assert end >= largest
    assert 2 <= round(end / step) <= 9


def test_p99_is_a_value_that_99_percent_do_not_exceed() -> None:
    assert live.p99([float(n) for n in range(1, 101)]) == 99.0
    assert live.p99([0.2, 0.7, 0.4]) == 0.7


def test_claims_are_counted_and_costs_are_those_of_the_lane() -> None:
    found = claims.rate(100_000)
    assert found["ids"] == 100_000
    assert 16 < found["bytes_per_id"] < 200
    window = claims.Window(3_000, 1_000)
    assert 500 < window.ids <= 1_000


def test_a_part_that_fails_does_not_take_the_others_with_it(result: dict[str, Any]) -> None:
    def fails() -> dict[str, Any]:
        raise GaveUp("the worker did not stop")

    said: list[str] = []
    attempt = Attempt(said.append)
    assert attempt("live", fails) == {}
    assert attempt("claims", lambda: {"ids": 1}) == {"ids": 1}
    assert said == ["live: not measured: the worker did not stop"]
    result |= {"live": {}, "failed": attempt.failed, "ok": False}
    text = report.text(result, report._markdown_table)
    assert said[0] in text
    assert "Freshness: of the oldest" not in text
    assert not text.endswith("bar met")


def test_freshness_says_under_what_it_was_measured(result: dict[str, Any]) -> None:
    text = report.text(result, report._markdown_table)
    assert (
        "at 70,000 records/s, 70% of the 100,000 that it takes when more is offered, beside producer, broker and engine on the "
        "same cores; 4 partitions. Without a producer it reads 250,000 records/s from a full topic." in text
    )
    assert "{" not in text
