"""`penstock replay`: reads a stretch again and writes what the tables do not have of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.cli.progress import Progress
    from pipeline.replay.plan import Plan
    from pipeline.replay.report import Report


def add(subparsers: Any) -> None:
    """Declares the command."""
    from pipeline.cli.stretch import add_stretch

    parser = subparsers.add_parser(
        "replay",
        help="write again what the tables lost of a stretch",
        description="Reads a stretch of the topics again and writes the rows and dead letters that are not there: what is "
        "found by its lineage or its event id is left alone. Uses a group of its own and never touches the pipeline's; workers "
        "may run meanwhile. The same command goes on where a stopped replay left off.",
    )
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)")
    add_stretch(parser, begin_required=True)
    parser.add_argument("--rate", type=float, default=0.0, metavar="R", help="read at the most R records a second")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be written")
    parser.add_argument("--restart", action="store_true", help="begin anew where an earlier run was stopped")
    parser.add_argument(
        "--wait", type=float, default=60.0, metavar="S", help="how long to wait for Kafka and ClickHouse at the start"
    )


def run(args: argparse.Namespace) -> int:
    """0 when the whole stretch is done, 75 when it was stopped before, 69, 70 or 78 as a worker ends."""
    import os

    from pipeline import config as configuration
    from pipeline import logs
    from pipeline.cli import output
    from pipeline.cli.progress import Progress
    from pipeline.cli.stretch import stretch_of
    from pipeline.config.schema import Log
    from pipeline.errors import Exit
    from pipeline.replay import dry_run, replay

    config = configuration.load(args.config, os.environ)
    logs.configure(Log(format="text", level="warning"))
    selection = stretch_of(args)
    code = Exit.OK
    with Progress(0, "replay", unit=" records") as progress:

        def begin(plan: Plan) -> None:
            _tell(plan, progress, dry_run=args.dry_run)

        if args.dry_run:
            report = dry_run(config, selection, rate=args.rate, wait_s=args.wait, begin=begin, progress=progress.reach)
        else:
            report, code = replay(
                config,
                selection,
                rate=args.rate,
                restart=args.restart,
                wait_s=args.wait,
                begin=begin,
                progress=progress.reach,
            )
    if not report.finished and code is Exit.OK:
        code = Exit.TEMPORARY
    if args.json:
        output.result({**report.as_json(), "exit": int(code)})
    else:
        output.line("\n".join([f"{config.name}: {_verdict(report)}", *report.lines()]))
    return code


def _tell(plan: Plan, progress: Progress, *, dry_run: bool) -> None:
    """What will be read, before it is."""
    progress.expect(plan.offsets)
    parts = sum(span.first < span.next for span in plan.spans.values())
    partitions = "1 partition" if parts == 1 else f"{parts} partitions"
    progress.note(f"{plan.offsets:,} offsets of {partitions}" + ("" if dry_run else f", group {plan.group}"))
    if plan.begun and not dry_run:
        progress.note(
            f"going on with an earlier run, which had done {plan.offsets_before:,} of them (--restart begins anew)"
        )


def _verdict(report: Report) -> str:
    from pipeline.cli import output

    if report.dry_run:
        return "dry run"
    if report.finished:
        return output.coloured("replayed", "green")
    return output.coloured("NOT finished: run the same command again to go on", "red")
