"""`penstock verify`: shows from Kafka and ClickHouse alone that every consumed record ended exactly once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config.schema import Config
    from pipeline.verify.oracle import Oracle


def add(subparsers: Any) -> None:
    """Declares the command."""
    from pipeline.cli.gen import add_workload
    from pipeline.cli.stretch import add_stretch

    parser = subparsers.add_parser(
        "verify",
        help="account for every consumed record",
        description="Reads the records below the committed offsets again and accounts for each: a row, a dead letter, a "
        "duplicate of a stored row, or filtered. Lists what is missing or doubled. Exit code 1 when there is any.",
    )
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)")
    add_stretch(parser)
    parser.add_argument("--rate", type=float, default=0.0, metavar="R", help="read at the most R records a second")
    parser.add_argument(
        "--list", type=int, default=20, metavar="N", help="show at the most N records of each fault (20)"
    )
    parser.add_argument(
        "--wait", type=float, default=10.0, metavar="S", help="how long to wait for Kafka and ClickHouse"
    )
    generated = parser.add_argument_group(
        "a generated topic",
        "With --generated the topic of the first route must hold what `penstock gen` with the same options made of it, from "
        "offset 0 on; this also covers records that Kafka no longer has.",
    )
    generated.add_argument("--generated", action="store_true", help="compare with the workload's generator, too")
    add_workload(generated)


def run(args: argparse.Namespace) -> int:
    """0 when nothing is missing or doubled, 1 otherwise."""
    import os

    from pipeline import config as configuration
    from pipeline import logs
    from pipeline.cli import output
    from pipeline.cli.progress import Progress
    from pipeline.cli.stretch import stretch_of
    from pipeline.config.schema import Log
    from pipeline.errors import Exit
    from pipeline.verify import verify

    config = configuration.load(args.config, os.environ)
    logs.configure(Log(format="text", level="warning"))
    selection = stretch_of(args)
    try:
        oracle = _oracle(args, config)
    except ValueError as error:
        output.note(f"penstock verify: {error}")
        return Exit.USAGE
    with Progress(0, "verify", unit=" records") as progress:
        report = verify(
            config,
            oracle=oracle,
            selection=selection,
            rate=args.rate,
            examples_max=max(0, args.list),
            wait_s=args.wait,
            begin=progress.expect,
            progress=progress.advance,
        )
    if args.json:
        output.result(report.as_json())
    else:
        verdict = output.coloured("exactly once", "green") if report.ok else output.coloured("NOT exactly once", "red")
        output.line("\n".join([f"{config.name}: {verdict}", *report.lines()]))
    return Exit.OK if report.ok else Exit.NO


def _oracle(args: argparse.Namespace, config: Config) -> Oracle | None:
    from pipeline.cli.gen import mix_of
    from pipeline.verify.oracle import Oracle
    from pipeline.workload import Generator, shape

    if not args.generated:
        return None
    return Oracle(config.routes[0].topic, Generator(shape(args.workload), args.seed, mix_of(args)))
