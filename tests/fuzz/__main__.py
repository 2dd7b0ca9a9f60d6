"""`python -m tests.fuzz --minutes 2 --seed 1`: exit code 1 and the smallest case when the lanes differ."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.search import search


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    total, found = search(args.seed, args.minutes * 60, lambda total: print(total, flush=True))
    print(f"seed {args.seed}: {total}")
    if found is None:
        return 0
    print(f"\nthe lanes differ; contract seed {found.seed!r}", *found.contract, "records:", sep="\n  ")
    print(*map(repr, found.values), found.difference, sep="\n  ")
    return 1


if __name__ == "__main__":
    sys.exit(main())
