"""ClickHouse type names: what parses, what it is sent as, and what is refused."""

from __future__ import annotations

import pytest

from _native.chtypes import parse


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("LowCardinality(Nullable(String))", "Nullable(String)"),
        ("Map(LowCardinality(String), JSON)", "Map(String, String)"),
        ("Array(LowCardinality(String))", "Array(String)"),
        ("JSON(max_dynamic_paths=8, a.b UInt32)", "String"),
        ("SimpleAggregateFunction(sum, UInt64)", "UInt64"),
        ("Tuple(a Int8, `b c` Nullable(JSON))", "Tuple(a Int8, `b c` Nullable(String))"),
        ("Tuple(Decimal(9, 2),Date)", "Tuple(Decimal(9, 2), Date)"),
        ("DateTime64(3, 'UTC')", "DateTime64(3, 'UTC')"),
        (" Int8 ", "Int8"),
    ],
)
def test_wire_types(text: str, wire: str) -> None:
    assert parse(text).wire == wire


def test_enum_members() -> None:
    assert dict(parse(r"Enum8('a' = -1, 'it\'s' = 2, 'x, (y)' = 3)").labels) == {"a": -1, "it's": 2, "x, (y)": 3}
    assert dict(parse("Enum('a', 'b' = 7, 'c')").labels) == {"a": 1, "b": 7, "c": 8}
    assert parse("Enum('a' = 128)").width == 2
    assert parse("Enum8('b' = 5, 'a' = 3)").zero == b"\x03"


@pytest.mark.parametrize(
    ("text", "width", "precision", "scale"),
    [
        ("Decimal(9, 2)", 4, 9, 2),
        ("Decimal(10)", 8, 10, 0),
        ("Decimal", 8, 10, 0),
        ("Decimal128(38)", 16, 38, 38),
        ("Decimal(39, 1)", 32, 39, 1),
    ],
)
def test_decimals(text: str, width: int, precision: int, scale: int) -> None:
    spec = parse(text)
    assert (spec.width, spec.precision, spec.scale) == (width, precision, scale)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Int7",
        "String(",
        "Array(String",
        "Array()",
        "Array(Int8, Int8)",
        "Map(String)",
        "Map(Nullable(String), Int8)",
        "Map(Float64, Int8)",
        "Nullable(Array(Int8))",
        "Nullable(Nullable(Int8))",
        "FixedString",
        "FixedString(0)",
        "FixedString(-1)",
        "DateTime64(10)",
        "DateTime('a', 'b')",
        "Decimal(0, 0)",
        "Decimal(9, 10)",
        "Decimal(1, 2, 3)",
        "Decimal32(x)",
        "Enum8('a' = 200)",
        "Enum8()",
        "Enum8(a = 1)",
        "Tuple()",
        "LowCardinality()",
        "Variant(String, Int8)",
        "AggregateFunction(sum, UInt64)",
        "Enum8('a = 1)",
    ],
)
def test_what_cannot_be_built_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="type"):
        parse(text)


def test_rules_name_bounds() -> None:
    assert parse("Int8").rule == "Int8 [-128, 127]"
    assert parse("Decimal(9, 2)").rule == "Decimal(9, 2) (at most 7 digits before and 2 after the point)"
    assert len(parse("Enum16(" + ", ".join(f"'{number}' = {number}" for number in range(99)) + ")").rule) == 60
