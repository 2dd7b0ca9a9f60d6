"""What the fleet's inserts do to a table: how fast they use up its memory of tokens, and how many parts they make.

Pure: facts in, checks out. How the facts are measured is told in `ask_clickhouse`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from pipeline.config.schema import Config
from pipeline.preflight.checks import Check, Status, duration, plural
from pipeline.preflight.tables import OUTAGE_S, WINDOW_BLOCKS, modify, retry_s, window_key

if TYPE_CHECKING:
    from pipeline.clickhouse import TableFacts

SPREAD_MANY = 10
"""An insert that makes more parts than this costs more in merges than in writing."""
WINDOW_BLOCKS_MANY = 1_000_000
"""A longer memory is a burden: the server, or Keeper, holds an entry for each block."""
FEWER_INSERTS = (
    "Make fewer, larger inserts: raise batch.age_ms_max and batch.rows_max, and use a PARTITION BY that keeps a batch in "
    "one partition"
)


class Inserts(NamedTuple):
    """How a table is written. A block is remembered once a table partition, and becomes one part there."""

    blocks_per_s: float
    """In the busiest minute that is known."""
    spread: int
    """Table partitions that one insert reaches, at worst; 0: not known."""
    insert_ms: int
    """The slowest insert; 0: not known."""
    basis: str
    """What the figures rest on, for people."""
    measured: bool = True
    """False: it is what the configuration leads to, if records flow."""


class Parts(NamedTuple):
    """The parts of a table and the limits that hold for it."""

    fullest: int
    """Active parts of the partition that has most."""
    active: int
    delay_at: int
    throw_at: int
    """Parts of one partition from which inserts are slowed down, and refused; 0: never."""
    total_max: int
    partitions_max: int
    """Table partitions that one insert may reach (`max_partitions_per_insert_block`); 0: any number."""


def planned(config: Config, workers: int) -> Inserts:
    """The most that the configuration leads to while records flow: a batch may be half its age when it is opened."""
    batch = config.batch
    rate = max(1, workers) * 1_000 / batch.age_ms_min
    basis = f"{plural(max(1, workers), 'worker')}, a batch each {batch.age_ms_min:g} to {batch.age_ms_max} ms"
    return Inserts(rate, 0, 0, f"not measured: {basis}", measured=False)


def rate_checks(
    config: Config,
    name: str,
    table: str,
    facts: TableFacts,
    inserts: Inserts,
    assumed_per_s: float,
    outage_s: float = OUTAGE_S,
) -> Iterator[Check]:
    """How long the window in blocks lasts; `assumed_per_s` is the rate that a worker reckons with (see `sink`)."""
    name = f"table {name}"
    if not facts.window_blocks or not inserts.blocks_per_s:
        return
    held_s = facts.window_blocks / inserts.blocks_per_s
    needed_s = retry_s(config)
    rate = f"{inserts.blocks_per_s:.3g} blocks a second ({inserts.basis})"
    text = f"{facts.window_blocks} remembered inserts last {duration(held_s)} at {rate}"
    if held_s < needed_s:
        again = f"an insert may be repeated after 2 x clickhouse.insert_timeout_ms = {needed_s:.0f} s"
        fix = _longer(table, facts, inserts, needed_s)
        status = Status.PROBLEM if inserts.measured else Status.WARNING
        yield Check("window-rate", name, status, f"{text}, and {again}", fix)
    elif not facts.lineage and held_s < 2 * outage_s:
        outage = f"outages up to {duration(outage_s)} are to be survived without lineage columns (--outage)"
        fix = _longer(table, facts, inserts, outage_s)
        yield Check("window-rate", name, Status.WARNING, f"{text}, and {outage}", fix)
    else:
        yield Check("window-rate", name, Status.OK, text)
    if inserts.blocks_per_s > assumed_per_s:
        yield Check(
            "insert-rate",
            name,
            Status.WARNING,
            f"gets {rate}, and recovery reckons with {assumed_per_s:g} at most when it decides whether a token is still known",
            FEWER_INSERTS,
        )


def _longer(table: str, facts: TableFacts, inserts: Inserts, needed_s: float) -> str:
    """What makes a window last twice `needed_s`."""
    wanted = max(WINDOW_BLOCKS, math.ceil(inserts.blocks_per_s * 2 * needed_s))
    if wanted > WINDOW_BLOCKS_MANY:
        return f"{FEWER_INSERTS}; or add lineage columns (`penstock ddl` prints them), which need no long window"
    return modify(table, window_key(facts), wanted)


def spread_checks(name: str, facts: TableFacts, inserts: Inserts, parts: Parts) -> Iterator[Check]:
    """Whether the partition key cuts one block into many parts."""
    name = f"table {name}"
    key = f"PARTITION BY {facts.partition_key}"
    if inserts.spread <= SPREAD_MANY:
        if inserts.spread and facts.partition_key:
            text = f"{key}: an insert reaches {plural(inserts.spread, 'partition')} at most"
            yield Check("partitioning", name, Status.OK, text)
        return
    fix = (
        f"Make a table with a coarser key than {facts.partition_key} (a month, or none), write to that one, and copy the "
        "old rows with INSERT SELECT; a partition key cannot be altered"
    )
    text = f"{key} cuts one insert into up to {inserts.spread} parts ({inserts.basis})"
    if facts.window_blocks and inserts.spread > facts.window_blocks:
        text += f", more than the {facts.window_blocks} it remembers, so nothing is deduplicated"
        yield Check("partitioning", name, Status.PROBLEM, text, fix)
    elif parts.partitions_max and inserts.spread > parts.partitions_max / 2:
        text += f"; above {parts.partitions_max} (max_partitions_per_insert_block) inserts are refused for good"
        yield Check("partitioning", name, Status.PROBLEM, text, fix)
    else:
        yield Check("partitioning", name, Status.WARNING, text, fix)


def part_checks(name: str, inserts: Inserts, parts: Parts) -> Iterator[Check]:
    """Whether merges keep up with the parts that inserts make."""
    name = f"table {name}"
    rate = f"{inserts.blocks_per_s:.3g} new ones a second ({inserts.basis})"
    text = f"{parts.fullest} active parts in its fullest partition, {rate}"
    fix = f"{FEWER_INSERTS}; look at system.merges, at mutations that do not end, and at the disk"
    if parts.throw_at and parts.fullest >= parts.throw_at:
        text += f": inserts are refused (parts_to_throw_insert = {parts.throw_at})"
        yield Check("parts", name, Status.PROBLEM, text, fix)
    elif parts.delay_at and parts.fullest >= parts.delay_at:
        text += f": inserts are slowed down (parts_to_delay_insert = {parts.delay_at})"
        yield Check("parts", name, Status.WARNING, text, fix)
    elif parts.delay_at and parts.fullest >= parts.delay_at / 2:
        text += f": inserts will be slowed down at {parts.delay_at} (parts_to_delay_insert)"
        yield Check("parts", name, Status.WARNING, text, fix)
    elif parts.total_max and parts.active >= parts.total_max / 2:
        text = f"{parts.active} active parts, {rate}: inserts are refused at {parts.total_max} (max_parts_in_total)"
        yield Check("parts", name, Status.WARNING, text, "Use a coarser PARTITION BY, or drop old partitions")
    else:
        yield Check("parts", name, Status.OK, f"{plural(parts.active, 'active part')}")


def insert_time_checks(config: Config, name: str, inserts: Inserts) -> Iterator[Check]:
    """Whether inserts end before their deadline."""
    deadline_ms = config.clickhouse.insert_timeout_ms
    if inserts.insert_ms > deadline_ms / 2:
        yield Check(
            "insert-time",
            f"table {name}",
            Status.WARNING,
            f"took {duration(inserts.insert_ms / 1000)} for an insert ({inserts.basis}), and one is sent again after "
            f"clickhouse.insert_timeout_ms = {deadline_ms}",
            "Look for slow views and for delays by too many parts; lower batch.rows_max, or raise clickhouse.insert_timeout_ms",
        )
