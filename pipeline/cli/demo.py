"""`penstock demo`: a workload through real workers, some of them killed, and the proof that nothing was lost or doubled."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.cli.gen import WORKLOADS, _positive, _share


def add(subparsers: Any) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "demo",
        help="show exactly once under kill -9, with embedded servers",
        description="Starts a mock Kafka cluster, an embedded ClickHouse, a producer and workers; kills a worker with SIGKILL "
        "while batches are in flight, starts it again, and accounts for every event. Needs no server, leaves nothing behind.",
    )
    parser.add_argument("--events", type=_positive, default=500_000, metavar="N")
    parser.add_argument("--partitions", type=_positive, default=8, metavar="N")
    parser.add_argument("--workers", type=_positive, default=2, metavar="N")
    parser.add_argument("--duplicates", type=_share, default=0.05, metavar="SHARE")
    parser.add_argument("--poison", type=_share, default=0.001, metavar="SHARE")
    parser.add_argument("--kill", type=int, default=2, metavar="N", help="how often a worker is killed (2)")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--workload", choices=WORKLOADS, default="flat")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep configuration, logs and data there")
    parser.add_argument("--broker", default="", metavar="HOST:PORT", help="a real Kafka instead of the embedded one")
    parser.add_argument("--clickhouse", default="", metavar="URL", help="a real ClickHouse instead of the embedded one")
    parser.add_argument(
        "--group-protocol",
        choices=("classic", "consumer"),
        default="",
        help="of the workers' consumer group; by default consumer on the embedded Kafka, classic on a real one",
    )


def run(args: argparse.Namespace) -> int:
    """0 when nothing is missing or doubled and the kills hit batches in flight, 1 otherwise."""
    import signal
    import sys

    from pipeline import logs
    from pipeline.cli import output
    from pipeline.cli.progress import Progress
    from pipeline.config.schema import Log
    from pipeline.demo import Options
    from pipeline.demo import run as play
    from pipeline.errors import Exit

    logs.configure(Log(format="text", level="error"))
    # Like Ctrl-C, so that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = Options(
        events=args.events,
        partitions=args.partitions,
        workers=args.workers,
        duplicates=args.duplicates,
        poison=args.poison,
        kill=args.kill,
        seed=args.seed,
        workload=args.workload,
        keep=args.keep,
        brokers=args.broker,
        clickhouse=args.clickhouse,
        group_protocol=args.group_protocol,
    )
    with Progress(args.events, "committed") as progress:
        result = play(options, progress, phase=progress.note)
    if args.json:
        output.result(result.as_json())
    else:
        verdict = output.coloured("exactly once", "green") if result.ok else output.coloured("FAILED", "red")
        output.line("\n".join([f"penstock demo: {verdict}", *result.lines()]))
    return Exit.OK if result.ok else Exit.NO
