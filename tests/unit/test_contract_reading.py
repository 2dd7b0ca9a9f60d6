"""How inferred contracts read records: the same row whatever came before, no detail with payload in it, JSON text of values."""

from __future__ import annotations

import datetime
import decimal
import json
import random
from array import array
from typing import Any, Literal

import msgspec
import pytest

from pipeline import native
from pipeline.config.schema import Dedup, Route
from pipeline.contract import Contract, TableColumn, encode_json, load
from pipeline.contract.reading import FastWay
from pipeline.decode import Decoder
from pipeline.errors import ConfigurationError
from pipeline.types import RejectCode

TYPES = {
    "id": "UInt64",
    "text": "String",
    "many": "Array(String)",
    "map": "Map(String, Nullable(Int8))",
    "at": "DateTime64(3)",
    "day": "Date",
    "flag": "Bool",
    "ratio": "Nullable(Float64)",
    "doc": "JSON",
    "kind": "Enum8('a' = 1, 'b' = 2)",
    "note": "LowCardinality(Nullable(String))",
    "price": "Decimal(9, 2)",
}
CHOICES: dict[str, list[str]] = {
    "id": ["1", '"2"', "true", '""', "null", "1.5", '"x"', "-1"],
    "text": ['"plain"', '{"a" : [1]}', "null", "1.50", '"\\u00e9"', '"\\ud800"'],
    "many": ["[]", '["a"]', '["a",1,null]', "{}", "null"],
    "map": ['{"a":1}', '{"a":"1","b":null}', "[]", "null"],
    "at": ['"2024-01-02T03:04:05Z"', "1700000000", "1700000000.25", "true", "1e300"],
    "day": ['"2024-01-02"', "19000", "70000", "null"],
    "flag": ["true", "1", "2", "null"],
    "ratio": ["1.5", '"1.5"', '"nan"', "null", "{}"],
    "doc": ["{}", "null", "[]", '{"a":1}'],
    "kind": ['"a"', "2", "null"],
    "note": ['"n"', "{}", "null"],
    "price": ["1.25", '"1.25"', '""', "[]"],
}


def contract_of(
    types: dict[str, str] = TYPES, key: tuple[str, ...] = (), format_: Literal["json", "msgpack"] = "json"
) -> Contract:
    columns = [TableColumn(name, type_) for name, type_ in types.items()]
    return load(Route(topic="t", table="x", format=format_), Dedup(key=list(key)), {"x": columns})


def plain(row: Any) -> Any:
    """A row as something that compares: raw values by their bytes."""
    if row is None:
        return None
    return [bytes(value) if isinstance(value, msgspec.Raw) else repr(value) for value in msgspec.structs.astuple(row)]


def random_record(rng: random.Random, habits: dict[str, int]) -> bytes:
    """Mostly what a field holds by habit, sometimes anything."""
    fields = []
    for name, texts in CHOICES.items():
        dice = rng.random()
        if dice < 0.1:
            continue
        fields.append(f'"{name}":{rng.choice(texts) if dice < 0.2 else texts[habits[name]]}')
    return ("{" + ",".join(fields) + "}").encode()


def test_a_record_is_read_the_same_whatever_came_before(rng: random.Random) -> None:
    contract = contract_of()
    learned = 0
    for _ in range(20):
        habits = {name: rng.randrange(min(3, len(texts))) for name, texts in CHOICES.items()}
        decoder = Decoder(contract, 10_000, "drop")
        for _ in range(4):
            records: list[bytes | None] = [random_record(rng, habits) for _ in range(30)]
            rows, rejects, filtered = decoder.decode(records)
            alone = [Decoder(contract, 10_000, "drop").decode([record]) for record in records]
            assert [plain(row) for row in rows] == [plain(one[0][0]) for one in alone]
            # Of several faults in one record another one may be named; which records are rejected is always the same.
            assert [index for index, _ in rejects] == [index for index, one in enumerate(alone) if one[1]]
            assert filtered == 0
            assert all(type(row) is contract.root for row in rows if row is not None)
        assert decoder._fast is not None
        learned += len(decoder._fast._left_raw)
    assert learned > 20 * 1, "the decoders learned nothing, so that nothing was tested"


def test_learning_keeps_to_columns_that_are_often_odd() -> None:
    reading = contract_of().reading
    assert reading is not None
    way = FastWay(reading)
    usual = [b'{"text":"a"}'] * 20
    way.reread(b'{"text":{}}')
    way.settle([way.decode(record) for record in usual])
    assert way._left_raw == {"doc"}
    for _ in range(5):
        way.reread(b'{"text":{}}')
    way.settle([way.decode(record) for record in usual])
    assert way._left_raw == {"doc", "text"}


