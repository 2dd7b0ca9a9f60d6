"""The claim table: how fast it takes ids, how many bytes each costs, and what a record costs after a hundred million others.

`python -m pipeline.bench.claims rate IDS` and `... cost SMALL LARGE ROUNDS` each print one JSON object; they are processes of
their own, so that the tables of one are no memory of another. Times are CPU times.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline import workload
from pipeline.bench import canned
from pipeline.bench.rounds import Narrate
from pipeline.bench.stage import child
from pipeline.dedup import Dedup
from pipeline.native import ClaimTable
from pipeline.types import Partition
from pipeline.worker import GC_THRESHOLDS

CHUNK = 100_000
KNOWN = 5_000
"""Of each chunk: as many copies as in the workloads."""
ID_BYTES = 16
RATE_ROUNDS = 20
RUN_RECORDS = 10_000
RUNS = 10
CHILD_S_MAX = 540.0


class Sizes(NamedTuple):
    """Ids in the table whose rate is measured; records that went before the ones whose cost is."""

    ids: int = 20_000_000
    small: int = 1_000_000
    large: int = 100_000_000

    def scaled(self, share: float) -> Sizes:
        return Sizes(*(max(CHUNK, int(count * share)) for count in self))


def measure(sizes: Sizes, rounds: int, narrate: Narrate) -> dict[str, Any]:
    """Rate and bytes at `ids`; cost per record after `large` records against that after `small`."""
    narrate(f"claims: {sizes.ids:,} ids")
    rates = child("pipeline.bench.claims", "rate", str(sizes.ids))
    narrate(f"claims: cost per record after {sizes.large:,} records against {sizes.small:,}")
    arguments = ("cost", str(sizes.small), str(sizes.large), str(rounds))
    costs = child("pipeline.bench.claims", *arguments, timeout_s=CHILD_S_MAX)
    ratios = [large / small for small, large in zip(costs["small_us"], costs["large_us"], strict=True)]
    return {
        "ids": rates["ids"],
        "claims_per_second": round(statistics.median(rates["per_second"])),
        "bytes_per_id": round(rates["bytes_per_id"], 1),
        "records_small": sizes.small,
        "records_large": sizes.large,
        "ids_held_large": costs["ids_held_large"],
        "cost_small_us": round(statistics.median(costs["small_us"]), 4),
        "cost_large_us": round(statistics.median(costs["large_us"]), 4),
        "cost_growth": round(statistics.median(ratios), 4),
        "spread": {
            "claims_per_second": [round(min(rates["per_second"])), round(max(rates["per_second"]))],
            "cost_growth": [round(min(ratios), 4), round(max(ratios), 4)],
        },
    }


def rate(ids: int) -> dict[str, Any]:
    """A table filled to its bound, then chunks of 95 % new ids and 5 % that it holds: its steady state."""
    table = ClaimTable(ids, secret=bytes(ID_BYTES))
    slot = table.open_slot(0)
    recent = os.urandom(ID_BYTES * CHUNK)
    offset = 0
    per_second = []
    while offset < ids:
        recent = os.urandom(ID_BYTES * min(CHUNK, ids - offset))
        table.claim_many(recent, slot, _offsets(offset, len(recent) // ID_BYTES))
        offset += len(recent) // ID_BYTES
    held = table.ids
    bytes_per_id = table.nbytes / held
    for _ in range(RATE_ROUNDS):
        known = recent[-ID_BYTES * KNOWN :]
        recent = os.urandom(ID_BYTES * CHUNK - len(known))
        offsets = _offsets(offset, CHUNK)
        started_s = time.process_time()
        found = table.claim_many(known + recent, slot, offsets)
        per_second.append(CHUNK / (time.process_time() - started_s))
        if found.count(1) != CHUNK - len(known) // ID_BYTES:
            raise SystemExit("a claim was decided wrongly")
        offset += CHUNK
    return {"ids": held, "bytes_per_id": bytes_per_id, "per_second": per_second}


class Window:
    """A lane and a claim table through which a number of records has gone."""

    def __init__(self, records: int) -> None:
        shape = workload.shape("flat")
        config = canned.config_of(shape)
        self._partition = Partition(canned.TOPIC, 0)
        self._dedup = Dedup(config.dedup)
        self._dedup.open(self._partition)
        self._lane = canned.lane_of(config, canned.contract_of(config), self._dedup)
        self._offset = 0
        claims, slot = self._claims, self._dedup.slot(self._partition)
        while self._offset < records:
            count = min(CHUNK, records - self._offset)
            claims.claim_many(os.urandom(ID_BYTES * count), slot, _offsets(self._offset, count))
            self._offset += count

    @property
    def _claims(self) -> ClaimTable:
        assert self._dedup.claims is not None
        return self._dedup.claims

    @property
    def ids(self) -> int:
        return self._claims.ids

    def spent_s(self, values: list[bytes | None]) -> float:
        """CPU seconds for decoding, claiming and appending one run."""
        records = canned.ListRecords(self._partition, self._offset, canned.time_of(0), values)
        started_s = time.process_time()
        counts = self._lane.take(records, 0, len(values), None).counts
        spent_s = time.process_time() - started_s
        if counts.rows != len(values):
            raise SystemExit(f"{counts.rows} of {len(values)} records became rows")
        for target in self._lane.targets:
            target.builder.discard()
        self._offset += len(values)
        return spent_s


def cost(small: int, large: int, rounds: int) -> dict[str, Any]:
    """Rounds of the same records through both, run by run in turn, so that noise hits both alike."""
    windows = Window(small), Window(large)
    shape = workload.shape("flat")
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    found: dict[str, list[float]] = {"small_us": [], "large_us": []}
    for number in range(rounds + 1):
        count = RUNS * RUN_RECORDS
        runs = canned.runs_of(canned.values_of(shape, 1, count, first=number * count), RUN_RECORDS)
        small_s = large_s = 0.0
        for index, values in enumerate(runs):
            # Whoever comes second finds the values in the caches.
            if index % 2:
                small_s += windows[0].spent_s(values)
                large_s += windows[1].spent_s(values)
            else:
                large_s += windows[1].spent_s(values)
                small_s += windows[0].spent_s(values)
        if number:  # The first round warms up.
            found["small_us"].append(small_s / count * 1e6)
            found["large_us"].append(large_s / count * 1e6)
    return {**found, "ids_held_large": windows[1].ids}


def _offsets(first: int, count: int) -> array[int]:
    return array("q", range(first, first + count))


def main(arguments: Sequence[str]) -> int:
    what, *numbers = arguments
    print(json.dumps(rate(int(numbers[0])) if what == "rate" else cost(*map(int, numbers))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
