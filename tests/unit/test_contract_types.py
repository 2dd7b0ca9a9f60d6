"""ClickHouse type texts and the default mapping from Python types."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal

import msgspec
import pytest

from pipeline.contract import ch, column, epoch, ignored, null_as_default, struct_columns
from pipeline.contract.chtypes import parse, quote, unquote
from pipeline.contract.fields import fields_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(msgspec.Struct):
    x: int


class Everything(msgspec.Struct, rename="camel"):
    an_int: int
    a_float: float
    a_text: str
    a_flag: bool
    some_bytes: bytes
    a_moment: datetime.datetime
    a_day: datetime.date
    an_id: uuid.UUID
    price: Annotated[decimal.Decimal, ch("Decimal(18, 4)")]
    few: Literal["a", "b"]
    colour: Colour | None
    numbered: Annotated[Literal["a", "b"], ch("Enum8('a' = 1, 'b' = 2)")]
    names: list[str]
    grid: list[list[int]]
    maybes: list[int | None]
    counts: dict[str, int]
    inner: Inner
    inners: list[Inner]
    anything: Any
    raw: msgspec.Raw
    free: dict[str, Any]
    small: Annotated[int, ch("UInt8")] | None
    optional_list: list[str] | None
    sent_ms: Annotated[int, ch("DateTime64(3)"), epoch("ms")]
    other: Annotated[str, column("renamed")]
    hidden: Annotated[set[int], ignored]
    unset: int | msgspec.UnsetType = msgspec.UNSET


def test_the_default_mapping() -> None:
    assert dict(struct_columns(Everything)) == {
        "anInt": "Int64",
        "aFloat": "Float64",
        "aText": "String",
        "aFlag": "Bool",
        "someBytes": "String",
        "aMoment": "DateTime64(6)",
        "aDay": "Date32",
        "anId": "UUID",
        "price": "Decimal(18, 4)",
        "few": "LowCardinality(String)",
        "colour": "LowCardinality(Nullable(String))",
        "numbered": "Enum8('a' = 1, 'b' = 2)",
        "names": "Array(String)",
        "grid": "Array(Array(Int64))",
        "maybes": "Array(Nullable(Int64))",
        "counts": "Map(String, Int64)",
        "inner": "String",
        "inners": "String",
        "anything": "String",
        "raw": "String",
        "free": "String",
        "small": "Nullable(UInt8)",
        "optionalList": "Array(String)",
        "sentMs": "DateTime64(3)",
        "renamed": "String",
        "unset": "Int64",
    }


def test_markers_are_found_inside_an_optional() -> None:
    fields = {field.attribute: field for field in fields_of(Everything)}
    assert fields["sent_ms"].epoch_unit == "ms"
    assert fields["hidden"].ignored
    assert fields["optional_list"].null_as_default, "there is no Nullable(Array)"
    assert not fields["small"].null_as_default


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        (decimal.Decimal, "no default precision"),
        (int | str, "several types"),
        (None, "nothing but null"),
        (datetime.timedelta, "no column type for timedelta"),
        (msgspec.Raw | None, "cannot be part of a union"),
        (Annotated[int, ch("UInt32(")], "does not parse"),
    ],
)
def test_a_field_without_a_column_type_says_why(annotation: Any, says: str) -> None:
    struct = msgspec.defstruct("Odd", [("field", annotation)])
    (field,) = fields_of(struct)
    assert says in field.problem
    with pytest.raises(ValueError, match=r"field Odd\.field"):
        struct_columns(struct)


@pytest.mark.parametrize(
    ("text", "nullable", "kind", "core"),
    [
        ("UInt8", False, "int", "UInt8"),
        ("Nullable(FixedString(3))", True, "fixed", "FixedString(3)"),
        ("LowCardinality(String)", False, "string", "String"),
        ("LowCardinality(Nullable(String))", True, "string", "String"),
        ("Map(String, Array(UInt8))", False, "map", "Map(String, Array(UInt8))"),
        ("Enum8('a,b' = 1, 'c)' = -2)", False, "enum", "Enum8('a,b' = 1, 'c)' = -2)"),
        ("DateTime64(3, 'Europe/Berlin')", False, "datetime", "DateTime64(3, 'Europe/Berlin')"),
        ("JSON(max_dynamic_paths=10, a.b UInt32)", False, "json", "JSON(max_dynamic_paths=10, a.b UInt32)"),
        ("AggregateFunction(sum, UInt8)", False, "", "AggregateFunction(sum, UInt8)"),
        ("Nullable(Point)", True, "", "Nullable(Point)"),
        ("", False, "", ""),
    ],
)
def test_type_texts(text: str, nullable: bool, kind: str, core: str) -> None:
    parsed = parse(text)
    assert (str(parsed), parsed.nullable, parsed.kind, str(parsed.core)) == (text, nullable, kind, core)
    assert parsed.supported == bool(kind)
    assert bool(parsed.problem) == (not kind)


def test_enum_members_are_ordered_by_number() -> None:
    assert list(parse(r"Nullable(Enum8('b' = 2, 'it\'s' = -1, 'zero' = 0))").labels.items()) == [
        ("it's", -1),
        ("zero", 0),
        ("b", 2),
    ]


def test_properties_of_types() -> None:
    assert [parse(text).scale for text in ("DateTime64(9, 'UTC')", "DateTime", "Nullable(Decimal(10, 2))")] == [9, 0, 2]
    assert parse("Nullable(DateTime('UTC'))").timezone == parse("DateTime64(3, 'UTC')").timezone == "UTC"
    assert parse("DateTime64(3)").timezone == parse("Enum8('a' = 1, 'UTC')").timezone == ""
    assert (parse("Nullable(Date32)").exact, parse("IPv4").exact) == ("date32", "ipv4")


def test_supported_looks_inside() -> None:
    assert parse("Map(String, Array(Nullable(UInt8)))").supported
    assert not parse("Array(Point)").supported
    assert not parse("Array(Tuple(UInt8))").supported


@pytest.mark.parametrize("text", ["", "it's", "back\\slash", "'", "a''b"])
def test_quoting_round_trips(text: str) -> None:
    assert unquote(quote(text)) == text


def test_null_as_default_marker() -> None:
    struct = msgspec.defstruct("S", [("x", Annotated[int | None, null_as_default])])
    (field,) = fields_of(struct)
    assert field.null_as_default