@pytest.mark.parametrize(
    ("record", "code", "detail"),
    [
        (b'{"id":"hunter2"}', RejectCode.WRONG_TYPE, "$.id: this text does not go into UInt64"),
        (b'{"flag":"hunter2"}', RejectCode.WRONG_TYPE, "$.flag: this text does not go into Bool"),
        (b'{"many":{"hunter2":1}}', RejectCode.WRONG_TYPE, "$.many: an object does not go into Array(String)"),
        (b'{"map":{"hunter2":"hunter2"}}', RejectCode.WRONG_TYPE, "$.map: this text does not go into Int8"),
        (b'{"doc":["hunter2"]}', RejectCode.WRONG_TYPE, "$.doc: an array does not go into JSON"),
        (b'{"kind":null}', RejectCode.NULL, "$.kind: null does not go into Enum8('a' = 1, 'b' = 2)"),
        (b'{"ratio":1e999}', RejectCode.OUT_OF_RANGE, "$.ratio: the number is out of the range of a Float64"),
        (b'{"at":1e99}', RejectCode.OUT_OF_RANGE, "$.at: the time is out of the range of DateTime64(3)"),
        (b'{"day":70000}', RejectCode.OUT_OF_RANGE, "$.day: the number of days is out of the range of Date"),
        (b'{"text":"hunter2\xff"}', RejectCode.INVALID_UTF8, "text that is not UTF-8: invalid start byte"),
        (b'{"text":1,"id":"hunter2', RejectCode.UNDECODABLE, "Input data was truncated"),
        (b'{"id":"1","text":NaN}', RejectCode.UNDECODABLE, "JSON is malformed: invalid character (byte 17)"),
        (b'{"other":' + b"[" * 5_000, RejectCode.TOO_DEEP, "the record is nested too deeply"),
    ],
)
def test_rejects_name_the_field_and_the_rule(record: bytes, code: RejectCode, detail: str) -> None:
    rows, ((_, reject),), _ = Decoder(contract_of(), 100_000, "drop").decode([record])
    assert rows == [None]
    assert (reject.code, reject.detail) == (code, detail)


def test_a_null_or_missing_key_is_no_default() -> None:
    contract = contract_of(key=("id",))
    (target,) = contract.tables.values()
    assert [column.null_as_default for column in target.columns[:2]] == [False, True]
    rows, _, _ = Decoder(contract, 1_000, "drop").decode([b"{}", b'{"id":null}', b'{"id":0}'])
    assert [row.id for row in rows] == [None, None, 0]  # type: ignore[union-attr]
    builder = native.BlockBuilder(target.columns, key=target.key_columns, encode_json=encode_json)
    claims = native.ClaimTable(100, secret=bytes(16))
    run = native.Run("t", 0, claims.open_slot(0), array("q", range(3)), array("q", [0] * 3))
    refusals = native.append({contract.root: builder}, rows, run, claims, None, bytearray(3))
    assert [(one.index, one.column, one.code) for one in refusals] == [(0, "id", "no_key"), (1, "id", "no_key")]


def test_inferred_keys_must_be_columns_that_identify() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'id'"):
        contract_of(key=("ID",))
    for name in ("ratio", "many", "doc"):
        with pytest.raises(ConfigurationError, match="cannot identify an event"):
            contract_of(key=(name,))


def test_types_that_cannot_be_filled_are_all_named() -> None:
    with pytest.raises(ConfigurationError) as caught:
        contract_of({"a": "Point", "b": "UInt8", "c": "AggregateFunction(sum, UInt8)"})
    assert [problem.value for problem in caught.value.problems] == ["x.a Point", "x.c AggregateFunction(sum, UInt8)"]


def test_messagepack_into_inferred_columns() -> None:
    contract = contract_of(format_="msgpack")
    (target,) = contract.tables.values()
    builder = native.BlockBuilder(target.columns, encode_json=encode_json)
    now = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    good = {"id": 1, "text": {"a": [1, None]}, "at": now, "doc": {"x": 1.5}, "many": ["a"], "price": "1.25", "other": 1}
    records = [good, {"text": "t", "at": 1_700_000_000, "flag": True}, {"text": 5}, {"id": -1}, {"many": [1]}]
    values: list[bytes | None] = [msgspec.msgpack.encode(record) for record in records]
    rows, rejects, _ = Decoder(contract, 10_000, "drop").decode(values)
    assert [(index, reject.code) for index, reject in rejects] == [(4, RejectCode.WRONG_TYPE)]
    run = native.Run("t", 0, 0, array("q", range(5)), array("q", [0] * 5))
    status = bytearray(5)
    refusals = native.append({contract.root: builder}, rows, run, None, None, status)
    assert [(one.index, one.column, one.code) for one in refusals] == [
        (2, "text", "wrong_type"),
        (3, "id", "out_of_range"),
    ]
    assert list(status) == [native.APPENDED, native.APPENDED, native.REFUSED, native.REFUSED, native.SKIPPED]
    assert b'{"a":[1,null]}' in builder.finish().native()


class Inner(msgspec.Struct):
    x: int
    raw: msgspec.Raw


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1.5, None, True, "é"]}, '{"b":1,"a":[1.5,null,true,"é"]}'),
        ({"big": 2**70}, '{"big":1180591620717411303424}'),
        (Inner(1, msgspec.Raw(b'{"k" : 1}')), '{"x":1,"raw":{"k" : 1}}'),
        ({"inner": [Inner(1, msgspec.Raw(b"2"))]}, '{"inner":[{"x":1,"raw":2}]}'),
        ({1: "one"}, '{"1":"one"}'),
        ({"price": decimal.Decimal("1.10")}, '{"price":"1.10"}'),
        ({"at": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)}, '{"at":"2024-01-02T00:00:00Z"}'),
        ({"bytes": b"\0\1"}, '{"bytes":"AAE="}'),
        (float("nan"), "null"),
        ((1, 2), "[1,2]"),
    ],
)
def test_json_text_of_nested_values(value: Any, text: str) -> None:
    assert encode_json(value).decode() == text
    json.loads(text)


@pytest.mark.parametrize("value", [object(), {(1, 2): 3}, "\ud800", msgspec.msgpack.Ext(1, b"x"), {"a": msgspec.UNSET}])
def test_what_json_cannot_say_raises_what_the_block_builder_expects(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode_json(value)


def test_nested_too_deeply_for_json_text() -> None:
    value: list[Any] = []
    for _ in range(300):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        encode_json(value)
