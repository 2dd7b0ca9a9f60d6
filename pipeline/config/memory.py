"""The memory plan: every named limit of a worker in bytes, and their sum.

It computes from the configuration alone; what the interpreter and the libraries take without any record is one line of it.
"""

from __future__ import annotations

from typing import NamedTuple

from pipeline.config.schema import Config

MIB = 1024 * 1024
SOURCE_QUEUE_BYTES_MAX = 64 * MIB
"""Fetched and not yet polled, over all partitions of a source (`queued.max.messages.kbytes`). librdkafka counts bytes as
they are in the process, so after decompression."""
FETCH_BYTES_MAX = 16 * MIB
"""One fetch response of one broker (`fetch.max.bytes`); may be exceeded by a single record set that is larger."""
MEMBERSHIP_QUEUE_BYTES_MAX = 1 * MIB
DEAD_LETTER_QUEUE_BYTES_MAX = 64 * MIB
"""Letters not yet acknowledged (`queue.buffering.max.kbytes`)."""
CLAIM_BYTES = 41
"""An entry of 32 bytes and its share of an index that is three quarters full (`_native/claims.pxd`)."""
KEPT_BYTES_MAX = 64 * MIB
"""Memory of blocks that are done, kept for the next ones (`_native/pool.pxd`)."""
ROW_BYTES = 1_000
"""A decoded row with its fields as Python objects, beside the bytes of the record; an estimate."""
BASE_BYTES = 150 * MIB
"""The interpreter and the libraries without any record, as seen; an estimate."""


class MemoryLimit(NamedTuple):
    """One line of the plan."""

    name: str
    nbytes: int
    rests_on: str
    """The keys that set it, or how it comes about."""


def memory_plan(config: Config) -> list[MemoryLimit]:
    """The named limits, the sum last."""
    limits, batch, clickhouse = config.limits, config.batch, config.clickhouse
    source = SOURCE_QUEUE_BYTES_MAX + FETCH_BYTES_MAX
    # As many records as have room are taken at once, judged by the size of those before them: these may be larger.
    polled = min(limits.poll_records_max * limits.record_bytes_max, source)
    letters = DEAD_LETTER_QUEUE_BYTES_MAX if config.dead_letters.topic else 0
    # Without compression the block is made first and then joined with its statement.
    copies = 2 if clickhouse.compression == "none" else 1
    claims = config.dedup.ids_max * CLAIM_BYTES if config.dedup.key else 0
    lines = [
        MemoryLimit("interpreter_and_libraries", BASE_BYTES, "estimate, without any record"),
        MemoryLimit("source_queue", source, "fixed: librdkafka's queue and one fetch response"),
        MemoryLimit("recovery_source_queue", source, "fixed: the same, while declared batches are read again"),
        MemoryLimit("membership_queue", MEMBERSHIP_QUEUE_BYTES_MAX, "fixed: it never reads a record"),
        MemoryLimit(
            "polled_records",
            limits.poll_records_max * ROW_BYTES + polled,
            f"limits.poll_records_max x {ROW_BYTES} (estimate) + at most what was queued",
        ),
        MemoryLimit("blocks_in_flight", limits.bytes_in_flight_max, "limits.bytes_in_flight_max"),
        MemoryLimit(
            "open_batch", batch.bytes_max + polled, "batch.bytes_max + one poll, where records grow all of a sudden"
        ),
        MemoryLimit(
            "waiting_records",
            batch.bytes_max + polled,
            "batch.bytes_max + one poll: of partitions that the open batch has no place for",
        ),
        MemoryLimit(
            "insert_copies",
            copies * clickhouse.insert_threads * batch.bytes_max,
            f"clickhouse.insert_threads x batch.bytes_max x {copies}: the block as sent, at most as large as its rows",
        ),
        MemoryLimit("kept_memory", KEPT_BYTES_MAX, "fixed: of blocks that are done, for the next ones"),
        MemoryLimit("dead_letter_queue", letters, "fixed, with dead_letters.topic"),
        MemoryLimit("claims", claims, f"dedup.ids_max x {CLAIM_BYTES}, with dedup.key"),
    ]
    return [*lines, MemoryLimit("sum", sum(line.nbytes for line in lines), "")]
