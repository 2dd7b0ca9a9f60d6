"""The fields of a contract's Struct: what each holds, which column it wants, and what that column's type is by default.

It never looks at a table; `check` compares the two.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import types
import typing
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from pipeline.contract import chtypes, markers
from pipeline.contract.chtypes import ChType
from pipeline.contract.markers import EpochUnit

_SCALARS: dict[Any, str] = {
    bool: "Bool",
    int: "Int64",
    float: "Float64",
    str: "String",
    bytes: "String",
    datetime.datetime: "DateTime64(6)",
    datetime.date: "Date32",
    uuid.UUID: "UUID",
    msgspec.Raw: "String",
    Any: "String",
}
_NESTED = frozenset({msgspec.Raw, Any, dict, list})
"""Types whose values go into a text or JSON column as JSON text."""
# Which kinds of column a value of a Python type can go into. What is left out would lose something silently.
_FILLS: dict[Any, frozenset[str]] = {
    bool: frozenset({"bool"}),
    int: frozenset({"int", "float", "decimal", "date", "datetime", "enum"}),
    float: frozenset({"float", "date", "datetime"}),
    str: frozenset({"string", "fixed", "uuid", "date", "datetime", "enum", "decimal", "ip"}),
    bytes: frozenset({"string", "fixed"}),
    datetime.datetime: frozenset({"datetime"}),
    datetime.date: frozenset({"date"}),
    uuid.UUID: frozenset({"uuid"}),
    decimal.Decimal: frozenset({"decimal"}),
    msgspec.Raw: frozenset({"string", "json"}),
    dict: frozenset({"string", "json"}),
    list: frozenset({"string"}),
}


@dataclass(frozen=True)
class Shape:
    """What a field may hold: its Python types without None and UNSET, as plain types."""

    members: tuple[Any, ...]
    null: bool
    items: Mapping[int, Shape]
    """Array elements at 0; map keys at 0 and values at 1."""


@dataclass(frozen=True)
class Field:
    """One field of a contract."""

    attribute: str
    name: str
    """As encoded in the record."""
    column: str
    type: Any
    shape: Shape
    chtype: str
    """Column type by marker or default mapping; empty when there is none (`problem` says why)."""
    problem: str
    ignored: bool
    null_as_default: bool
    required: bool
    epoch_unit: EpochUnit
    fills_null: bool
    """Whether a record without the field leaves None in it."""


def fields_of(struct: type[msgspec.Struct]) -> list[Field]:
    """The fields of a Struct in order. Never raises for a type that has no column; such a field carries a problem."""
    return [_field(info) for info in msgspec.structs.fields(struct)]


def _field(info: msgspec.structs.FieldInfo) -> Field:
    marks = _marks(info.type)
    shape = shape_of(info.type)
    chtype, problem = "", ""
    ignored = markers.ignored in marks
    try:
        explicit = _explicit_type(info.type)
        if explicit is not None:
            chtype = explicit
            problem = chtypes.parse(explicit).problem
        elif not ignored:
            chtype = _with_few_values(default_type(shape), info.type)
    except ValueError as error:
        chtype, problem = "", str(error)
    if msgspec.Raw in shape.members and (shape.null or len(shape.members) > 1):
        # msgspec drops Raw from a union without a word and then refuses every nested value.
        problem = "msgspec.Raw cannot be part of a union: declare it alone; null arrives as the text `null`"
    return Field(
        attribute=info.name,
        name=info.encode_name,
        column=next((mark.name for mark in marks if isinstance(mark, markers.ColumnName)), info.encode_name),
        type=info.type,
        shape=shape,
        chtype=chtype,
        problem=problem,
        ignored=ignored,
        null_as_default=markers.null_as_default in marks or _never_nullable(chtype),
        required=info.required,
        epoch_unit=next((mark.unit for mark in marks if isinstance(mark, markers.Epoch)), "s"),
        fills_null=info.default is None,
    )


def _never_nullable(chtype: str) -> bool:
    """ClickHouse has no Nullable of these: their empty value stands for null."""
    return bool(chtype) and chtypes.parse(chtype).kind in {"array", "map"}


def _marks(annotation: Any) -> list[Any]:
    """Markers of the annotation, also those on the members of an optional."""
    if get_origin(annotation) is typing.Annotated:
        inner, *marks = get_args(annotation)
        return [*_marks(inner), *marks]
    if _is_union(annotation):
        return [mark for member in get_args(annotation) for mark in _marks(member)]
    return []


def _explicit_type(annotation: Any) -> str | None:
    """The type that `ch` names. On the member of an optional it is the type of what is not null."""
    if get_origin(annotation) is typing.Annotated:
        inner, *marks = get_args(annotation)
        outer = next((mark.type for mark in marks if isinstance(mark, markers.Ch)), None)
        return _explicit_type(inner) if outer is None else outer
    if not _is_union(annotation):
        return None
    members = get_args(annotation)
    found = next((text for text in map(_explicit_type, members) if text is not None), None)
    return chtypes.nullable(found) if found is not None and type(None) in members else found


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def shape_of(annotation: Any) -> Shape:
    """What values of an annotation look like to the block builder."""
    members: list[Any] = []
    null = False
    items: dict[int, Shape] = {}
    for member in members_of(annotation):
        if member in (None, type(None)):
            null = True
        elif member is msgspec.UNSET or member is msgspec.UnsetType:
            continue
        else:
            plain, inner = _plain(member)
            members += [one for one in plain if one not in members]
            items.update(inner)
    return Shape(tuple(members), null, items)


def members_of(annotation: Any) -> list[Any]:
    """The members of an annotation that may be a union, an alias or annotated."""
    while get_origin(annotation) is typing.Annotated:
        annotation = get_args(annotation)[0]
    if isinstance(annotation, typing.NewType):
        return members_of(annotation.__supertype__)
    value = getattr(annotation, "__value__", None)  # a `type X = ...` alias
    if value is not None and not isinstance(annotation, type):
        return members_of(value)
    if _is_union(annotation):
        return [member for argument in get_args(annotation) for member in members_of(argument)]
    return [annotation]


def _plain(member: Any) -> tuple[list[Any], dict[int, Shape]]:
    """The builder's view of one type without unions: which plain types, and what is inside."""
    origin = get_origin(member) or member
    arguments = get_args(member)
    if origin is Literal:
        return list(dict.fromkeys(type(value) for value in arguments if value is not None)), {}
    if not isinstance(origin, type):
        return [member if member in _SCALARS else Any], {}
    if issubclass(origin, enum.Enum):
        return list(dict.fromkeys(type(one.value) for one in origin)), {}
    if issubclass(origin, msgspec.Struct):
        return [list if origin.__struct_config__.array_like else dict], {}
    if issubclass(origin, Mapping):
        key, value = arguments if len(arguments) == 2 else (str, Any)
        return [dict], {0: shape_of(key), 1: shape_of(value)}
    if origin is list or (origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis):
        return [list], {0: shape_of(arguments[0] if arguments else Any)}
    if issubclass(
        origin, datetime.datetime | datetime.date | uuid.UUID | decimal.Decimal | str | bytes | bool | int | float
    ):
        known = (bool, int, float, str, bytes, datetime.datetime, datetime.date, uuid.UUID, decimal.Decimal)
        return [next(one for one in known if issubclass(origin, one))], {}
    return [origin], {}


