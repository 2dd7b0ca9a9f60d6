"""How much of each workload a topic of the embedded broker holds, and how much of it a measurement takes by default."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_PARTITIONS = 128


class Size(NamedTuple):
    """`records` is the default: so many that a worker has touched all memory it uses before half of them are read.

    `kept` are the records that a partition surely keeps, by compression. The mock cluster drops the oldest batches of a
    partition above 5 MiB as sent; seen kept were a quarter more than these.
    """

    records: int
    kept: dict[str, int]


SIZES = {
    "flat": Size(5_000_000, {"zstd": 40_000, "lz4": 36_000, "none": 20_000}),
    "commerce": Size(2_500_000, {"zstd": 22_000, "lz4": 14_000, "none": 5_000}),
    "logs": Size(1_000_000, {"zstd": 15_000, "lz4": 8_500, "none": 2_200}),
    "wide": Size(500_000, {"zstd": 7_000, "lz4": 4_300, "none": 1_800}),
    "nested": Size(500_000, {"zstd": 11_000, "lz4": 6_800, "none": 2_000}),
}


def fits(workload: str, records: int, partitions: int, compression: str) -> bool:
    """Whether the embedded broker keeps that many records."""
    return records <= partitions * SIZES[workload].kept[compression]


WARM_SHARE = 0.4


def warm_records(workload: str, records: int) -> int:
    """How many of a topic's records are read before anything is counted; none of a short one, which is a batch or two."""
    return int(records * WARM_SHARE) if records >= SIZES[workload].records // 2 else 0
