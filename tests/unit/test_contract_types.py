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
from pipeline.contract.chtypes import parse, quote, supported, unquote
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
        (Annotated[int, ch("UInt32(")], "not a ClickHouse type"),
    ],
)
def test_a_field_without_a_column_type_says_why(annotation: Any, says: str) -> None:
    struct = msgspec.defstruct("Odd", [("field", annotation)])
    (field,) = fields_of(struct)
    assert says in field.problem
    with pytest.raises(ValueError, match=r"field Odd\.field"):
        struct_columns(struct)


@pytest.mark.parametrize(
    ("text", "name", "args", "nullable", "kind"),
    [
        ("UInt8", "UInt8", (), False, "int"),
        ("Nullable( FixedString(3) )", "Nullable", ("FixedString(3)",), True, "fixed"),
        ("LowCardinality(Nullable(String))", "LowCardinality", ("Nullable(String)",), True, "string"),
        (
            "Map(String, Array(Tuple(a UInt8, b String)))",
            "Map",
            ("String", "Array(Tuple(a UInt8, b String))"),
            False,
            "map",
        ),
        ("Enum8('a,b' = 1, 'c)' = -2)", "Enum8", ("'a,b' = 1", "'c)' = -2"), False, "enum"),
        ("DateTime64(3, 'Europe/Berlin')", "DateTime64", ("3", "'Europe/Berlin'"), False, "datetime"),
        ("JSON(max_dynamic_paths=10, a.b UInt32)", "JSON", ("max_dynamic_paths=10", "a.b UInt32"), False, "json"),
        ("AggregateFunction(sum, UInt8)", "AggregateFunction", ("sum", "UInt8"), False, ""),
    ],
)
def test_type_texts(text: str, name: str, args: tuple[str, ...], nullable: bool, kind: str) -> None:
    parsed = parse(text)
    assert (parsed.name, parsed.args, parsed.nullable, parsed.kind) == (name, args, nullable, kind)
    assert parse(str(parsed)) == parsed


@pytest.mark.parametrize("text", ["", "Array(", "Array(UInt8))", "Enum8('a = 1)", "1Int"])
def test_texts_that_are_no_types(text: str) -> None:
    with pytest.raises(ValueError, match="not a ClickHouse type"):
        parse(text)


def test_enum_members_are_ordered_by_number_and_unescaped() -> None:
    assert list(parse(r"Enum8('b' = 2, 'it\'s' = -1, 'it''s too' = 0)").enum.items()) == [
        ("it's", -1),
        ("it's too", 0),
        ("b", 2),
    ]
    assert parse("Enum8('a', 'b', 'c' = 9, 'd')").enum == {"a": 1, "b": 2, "c": 9, "d": 10}


def test_properties_of_types() -> None:
    assert parse("DateTime64(9, 'UTC')").precision == 9
    assert parse("DateTime").precision == 0
    assert parse("DateTime('UTC')").timezone == parse("DateTime64(3, 'UTC')").timezone == "UTC"
    assert (parse("Decimal(10, 2)").scale, parse("Decimal64(5)").scale, parse("Decimal(10)").scale) == (2, 5, 0)


def test_supported_looks_inside() -> None:
    assert supported(parse("Map(String, Array(Nullable(UInt8)))"))
    assert not supported(parse("Array(Point)"))


@pytest.mark.parametrize("text", ["", "it's", "back\\slash", "'", "a''b"])
def test_quoting_round_trips(text: str) -> None:
    assert unquote(quote(text)) == text


def test_null_as_default_marker() -> None:
    struct = msgspec.defstruct("S", [("x", Annotated[int | None, null_as_default])])
    (field,) = fields_of(struct)
    assert field.null_as_default
