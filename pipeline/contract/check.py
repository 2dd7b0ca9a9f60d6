"""Compares the fields of a Struct with the columns of its table. Reports everything that does not fit, not just the first."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, get_origin

import msgspec

from pipeline.contract import chtypes
from pipeline.contract.fields import Field, fields_of, members_of, misfit
from pipeline.contract.model import LINEAGE, TableColumn, Target
from pipeline.errors import Problem
from pipeline.native import Column

COMPUTED = frozenset({"MATERIALIZED", "ALIAS"})
_LINEAGE_KINDS = {"_topic": {"string"}, "_partition": {"int"}, "_offset": {"int"}, "_timestamp": {"datetime"}}
_KEYLESS = frozenset({"float", "array", "map", "json", ""})


class Problems:
    """Collects problems that share a configuration key."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.found: list[Problem] = []

    def add(self, value: str, rule: str, fix: str, key: str = "") -> None:
        self.found.append(Problem(key or self.key, value, rule, fix))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question naming the closest known name, or an empty text."""
    names = list(known)
    folded = {one.casefold().replace("_", ""): one for one in names}
    near = difflib.get_close_matches(name, names, n=1) or [
        folded[one] for one in difflib.get_close_matches(name.casefold().replace("_", ""), folded, n=1)
    ]
    return f"Did you mean {near[0]!r}? " if near else ""


def bind(
    struct: type[msgspec.Struct],
    table: str,
    columns: Sequence[TableColumn] | None,
    key: Sequence[str],
    tag: str,
    problems: Problems,
) -> Target:
    """The target of a Struct. Without `columns` (offline) the table is taken to be the one `penstock ddl` makes."""
    fields = _usable(fields_of(struct), struct, problems)
    if columns is None:
        columns = [TableColumn(field.column, field.chtype) for field in fields if not field.ignored]
        columns += [TableColumn(name, type_) for name, (_, type_) in LINEAGE.items()]
    by_name = {column.name: column for column in columns}
    filled = _match(fields, by_name, struct, table, problems)
    _unfilled(columns, {field.column for field, _ in filled}, fields, table, problems)
    key_columns = _key(key, fields, by_name, struct, problems)
    made = [
        Column(
            field.column,
            column.type,
            field.attribute,
            field.null_as_default and field.column not in key_columns,
            field.epoch_unit,
        )
        for field, column in filled
    ]
    return Target(table, (*made, *lineage_columns(columns, table, problems)), key_columns, tag)


def lineage_columns(columns: Sequence[TableColumn], table: str, problems: Problems) -> list[Column]:
    """The lineage columns that a table has, checked for types that hold what goes in."""
    found = []
    for column in columns:
        if column.name not in LINEAGE or column.default_kind in COMPUTED:
            continue
        source, wanted = LINEAGE[column.name]
        if _holds_lineage(column):
            found.append(Column(column.name, column.type, source))
        else:
            problems.add(
                f"{table}.{column.name} {column.type}",
                f"a lineage column of this name must be {wanted}",
                "Change the column's type, or rename it if it is not penstock's",
            )
    return found


def _holds_lineage(column: TableColumn) -> bool:
    core = chtypes.parse(column.type).core
    if core.kind not in _LINEAGE_KINDS[column.name]:
        return False
    if column.name == "_offset":
        return core.text in {"Int64", "UInt64"}
    if column.name == "_partition":
        return core.text in {"Int32", "UInt32", "Int64", "UInt64"}
    return True


def _usable(fields: list[Field], struct: type, problems: Problems) -> list[Field]:
    for field in fields:
        if field.problem:
            problems.add(f"{struct.__name__}.{field.name}", field.problem, "Change the field's annotation")
        if field.column in LINEAGE and not field.ignored:
            problems.add(
                f"{struct.__name__}.{field.name}",
                "the name belongs to a lineage column, which penstock fills itself",
                "Rename the field's column with `column(...)` or mark the field `ignored`",
            )
    seen: dict[str, str] = {}
    for field in fields:
        if field.ignored:
            continue
        if field.column in seen:
            problems.add(
                f"{struct.__name__}.{field.name}",
                f"field {seen[field.column]} goes into column {field.column} already",
                "Give one of them another column or mark it `ignored`",
            )
        seen[field.column] = field.name
    return [field for field in fields if not field.problem and field.column not in LINEAGE]


def _match(
    fields: list[Field], by_name: dict[str, TableColumn], struct: type, table: str, problems: Problems
) -> list[tuple[Field, TableColumn]]:
    """Fields with the columns they fill, in the order of the table."""
    filled: dict[str, Field] = {}
    free = [name for name in by_name if name not in LINEAGE and name not in {field.column for field in fields}]
    for field in fields:
        column = by_name.get(field.column)
        value = f"{struct.__name__}.{field.name}"
        if field.ignored:
            continue
        if column is None:
            problems.add(
                value,
                f"table {table} has no column {field.column!r} for it",
                f"{did_you_mean(field.column, free)}Add the column, name another with `column(...)`, or mark it `ignored`",
            )
        elif column.default_kind in COMPUTED:
            problems.add(
                value,
                f"column {table}.{field.column} is {column.default_kind}: ClickHouse computes it",
                "Mark the field `ignored` or make it an ordinary column",
            )
        elif reason := misfit(field.shape, chtypes.parse(column.type), field.null_as_default) or _foreign(
            field, column
        ):
            problems.add(value, f"{reason} (column {table}.{field.column})", "Change the field's type or the column's")
        else:
            filled[column.name] = field
    return [(filled[name], column) for name, column in by_name.items() if name in filled]


def _foreign(field: Field, column: TableColumn) -> str:
    """Why a field of fixed values does not go into an Enum column: a value the Enum has no member for."""
    chtype = chtypes.parse(column.type)
    if chtype.kind != "enum":
        return ""
    members = chtype.labels
    known: set[Any] = {*members, *members.values()}
    strange = [value for value in _fixed_values(field.type) if value not in known]
    return f"{chtype} has no member {strange[0]!r}" if strange else ""


def _fixed_values(annotation: Any) -> list[Any]:
    values: list[Any] = []
    for member in members_of(annotation):
        if get_origin(member) is Literal:
            values += [value for value in get_args(member) if value is not None]
        elif isinstance(member, type) and hasattr(member, "__members__"):
            values += [one.value for one in typing.cast(Iterable[Any], member)]
    return values


def _unfilled(
    columns: Sequence[TableColumn], filled: set[str], fields: list[Field], table: str, problems: Problems
) -> None:
    """A column that no field fills must be one that ClickHouse can fill without guessing."""
    named = {field.column for field in fields if not field.ignored}
    spare = [field.column for field in fields if field.column not in {column.name for column in columns}]
    for column in columns:
        if column.name in filled or column.name in named or column.name in LINEAGE or column.default_kind:
            continue
        if chtypes.parse(column.type).nullable:
            continue
        problems.add(
            f"{table}.{column.name} {column.type}",
            "no field fills this column and it has no default",
            f"{did_you_mean(column.name, spare)}Add a field, or give the column a DEFAULT",
        )


def _key(
    key: Sequence[str], fields: list[Field], by_name: dict[str, TableColumn], struct: type, problems: Problems
) -> tuple[str, ...]:
    """Columns of the dedup key; none when the key is the record's key or a header."""
    if not key or key[0].startswith("@"):
        return ()
    known = {field.name: field for field in fields} | {field.attribute: field for field in fields}
    columns = []
    for name in key:
        field = known.get(name)
        if field is None or field.ignored:
            rule = (
                f"{struct.__name__} has no such field"
                if field is None
                else f"{struct.__name__}.{name} goes into no column"
            )
            fix = f"{did_you_mean(name, known)}Name fields of the contract, `@key` or `@header:NAME`"
            problems.add(name, rule, fix, key="dedup.key")
            continue
        column = by_name.get(field.column)
        if column is None:
            continue  # reported with the field
        require_key_type(column, problems)
        columns.append(field.column)
    return tuple(columns)


def require_key_type(column: TableColumn, problems: Problems) -> None:
    """A column of the dedup key must hold what identifies an event."""
    if chtypes.parse(column.type).kind in _KEYLESS:
        rule = f"a {column.type} cannot identify an event"
        problems.add(column.name, rule, "Use integers, text, UUIDs or times", key="dedup.key")
