"""Decoding: every record ends as a row, a reject or filtered, whatever it holds, and no detail shows a byte of it."""

from __future__ import annotations

import random
import sys
import threading
from typing import Annotated, Any, Literal

import contracts_for_tests
import msgspec
import pytest

from pipeline.config.schema import Dedup, Route
from pipeline.contract import Contract, TableColumn, load
from pipeline.decode import Decoder
from pipeline.errors import InvariantViolated
from pipeline.types import Reject, RejectCode, Stage

SECRET = "hunter2"
ID = "00000000-0000-0000-0000-000000000001"
GOOD = msgspec.json.encode({"id": ID, "user_id": 7, "sent_at": 1_700_000_000_000, "country": "DE"})


def contract_of(name: str = "Event", format_: Literal["json", "msgpack"] = "json") -> Contract:
    tables = {"OrderPaid": "paid", "OrderShipped": "shipped"} if name == "Orders" else {}
    return load(
        Route(
            topic="t",
            table="" if tables else "x",
            tables=tables,
            contract=f"contracts_for_tests:{name}",
            format=format_,
        ),
        Dedup(),
        {},
    )


def decoder(name: str = "Event", bytes_max: int = 100_000, tombstones: Literal["drop", "reject"] = "drop") -> Decoder:
    return Decoder(contract_of(name), bytes_max, tombstones)


def of_struct(struct: type[msgspec.Struct], format_: Literal["json", "msgpack"] = "json") -> Decoder:
    return Decoder(Contract("test", "", struct, format_, {}), 100_000, "drop")


def only_reject(one: Decoder, value: bytes | None) -> Reject:
    rows, rejects, filtered = one.decode([GOOD, value, GOOD])
    assert rows[1] is None
    assert filtered == 0
    ((index, reject),) = [reject for reject in rejects if reject[0] == 1]
    assert index == 1
    assert SECRET not in reject.detail
    return reject


def good(**fields: Any) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(GOOD) | fields)


