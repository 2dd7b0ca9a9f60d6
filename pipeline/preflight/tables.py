"""What of a table's definition keeps inserts into it from being exactly-once. Pure: facts in, checks out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.config.schema import Config
from pipeline.preflight.checks import Check, Status, duration

if TYPE_CHECKING:
    from pipeline.clickhouse import TableFacts

OUTAGE_S = 86_400
"""The longest time a declared batch is expected to wait for a worker that finishes it, unless the operator names another."""
WINDOW_BLOCKS = 100_000
WINDOW_S = 604_800
"""What `penstock ddl` asks for, and the fixes name."""
WINDOW_BLOCKS_FEW = 1_000
"""Fewer remembered blocks than this are used up by a busy fleet within seconds."""


def tables_of(config: Config) -> list[str]:
    """Every table that rows go to, in the order of the routes."""
    return [table for route in config.routes for table in (route.tables.values() if route.tables else [route.table])]


def window_key(facts: TableFacts) -> str:
    """The setting that says how many blocks the table remembers."""
    return "replicated_deduplication_window" if facts.replicated else "non_replicated_deduplication_window"


def modify(table: str, key: str, value: int) -> str:
    """The statement that changes a setting of a table; `table` as it is written in SQL."""
    return f"ALTER TABLE {table} MODIFY SETTING {key} = {value}"


def retry_s(config: Config) -> float:
    """How long after its first attempt an insert may be sent again, or still be under way."""
    return 2 * config.clickhouse.insert_timeout_ms / 1000


def table_checks(
    config: Config, name: str, table: str, facts: TableFacts, outage_s: float = OUTAGE_S
) -> Iterator[Check]:
    """Faults of the table `name`; `table` is the name as it is written in SQL. Nothing when all is well."""
    name = f"table {name}"
    yield from _tokens(name, table, facts)
    yield from _window_time(config, name, table, facts, outage_s)
    if len(config.clickhouse.urls) > 1 and not facts.replicated:
        yield Check(
            "servers",
            name,
            Status.PROBLEM,
            f"is a {facts.engine} on each of several servers; an insert repeated on another one would be stored twice",
            "Use a ReplicatedMergeTree, or name a single server in clickhouse.urls",
        )
    if facts.totals:
        yield Check(
            "lineage",
            name,
            Status.WARNING,
            f"is a {facts.engine}, which makes one row of several: rows cannot be found by their records. After an outage "
            "longer than the deduplication window the pipeline has to stop, and `penstock verify` cannot account for it",
            "Write to a MergeTree table, and let a materialized view feed this one",
        )
    elif not facts.lineage:
        yield Check(
            "lineage",
            name,
            Status.WARNING,
            "has no lineage columns: after an outage longer than the deduplication window the pipeline has to stop, "
            "and `penstock verify` cannot account for it",
            f"ALTER TABLE {table} ADD COLUMN _topic LowCardinality(String), ADD COLUMN _partition Int32, "
            "ADD COLUMN _offset Int64, ADD COLUMN _timestamp DateTime64(3)",
        )


def table_summary(name: str, facts: TableFacts) -> Check:
    """The table in one line, when nothing is wrong with it."""
    window = f"remembers {facts.window_blocks} inserts"
    window += f" for {duration(facts.window_s)}" if facts.window_s is not None else ""
    lineage = ", lineage columns" if facts.lineage else ""
    return Check("table", f"table {name}", Status.OK, f"{facts.engine}, {window}{lineage}")


def _tokens(name: str, table: str, facts: TableFacts) -> Iterator[Check]:
    key = window_key(facts)
    if not facts.engine.endswith("MergeTree"):
        yield Check(
            "engine",
            name,
            Status.WARNING,
            f"has the engine {facts.engine}, which does not remember tokens: a repeated insert may be stored twice",
            "Write to a MergeTree table, and let this one read from it",
        )
    elif not facts.window_blocks:
        yield Check(
            "token",
            name,
            Status.PROBLEM,
            f"remembers no inserts ({key} = 0), so a repeated insert is stored twice",
            modify(table, key, WINDOW_BLOCKS),
        )
    elif facts.window_blocks < WINDOW_BLOCKS_FEW:
        yield Check(
            "window-blocks",
            name,
            Status.WARNING,
            f"remembers only {facts.window_blocks} inserts of all workers together",
            modify(table, key, WINDOW_BLOCKS),
        )


def _window_time(config: Config, name: str, table: str, facts: TableFacts, outage_s: float) -> Iterator[Check]:
    """A token must outlive every repetition; without lineage also half of it every outage, see `recovery`."""
    if facts.window_s is None or not facts.window_blocks:
        return
    fix = modify(table, "replicated_deduplication_window_seconds", max(WINDOW_S, int(2 * outage_s)))
    needed_s = retry_s(config)
    if facts.window_s < needed_s:
        yield Check(
            "window-seconds",
            name,
            Status.PROBLEM,
            f"forgets inserts after {facts.window_s} s, and an insert may be repeated after "
            f"2 x clickhouse.insert_timeout_ms = {needed_s:.0f} s",
            fix,
        )
    elif not facts.lineage and facts.window_s < 2 * outage_s:
        yield Check(
            "window-seconds",
            name,
            Status.WARNING,
            f"forgets inserts after {duration(facts.window_s)}: a batch that waits longer than half of that for a worker "
            f"stops its partitions, and outages up to {duration(outage_s)} are to be survived (--outage)",
            fix,
        )
