"""Reads from ClickHouse's system tables what the checks judge. It judges nothing itself, and changes nothing.

How inserts are measured: from `system.part_log`, where the server keeps one and the user may read it, over the last hour;
otherwise from `system.parts`, which remembers the parts of the last eight minutes also when they are merged already
(`old_parts_lifetime`), over the last five. Both count blocks, as the deduplication window does: one for each table
partition an insert reaches. Parts of all writers count, because all use the same window.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from pipeline.clickhouse import INSERT_SETTINGS, literal, quote_table
from pipeline.clock import Clock
from pipeline.errors import SinkError
from pipeline.preflight.clocks import Reading
from pipeline.preflight.privileges import Grant
from pipeline.preflight.rates import Inserts, Parts
from pipeline.preflight.servers import Setting
from pipeline.preflight.views import SEND_TO_VIEWS, TOKEN_PER_VIEW, View

if TYPE_CHECKING:
    from pipeline.clickhouse import ClickHouse, TableFacts

T = TypeVar("T")

UNKNOWN_IDENTIFIER, UNKNOWN_TABLE, ACCESS_DENIED = 47, 60, 497
VIEWS_MAX = 64
PARTITIONS_MAX = "max_partitions_per_insert_block"
_PART_LIMITS = ("parts_to_delay_insert", "parts_to_throw_insert", "max_parts_in_total")
_NAME = r"(?:`(?:[^`\\]|\\.)+`|\w+)"
_TARGET = re.compile(rf"^CREATE MATERIALIZED VIEW .*? TO ({_NAME}\.{_NAME})(?: |$)")
_BODY = re.compile(r" (?:AS (?:SELECT|WITH|\()|ENGINE = )")

_LOGGED = """
SELECT sum(blocks), max(blocks) / 60, max(spread), max(slowest_ms)
FROM
(
    SELECT minute, sum(parts) AS blocks, maxIf(parts, own) AS spread, max(ms) AS slowest_ms
    FROM
    (
        SELECT
            toStartOfMinute(event_time) AS minute, event_type = 'NewPart' AS own, count() AS parts, max(duration_ms) AS ms
        FROM system.part_log
        WHERE event_date >= today() - 1 AND event_time > now() - 3600 AND {where}
            AND event_type IN ('NewPart', 'DownloadPart') AND part_name LIKE '%\\_0'
        GROUP BY minute, own, query_id
    )
    GROUP BY minute
)
"""
"""A part of level 0 is an inserted one; those of other replicas come as downloads, which belong to no query."""

_KEPT = """
SELECT count(), max(in_minute) / 60, max(at_once)
FROM
(
    SELECT
        count() OVER (PARTITION BY toStartOfMinute(modification_time)) AS in_minute,
        uniqExact(partition_id) OVER
            (ORDER BY toUInt32(modification_time) RANGE BETWEEN 4 PRECEDING AND CURRENT ROW) AS at_once
    FROM system.parts
    WHERE {where} AND level = 0 AND data_version = min_block_number AND modification_time > now() - 300
)
"""
"""Parts of one insert appear within seconds, each in another partition; those of several mostly in the same ones."""


def known_settings(client: ClickHouse) -> set[str]:
    """Of the settings that concern views, those that the server has and still heeds."""
    names = f"name IN ({literal(SEND_TO_VIEWS)}, {literal(TOKEN_PER_VIEW)})"
    sql = f"SELECT name FROM system.settings WHERE {names}"
    doing = "reading what the server knows"
    try:
        rows = client.query_rows(f"{sql} AND NOT is_obsolete", doing=doing)
    except SinkError as error:
        if error.code != UNKNOWN_IDENTIFIER:
            raise
        rows = client.query_rows(sql, doing=doing)  # Older servers do not mark obsolete settings.
    return {row[0] for row in rows}


def settings(client: ClickHouse) -> dict[str, Setting]:
    """The settings that inserts depend on, as the user's session begins with them."""
    names = ", ".join(literal(name) for name in [*INSERT_SETTINGS, PARTITIONS_MAX, "max_execution_time"])
    rows = client.query_rows(
        f"SELECT name, value, readonly, min, max FROM system.settings WHERE name IN ({names})",
        doing="reading the user's settings",
    )
    return {name: Setting(value, bool(fixed), low or "", high or "") for name, value, fixed, low, high in rows}


def clock(client: ClickHouse, ours: Clock) -> Reading:
    """The server's clock between two looks at ours; the connection is warm, so that its making is not in between."""
    before_ms = ours.wall_ms()
    rows = client.query_rows("SELECT toUnixTimestamp64Milli(now64(3))", doing="reading the server's clock")
    return Reading(before_ms, int(rows[0][0]), ours.wall_ms())


