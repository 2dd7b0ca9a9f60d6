"""`python -m tests.faults`: one run of the fault suite. Exit code 0: clean, 1: something was found, 69: it could not run."""

from __future__ import annotations

import argparse
import logging
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from pipeline.embedded.apache_kafka import unavailable_reason
from tests.faults.report import as_json, lines
from tests.faults.run import run
from tests.faults.sabotage import SABOTAGES
from tests.faults.stage import Servers, Setting


def main() -> int:
    args = _arguments()
    if reason := unavailable_reason():
        print(f"no real Kafka: {reason}", file=sys.stderr)
        return 69
    signal.signal(signal.SIGTERM, _interrupted)
    setting = Setting(seed=args.seed, protocol=args.protocol, events_per_s=args.rate, static=args.members == "static")
    if args.members == "drawn":
        setting = setting._replace(static=args.seed % 2 == 1)
    directory = Path(args.keep or tempfile.mkdtemp(prefix="penstock-faults-")).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        print(f"{directory} is not empty: an earlier run's rows would pass for this one's", file=sys.stderr)
        return 2
    # What librdkafka says about brokers that are killed is of interest only afterwards.
    logging.basicConfig(filename=directory / "clients.log", format="%(asctime)s %(name)s %(message)s")
    print(f"seed {args.seed}; logs in {directory}", file=sys.stderr, flush=True)
    ok = False
    try:
        with Servers(directory) as servers:
            outcome = run(servers, directory, setting, args.minutes * 60, sabotage=args.sabotage, quiet=args.quiet)
        ok = not outcome.findings
        print("\n".join(lines(outcome)))
        print(as_json(outcome), flush=True)
    finally:
        if ok and not args.keep:
            shutil.rmtree(directory, ignore_errors=True)
        elif not ok:
            print(f"seed {args.seed}; the logs and data are kept in {directory}", file=sys.stderr)
    return 0 if ok else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long faults are injected (5)")
    parser.add_argument("--seed", type=int, default=None, help="what the faults and the records are drawn from")
    parser.add_argument("--protocol", choices=("classic", "consumer"), default="classic")
    parser.add_argument("--members", choices=("static", "dynamic", "drawn"), default="drawn", help="drawn: by the seed")
    parser.add_argument("--rate", type=float, default=Setting().events_per_s, help="records a second")
    parser.add_argument("--keep", metavar="DIR", help="where logs and data go, and stay")
    parser.add_argument("--quiet", action="store_true", help="say only how it ended")
    parser.add_argument("--sabotage", choices=SABOTAGES, default="", help="workers without one of their safeguards")
    args = parser.parse_args()
    if args.seed is None:
        args.seed = secrets.randbits(31)
    return args


def _interrupted(*_: object) -> NoReturn:
    """SIGTERM ends it as Ctrl-C does: through every `with`, so that nothing stays behind."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