def default_type(shape: Shape) -> str:
    """The ClickHouse type a field gets without a marker. Raises ValueError, naming the way out, when there is none."""
    if not shape.members:
        raise ValueError("it holds nothing but null: mark it `ignored`")
    if len(shape.members) > 1:
        raise ValueError("it holds values of several types: name the column's type with `ch(...)`")
    member = shape.members[0]
    if member is dict and _column_like(shape.items.get(1)):
        key, value = default_type(shape.items[0]), default_type(shape.items[1])
        return f"Map({key}, {value})"
    if member is list and _column_like(shape.items.get(0)):
        return f"Array({default_type(shape.items[0])})"
    if member is decimal.Decimal:
        raise ValueError(
            "a Decimal has no default precision: annotate it, as `Annotated[Decimal, ch('Decimal(18, 4)')]`"
        )
    text = "String" if member in _NESTED else _SCALARS.get(member, "")
    if not text:
        raise ValueError(f"no column type for {getattr(member, '__name__', member)}: name one with `ch(...)`")
    return chtypes.nullable(text) if shape.null else text


def _column_like(shape: Shape | None) -> bool:
    """Whether a list's or dict's values have a column type of their own; otherwise the whole is kept as JSON text."""
    if shape is None or len(shape.members) != 1:
        return False
    member = shape.members[0]
    if member in (list, dict) and shape.items:
        return _column_like(shape.items.get(1 if member is dict else 0))
    return member not in _NESTED


def misfit(shape: Shape, chtype: ChType, null_as_default: bool) -> str:
    """Why values of this shape cannot go into a column of this type; empty when they can."""
    core = chtype.core
    if not chtype.supported:
        return f"columns of type {chtype} cannot be filled"
    if shape.null and not (chtype.nullable or null_as_default or core.kind in {"array", "map"}):
        return f"it may be null and the column ({chtype}) is not Nullable"
    for member in shape.members:
        if member is Any:
            continue
        if core.kind == "array" and member is list:
            return misfit(shape.items[0], core.inner(0), False) if 0 in shape.items else ""
        if core.kind == "map" and member is dict and 1 in shape.items:
            return misfit(shape.items[0], core.inner(0), False) or misfit(shape.items[1], core.inner(1), False)
        if core.kind not in _FILLS.get(member, frozenset()):
            return f"{_name(member)} does not go into {chtype}"
    return ""


def _name(member: Any) -> str:
    return str(getattr(member, "__name__", member))


def struct_columns(struct: type[msgspec.Struct]) -> list[tuple[str, str]]:
    """Column names and ClickHouse types of a Struct, in its order. Raises ValueError for a field that has none."""
    columns = []
    for field in fields_of(struct):
        if field.problem:
            raise ValueError(f"field {struct.__name__}.{field.name}: {field.problem}")
        if not field.ignored:
            columns.append((field.column, field.chtype))
    return columns


def _with_few_values(chtype: str, annotation: Any) -> str:
    """Few values that repeat are cheapest as LowCardinality."""
    few = any(get_origin(one) is Literal or _is_enum(one) for one in members_of(annotation))
    return f"LowCardinality({chtype})" if few and chtype in {"String", "Nullable(String)"} else chtype


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, enum.Enum)
