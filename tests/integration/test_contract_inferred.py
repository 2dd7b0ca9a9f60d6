"""An inferred contract reads JSON as ClickHouse's JSONEachRow does: equal where both accept, and every difference is listed.

Both read the same records into tables of the same columns on a real engine; the engine compares the values.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from tests.integration.native_insert import Engine, inferred

TYPES = [
    *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64, 128, 256)),
    "Float32",
    "Float64",
    "Bool",
    "String",
    "FixedString(5)",
    "UUID",
    "Date",
    "Date32",
    "DateTime",
    "DateTime('Asia/Tokyo')",
    "DateTime64(0)",
    "DateTime64(3)",
    "DateTime64(6, 'UTC')",
    "DateTime64(9)",
    "DateTime64(3, 'Asia/Tokyo')",
    "Enum8('abc' = 1, 'two' = 2, '' = 0)",
    "Enum16('abc' = -1000, 'two' = 1)",
    "Decimal(9, 2)",
    "Decimal(38, 10)",
    "Decimal(76, 0)",
    "IPv4",
    "IPv6",
    "Nullable(Int32)",
    "Nullable(String)",
    "Nullable(DateTime64(3))",
    "Nullable(Enum8('abc' = 1))",
    "LowCardinality(String)",
    "LowCardinality(Nullable(String))",
    "Array(Int32)",
    "Array(String)",
    "Array(Nullable(Float64))",
    "Array(Array(String))",
    "Array(Date)",
    "Array(UUID)",
    "Map(String, String)",
    "Map(String, Int64)",
    "Map(LowCardinality(String), Nullable(DateTime))",
    "Map(String, Array(String))",
    "Map(UInt8, String)",
    "JSON",
    "UInt8 DEFAULT 7",
    "String DEFAULT 'seven'",
    "Nullable(Int8) DEFAULT -7",
    "Array(UInt8) DEFAULT []",
    "Decimal(9, 2) DEFAULT 1.5",
    "Enum8('abc' = 1, 'two' = 2) DEFAULT 'two'",
]
_WORDS = """
1 -1 0 -0 7 127 128 255 256 -128 -129 32767 32768 65535 65536 2147483647 2147483648 4294967295 4294967296
9223372036854775807 9223372036854775808 18446744073709551615 18446744073709551616 1.0 1.5 -1.5 1e2 1e400 -1e400
1e-400 0.1 1.105 1.109 -1.109 1e-5 99999.99 9999999.99 10000000 3.4028235677973366e38 3.5e38
123456789012345678901234567890 1700000000 1700000000.5 1700000000.123456789
1700000000.99999999999999999999999999999999999 -0.00000000001 1.7e9 -1700000000.5 1700000000123 10413791999
10413792000 19000 true false null "" "1" "-1" "256" "1.5" "abc" "two" "ABC" "true" "null" "NaN" "inf" "0x10" "1e2"
"01" "+1" "abcdef" "\\u00e9\\u00e9" "\\u00e9\\u00e9\\u00e9" "a\\u0000b" "\\ud83d\\ude00" "a\\/b\\n\\t\\""
"00000000-0000-0000-0000-000000000001" "ABCDEF00-1111-2222-3333-444444444444" "000000000000000000000000000000ff"
"{ABCDEF00-1111-2222-3333-444444444444}" "1.2.3.4" "1.2.3" "1.2.3.256" "::1" "::ffff:1.2.3.4" "fe80::1%eth0"
"2024-01-02" "20240102" "2024-1-2" "2024-02-30" "1969-12-31" "1900-01-01" "1899-12-31" "2149-06-06" "2149-06-07"
"2299-12-31" "2300-01-01" "2024-01-02T03:04:05" "2024-01-02T03:04:05Z" "2024-01-02T03:04:05.678Z"
"2024-01-02T03:04:05.9999999999Z" "2024-01-02T03:04:05+02:00" "2024-01-02T03:04:05-0530" "2024-01-02T03:04:05+02"
"2024-01-02T03:04" "1969-12-31T23:59:59.9999Z" "2106-02-07T06:28:15Z" "2106-02-07T06:28:16Z" "1969-12-31T23:59:59Z"
"2024-01-02T24:00:00Z" "2024-01-02T23:59:60Z" "2024-13-01T00:00:00Z" "2299-12-31T23:59:59.999Z" "1700000000"
"1700000000.5" {} [] [1,2] [1,null] [null] [1,"2",true,""] ["a",1,{"a":1},[2],null,true,1.50] [["a"],[]]
[["a",1],null] ["2024-01-02",1,null] [300000000000] [1.5,null,"2",true]
["00000000-0000-0000-0000-000000000001",null] {"a":1} {"a":"x"} {"a":null}
{"a":"x","b":{"c":[1]},"d":1.50,"e":null,"f":true} {"1":"x","2":3} {"a":[1,"b"],"c":null} {"x":{"y":1.0}}
"""
VALUES = _WORDS.split()
SPACED = [
    '"2024-01-02 03:04:05"',
    '"2024-01-02 03:04:05.5"',
    '"2024-01-02 03:04:05 UTC"',
    '"Jan 2 2024"',
    '" 1"',
    '"1 "',
    "[1 , 2]",
    '{"a" : 1}',
    '[ "a" , { "b" : 1 } ]',
    '{ "a" : { "b" : [ 1 , 2 ] } }',
    '" "',
]


@pytest.fixture
def engine(clickhouse_url: str, clickhouse_database: str) -> Iterator[Engine]:
    made = Engine(clickhouse_url, clickhouse_database)
    yield made
    made.close()


def compare(engine: Engine, type_: str, texts: list[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """(texts read differently, texts only we refuse with the code, texts only ClickHouse refuses)."""
    records = [f'{{"id":{index},"v":{text}}}'.encode() for index, text in enumerate(texts)]
    engine.create("theirs", f"id UInt32, v {type_}")
    columns = engine.create("ours", f"id UInt32, v {type_}")
    try:
        engine.insert_json("theirs", records)
        refused = {index: code for index, code, _ in engine.insert_ours(inferred("ours", columns), records)}
        accepted = {row[0] for row in engine.rows("SELECT id FROM theirs")}
        different = engine.rows(
            "SELECT id, toString(theirs.v), toString(ours.v) FROM theirs JOIN ours USING id "
            "WHERE toString(theirs.v) IS DISTINCT FROM toString(ours.v) ORDER BY id"
        )
    finally:
        engine.client.command("DROP TABLE theirs")
        engine.client.command("DROP TABLE ours")
    return (
        [f"{texts[index]} -> {theirs!r} but ours {ours!r}" for index, theirs, ours in different],
        {texts[index]: code for index, code in refused.items() if index in accepted},
        [text for index, text in enumerate(texts) if index not in accepted and index not in refused],
    )


# What only ClickHouse takes, beside numbers and times that it would wrap or clamp: kind of type -> (text, our code).
# Such records become dead letters, never different rows.
ODD_TIMES = {
    '"20240102"',
    '"2024-1-2"',
    '"2024-01-02T24:00:00Z"',
    '"2024-01-02T23:59:60Z"',
    '"2024-01-02 03:04:05 UTC"',
}
ODD_TIMES |= {'"Jan 2 2024"', '"1700000000"', '"1700000000.5"', '"1"', '"1.5"', '"01"', '" 1"', '"1 "'}
STRICTER = {
    "Date": {"true", "false", '"20240102"', '"2024-1-2"', '"2024-02-30"'},
    "Enum": {"null"},
    "Decimal": {'"1.2.3.4"', '"1.2.3"', '"1.2.3.256"'},
}
# What only we take: what is equal to a value that ClickHouse takes, and the date of an ISO time.
LOOSER = {"Int": {"-0"}, "Date": {"-0"}, "Decimal": {'" 1"', '"1 "'}}


def kind_of(type_: str) -> str:
    """The part of a type's name that decides how it is read."""
    name = re.sub(r"Nullable\(|LowCardinality\(| DEFAULT .*", "", type_)
    stem = re.match(r"[A-Za-z]+", name)
    return stem[0].removeprefix("U") if stem and stem[0] != "UUID" else name


