"""The options that bound what a command reads: --from, --to and --partition, the same for every command that has them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.selection import Selection


def add_stretch(parser: argparse.ArgumentParser, *, begin_required: bool = False, also: str = "") -> None:
    """Declares the options."""
    group = parser.add_argument_group(
        "which records",
        also
        + "BOUND is a time with a zone (2026-11-26T10:00:00Z), offsets of partitions (orders/0:1200,orders/3:980), or one "
        "offset for those named with --partition. Records from the first bound on, up to and without the second.",
    )
    group.add_argument(
        "--from",
        dest="begin",
        metavar="BOUND",
        required=begin_required,
        help="where to begin; `earliest` is the first record there is"
        + ("" if begin_required else ". Without it: where the pipeline began"),
    )
    group.add_argument("--to", dest="end", metavar="BOUND", help="where to end; else at the committed offsets")
    group.add_argument(
        "--partition",
        action="append",
        default=[],
        metavar="TOPIC/N",
        help="only this partition, or this TOPIC, or this NUMBER of the only topic; may be given several times",
    )


def stretch_of(args: argparse.Namespace) -> Selection:
    """What the options say; SelectionError where they are wrong."""
    from pipeline.selection import parse

    return parse(args.begin, args.end, args.partition)
