"""The chart of a result as SVG, written by hand: what a record costs, by workload and against other programs.

Readable on light and dark pages: the drawing has a card of its own, so that no colour depends on what is behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

WIDTH = 860
LEFT = 290
"""Where bars begin; names stand to the left of it."""
RIGHT = 110
"""Room for the figures behind the bars."""
BAR = 18
GAP = 8
GROUP_GAP = 14
PAGE, INK, FAINT, RULE = "#ffffff", "#1f2328", "#656d76", "#d8dee4"
FLOOR, WORKER, ENGINE, OTHER = "#8b949e", "#0969da", "#d4a72c", "#bc4c00"
FONT = "font-family='-apple-system,Segoe UI,Helvetica,Arial,sans-serif'"
SHORT = {
    "plain": "plain Python loop, json",
    "columns": "confluent-kafka, orjson, columns",
    "bytewax": "bytewax, orjson, columns",
    "lines": "C consumer, JSONEachRow",
}


class Part(NamedTuple):
    """One piece of a bar."""

    value: float
    colour: str


class Bar(NamedTuple):
    """A line of a panel. `low` and `high` are the smallest and the largest round of all pieces together, where known."""

    name: str
    parts: tuple[Part, ...]
    label: str
    low: float = 0.0
    high: float = 0.0
    first: bool = False
    """Begins a group."""

    @property
    def total(self) -> float:
        return sum(part.value for part in self.parts)


class Panel(NamedTuple):
    title: str
    axis: str
    bars: Sequence[Bar]
    legend: Sequence[tuple[str, str]]


def svg(result: Mapping[str, Any]) -> str:
    """The whole picture, with the machine, the versions and the commit under it."""
    panels = [_workloads(result)]
    if result["baselines"]:
        panels.append(_baselines(result))
    y, drawn = 34.0, []
    for panel in panels:
        lines, y = _panel(panel, y)
        drawn += lines
    for line in _footer(result):
        drawn.append(_text(24, y, line, size=11, colour=FAINT))
        y += 16
    height = y + 6
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img" aria-label="CPU time per record">'
    )
    card = f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="8" fill="{PAGE}" stroke="{RULE}"/>'
    return "\n".join([head, card, *drawn, "</svg>"]) + "\n"


def _workloads(result: Mapping[str, Any]) -> Panel:
    """Floor and worker of each workload."""
    bars = []
    for name, one in result["workloads"].items():
        size = f"{name}, {one['record_bytes']:,.0f} B"
        floor, worker = one["floor_us"], one["worker_us"]
        low, high = one["spread"]["floor_us"]
        bars.append(Bar(f"{size}: floor", (Part(floor, FLOOR),), f"{floor:.2f}", low, high, True))
        label = f"{worker:.2f} ({one['ratio_to_floor']:.2f}x)"
        bars.append(Bar("worker", (Part(worker, WORKER),), label, *one["spread"]["worker_us"]))
    legend = [
        ("bare librdkafka consumer: the floor", FLOOR),
        ("worker: exactly once, dedup, dead letters", WORKER),
    ]
    return Panel("What a record costs a worker", "CPU microseconds per record", bars, legend)


def _baselines(result: Mapping[str, Any]) -> Panel:
    """Program and ClickHouse together, the worker first."""
    flat = result["workloads"]["flat"]
    bars = [_both("penstock", flat, "worker_us", "clickhouse_worker_us", WORKER)]
    for name in sorted(result["baselines"], key=lambda name: float(flat[f"baseline_{name}_total_us"])):
        bars.append(_both(SHORT[name], flat, f"baseline_{name}_us", f"baseline_{name}_clickhouse_us", OTHER))
    legend = [("penstock", WORKER), ("other program (no exactly once, no dedup)", OTHER), ("ClickHouse", ENGINE)]
    return Panel(
        "From the same topic into ClickHouse, flat records", "CPU microseconds per record, both processes", bars, legend
    )


def _both(name: str, flat: Mapping[str, Any], own: str, engine: str, colour: str) -> Bar:
    parts = (Part(flat[own], colour), Part(flat[engine], ENGINE))
    return Bar(name, parts, f"{flat[own]:.2f} + {flat[engine]:.2f}")


def _panel(panel: Panel, y: float) -> tuple[list[str], float]:
    """The lines of a panel that begins at `y`, and where the next may begin."""
    lines = [_text(24, y, panel.title, size=16, weight=600)]
    y += 22
    x = 24.0
    for label, colour in panel.legend:
        lines.append(f'<rect x="{x:.0f}" y="{y - 9:.0f}" width="11" height="11" rx="2" fill="{colour}"/>')
        lines.append(_text(x + 16, y, label, size=12, colour=FAINT))
        x += 40 + 6.2 * len(label)
    y += 16
    top = y
    step, end = scale(max(max(bar.total, bar.high) for bar in panel.bars))
    per = (WIDTH - LEFT - RIGHT) / end
    bars: list[str] = []
    for bar in panel.bars:
        y += GROUP_GAP if bar.first and y > top else 0
        bars += _bar(bar, y, per)
        y += BAR + GAP
    return [*lines, *_axis(panel.axis, top, y, step, end, per), *bars], y + 66


def _bar(bar: Bar, y: float, per: float) -> list[str]:
    middle = y + BAR / 2
    lines = [_text(LEFT - 10, middle + 4, bar.name, size=12, anchor="end")]
    x = float(LEFT)
    for part in bar.parts:
        width = part.value * per
        lines.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" fill="{part.colour}"/>')
        x += width
    if bar.high > bar.low:
        low, high = LEFT + bar.low * per, LEFT + bar.high * per
        whisker = f"M{low:.1f} {middle - 4:.1f}v8M{low:.1f} {middle:.1f}H{high:.1f}M{high:.1f} {middle - 4:.1f}v8"
        lines.append(f'<path d="{whisker}" stroke="{INK}" fill="none"/>')
        x = max(x, high)
    return [*lines, _text(x + 8, middle + 4, bar.label, size=12, weight=600)]


def _axis(title: str, top: float, bottom: float, step: float, end: float, per: float) -> list[str]:
    lines = []
    for number in range(round(end / step) + 1):
        x = LEFT + number * step * per
        lines.append(f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" stroke="{RULE}"/>')
        lines.append(_text(x, bottom + 14, f"{number * step:g}", size=11, colour=FAINT, anchor="middle"))
    lines.append(_text(LEFT, bottom + 30, title, size=11, colour=FAINT))
    return lines


def scale(largest: float) -> tuple[float, float]:
    """(step, end) of an axis from 0 to at least `largest`, with four to eight steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(largest / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if largest / (power * factor) <= 8)
    return step, step * math.ceil(largest / step)


def _footer(result: Mapping[str, Any]) -> list[str]:
    under = result["condition"]
    return [
        f"Median of {result['rounds']} interleaved rounds, whiskers from the smallest to the largest; "
        f"{under['duplicates']:.0%} duplicates, {under['poison']:.1%} bad records, {under['compression']}.",
        f"{under['cpu']} x {under['cores']}, Python {under['python']}, librdkafka {under['librdkafka']}, "
        f"ClickHouse {under['clickhouse']}, penstock {under['penstock']} {under['commit']}.",
    ]


def _text(
    x: float, y: float, text: str, *, size: int, colour: str = INK, anchor: str = "start", weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" {FONT} font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
