"""Every numeric limit with its range and the reason for it, and the relations between limits, as two tables.

Nothing here looks at texts, files or services; `rules` applies the tables.
"""

from __future__ import annotations

from typing import NamedTuple

KIB, MIB, GIB = 1024, 1024**2, 1024**3
HOUR_MS = 3_600_000


class Bound(NamedTuple):
    """`low <= key <= high`, and why."""

    key: str
    low: float
    high: float
    reason: str


class Order(NamedTuple):
    """`less <= more` (`<` when strict), and why."""

    less: str
    more: str
    strict: bool
    reason: str


BOUNDS: tuple[Bound, ...] = (
    Bound(
        "kafka.session_timeout_ms",
        6_000,
        1_800_000,
        "brokers accept 6 s to 30 min unless their own limits say otherwise",
    ),
    Bound(
        "kafka.max_poll_interval_ms",
        10_000,
        24 * HOUR_MS,
        "a shorter one expels busy workers, librdkafka takes no longer one",
    ),
    Bound("kafka.revoke_drain_ms_max", 0, 600_000, "the whole group waits for a worker that hands partitions over"),
    Bound(
        "kafka.commit_timeout_ms",
        1_000,
        300_000,
        "an unanswered commit costs a rejoin, so it needs a fair chance and an end",
    ),
    Bound(
        "clickhouse.insert_timeout_ms",
        1_000,
        900_000,
        "an unanswered insert is sent again, and must be while the table still knows its token (an hour by default)",
    ),
    Bound("clickhouse.insert_threads", 1, 32, "each one holds a connection and a compressed copy of a block"),
    Bound(
        "clickhouse.retry_wait_ms_max", 10, 300_000, "a longer pause leaves partitions idle after ClickHouse is back"
    ),
    Bound("dedup.window_s", 1, 30 * 86_400, "the window is held in memory and rebuilt after each assignment"),
    Bound("dedup.ids_max", 1_000, 1_000_000_000, "each id takes memory for the whole life of the worker"),
    Bound(
        "batch.rows_max",
        1,
        500_000,
        "ClickHouse may split a larger insert, and the parts would lose their common token",
    ),
    Bound(
        "batch.bytes_max",
        64 * KIB,
        128 * MIB,
        "ClickHouse may split a larger insert, and the parts would lose their common token",
    ),
    Bound("batch.age_ms_max", 1, 600_000, "rows wait in memory that long before they are written"),
    Bound("batch.partitions_max", 1, 64, "a batch's spans must fit the 4,096 bytes of metadata of an offset commit"),
    Bound("limits.batches_in_flight_max", 1, 64, "the spans of all of them must fit the metadata of one offset commit"),
    Bound("limits.rows_in_flight_max", 1, 100_000_000, "it bounds memory and how much a new owner has to recover"),
    Bound("limits.bytes_in_flight_max", 64 * KIB, 64 * GIB, "it bounds memory and how much a new owner has to recover"),
    Bound("limits.record_bytes_max", 1 * KIB, 128 * MIB, "a record must fit into a batch"),
    Bound("limits.poll_records_max", 1, 1_000_000, "all of them are decoded before anything else happens"),
    Bound("limits.stall_ms_max", 1_000, 24 * HOUR_MS, "a hung worker keeps its partitions that long"),
    Bound("limits.drain_ms_max", 0, HOUR_MS, "what is not finished by then is recovered by the next worker"),
    Bound("dead_letters.ratio_max", 0.0, 1.0, "it is a share of the records"),
    Bound(
        "dead_letters.ratio_records",
        100,
        10_000_000,
        "with fewer records a single reject decides, with more the alarm comes late",
    ),
    Bound("http.port", 0, 65_535, "it is a TCP port; 0 takes a free one"),
)

ORDERS: tuple[Order, ...] = (
    Order(
        "batch.rows_max",
        "limits.rows_in_flight_max",
        False,
        "a batch larger than the budget could never fill, and nothing would be read",
    ),
    Order(
        "batch.bytes_max",
        "limits.bytes_in_flight_max",
        False,
        "a batch larger than the budget could never fill, and nothing would be read",
    ),
    Order("limits.record_bytes_max", "batch.bytes_max", False, "the largest record must fit into a batch"),
    Order("limits.poll_records_max", "limits.rows_in_flight_max", False, "one poll must fit into the budget"),
    Order(
        "limits.stall_ms_max",
        "kafka.max_poll_interval_ms",
        True,
        "the worker has to give up its partitions before the group expels it",
    ),
    Order(
        "kafka.commit_timeout_ms",
        "limits.stall_ms_max",
        True,
        "a commit that waits for its answer must not pass for a hung worker",
    ),
    Order(
        "clickhouse.insert_timeout_ms",
        "limits.stall_ms_max",
        True,
        "an insert that waits for its answer must not pass for a hung worker",
    ),
    Order(
        "batch.age_ms_max",
        "limits.stall_ms_max",
        True,
        "a batch that waits for its age must not pass for a hung worker",
    ),
    Order(
        "kafka.revoke_drain_ms_max",
        "kafka.max_poll_interval_ms",
        True,
        "the worker would be expelled while it hands partitions over",
    ),
)
