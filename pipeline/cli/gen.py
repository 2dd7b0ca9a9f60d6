"""`penstock gen`: sends a seeded workload into a topic, and says how long the brokers took to acknowledge it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config.schema import Kafka
    from pipeline.workload import Generator, Mix
    from pipeline.workload.produce import Produced

WORKLOADS = ("flat", "commerce", "logs", "wide", "nested")


def add(subparsers: Any) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "gen",
        help="send a workload into a topic",
        description="Sends records whose content is a function of seed, partition and offset. A topic that holds records is "
        "continued, so use the same seed and shares for one topic, and let nobody else write to it.",
    )
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="a pipeline's configuration: brokers and topic"
    )
    parser.add_argument("--brokers", help="instead of -c: host:port,...")
    parser.add_argument("--topic", help="the topic; by default the one of the configuration's first route")
    parser.add_argument(
        "--partitions", type=_positive, metavar="N", help="create the topic with N partitions if it is missing"
    )
    parser.add_argument("--events", type=_positive, default=100_000, metavar="N", help="records to send (100000)")
    parser.add_argument(
        "--rate", type=float, default=0.0, metavar="N", help="records a second; 0, the default: all at once"
    )
    parser.add_argument(
        "--timestamps", choices=("wall", "event"), default="wall", help="date records now, or when they happened"
    )
    parser.add_argument("--compression", choices=("zstd", "lz4", "none"), default="zstd")
    parser.add_argument(
        "--timeout", type=float, default=120.0, metavar="S", help="give up when a record is not taken for S seconds"
    )
    add_workload(parser)


def add_workload(parser: argparse._ActionsContainer) -> None:
    """The options that decide what every record holds."""
    parser.add_argument("--workload", choices=WORKLOADS, default="flat")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    for name, text in (
        ("duplicates", "that repeat an earlier one"),
        ("poison", "that break the contract"),
        ("late", "that happened hours ago"),
        ("unknown-version", "of a version nobody knows"),
        ("tombstones", "without a value"),
    ):
        parser.add_argument(
            f"--{name}", type=_share, default=0.0, metavar="SHARE", help=f"share of records {text}, 0 to 1"
        )
    parser.add_argument("--keys", action="store_true", help="the event id as record key")
    parser.add_argument("--headers", action="store_true", help="the event id and the workload's name as headers")


def mix_of(args: argparse.Namespace) -> Mix:
    """The shares that were asked for."""
    from pipeline.workload import Mix

    return Mix(
        duplicates=args.duplicates,
        poison=args.poison,
        late=args.late,
        unknown_version=args.unknown_version,
        tombstones=args.tombstones,
        keys=args.keys,
        headers=args.headers,
    )


def run(args: argparse.Namespace) -> int:
    """0 when every record is acknowledged at the offset it was made for."""
    from pipeline import logs
    from pipeline.cli import output
    from pipeline.cli.progress import Progress
    from pipeline.config.schema import Log
    from pipeline.errors import Exit
    from pipeline.kafka import Cluster
    from pipeline.workload import Generator, shape
    from pipeline.workload.produce import Feed, create_topic, expected, positions, shares

    if bool(args.config) == bool(args.brokers) or (args.brokers and not args.topic):
        output.note("penstock gen: name either -c FILE, or --brokers and --topic")
        return Exit.USAGE
    try:
        generator = Generator(shape(args.workload), args.seed, mix_of(args))
    except ValueError as error:
        output.note(f"penstock gen: {error}")
        return Exit.USAGE
    logs.configure(Log(format="text", level="warning"))
    kafka, topic = _place(args)
    cluster = Cluster(kafka)
    if args.partitions and not cluster.topic_exists(topic):
        create_topic(kafka, topic, args.partitions)
    firsts = _firsts(cluster, topic, positions)
    with Progress(args.events, f"{args.workload} -> {topic}") as progress:
        feed = Feed(
            kafka,
            topic,
            generator,
            rate=args.rate,
            wall_clock=args.timestamps == "wall",
            compression=args.compression,
            timeout_s=args.timeout,
        )
        produced = feed.run(shares(args.events, firsts), firsts, progress.advance)
    ranges = {number: (produced.first[number], produced.next[number]) for number in produced.first}
    _tell(args, topic, generator, produced, dict(expected(generator, ranges)))
    return Exit.OK


def _place(args: argparse.Namespace) -> tuple[Kafka, str]:
    import os

    from pipeline import config as configuration
    from pipeline.config.schema import Kafka

    if args.brokers:
        return Kafka(brokers=args.brokers, group="penstock-gen"), args.topic
    config = configuration.load(args.config, os.environ)
    return config.kafka, args.topic or config.routes[0].topic


def _firsts(cluster: Any, topic: str, positions: Any) -> dict[int, int]:
    """Where each partition ends now. A topic that was just created takes a moment to be known."""
    import time

    from pipeline.errors import ConfigurationError, Problem

    deadline_s = time.monotonic() + 5.0
    while not (firsts := positions(cluster, topic)):
        if time.monotonic() >= deadline_s:
            fix = "Create it, or name the number of partitions with --partitions"
            raise ConfigurationError([Problem("topic", repr(topic), "Kafka has no such topic", fix)])
        time.sleep(0.2)
    return dict(firsts)


def _tell(
    args: argparse.Namespace, topic: str, generator: Generator, produced: Produced, fates: dict[str, int]
) -> None:
    from pipeline.cli import output

    rate = produced.events / produced.seconds if produced.seconds else 0.0
    if args.json:
        output.result(
            {
                "ok": True,
                "workload": generator.shape.name,
                "seed": args.seed,
                "topic": topic,
                "events": produced.events,
                "bytes": produced.nbytes,
                "seconds": round(produced.seconds, 3),
                "events_per_second": round(rate, 1),
                "first_offsets": produced.first,
                "next_offsets": produced.next,
                "expected": fates,
                "publish_latency_ms": produced.latency._asdict(),
            }
        )
        return
    latency = produced.latency
    parts = f"{len(produced.first)} partitions"
    output.line(f"{produced.events:,} {generator.shape.name} records of seed {args.seed} into {topic} ({parts})")
    output.line(
        f"  {produced.seconds:.1f} s, {rate:,.0f} records and {produced.nbytes / produced.seconds / 1e6:.1f} MB a second"
    )
    output.line(
        f"  to become {fates['row']:,} rows, {fates['duplicate']:,} duplicates, {fates['letter']:,} dead letters, "
        f"{fates['filtered']:,} filtered"
    )
    output.line(
        f"  publish latency: p50 {latency.p50_ms:.1f} ms, p99 {latency.p99_ms:.1f} ms, max {latency.max_ms:.1f} ms "
        f"({latency.samples:,} samples)"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return share
