"""Makes a contract from a table's columns: one field per column, read as ClickHouse's JSONEachRow reads it."""

from __future__ import annotations

import ast
import datetime
import keyword
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from pipeline.config.schema import Route
from pipeline.contract import chtypes
from pipeline.contract.check import COMPUTED, Problems, did_you_mean, lineage_columns, require_key_type
from pipeline.contract.chtypes import ChType
from pipeline.contract.jsoneachrow import NULL, annotation_of, computed_reader, reader_of
from pipeline.contract.model import LINEAGE, Contract, TableColumn, Target
from pipeline.contract.reading import ColumnReader, Reading, row_struct
from pipeline.native import Column

_LEFT_OUT = COMPUTED | {"EPHEMERAL"}
"""ClickHouse computes these; a record's field of the same name is not looked at, as in ClickHouse."""


class InferredField(msgspec.Struct, frozen=True):
    """One column as a field: how it is decoded, and what a record without it, or with null in it, gets."""

    column: TableColumn
    chtype: ChType
    attribute: str
    annotation: Any
    default: Any
    null: Any
    """What null is read as; `NULL` where it is refused."""
    written: bool
    """False for a column that ClickHouse computes from a DEFAULT expression: no record may carry it."""


def contract(
    route: Route, key: Sequence[str], columns: Sequence[TableColumn], timezone: str, problems: Problems
) -> Contract | None:
    """The contract of a table's columns. None when a column cannot be filled, with a problem for each."""
    plain = [column for column in columns if column.name not in LINEAGE and column.default_kind not in _LEFT_OUT]
    key_columns = _key(key, plain, problems)
    fields = []
    for index, column in enumerate(plain):
        made = _field(column, index, column.name in key_columns, route, timezone, problems)
        if made is not None:
            fields.append(made)
    if len(fields) < len(plain):
        return None
    row_type = row_struct((one.attribute, one.column.name, one.annotation, one.default) for one in fields)
    made_columns = [
        Column(
            one.column.name,
            one.column.type,
            one.attribute,
            not one.chtype.nullable and one.column.name not in key_columns,
        )
        for one in fields
        if one.written
    ]
    target = Target(route.table, (*made_columns, *lineage_columns(columns, route.table, problems)), key_columns)
    return Contract(
        name=f"inferred:{route.table}",
        version=route.version,
        root=row_type,
        format=route.format,
        tables={row_type: target},
        reading=Reading(row_type, [_reader(one, timezone) for one in fields]) if route.format == "json" else None,
    )


def _field(
    column: TableColumn, index: int, is_key: bool, route: Route, timezone: str, problems: Problems
) -> InferredField | None:
    chtype = chtypes.parse(column.type)
    attribute = _attribute(column.name, index)
    where = f"{route.table}.{column.name} {column.type}"
    if column.default_kind == "DEFAULT" and not (chtype.supported and _constant(column.default_expression, chtype)[0]):
        # ClickHouse evaluates the expression when the block leaves the column out, which is all or nothing.
        if is_key:
            rule = "a key column must not have a computed DEFAULT"
            problems.add(where, rule, "Remove the DEFAULT, or name another key", key="dedup.key")
        return InferredField(column, chtype, attribute, None, None, None, False)
    if not chtype.supported:
        fix = "Give the column a DEFAULT, which leaves it to ClickHouse, or change its type"
        problems.add(where, "columns of this type cannot be filled", fix)
        return None
    value, null = (None, None) if is_key else _defaults(column, chtype)
    annotation = _annotation(chtype, route.format, timezone)
    if annotation is msgspec.Raw:
        value = NULL if value is None else value
    elif null is None and annotation is not Any:
        annotation = annotation | None
    return InferredField(column, chtype, attribute, annotation, value, null, True)


def _defaults(column: TableColumn, chtype: ChType) -> tuple[Any, Any]:
    """What a record without the field gets, and one with null in it; None leaves it to the block builder."""
    if column.default_kind == "DEFAULT":
        value = _constant(column.default_expression, chtype)[1]
        return value, None if chtype.nullable else value
    if chtype.nullable:
        return None, None
    if chtype.kind == "enum":
        # ClickHouse has a default for a missing Enum, and refuses null.
        return next(iter(chtype.labels)), NULL
    if chtype.exact == "date32":
        # A missing Date32 is 1970-01-01 to ClickHouse's formats, though the type's own default is 1900-01-01.
        return datetime.date(1970, 1, 1), datetime.date(1970, 1, 1)
    return None, None


def _annotation(chtype: ChType, format_: str, timezone: str) -> Any:
    if format_ == "json" or chtype.kind not in {"string", "datetime", "date", "json", "uuid", "ip"}:
        return annotation_of(chtype, timezone)
    # MessagePack has types of its own for bytes and times; the block builder checks what comes.
    return Any


def _reader(one: InferredField, timezone: str) -> ColumnReader:
    if one.written:
        usual = dict[str, Any] if one.annotation is msgspec.Raw else one.annotation
        reader = reader_of(one.chtype, usual, one.null, timezone)
    else:
        reader = computed_reader(one.chtype, one.column.default_expression)
    return ColumnReader(one.attribute, one.column.name, one.annotation, reader, one.default)


def _attribute(name: str, index: int) -> str:
    """A Python name for a column; column names may be anything."""
    usable = name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")
    return name if usable else f"column_{index}_"


def _constant(expression: str, chtype: ChType) -> tuple[bool, Any]:
    """Whether a DEFAULT expression is a constant that can be put into a row here, and its value."""
    text = expression.strip()
    if text == "NULL":
        return True, None
    if text.startswith("'") and text.endswith("'"):
        value = chtypes.unquote(text)
        return (chtype.kind in {"string", "fixed", "enum", "date", "datetime", "ip", "uuid"}), value
    if text in {"true", "false"}:
        return chtype.kind in {"bool", "int"}, text == "true" if chtype.kind == "bool" else int(text == "true")
    if text == "[]":
        return chtype.kind == "array", []
    if text == "map()":
        return chtype.kind == "map", {}
    try:
        if chtype.kind == "decimal":
            return True, Decimal(text)
        number = ast.literal_eval(text)
    except (ValueError, SyntaxError, InvalidOperation):
        return False, None
    if chtype.kind == "int" and isinstance(number, int):
        return True, number
    return chtype.kind == "float" and isinstance(number, int | float), number


def _key(key: Sequence[str], columns: Sequence[TableColumn], problems: Problems) -> tuple[str, ...]:
    if not key or key[0].startswith("@"):
        return ()
    known = {column.name: column for column in columns}
    for name in key:
        if name not in known:
            fix = f"{did_you_mean(name, known)}Name columns of the table, `@key` or `@header:NAME`"
            problems.add(name, "the table has no such column", fix, key="dedup.key")
        else:
            require_key_type(known[name], problems)
    return tuple(name for name in key if name in known)
