"""The claim table: how fast it takes ids, how many bytes each costs, and what a record costs after a hundred million others
and beside ten million ids.

`python -m pipeline.bench.claims rate IDS` and `... cost SMALL LARGE BOUND ROUNDS` each print one JSON object; they are
processes of their own, so that the tables of one are no memory of another. Times are CPU times.
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
RUNS = 30
"""Of a round; as often in each order of the three windows."""
CHILD_S_MAX = 540.0


class Sizes(NamedTuple):
    """Ids in the table whose rate is measured; records before the ones whose cost is; ids that a large window holds."""

    ids: int = 20_000_000
    small: int = 1_000_000
    large: int = 100_000_000
    bound: int = 10_000_000

    def scaled(self, share: float) -> Sizes:
        return Sizes(*(max(CHUNK, int(count * share)) for count in self))


def measure(sizes: Sizes, rounds: int, narrate: Narrate) -> dict[str, Any]:
    """Rate and bytes at `ids`; cost per record after `large` records against that after `small`, whose window is full then;
    and with a window of `bound` against one of `small`."""
    narrate(f"claims: {sizes.ids:,} ids")
    rates = child("pipeline.bench.claims", "rate", str(sizes.ids))
    narrate(f"claims: cost per record after {sizes.large:,} records against {sizes.small:,}")
    arguments = ("cost", *map(str, (sizes.small, sizes.large, sizes.bound, rounds)))
    costs = child("pipeline.bench.claims", *arguments, timeout_s=CHILD_S_MAX)
    ratios = [old / young for young, old in zip(costs["young_us"], costs["old_us"], strict=True)]
    wider = [wide / old for old, wide in zip(costs["old_us"], costs["wide_us"], strict=True)]
    return {
        "ids": rates["ids"],
        "claims_per_second": round(statistics.median(rates["per_second"])),
        "bytes_per_id": round(rates["bytes_per_id"], 1),
        "records_small": sizes.small,
        "records_large": sizes.large,
        "ids_held": costs["ids_held"],
        "ids_held_wide": costs["ids_held_wide"],
        "cost_young_us": round(statistics.median(costs["young_us"]), 4),
        "cost_old_us": round(statistics.median(costs["old_us"]), 4),
        "cost_wide_us": round(statistics.median(costs["wide_us"]), 4),
        "cost_growth": round(statistics.median(ratios), 4),
        "cost_wider": round(statistics.median(wider), 4),
        "spread": {
            "claims_per_second": [round(min(rates["per_second"])), round(max(rates["per_second"]))],
            "cost_growth": [round(min(ratios), 4), round(max(ratios), 4)],
            "cost_wider": [round(min(wider), 4), round(max(wider), 4)],
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


def fill(dedup: Dedup, partition: Partition, records: int) -> None:
    """Claims an id that no record has for each of the partition's offsets `[0, records)`; it must be open."""
    assert dedup.claims is not None
    for first in range(0, records, CHUNK):
        count = min(CHUNK, records - first)
        dedup.claims.claim_many(os.urandom(ID_BYTES * count), dedup.slot(partition), _offsets(first, count))


class Window:
    """A lane and a claim table of `ids_max` ids through which a number of records has gone, no fewer: it is at its bound."""

    def __init__(self, records: int, ids_max: int) -> None:
        shape = workload.shape("flat")
        config = canned.config_of(shape, ids_max=ids_max)
        self._partition = Partition(canned.TOPIC, 0)
        self._dedup = Dedup(config.dedup)
        self._dedup.open(self._partition)
        self._lane = canned.lane_of(config, canned.contract_of(config), self._dedup)
        fill(self._dedup, self._partition, records)
        self._offset = records

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


def cost(small: int, large: int, bound: int, rounds: int) -> dict[str, Any]:
    """Rounds of the same records through all windows, run by run in turn, so that noise hits all alike."""
    windows = {"young_us": Window(small, small), "old_us": Window(large, small), "wide_us": Window(large, bound)}
    held = {"ids_held": windows["old_us"].ids, "ids_held_wide": windows["wide_us"].ids}
    shape = workload.shape("flat")
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    found: dict[str, list[float]] = {key: [] for key in windows}
    order = list(windows)
    for number in range(rounds + 1):
        count = RUNS * RUN_RECORDS
        spent_s = dict.fromkeys(windows, 0.0)
        for values in canned.runs_of(canned.values_of(shape, 1, count, first=number * count), RUN_RECORDS):
            # Whoever comes later finds the values in the caches.
            order.append(order.pop(0))
            for key in order:
                spent_s[key] += windows[key].spent_s(values)
        if number:  # The first round warms up.
            for key, seconds in spent_s.items():
                found[key].append(seconds / count * 1e6)
    return {**found, **held}


def _offsets(first: int, count: int) -> array[int]:
    return array("q", range(first, first + count))


def main(arguments: Sequence[str]) -> int:
    what, *numbers = arguments
    print(json.dumps(rate(int(numbers[0])) if what == "rate" else cost(*map(int, numbers))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
