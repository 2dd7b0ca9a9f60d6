"""Compiles a contract for the native lane: what it accepts of each field, as plain values. Decodes nothing, reads no table.

The native lane must be indistinguishable from msgspec. So only what is known to be read alike is planned; of the rest a
plan says that nothing is taken, with the problem, and records that hold it are left to msgspec.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from functools import cache, reduce
from typing import Any

import msgspec
from msgspec import inspect

from pipeline.contract.jsoneachrow import NULL
from pipeline.contract.model import Contract
from pipeline.native import FieldPlan, RowPlan, Takes

_INT_LOW, _INT_HIGH = Takes().low, Takes().high
_EMPTY = {list: b"[]", dict: b"{}"}
"""Default factories whose value is known, with its JSON text."""


class Unplanned(Exception):
    """No record of the contract can go through the native lane; the text says why."""


def plans_of(contract: Contract) -> dict[type, RowPlan]:
    """A plan for each row type. Raises Unplanned."""
    return {row_type: _row(contract, row_type) for row_type in contract.tables}


def _row(contract: Contract, row_type: type) -> RowPlan:
    info = _info_of(row_type)
    if not isinstance(info, inspect.StructType):
        raise Unplanned(f"{row_type.__name__} is no Struct")
    if problem := _odd(info):
        raise Unplanned(f"{row_type.__name__}: {problem}")
    fields = [_field(field, (row_type,)) for field in info.fields]
    if contract.reading is not None:
        read = {one.attribute: one for one in contract.reading.columns}
        fields = [
            field._replace(
                default=None if read[field.attribute].default is NULL else read[field.attribute].default,
                takes=Takes(raw="object") if field.takes.raw else field.takes,
            )
            for field in fields
        ]
    in_union = len(contract.tables) > 1
    tag = info.tag if in_union else ""
    if not isinstance(tag, str) or info.tag_field in {field.name for field in fields}:
        raise Unplanned(f"{row_type.__name__}: its tag is no text, or a field of its own")
    if info.tag_field is not None and info.tag is not None:
        fields.insert(0, FieldPlan(info.tag_field, "", Takes(choices=(info.tag,)), required=in_union))
    return RowPlan(
        tuple(fields),
        tag,
        (info.tag_field or "") if in_union else "",
        info.forbid_unknown_fields,
        contract.format == "msgpack",
        contract.format == "json" and contract.reading is None,
    )


@cache
def _info_of(row_type: type) -> inspect.Type:
    """A worker makes several lanes of one contract."""
    return inspect.type_info(row_type)


def _odd(info: inspect.StructType) -> str:
    """What about a Struct only msgspec can do."""
    if info.array_like:
        return "it is an array in the record"
    if getattr(info.cls, "__post_init__", None) is not None:
        return "it has a __post_init__, which may refuse or change a row"
    return ""


def _field(field: inspect.Field, around: tuple[type, ...]) -> FieldPlan:
    """A field of a row."""
    default, known = field.default, True
    if field.default_factory is not msgspec.NODEFAULT:
        known = field.default_factory in _EMPTY
        default = field.default_factory() if known else None
    return FieldPlan(field.encode_name, field.name, _takes(field.type, around), field.required, default, known)


def _nested_field(field: inspect.Field, around: tuple[type, ...]) -> FieldPlan:
    """A field of a nested Struct, whose default is JSON text. A field that is left out when unset has none."""
    default, known = b"", not field.required
    if field.default_factory is not msgspec.NODEFAULT:
        known = field.default_factory in _EMPTY
        default = _EMPTY.get(field.default_factory, b"") if known else b""
    elif known:
        known = field.default is not msgspec.UNSET
        default = msgspec.json.encode(field.default) if known else b""
    return FieldPlan(field.encode_name, field.name, _takes(field.type, around), field.required, default, known)


def _takes(info: inspect.Type, around: tuple[type, ...]) -> Takes:
    """What a type accepts."""
    if isinstance(info, inspect.Metadata):
        return _takes(info.type, around)
    if isinstance(info, inspect.UnionType):
        return reduce(_merged, [_takes(member, around) for member in info.types])
    if isinstance(info, inspect.IntType | inspect.FloatType | inspect.StrType | inspect.DateTimeType):
        return _constrained(info)
    if isinstance(info, inspect.ByteArrayType | inspect.BytesType) and not _has_length(info):
        return Takes(binary="bytes")
    if isinstance(info, inspect.LiteralType):
        return _choices(info.values)
    if isinstance(info, inspect.EnumType):
        return _members(info.cls)
    if isinstance(info, inspect.StructType):
        return _struct(info, around)
    if isinstance(info, inspect.ListType | inspect.VarTupleType) and not _has_length(info):
        return Takes(items=_takes(info.item_type, around))
    if isinstance(info, inspect.DictType) and not _has_length(info) and info.key_type == inspect.StrType():
        return Takes(pairs=_takes(info.value_type, around))
    return _SIMPLE.get(type(info), Takes(problem=f"{type(info).__name__.removesuffix('Type')} is left to msgspec"))


_SIMPLE: Mapping[type, Takes] = {
    inspect.NoneType: Takes(null=True),
    inspect.BoolType: Takes(boolean=True),
    inspect.DecimalType: Takes(decimal=True),
    inspect.AnyType: Takes(anything=True),
    inspect.RawType: Takes(raw="any"),
    inspect.DateType: Takes(text="date"),
    inspect.UUIDType: Takes(text="uuid", binary="uuid"),
}


def _has_length(info: Any) -> bool:
    return info.min_length is not None or info.max_length is not None


def _constrained(info: inspect.IntType | inspect.FloatType | inspect.StrType | inspect.DateTimeType) -> Takes:
    """Types that may carry a constraint. Of these only the bounds of an integer are looked at by the native lane."""
    if isinstance(info, inspect.IntType) and info.multiple_of is None:
        lows = [_INT_LOW, *([info.ge] if info.ge is not None else []), *([info.gt + 1] if info.gt is not None else [])]
        highs = [
            _INT_HIGH,
            *([info.le] if info.le is not None else []),
            *([info.lt - 1] if info.lt is not None else []),
        ]
        return Takes(integer=True, low=max(lows), high=min(highs))
    if info == inspect.FloatType():
        return Takes(floating=True)
    if info == inspect.StrType():
        return Takes(text="str")
    if info == inspect.DateTimeType():
        return Takes(text="datetime")
    return Takes(problem="its constraint is left to msgspec")


def _choices(values: Sequence[Any]) -> Takes:
    """Literals, and the values of an Enum."""
    named = tuple(value for value in values if value is not None)
    if not all(type(value) in (str, int) for value in named):
        return Takes(problem="members that are neither texts nor integers")
    if any(isinstance(value, int) and not _INT_LOW <= value < 2**63 for value in named):
        return Takes(problem="a member beyond 64 bits")
    return Takes(null=len(named) < len(values), choices=named)


def _members(cls: type[enum.Enum]) -> Takes:
    values = [member.value for member in cls]
    plain = [str(value) if isinstance(value, str) else value for value in values]
    return Takes(problem="an Enum with a null member") if None in values else _choices(plain)


def _struct(info: inspect.StructType, around: tuple[type, ...]) -> Takes:
    """A nested Struct. It is written anew as msgspec would encode it, which a plain order of its fields describes."""
    config = info.cls.__struct_config__
    problem = _odd(info)
    if info.cls in around:
        problem = "it holds itself"
    elif info.tag is not None or config.omit_defaults:
        problem = "it has a tag, or leaves defaults out"
    if problem:
        return Takes(problem=f"{info.cls.__name__}: {problem}")
    fields = tuple(_nested_field(field, (*around, info.cls)) for field in info.fields)
    return Takes(fields=fields, forbid_unknown=info.forbid_unknown_fields)


def _merged(left: Takes, right: Takes) -> Takes:
    """What either member of a union accepts. Where one JSON value could be meant for both, nothing is."""
    if left.problem or right.problem:
        return Takes(problem=left.problem or right.problem)
    if left.anything or right.anything:
        return Takes(anything=True)
    texts, numbers = [0, 0], [0, 0]
    for place, one in enumerate((left, right)):
        texts[place] = bool(one.text or one.decimal or one.choices)
        numbers[place] = bool(one.decimal or one.floating)
    if all(texts) or all(numbers) or (left.integer and right.integer):
        return Takes(problem="a union of types that look alike in JSON")
    return Takes(
        null=left.null or right.null,
        boolean=left.boolean or right.boolean,
        integer=left.integer or right.integer,
        low=left.low if left.integer else right.low,
        high=left.high if left.integer else right.high,
        floating=left.floating or right.floating,
        decimal=left.decimal or right.decimal,
        text=left.text or right.text,
        binary=left.binary or right.binary,
        choices=left.choices if left.choices is not None else right.choices,
        items=left.items or right.items,
        pairs=left.pairs or right.pairs,
        fields=left.fields if left.fields is not None else right.fields,
        forbid_unknown=left.forbid_unknown or right.forbid_unknown,
    )
