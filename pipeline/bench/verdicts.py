"""The figures that this project promises, each with its bar and its stretch. It judges; it measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Figure(NamedTuple):
    """Where a figure stands in the result (a path of keys), and what it must be."""

    key: str
    path: tuple[str, ...]
    name: str
    bar: float
    stretch: float
    unit: str
    at_most: bool = True


FIGURES = (
    Figure(
        "ratio_to_floor_flat",
        ("workloads", "flat", "ratio_to_floor"),
        "worker CPU / floor, flat 200 B, everything on",
        1.8,
        1.4,
        "x",
    ),
    Figure(
        "ratio_to_floor_commerce",
        ("workloads", "commerce", "ratio_to_floor"),
        "worker CPU / floor, commerce 700 B union",
        1.8,
        1.4,
        "x",
    ),
    Figure(
        "total_to_json",
        ("workloads", "flat", "total_to_json"),
        "worker + ClickHouse CPU / bare C consumer + JSONEachRow",
        0.5,
        0.333,
        "x",
    ),
    Figure(
        "best_python_baseline",
        ("workloads", "flat", "best_python_baseline"),
        "records per CPU-second / best baseline in Python",
        5,
        10,
        "x",
        at_most=False,
    ),
    Figure(
        "claims_per_second",
        ("claims", "claims_per_second"),
        "claim table: insert or find",
        10e6,
        20e6,
        "1/s",
        at_most=False,
    ),
    Figure("bytes_per_id", ("claims", "bytes_per_id"), "claim table: memory of an id", 48, 32, "B"),
    Figure("cost_growth", ("claims", "cost_growth"), "cost per record after 1e8 records / after 1e6", 1.1, 1.0, "x"),
    Figure(
        "scaling_two_workers",
        ("scaling", "scaling_two_workers"),
        "two workers on two cores / one",
        1.8,
        1.95,
        "x",
        at_most=False,
    ),
    Figure(
        "freshness_p99_s",
        ("live", "freshness_p99_s"),
        "freshness p99 at 70 % of capacity, batch age 500 ms",
        1.0,
        0.7,
        "s",
    ),
    Figure(
        "peak_mib_without_claims",
        ("live", "peak_mib_without_claims"),
        "resident memory at full speed, without claims",
        300,
        150,
        "MiB",
    ),
)


def figures_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that were measured, in the order of the table, as objects with stable keys."""
    return [_judged(figure, result) for figure in FIGURES if _at(result, figure.path) is not None]


def _judged(figure: Figure, result: Mapping[str, Any]) -> dict[str, Any]:
    value = _at(result, figure.path)
    spread = _at(result, (*figure.path[:-1], "spread", figure.path[-1]))
    return {
        "key": figure.key,
        "name": figure.name,
        "value": value,
        "spread": spread or [value, value],
        "bar": figure.bar,
        "stretch": figure.stretch,
        "unit": figure.unit,
        "at_most": figure.at_most,
        "ok": _meets(figure, value, figure.bar),
        "stretch_ok": _meets(figure, value, figure.stretch),
    }


def _meets(figure: Figure, value: float, limit: float) -> bool:
    return value <= limit if figure.at_most else value >= limit


def _at(result: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = result
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found
