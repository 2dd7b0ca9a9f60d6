"""Runs seeds on all cores and says what was found: `python -m tests.simulation.runner --seeds N | --seconds S`.

The exit code is 1 when a seed has a finding; the finding is printed with its seed, its smallest schedule and the trace of that.
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import multiprocessing.pool
import os
import secrets
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from tests.simulation.schedule import Schedule, draw
from tests.simulation.shrink import shrink
from tests.simulation.world import World

CHUNK = 25
CHUNKS_EACH = 40
"""Then another process goes on. What its worlds leave behind ends with it (0.2 MiB a seed): that is cheaper than to look for
it."""


class Chunk(NamedTuple):
    """What some seeds in a row showed."""

    seeds: int
    steps: int
    cpu_s: float
    injected: Counter[str]
    passed: Counter[str]
    failed: list[tuple[int, list[str]]]


def quiet() -> None:
    """The project's logs are about what is injected; garbage is not collected: it ends with its process."""
    logging.disable(logging.CRITICAL)
    gc.disable()
    gc.freeze()


def try_seed(seed: int) -> tuple[list[str], World]:
    """The findings of one seed; an exception that no part of the project may raise is one."""
    world = World(draw(seed))
    try:
        return world.run().findings, world
    except Exception:
        return [f"exception: {traceback.format_exc()}"], world


def run_chunk(first: int, count: int = CHUNK) -> Chunk:
    began_s = time.process_time()
    chunk = Chunk(count, 0, 0.0, Counter(), Counter(), [])
    steps = 0
    for seed in range(first, first + count):
        findings, world = try_seed(seed)
        steps += world.loop.steps
        chunk.injected.update(world.faults.injected)
        chunk.passed.update(world.ledger.passed)
        if findings:
            chunk.failed.append((seed, findings))
    return chunk._replace(steps=steps, cpu_s=time.process_time() - began_s)


def explain(seed: int) -> str:
    """The smallest schedule that fails like this seed, and what happens in it."""
    return explain_schedule(shrink(draw(seed)))


def explain_schedule(schedule: Schedule) -> str:
    result = World(schedule, traced=True).run()
    return "\n".join([str(schedule), *result.trace, *(f"FOUND {finding}" for finding in result.findings)])


def _firsts(first: int, seeds: int | None, deadline_s: float) -> Iterator[int]:
    at = first
    while time.monotonic() < deadline_s and (seeds is None or at < first + seeds):
        yield at
        at += CHUNK


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.runner", description=__doc__)
    parser.add_argument("--seeds", type=int, help="how many (rounded up to chunks)")
    parser.add_argument("--seconds", type=float, default=1e9, help="how long at the most")
    parser.add_argument("--first", type=int, default=None, help="the first seed; random without it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    first = options.first if options.first is not None else secrets.randbits(31)
    seeds = options.seeds if options.seeds or options.seconds < 1e9 else 20_000
    began_s = time.monotonic()
    total = Chunk(0, 0, 0.0, Counter(), Counter(), [])
    with multiprocessing.get_context("fork").Pool(options.jobs, quiet, maxtasksperchild=CHUNKS_EACH) as pool:
        chunks = _firsts(first, seeds, began_s + options.seconds)
        for chunk in _bounded(pool, chunks, 2 * options.jobs):
            total = Chunk(
                total.seeds + chunk.seeds,
                total.steps + chunk.steps,
                total.cpu_s + chunk.cpu_s,
                total.injected + chunk.injected,
                total.passed + chunk.passed,
                total.failed + chunk.failed,
            )
            if len(total.failed) >= 10:
                break
    _report(first, total, time.monotonic() - began_s)
    if total.failed:
        quiet()
        print(explain(total.failed[0][0]))
    return 1 if total.failed else 0


def _bounded(pool: multiprocessing.pool.Pool, firsts: Iterator[int], ahead: int) -> Iterator[Chunk]:
    """The chunks in order, with only so many asked for in advance: the time is looked at when one is asked for."""
    waiting = []
    for first in firsts:
        waiting.append(pool.apply_async(run_chunk, (first,)))
        if len(waiting) >= ahead:
            yield waiting.pop(0).get()
    for answer in waiting:
        yield answer.get()


def _report(first: int, total: Chunk, seconds: float) -> None:
    print(f"simulation: seeds {first} to {first + total.seeds - 1}: {total.seeds} done in {seconds:.1f} s", end=", ")
    print(
        f"{total.seeds / max(seconds, 1e-9):.0f} seeds/s, {total.seeds / max(total.cpu_s, 1e-9):.0f} a CPU-second",
        end=", ",
    )
    print(f"{total.steps / max(1, total.seeds):.0f} steps a seed")
    print(f"faults injected: {sum(total.injected.values())}")
    for name, count in sorted(total.injected.items()):
        print(f"  {count:8d} {name}")
    print("within what is promised:")
    for name, count in sorted(total.passed.items()):
        print(f"  {count:8d} {name}")
    print(f"findings: {len(total.failed)} seeds")
    for seed, findings in total.failed:
        print(f"  seed {seed}: {findings[0]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
