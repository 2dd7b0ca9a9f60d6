"""The memory plan: every named limit of a worker in bytes, and their sum.

It computes from the configuration alone; what the interpreter and the libraries take without any record is one line of it.
"""

from __future__ import annotations

from typing import NamedTuple

from pipeline.config.schema import Config

MIB = 1024 * 1024
SOURCE_QUEUE_BYTES = 64 * MIB
"""librdkafka's queue of fetched records (`queued.max.messages.kbytes` of the source)."""
FETCH_BYTES = 16 * MIB
"""One response being decompressed and added to it (`fetch.max.bytes`)."""
MEMBERSHIP_QUEUE_BYTES = 1 * MIB
DEAD_LETTER_QUEUE_BYTES = 32 * MIB
CLAIM_BYTES = 64
"""One claim of 32 bytes in a table that is at most half full while it grows."""
ROW_OBJECT_BYTES = 1_000
"""A decoded row with its fields as Python objects."""
BASE_BYTES = 150 * MIB


class MemoryLimit(NamedTuple):
    """One line of the plan."""

    name: str
    nbytes: int
    rests_on: str
    """The keys that set it, or how it comes about."""


def memory_plan(config: Config) -> list[MemoryLimit]:
    """The named limits, the sum last."""
    limits, batch, clickhouse = config.limits, config.batch, config.clickhouse
    lines = [
        MemoryLimit("interpreter_and_libraries", BASE_BYTES, "measured, without any record"),
        MemoryLimit(
            "source_queue", SOURCE_QUEUE_BYTES + FETCH_BYTES, "fixed: librdkafka's queue and one fetch response"
        ),
        MemoryLimit("membership_queue", MEMBERSHIP_QUEUE_BYTES, "fixed: it never reads a record"),
        MemoryLimit(
            "poll",
            limits.poll_records_max * ROW_OBJECT_BYTES + limits.record_bytes_max,
            "limits.poll_records_max decoded rows, limits.record_bytes_max",
        ),
        MemoryLimit("blocks_in_flight", limits.bytes_in_flight_max, "limits.bytes_in_flight_max"),
        MemoryLimit("open_batch", batch.bytes_max, "batch.bytes_max"),
        MemoryLimit(
            "compressed_blocks",
            clickhouse.insert_threads * batch.bytes_max,
            "clickhouse.insert_threads x batch.bytes_max, if nothing compresses",
        ),
        MemoryLimit(
            "dead_letter_queue",
            DEAD_LETTER_QUEUE_BYTES if config.dead_letters.topic else 0,
            "fixed, with a dead-letter topic",
        ),
        MemoryLimit("claims", config.dedup.ids_max * CLAIM_BYTES if config.dedup.key else 0, "dedup.ids_max"),
    ]
    return [*lines, MemoryLimit("sum", sum(line.nbytes for line in lines), "")]
