"""The kernels by themselves: decode + claim + append, a block's end, its LZ4 frame; their CPU time and instructions.

`python -m pipeline.bench.kernels WORKLOAD:RECORDS...` runs a fixed set of records through the lane of a worker and prints the
CPU microseconds per record of each stage as one JSON object. Under
`valgrind --tool=callgrind --dump-before=getppid` each call of `os.getppid()` ends one part of the profile, so that the
parts hold one stage each and no start-up:

    part 1: start-up and warm-up; then for each workload: take, block, lz4, and what prepares the next one
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence

from pipeline import workload
from pipeline.bench import canned
from pipeline.dedup import Dedup
from pipeline.lane import Lane
from pipeline.native import Block
from pipeline.types import Partition

STAGES = ("take", "block", "lz4")
PARTS_EACH = len(STAGES) + 1
WARM_RECORDS = 500
SEED = 1


class Kernel:
    """One workload, warmed up. Without its warm-up the first records would pay for what Python makes once."""

    def __init__(self, name: str, count: int) -> None:
        shape = workload.shape(name)
        config = canned.config_of(shape, ids_max=1_000_000)
        self._partition = Partition(canned.TOPIC, 0)
        dedup = Dedup(config.dedup)
        dedup.open(self._partition)
        # The claim table hashes under a random key; it decides where ids land, not how many instructions they cost.
        self._lane: Lane = canned.lane_of(config, canned.contract_of(config), dedup)
        self._warm = self._records(canned.values_of(shape, SEED, WARM_RECORDS), 0)
        self._measured = self._records(canned.values_of(shape, SEED, count, first=WARM_RECORDS), WARM_RECORDS)
        self._take(self._warm)
        self._compress(self._blocks())

    def run(self, mark: Callable[[], object]) -> None:
        """The three stages, each between two marks."""
        mark()
        self._take(self._measured)
        mark()
        blocks = self._blocks()
        mark()
        self._compress(blocks)
        mark()

    def _records(self, values: list[bytes | None], first: int) -> canned.ListRecords:
        return canned.ListRecords(self._partition, first, canned.time_of(first), values)

    def _take(self, records: canned.ListRecords) -> None:
        counts = self._lane.take(records, 0, len(records), None).counts
        if counts.rows != len(records):
            raise SystemExit(f"{counts.rows} of {len(records)} records became rows")

    def _blocks(self) -> list[Block]:
        return [target.builder.finish() for target in self._lane.targets if target.builder.rows]

    def _compress(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            block.framed(b"")


def main(arguments: Sequence[str]) -> int:
    gc.disable()
    print(json.dumps({name: timed(name, int(count)) for name, _, count in (one.partition(":") for one in arguments)}))
    return 0


def timed(name: str, count: int) -> dict[str, float]:
    """CPU microseconds per record by stage."""
    times: list[float] = []

    def mark() -> None:
        os.getppid()
        times.append(time.process_time())

    Kernel(name, count).run(mark)
    return {
        stage: (after - before) / count * 1e6
        for stage, before, after in zip(STAGES, times[:-1], times[1:], strict=True)
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
