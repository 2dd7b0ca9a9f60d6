"""`penstock bench`: what a record costs in CPU time, against bare librdkafka and against ClickHouse's own JSON parsing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any


def add(subparsers: Any) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "bench",
        help="measure what a record costs",
        description="Measures CPU time per record of a bare librdkafka consumer (the floor), of a worker with everything on, "
        "and of ClickHouse for our blocks and for the same rows as JSON; all on embedded parts, in interleaved rounds. "
        "Exit code 1 when the worker costs more than five floors, or our blocks more than a quarter of JSON.",
    )
    parser.add_argument("--records", type=int, default=2_097_152, help="records of the topic (default: %(default)s)")
    parser.add_argument("--partitions", type=int, default=64, help="partitions of the topic (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the workload (default: %(default)s)")
    parser.add_argument(
        "--reader", choices=("native", "confluent"), default="native", help="the worker's source (default: %(default)s)"
    )
    parser.add_argument(
        "--compression", choices=("zstd", "lz4", "none"), default="zstd", help="of the topic (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 when the bar is met, 1 when it is not, 2 when the options cannot be, 69 when a part does not start."""
    from pipeline.bench import measure
    from pipeline.bench.stage import PARTITION_RECORDS_MAX, Plan
    from pipeline.cli import output
    from pipeline.errors import Exit

    if args.records < 1 or args.partitions < 1 or args.rounds < 1:
        output.note("penstock bench: records, partitions and rounds are at least 1")
        return Exit.USAGE
    kept = PARTITION_RECORDS_MAX[args.compression]
    if args.records > args.partitions * kept:
        output.note(f"penstock bench: the embedded broker keeps {kept:,} records a partition; use more partitions")
        return Exit.USAGE
    plan = Plan(args.records, args.partitions, args.seed, args.reader, args.compression)
    figures = measure.run(plan, args.rounds, output.note)
    output.line(text(figures))
    if args.json:
        output.result(figures)
    return Exit.OK if figures["ok"] else Exit.NO


def text(figures: Mapping[str, Any]) -> str:
    """The table. Each figure is the median of the rounds, followed by its smallest and its largest."""
    from pipeline.bench.measure import JSON_TO_NATIVE_MIN, RATIO_TO_FLOOR_MAX
    from pipeline.cli import output

    rows = [
        ("CPU per record or row", "median", "min", "max", "unit"),
        _row(figures, "bare librdkafka consumer (floor)", "floor_us", "us"),
        _row(figures, "worker, everything on", "worker_us", "us"),
        _row(figures, "ClickHouse, our Native blocks", "clickhouse_us", "us"),
        _row(figures, "ClickHouse, the same as JSONEachRow", "clickhouse_json_us", "us"),
        _row(figures, f"worker / floor (bar: at most {RATIO_TO_FLOOR_MAX:g})", "ratio_to_floor", "x"),
        _row(figures, f"JSONEachRow / Native (bar: at least {JSON_TO_NATIVE_MIN:g})", "json_to_native", "x"),
    ]
    condition = figures["condition"]
    under = (
        f"{figures['records']:,} records of {figures['record_bytes']:.0f} B in {figures['partitions']} partitions, "
        f"{condition['duplicates']:.1%} duplicates, {condition['poison']:.1%} poison, {condition['compression']}; "
        f"{figures['rounds']} rounds\n"
        f"{condition['cpu']} x {condition['cores']}, {condition['system']}, Python {condition['python']}, "
        f"librdkafka {condition['librdkafka']}, ClickHouse {condition['clickhouse']} (files on {condition['engine_files']}), "
        f"penstock {condition['penstock']} {condition['commit']}"
    )
    more = (
        f"worker: {figures['events_per_second']:,} records/s on this machine beside broker and engine, "
        f"{figures['peak_mib']:.0f} MiB peak, {figures['start_cpu_s']:.2f} s CPU to start, {figures['commits']:.0f} commits"
    )
    verdict = "bar met" if figures["ok"] else "bar missed"
    return "\n".join([output.table(rows, right=(1, 2, 3)), "", under, more, verdict])


def _row(figures: Mapping[str, Any], name: str, key: str, unit: str) -> tuple[str, ...]:
    low, high = figures["spread"][key]
    return name, f"{figures[key]:.3f}", f"{low:.3f}", f"{high:.3f}", unit
