"""`CREATE TABLE` texts for contracts. It only writes text: nothing here talks to a server.

Every table gets the lineage columns, by which a stored record is found again, and a deduplication window, without which
ClickHouse ignores the tokens of our inserts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from pipeline.contract import LINEAGE, Contract, struct_columns
from pipeline.contract.chtypes import parse, quote
from pipeline.errors import ConfigurationError, Problem

WINDOW_BLOCKS = 100_000
"""Blocks whose tokens a table remembers: an hour of 25 inserts a second into one partition."""
WINDOW_S = 604_800
"""How long a replicated table remembers them; a week outlives any stall that is not a disaster."""


@dataclass(frozen=True)
class Engine:
    """How the table is stored. Texts are ClickHouse expressions and are passed on as they are.

    `replacing` keeps, of the rows with the same sorting key within one table partition, the last one after merges (of
    the greatest `version`, when a column is named): for duplicates that reach partitions of different workers.
    `cluster` adds `ON CLUSTER`; `path` and `replica` of a replicated table are the server's own when empty.
    """

    replacing: bool = False
    version: str = ""
    replicated: bool = False
    path: str = ""
    replica: str = ""
    cluster: str = ""
    order_by: tuple[str, ...] = ()
    """Columns of the sorting key; empty takes the dedup key, or the lineage where there is none."""
    partition_by: str = ""
    ttl: str = ""
    settings: Mapping[str, str | int] | None = None

    @property
    def name(self) -> Literal["MergeTree", "ReplacingMergeTree", "ReplicatedMergeTree", "ReplicatedReplacingMergeTree"]:
        if self.replicated:
            return "ReplicatedReplacingMergeTree" if self.replacing else "ReplicatedMergeTree"
        return "ReplacingMergeTree" if self.replacing else "MergeTree"


def create_tables(contract: Contract, engine: Engine | None = None) -> list[str]:
    """One statement per table of a contract. Raises ConfigurationError with every column that cannot be as asked."""
    return [
        create_table(
            [(column.name, column.type) for column in target.columns], target.table, engine, key=target.key_columns
        )
        for target in contract.tables.values()
    ]


def create_table(
    what: type[msgspec.Struct] | Sequence[tuple[str, str]],
    table: str,
    engine: Engine | None = None,
    *,
    key: Sequence[str] = (),
) -> str:
    """The statement for a Struct, or for columns as (name, type); lineage columns are added where they are missing.

    `key` are the columns of the dedup key. Raises ConfigurationError when the sorting key names what cannot sort, and
    ValueError for a Struct with a field that has no column type.
    """
    engine = engine or Engine()
    columns = dict(struct_columns(what) if isinstance(what, type) else what)
    columns |= {name: type_ for name, (_, type_) in LINEAGE.items() if name not in columns}
    order_by = engine.order_by or tuple(key) or ("_topic", "_partition", "_offset")
    problems = _unsortable(order_by, columns) + _bad_version(engine, columns)
    if problems:
        raise ConfigurationError(problems)
    definitions = [f"    {identifier(name)} {type_}" for name, type_ in columns.items()]
    definitions.append("    INDEX _offset_minmax _offset TYPE minmax GRANULARITY 1")
    lines = [
        f"CREATE TABLE {table_name(table)}{f' ON CLUSTER {identifier(engine.cluster)}' if engine.cluster else ''}",
        "(",
        ",\n".join(definitions),
        ")",
        f"ENGINE = {_engine(engine)}",
    ]
    if engine.partition_by:
        lines.append(f"PARTITION BY {engine.partition_by}")
    lines.append(f"ORDER BY ({', '.join(identifier(name) for name in order_by)})")
    if engine.ttl:
        lines.append(f"TTL {engine.ttl}")
    lines.append("SETTINGS " + ", ".join(f"{name} = {_setting(value)}" for name, value in _settings(engine).items()))
    return "\n".join(lines)


def identifier(name: str) -> str:
    """A quoted identifier; always quoted, so that a column may be called `index`."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def table_name(table: str) -> str:
    """A quoted table name, with its database when it has one."""
    return ".".join(identifier(part) for part in table.split(".", 1))


def _engine(engine: Engine) -> str:
    arguments = []
    if engine.replicated and (engine.path or engine.replica):
        path = engine.path or "/clickhouse/tables/{uuid}/{shard}"
        arguments = [quote(path), quote(engine.replica or "{replica}")]
    if engine.replacing and engine.version:
        arguments.append(identifier(engine.version))
    return f"{engine.name}({', '.join(arguments)})" if arguments else engine.name


def _settings(engine: Engine) -> dict[str, str | int]:
    settings: dict[str, str | int] = (
        {"replicated_deduplication_window": WINDOW_BLOCKS, "replicated_deduplication_window_seconds": WINDOW_S}
        if engine.replicated
        else {"non_replicated_deduplication_window": WINDOW_BLOCKS}
    )
    return settings | dict(engine.settings or {})


def _setting(value: str | int) -> str:
    return str(int(value)) if isinstance(value, int) else quote(value)


_UNSORTABLE = frozenset({"array", "map", "json"})


def _unsortable(order_by: Sequence[str], columns: Mapping[str, str]) -> list[Problem]:
    problems = []
    for name in order_by:
        if name not in columns:
            problems.append(Problem("order_by", name, "the table has no such column", "Name columns of the table"))
            continue
        chtype = parse(columns[name])
        if chtype.nullable or chtype.kind in _UNSORTABLE:
            fix = "Sort by other columns, or make it not Nullable" if chtype.nullable else "Sort by other columns"
            problems.append(Problem("order_by", f"{name} {chtype}", "a sorting key cannot hold this type", fix))
    return problems


def _bad_version(engine: Engine, columns: Mapping[str, str]) -> list[Problem]:
    if not engine.version:
        return []
    type_ = columns.get(engine.version, "")
    if not engine.replacing:
        return [
            Problem("version", engine.version, "only a replacing table has a version column", "Ask for replacing, too")
        ]
    if re.fullmatch(r"UInt\d+|Date|Date32|DateTime(64)?(\(.*\))?", type_):
        return []
    rule = (
        "the version of a row must be an unsigned integer, a date or a time"
        if type_
        else "the table has no such column"
    )
    return [Problem("version", f"{engine.version} {type_}".strip(), rule, "Name another column, such as `_timestamp`")]