def expected(type_: str, stricter: dict[str, str], looser: list[str]) -> tuple[dict[str, str], list[str]]:
    """What is left of the differences after those that are known and meant."""
    kind = kind_of(type_)
    odd = ODD_TIMES if kind == "DateTime" else STRICTER.get(kind, set())
    left = {text: code for text, code in stricter.items() if code != "out_of_range" and text not in odd}
    dates = kind == "Date"
    known = LOOSER.get(kind, set())
    return left, [text for text in looser if text not in known and not (dates and ":" in text)]


@pytest.mark.parametrize("type_", TYPES)
def test_values_both_accept_are_equal(engine: Engine, type_: str) -> None:
    different, stricter, looser = compare(engine, type_, VALUES + SPACED)
    if type_.startswith("Float"):
        different.remove("-0 -> '-0' but ours '0'")  # an integer zero has no sign
    assert different == []
    assert expected(type_, stricter, looser) == ({}, [])


def test_out_of_range_is_all_that_out_of_range_says(engine: Engine) -> None:
    """ClickHouse wraps integers and clamps times in silence; only those are refused as out of range."""
    wrapped = ["256", "-1", "65536"]
    assert compare(engine, "UInt8", [*wrapped, "255", "0"])[1] == {"256": "out_of_range", "65536": "out_of_range"}
    clamped = ['"1969-12-31T23:59:59Z"', '"2106-02-07T06:28:16Z"', "4294967296"]
    assert compare(engine, "DateTime", [*clamped, "0", "4294967295"])[1] == dict.fromkeys(clamped, "out_of_range")


WIDE = """
    a Int32, b Nullable(Float64), c String, d LowCardinality(String), e DateTime64(3), f Array(String), g Map(String, String),
    h JSON, i Bool, j Decimal(18, 4), k UUID, l Nullable(String), m Enum8('x' = 1, 'y' = 2), n Date, o UInt8 DEFAULT 9,
    `p.q` Int8, `r s` String DEFAULT 'none', t Date32
"""


