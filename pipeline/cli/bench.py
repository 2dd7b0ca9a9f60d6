"""`penstock bench`: what a record costs in CPU time, against bare librdkafka, ClickHouse's JSON parsing and other programs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.bench.sizes import DEFAULT_PARTITIONS

WORKLOADS = ("flat", "commerce", "logs", "wide", "nested")
LIVE_S_MIN = 4.0


def add(subparsers: Any) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "bench",
        help="measure what a record costs",
        description="Measures CPU time per record of a bare librdkafka consumer (the floor), of a worker with everything on, "
        "and of ClickHouse for our blocks and for the same rows as JSON; all on embedded parts, in interleaved rounds. "
        "Exit code 1 when a figure that was measured misses its bar.",
    )
    parser.add_argument(
        "--workload",
        default="flat",
        metavar="NAME[,NAME...]",
        help=f"what to measure: all, or of {', '.join(WORKLOADS)} (default: %(default)s)",
    )
    parser.add_argument("--all", action="store_true", help="every workload, and all of the next three")
    parser.add_argument("--baselines", action="store_true", help="also programs a user would run instead (flat only)")
    parser.add_argument("--claims", action="store_true", help="also the claim table, large windows, and two workers")
    parser.add_argument("--live", action="store_true", help="also freshness while records arrive, and memory")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="write the chart")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables, as docs/measured.md has them")
    parser.add_argument(
        "--from", dest="saved", metavar="FILE", type=Path, help="measure nothing: show what --json gave before"
    )
    size = parser.add_argument_group("how much")
    size.add_argument("--records", type=int, help="records of a topic (default: 5,000,000 flat, fewer larger ones)")
    size.add_argument(
        "--partitions", type=int, default=DEFAULT_PARTITIONS, help="partitions of a topic (default: %(default)s)"
    )
    size.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: %(default)s)")
    size.add_argument("--seed", type=int, default=1, help="seed of the workload (default: %(default)s)")
    size.add_argument(
        "--scale", type=float, default=1.0, help="of --claims and --live, in parts of the whole (default: %(default)s)"
    )
    how = parser.add_argument_group("how the worker is set up")
    how.add_argument("--reader", choices=("native", "confluent"), default="native", help="(default: %(default)s)")
    how.add_argument("--lane", choices=("native", "msgspec"), default="", help="(default: as configured by default)")
    how.add_argument(
        "--compression", choices=("zstd", "lz4", "none"), default="zstd", help="of the topic (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 when every bar is met, 1 when one is not, 2 when the options cannot be, 69 when a part does not start."""
    from pipeline.bench import chart, measure, report
    from pipeline.cli import output
    from pipeline.errors import Exit

    problem = _problem(args)
    if problem:
        output.note(f"penstock bench: {problem}")
        return Exit.USAGE
    result = _saved(args.saved) if args.saved else measure.run(_job(args), output.note)
    if args.svg:
        args.svg.write_text(chart.svg(result), encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(report.markdown(result), encoding="utf-8")
    output.line(report.text(result, lambda rows: output.table(rows, right=range(1, len(rows[0])))))
    if args.json:
        output.result(result)
    return Exit.OK if result["ok"] else Exit.NO


def _problem(args: argparse.Namespace) -> str:
    """Why the options cannot be; '' when they can."""
    from pipeline.bench import sizes

    if args.saved:
        return "" if args.saved.is_file() else f"there is no file {args.saved}"
    if args.partitions < 1 or args.rounds < 1 or args.scale <= 0 or (args.records is not None and args.records < 1):
        return "records, partitions and rounds are at least 1, and a scale is more than 0"
    unknown = [name for name in _names(args) if name not in WORKLOADS]
    if unknown:
        return f"there is no workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}, and all"
    if args.baselines and "flat" not in _names(args):
        return "the baselines read the flat workload; name it too"
    for name in _names(args):
        records = args.records or sizes.SIZES[name].records
        if not sizes.fits(name, records, args.partitions, args.compression):
            kept = sizes.SIZES[name].kept[args.compression]
            return f"the embedded broker keeps {kept:,} records of {name} a partition; use more partitions or fewer records"
    return ""


def _names(args: argparse.Namespace) -> list[str]:
    return list(WORKLOADS) if args.all or args.workload == "all" else args.workload.split(",")


def _job(args: argparse.Namespace) -> Any:
    from pipeline.bench import claims, mocked
    from pipeline.bench.measure import Job
    from pipeline.bench.sizes import SIZES, warm_records
    from pipeline.bench.stage import Plan

    plans = [
        Plan(
            records=args.records or SIZES[name].records,
            partitions=args.partitions,
            workload=name,
            seed=args.seed,
            reader=args.reader,
            compression=args.compression,
            lane=args.lane,
            warm_records=warm_records(name, args.records or SIZES[name].records),
        )
        for name in _names(args)
    ]
    scaled, live = args.claims or args.all, args.live or args.all
    return Job(
        plans=plans,
        rounds=args.rounds,
        baselines=args.baselines or args.all,
        claims=claims.Sizes().scaled(args.scale) if scaled else None,
        mocked=mocked.Sizes().scaled(args.scale) if scaled else None,
        live_s=max(LIVE_S_MIN, 10.0 * args.scale) if live else 0.0,
    )


def _saved(path: Path) -> Mapping[str, Any]:
    """The last line of what `--json` printed."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8").strip().splitlines()[-1])
    return found