DEEP = b"[" * 10_000 + b"]" * 10_000
BAD = {
    "0 bytes": (b"", Stage.DECODE, RejectCode.EMPTY, "0 bytes"),
    "invalid UTF-8": (GOOD[:-1] + b',"text":"hunter2\xff"}', Stage.DECODE, RejectCode.INVALID_UTF8, "not UTF-8"),
    "truncated": (GOOD[:-5], Stage.DECODE, RejectCode.UNDECODABLE, "truncated"),
    "not JSON": (b"hunter2", Stage.DECODE, RejectCode.UNDECODABLE, "malformed"),
    "two documents": (GOOD + GOOD, Stage.DECODE, RejectCode.UNDECODABLE, "trailing characters"),
    "BOM": (b"\xef\xbb\xbf" + GOOD, Stage.DECODE, RejectCode.UNDECODABLE, "invalid character"),
    "deep": (DEEP, Stage.CONTRACT, RejectCode.WRONG_TYPE, "expected object, got array"),
    "deep in a field": (GOOD[:-1] + b',"debug":' + DEEP + b"}", Stage.CONTRACT, RejectCode.WRONG_TYPE, "$.debug"),
    "deep in an unknown field": (GOOD[:-1] + b',"other":' + DEEP + b"}", Stage.DECODE, RejectCode.TOO_DEEP, "too deep"),
    "too large": (GOOD + b" " * 100_000, Stage.DECODE, RejectCode.TOO_LARGE, "limits.record_bytes_max is 100000"),
    "null id": (good(id=None), Stage.CONTRACT, RejectCode.NULL, "$.id: expected uuid, got null"),
    "no id": (b'{"user_id":7}', Stage.CONTRACT, RejectCode.BREAKS_CONTRACT, "field id is missing"),
    "wrong type": (good(user_id=SECRET), Stage.CONTRACT, RejectCode.WRONG_TYPE, "$.user_id: expected int, got str"),
    "not a UUID": (good(id=SECRET), Stage.CONTRACT, RejectCode.WRONG_TYPE, "$.id: Invalid UUID"),
    "not allowed": (
        good(country=SECRET),
        Stage.CONTRACT,
        RejectCode.BREAKS_CONTRACT,
        "$.country: not one of the allowed",
    ),
    "no decimal": (good(amount=SECRET), Stage.CONTRACT, RejectCode.WRONG_TYPE, "$.amount: Invalid decimal"),
    "NaN": (GOOD[:-1] + b',"x":NaN}', Stage.DECODE, RejectCode.UNDECODABLE, "malformed"),
    "a key of an object": (good(debug={SECRET: 1}), Stage.CONTRACT, RejectCode.WRONG_TYPE, "$.debug[...]"),
    "lone surrogate": (GOOD[:-1] + b',"text":"\\ud800"}', Stage.DECODE, RejectCode.UNDECODABLE, ""),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_records(name: str) -> None:
    value, stage, code, says = BAD[name]
    reject = only_reject(decoder(), value)
    assert (reject.stage, reject.code) == (stage, code), reject
    assert says in reject.detail


def test_a_record_of_20_mb_is_refused_before_it_is_decoded() -> None:
    reject = only_reject(decoder(bytes_max=4 * 1024 * 1024), b"[" + b" " * 20_000_000)
    assert reject.code == RejectCode.TOO_LARGE
    assert "20000001 bytes" in reject.detail


def test_tombstones_are_filtered_or_rejected() -> None:
    rows, rejects, filtered = decoder().decode([None, GOOD, None])
    assert (rows[0], rows[2], rejects, filtered) == (None, None, [], 2)
    assert isinstance(rows[1], contracts_for_tests.Event)
    assert only_reject(decoder(tombstones="reject"), None).code == RejectCode.TOMBSTONE


def test_the_last_of_a_repeated_key_wins() -> None:
    (row,), rejects, _ = decoder().decode([GOOD[:-1] + b',"user_id":8}'])
    assert rejects == []
    assert row.user_id == 8  # type: ignore[union-attr]


def test_null_characters_and_unknown_fields_are_no_problem() -> None:
    (row,), rejects, _ = decoder().decode([GOOD[:-1] + b',"text":"a\\u0000b","other":[1,{"a":2}]}'])
    assert rejects == []
    assert row.text == "a\0b"  # type: ignore[union-attr]


def test_numbers_beyond_64_bits_and_floats() -> None:
    class Numbers(msgspec.Struct):
        big: int = 0
        ratio: float = 0.0

    one = of_struct(Numbers)
    (row, *_), rejects, _ = one.decode([b'{"big":123456789012345678901234567890}', b'{"ratio":1e400}', b'{"big":1e3}'])
    assert row.big == 123456789012345678901234567890  # type: ignore[union-attr]
    assert [(index, reject.code) for index, reject in rejects] == [
        (1, RejectCode.OUT_OF_RANGE),
        (2, RejectCode.WRONG_TYPE),
    ]


def test_unknown_types_of_a_union() -> None:
    one = decoder("Orders")
    paid = b'{"kind":"OrderPaid","id":"%s","amount":1}' % ID.encode()
    rows, rejects, _ = one.decode(
        [
            paid,
            b'{"kind":"hunter2","id":"x"}',
            b'{"id":"x"}',
            b'{"kind":null}',
            b'{"kind":"OrderShipped","id":"%s","carrier":5}' % ID.encode(),
        ]
    )
    assert isinstance(rows[0], contracts_for_tests.OrderPaid)
    assert [(index, reject.code) for index, reject in rejects] == [
        (1, RejectCode.UNKNOWN_TYPE),
        (2, RejectCode.UNKNOWN_TYPE),
        (3, RejectCode.UNKNOWN_TYPE),
        (4, RejectCode.WRONG_TYPE),
    ]
    assert all(SECRET not in reject.detail for _, reject in rejects)


def test_what_the_contract_itself_refuses_is_a_reject_and_its_bugs_are_not_swallowed() -> None:
    one = of_struct(contracts_for_tests.Checked)
    rows, ((index, reject),), _ = one.decode([b'{"x":1}', b'{"x":-1}'])
    assert index == 1
    assert rows[0] == contracts_for_tests.Checked(1)
    assert reject == Reject(Stage.CONTRACT, RejectCode.BREAKS_CONTRACT, "$: refused by the contract (ValueError)")
    with pytest.raises(KeyError):
        one.decode([b'{"x":1000}'])


def test_a_contract_that_ends_the_loop_is_noticed() -> None:
    class Stops(msgspec.Struct):
        def __post_init__(self) -> None:
            raise StopIteration

    with pytest.raises(InvariantViolated, match="2 records became 0 rows"):
        of_struct(Stops).decode([b"{}", b"{}"])


def test_forbidden_fields_and_limits_of_the_contract() -> None:
    class Strict(msgspec.Struct, forbid_unknown_fields=True):
        x: Annotated[int, msgspec.Meta(le=5)] = 0
        y: Annotated[str, msgspec.Meta(max_length=3)] = ""
        z: Annotated[str, msgspec.Meta(pattern="^a+$")] = "a"

    one = of_struct(Strict)
    values = [b'{"hunter2":1}', b'{"x":6}', b'{"y":"hunter2"}', b'{"z":"hunter2"}']
    _, rejects, _ = one.decode(values)  # type: ignore[arg-type]
    assert len(rejects) == 4
    assert all(reject.code == RejectCode.BREAKS_CONTRACT and SECRET not in reject.detail for _, reject in rejects)


def test_messagepack() -> None:
    one = Decoder(contract_of(format_="msgpack"), 100_000, "drop")
    record = {"id": ID, "user_id": 7, "sent_at": 1, "country": "FR", "debug": {"a": "b"}}
    pack = msgspec.msgpack.encode
    deep = b"\x91" * 10_000 + b"\x90"
    values = [
        pack(record),
        b"\xc1",
        pack(record)[:-1],
        pack({**record, "user_id": SECRET}),
        b"",
        b"\x81\xa1x" + deep,
        None,
    ]
    rows, rejects, filtered = one.decode(values)
    assert isinstance(rows[0], contracts_for_tests.Event)
    assert [(index, reject.code) for index, reject in rejects] == [
        (1, RejectCode.UNDECODABLE),
        (2, RejectCode.UNDECODABLE),
        (3, RejectCode.WRONG_TYPE),
        (4, RejectCode.EMPTY),
        (5, RejectCode.TOO_DEEP),
    ]
    assert filtered == 1
    assert all(SECRET not in reject.detail for _, reject in rejects)


def test_how_deep_a_record_may_be_does_not_depend_on_the_caller() -> None:
    one = decoder()

    def fate(depth: int) -> bool:
        return one.decode([GOOD[:-1] + b',"other":' + b"[" * depth + b"]" * depth + b"}"])[1] == []

    def deeper(frames: int, depth: int) -> bool:
        return deeper(frames - 1, depth) if frames else fate(depth)

    depths = range(sys.getrecursionlimit() - 200, sys.getrecursionlimit() + 20, 4)
    here = [fate(depth) for depth in depths]
    assert [deeper(150, depth) for depth in depths] == here
    in_thread: list[bool] = []
    thread = threading.Thread(target=lambda: in_thread.extend(map(fate, depths)))
    thread.start()
    thread.join()
    assert in_thread == here


def test_any_mixture_keeps_every_record_in_its_place(seed: int) -> None:
    chance = random.Random(seed)
    one = decoder()
    bad = [value for value, *_ in BAD.values()]
    for _ in range(30):
        values: list[bytes | None] = [
            chance.choice([None, GOOD, GOOD, chance.choice(bad)]) for _ in range(chance.randrange(40))
        ]
        rows, rejects, filtered = one.decode(values)
        assert len(rows) == len(values)
        assert [row is not None for row in rows] == [value == GOOD for value in values]
        assert [index for index, _ in rejects] == [
            index for index, value in enumerate(values) if value not in (None, GOOD)
        ]
        assert filtered == values.count(None)


def test_a_column_of_a_table_named_like_python(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [TableColumn(name, "UInt8") for name in ("class", "a.b", "x y", "_hidden", "ünder", "type")]
    contract = load(Route(topic="t", table="x"), Dedup(), {"x": columns})
    (row,), rejects, _ = Decoder(contract, 1000, "drop").decode(
        [b'{"class":1,"a.b":2,"x y":3,"_hidden":4,"\xc3\xbcnder":5,"type":6}']
    )
    (target,) = contract.tables.values()
    assert rejects == []
    assert [getattr(row, column.source) for column in target.columns] == [1, 2, 3, 4, 5, 6]