def test_whole_records_at_random(engine: Engine, rng: random.Random) -> None:
    """Records with fields missing, null, repeated in other shapes and unknown: the same rows, whichever way they are read."""
    choices = {
        "a": ["1", "null", '"5"', "true", '""'],
        "b": ["1.5", "null", '"2.5"', "1e3"],
        "c": ['"text"', "null", "1.50", '{"n" : [1, 2]}', "[1]", "true", '"\\u00e9\\n"'],
        "d": ['"low"', "null", "5"],
        "e": ['"2024-01-02T03:04:05.678Z"', "1700000000", "1700000000.123", "null", '"2024-01-02 03:04:05"'],
        "f": ["[]", '["a","b"]', '["a",1,null]', "null"],
        "g": ["{}", '{"a":"b"}', '{"a":1,"b":{"c":2}}', "null"],
        "h": ["{}", '{"a":{"b":1}}', "null"],
        "i": ["true", "false", "1", "0", "null"],
        "j": ["1.25", "2", '"3.5"', "null"],
        "k": ['"00000000-0000-0000-0000-000000000001"', "null"],
        "l": ['"x"', "null", "{}"],
        "m": ['"x"', "2"],
        "n": ['"2024-01-02"', "19000", "null"],
        "o": ["5", "null"],
        "p.q": ["5", "null"],
        "r s": ['"v"', "null", "7"],
        "t": ['"1950-01-02"', "-5", "null"],
        "unknown": ["1", '{"a":[{}]}', "null"],
    }
    records = []
    for number in range(3_000):
        names = rng.sample(list(choices), rng.randrange(len(choices)))
        fields = [f'"id":{number}', *(f'"{name}":{rng.choice(choices[name])}' for name in names)]
        rng.shuffle(fields)
        records.append(("{" + ",".join(fields) + "}").encode())
    columns = engine.create("ours", f"id UInt32, {WIDE}")
    engine.create("theirs", f"id UInt32, {WIDE}")
    engine.insert_json("theirs", records)
    assert engine.insert_ours(inferred("ours", columns), records) == []
    for one, other in (("ours", "theirs"), ("theirs", "ours")):
        left = engine.rows(
            f"SELECT * FROM (SELECT tuple(*)::String FROM {one} EXCEPT SELECT tuple(*)::String FROM {other}) LIMIT 3"
        )
        assert left == [], f"only in {one}"
    assert engine.rows("SELECT count() FROM ours") == [(3_000,)]


def test_computed_columns_are_left_to_clickhouse(engine: Engine) -> None:
    left = "m UInt8 MATERIALIZED 3, a UInt8 ALIAS 4, p Point DEFAULT (1, 2), n Tuple(UInt8) DEFAULT tuple(id)"
    columns = engine.create("ours", f"id UInt32, twice UInt64 DEFAULT id * 2, {left}")
    refused = engine.insert_ours(
        inferred("ours", columns), [b'{"id":1}', b'{"id":2,"twice":null,"m":9}', b'{"id":3,"twice":7}']
    )
    refused += engine.insert_ours(inferred("ours", columns), [b'{"id":4,"p":[1,2]}'])
    assert [(index, code) for index, code, _ in refused] == [(2, "breaks_contract"), (0, "breaks_contract")]
    assert "computed by its DEFAULT id * 2" in refused[0][2]
    found = engine.rows("SELECT id, twice, m, a, toString(p), toString(n) FROM ours ORDER BY id")
    assert found == [(1, 2, 3, 4, "(1,2)", "(1)"), (2, 4, 3, 4, "(1,2)", "(2)")]


def test_local_times_without_a_zone(engine: Engine) -> None:
    texts = [
        '"2024-07-01 00:00:00"',
        '"2024-01-01T12:00:00.25"',
        '"2024-11-03 01:30:00"',
        '"2024-03-10 02:30:00"',
        '"2024-07-01T00:00:00Z"',
    ]
    different, stricter, looser = compare(engine, "DateTime64(3, 'America/New_York')", texts)
    assert (different, looser) == ([], [])
    assert set(stricter) == {texts[2], texts[3]}, "times that a change of the clock repeats or skips"


def test_what_is_not_json_is_rejected_though_clickhouse_reads_it(engine: Engine) -> None:
    assert compare(engine, "Float64", ["NaN", "Infinity", "01", "1"])[1] == dict.fromkeys(
        ["NaN", "Infinity", "01"], "undecodable"
    )
    assert compare(engine, "String", ['"a\tb"', '"\\x"', '"ab"'])[1] == dict.fromkeys(
        ['"a\tb"', '"\\x"'], "undecodable"
    )


def test_repeated_and_differently_written_names(engine: Engine) -> None:
    """The differences that stay: the last of a repeated key wins, and only the exact name is a column's."""
    columns = engine.create("ours", "id UInt32, v UInt8")
    assert engine.insert_ours(inferred("ours", columns), [b'{"id":1,"v":1,"v":2}', b'{"ID":9,"V":3,"id":2}']) == []
    assert engine.rows("SELECT id, v FROM ours ORDER BY id") == [(1, 2), (2, 0)]