def inserts(client: ClickHouse, table: str) -> Inserts | None:
    """How the table was written lately; None when it was not, or the user may not know."""
    where = _where(client, table)
    logged = _if_allowed(lambda: client.query_rows(_LOGGED.format(where=where), doing="reading system.part_log"))
    if logged and logged[0][0]:
        _, rate, spread, slowest_ms = logged[0]
        return Inserts(float(rate), int(spread), int(slowest_ms), "busiest minute of the last hour")
    kept = _if_allowed(lambda: client.query_rows(_KEPT.format(where=where), doing="reading system.parts"))
    if kept and kept[0][0]:
        _, rate, spread = kept[0]
        return Inserts(float(rate), int(spread), 0, "busiest of the last five minutes")
    return None


def parts(client: ClickHouse, table: str, limits: Mapping[str, int], partitions_max: int) -> Parts | None:
    """The table's active parts; None when the user may not know."""
    sql = f"SELECT count() FROM system.parts WHERE {_where(client, table)} AND active GROUP BY partition_id"
    rows = _if_allowed(lambda: client.query_rows(sql, doing="counting active parts"))
    if rows is None:
        return None
    counts = [int(row[0]) for row in rows]
    delay_at, throw_at, total_max = (limits.get(name, 0) for name in _PART_LIMITS)
    return Parts(max(counts, default=0), sum(counts), delay_at, throw_at, total_max, partitions_max)


def part_limits(client: ClickHouse, table: str, facts: TableFacts) -> dict[str, int]:
    """From how many parts inserts are slowed down and refused: the table's own settings, or else the server's defaults."""
    system = "replicated_merge_tree_settings" if facts.replicated else "merge_tree_settings"
    names = ", ".join(literal(name) for name in _PART_LIMITS)
    sql = f"SELECT name, toInt64(value) FROM system.{system} WHERE name IN ({names})"
    defaults = _if_allowed(lambda: client.query_rows(sql, doing="reading the limits of parts")) or []
    rows = client.query_rows(
        f"SELECT engine_full FROM system.tables WHERE {_where(client, table, 'name')}", doing=f"reading what {table} is"
    )
    own = rows[0][0].rpartition(" SETTINGS ")[2] if rows else ""
    found = re.findall(rf"\b({'|'.join(_PART_LIMITS)}) = (\d+)", own)
    return {name: int(value) for name, value in [*defaults, *found]}


def views(client: ClickHouse, names: Iterable[str]) -> list[View]:
    """The views `names` with their targets, and the views that those feed in turn."""
    found: dict[str, View] = {}
    waiting = list(names)
    while waiting and len(found) < VIEWS_MAX:
        name = waiting.pop(0)
        if name in found:
            continue
        target = _target(client, name)
        facts = _facts(client, target) if target else None
        found[name] = View(name, quote_table(target) if target else "", facts)
        waiting += facts.views if facts else ()
    return list(found.values())


def replicated(client: ClickHouse, tables: Iterable[str]) -> bool | None:
    """Whether all tables are replicated, or none is; None when they differ, or cannot be seen."""
    names = " OR ".join(f"({_where(client, table, 'name')})" for table in tables)
    rows = client.query_rows(f"SELECT engine FROM system.tables WHERE {names}", doing="reading what the tables are")
    kinds = {engine.startswith(("Replicated", "Shared")) for (engine,) in rows}
    return kinds.pop() if len(kinds) == 1 else None


def granted(client: ClickHouse, wanted: Sequence[Grant]) -> list[tuple[Grant, bool | None]]:
    """Which of the rights the user has; None: the server cannot be asked."""
    return [(grant, client.granted(grant.privilege, grant.where)) for grant in wanted]


def _target(client: ClickHouse, view: str) -> str:
    """The table that a view fills: named by TO, or its own inner one. '' when its definition cannot be read."""
    database, name = client.split(view)
    rows = client.query_rows(
        f"SELECT create_table_query, toString(uuid) FROM system.tables WHERE {_where(client, view, 'name')}",
        doing=f"reading what {view} is",
    )
    if not rows or not rows[0][0]:
        return ""
    query, uuid = rows[0]
    named = _TARGET.match(_BODY.split(query, 1)[0])
    if named:
        return re.sub(r"`((?:[^`\\]|\\.)+)`", lambda match: match[1].replace("\\", ""), named[1])
    inner = f"{database}..inner_id.{uuid}"
    # Databases that are not Atomic name the inner table after the view.
    return inner if _facts(client, inner) else f"{database}..inner.{name}"


def _facts(client: ClickHouse, table: str) -> TableFacts | None:
    try:
        return client.table_facts(table)
    except SinkError as error:
        if error.code != UNKNOWN_TABLE:
            raise
        return None


def _where(client: ClickHouse, table: str, column: str = "table") -> str:
    database, name = client.split(table)
    return f"database = {literal(database)} AND {column} = {literal(name)}"


def _if_allowed(question: Callable[[], T]) -> T | None:
    """None where the server keeps no such table, or the user may not read it."""
    try:
        return question()
    except SinkError as error:
        if error.code not in (UNKNOWN_TABLE, UNKNOWN_IDENTIFIER, ACCESS_DENIED):
            raise
        return None
