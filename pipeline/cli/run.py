"""`penstock run`: one worker, until a signal stops it or it has caught up."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def add(subparsers: Any) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "run",
        help="run one worker",
        description="Runs one worker of the fleet. SIGTERM drains it: what was read is inserted and committed, then it leaves "
        "the group. A second signal stops it at once; the next worker finishes what it had declared.",
    )
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)")
    parser.add_argument(
        "--until-caught-up",
        action="store_true",
        help="drain and exit when every partition held has been read to its end",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for Kafka and ClickHouse at the start",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns the worker's exit code: 0 drained, 75 stopped before it had drained, 69, 70 or 78 with a message."""
    import asyncio
    import os
    import signal
    import sys

    import uvloop

    from pipeline import config as configuration
    from pipeline import logs
    from pipeline.assembly import assemble
    from pipeline.worker import Worker

    # Before the worker has joined the group there is nothing to drain.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config, warnings = configuration.read(args.config, os.environ)
    logs.configure(config.log)
    for warning in warnings:
        log.warning("%s", warning)
    worker = Worker(assemble(config, wait_s=args.wait), until_caught_up=args.until_caught_up)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return int(runner.run(worker.run()))
