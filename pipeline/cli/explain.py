"""`penstock explain`: what became of one record."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config.schema import Config
    from pipeline.explain import Answer


def add(subparsers: Any) -> None:
    """Declares the command."""
    from pipeline.cli.stretch import add_stretch

    parser = subparsers.add_parser(
        "explain",
        help="what became of one record",
        usage="penstock explain TOPIC PARTITION OFFSET -c FILE\n       penstock explain --id VALUE [VALUE ...] -c FILE",
        description="Says what became of a record: a row, a duplicate of which, a dead letter for which reason, filtered, in "
        "flight, not read yet, or missing. Shows nothing of its payload. Exit code 1 when it is missing or doubled, or when "
        "no record has the id.",
    )
    parser.add_argument("place", nargs="*", metavar="TOPIC PARTITION OFFSET", help="the record, by its place in Kafka")
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)")
    parser.add_argument(
        "--id", nargs="+", metavar="VALUE", help="the record, by its event id: a value for each field of dedup.key"
    )
    parser.add_argument(
        "--wait", type=float, default=10.0, metavar="S", help="how long to wait for Kafka and ClickHouse"
    )
    add_stretch(parser, also="With --id, for a record that has no row: where to look for it in Kafka. ")


def run(args: argparse.Namespace) -> int:
    """0 when it is explained, 1 when it is missing or doubled, or when there is no record with the id."""
    import os

    from pipeline import config as configuration
    from pipeline import logs
    from pipeline.cli import output
    from pipeline.config.schema import Log
    from pipeline.errors import Exit

    config = configuration.load(args.config, os.environ)
    logs.configure(Log(format="text", level="warning"))
    answers = _answers(args, config)
    ok = bool(answers) and not any(answer.alarm for answer in answers)
    if args.json:
        output.result({"ok": ok, "records": [answer.as_json() for answer in answers]})
    elif not answers:
        output.line(
            "no row has this id, and no record that Kafka still holds: it was never produced, or it is gone from both"
        )
    else:
        output.line("\n\n".join(_text(answer) for answer in answers))
    return Exit.OK if ok else Exit.NO


def _answers(args: argparse.Namespace, config: Config) -> list[Answer]:
    from pipeline.cli.progress import Progress
    from pipeline.cli.stretch import stretch_of
    from pipeline.explain import explain_id, explain_place
    from pipeline.selection import SelectionError
    from pipeline.types import Partition

    if args.id and not args.place:
        with Progress(0, "explain", unit=" records") as progress:
            selection = stretch_of(args)
            begin, advance = progress.expect, progress.advance
            return explain_id(config, args.id, selection, wait_s=args.wait, begin=begin, progress=advance)
    numbers = args.place[1:]
    if args.id or len(args.place) != 3 or not all(text.isascii() and text.isdigit() for text in numbers):
        raise SelectionError("give either TOPIC PARTITION OFFSET or --id VALUE ...")
    topic, number, offset = args.place[0], *map(int, numbers)
    return [explain_place(config, Partition(topic, number), offset, wait_s=args.wait)]


def _text(answer: Answer) -> str:
    from pipeline.cli import output

    head = answer.head()
    return "\n".join(
        [output.coloured(head, "red") if answer.alarm else head, output.table(answer.facts(), indent="  ")]
    )
