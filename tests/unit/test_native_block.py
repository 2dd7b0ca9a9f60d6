"""What the block builder refuses to be made of, how it reads rows, and what it leaves behind. Values: tests/parity."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
import pytest

from _native.append import append
from _native.block import BlockBuilder
from _native.claims import ClaimTable
from _native.vocabulary import APPENDED, DUPLICATE, REFUSED, SKIPPED, Column, Refusal, Run

SECRET = bytes(16)


class Row(msgspec.Struct):
    id: Any
    name: Any = "x"


COLUMNS = [Column("id", "UInt8", "id"), Column("name", "String", "name")]


def builder(columns: list[Column] = COLUMNS, **options: Any) -> BlockBuilder:
    return BlockBuilder(columns, encode_json=msgspec.json.encode, **options)


def run(count: int, slot: int = 0, first: int = 0) -> Run:
    return Run("topic", 5, slot, array("q", range(first, first + count)), array("q", [0] * count))


def put(target: BlockBuilder, rows: list[Any], claims: ClaimTable | None = None, **options: Any) -> list[Refusal]:
    status = bytearray(len(rows))
    return append({type(rows[0]): target}, rows, options.get("run", run(len(rows))), claims, None, status)


def test_a_block_as_drawn() -> None:
    target = builder()
    assert put(target, [Row(1, "ab"), Row(255, "")]) == []
    assert target.finish().native() == b"\x02\x02\x02id\x05UInt8\x01\xff\x04name\x06String\x02ab\x00"


def test_status_and_refusals() -> None:
    target = builder(key=["id"])
    claims = ClaimTable(64, secret=SECRET)
    slot = claims.open_slot(1)
    rows: list[Any] = [Row(1), None, Row(1), Row(300), Row(None), Row(2, 3), Row(2)]
    status = bytearray(len(rows))
    refusals = append({Row: target}, rows, run(len(rows), slot), claims, None, status)
    assert list(status) == [APPENDED, SKIPPED, DUPLICATE, REFUSED, REFUSED, REFUSED, APPENDED]
    assert refusals == [
        Refusal(3, "id", "out_of_range", "the int is outside UInt8 [0, 255]"),
        Refusal(4, "id", "no_key", "the deduplication key is null"),
        Refusal(5, "name", "wrong_type", "the int is no value of String"),
    ]
    block = target.finish()
    assert (block.rows, list(block.partitions)) == (2, [5, 5])
    assert block.lineage() == (["topic"], array("i", [0, 0]), array("i", [5, 5]), array("q", [0, 6]))


def test_a_refusal_never_shows_the_value() -> None:
    target = builder([Column("name", "Array(FixedString(2))", "name"), Column("id", "Enum8('a'=1)", "id")])
    refusals = put(target, [Row("a", ["hunter2"]), Row("hunter2", []), Row("a", [b"ok", 7])])
    assert [refusal.detail for refusal in refusals] == [
        "the str is outside FixedString(2) (at most 2 bytes)",
        "the str is outside Enum8('a'=1)",
        "the int is no value of FixedString(2) (at most 2 bytes)",
    ]


def test_finish_and_discard_empty_the_builder() -> None:
    target = builder()
    put(target, [Row(1)])
    assert target.rows == 1
    assert target.nbytes > 24
    first = target.finish()
    assert (target.rows, target.nbytes) == (0, 0)
    put(target, [Row(2), Row(3)])
    target.discard()
    assert target.finish().native() == b"\x02\x00\x02id\x05UInt8\x04name\x06String"
    assert first.native() == b"\x02\x01\x02id\x05UInt8\x01\x04name\x06String\x01x"


def test_rows_of_a_block() -> None:
    target = builder()
    put(target, [Row(number) for number in range(4)])
    block = target.finish()
    assert block.native([1, 3]) == b"\x02\x02\x02id\x05UInt8\x01\x03\x04name\x06String\x01x\x01x"
    for rows in ([3, 1], [1, 1], [4], [0, 9]):
        with pytest.raises(ValueError, match="must ascend and be less than 4"):
            block.native(rows)
    with pytest.raises(OverflowError):
        block.native([-1])


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ([], {}, "at least one column"),
        ([Column("a", "Int8", "a"), Column("a", "Int8", "b")], {}, "column 'a' is named twice"),
        ([Column("a", "Point", "a")], {}, "column 'a': type 'Point' cannot be built"),
        ([Column("a", "Decimal(77, 1)", "a")], {}, "column 'a': type 'Decimal.77, 1.' cannot be built"),
        ([Column("a", "Int8", "@host")], {}, "there is no source '@host'"),
        ([Column("a", "Int16", "@partition")], {}, "column 'a': Int16 cannot hold @partition"),
        ([Column("a", "Nullable(Int64)", "@offset")], {}, "cannot hold @offset"),
        ([Column("a", "Date", "@timestamp")], {}, "cannot hold @timestamp"),
        ([Column("a", "Date", "a", False, "h")], {}, "epoch_unit must be s, ms, us or ns"),
        (COLUMNS, {"key": ["nope"]}, "key column 'nope' is not filled"),
        ([Column("a", "Array(Int8)", "a")], {"key": ["a"]}, "cannot be part of a deduplication key"),
        ([*COLUMNS, Column("o", "Int64", "@offset")], {"key": ["o"]}, "key column 'o' is not filled"),
    ],
)
def test_what_cannot_be_built_is_named(columns: list[Column], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        builder(columns, **options)


def test_misuse_is_an_exception_and_keeps_the_rows_before_it() -> None:
    target = builder()
    with pytest.raises(TypeError, match="no builder for rows of type int"):
        append({Row: target}, [Row(1), 7], run(2), None, None, bytearray(2))
    assert target.rows == 1
    with pytest.raises(ValueError, match="2 rows, but offsets, timestamps and status have"):
        append({Row: target}, [Row(1), Row(2)], run(3), None, None, bytearray(2))
    claims = ClaimTable(16, secret=SECRET)
    with pytest.raises(ValueError, match="no key columns"):
        put(target, [Row(1)], claims, run=run(1, claims.open_slot(1)))
    with pytest.raises(ValueError, match="is not a slot"):
        put(target, [Row(1)], claims, run=run(1, 99))
    assert target.rows == 1
    assert target.finish().native()[:2] == b"\x02\x01"


def test_an_encoder_that_fails_refuses_the_row_and_a_broken_one_stops() -> None:
    refusals = put(builder([Column("id", "String", "id")]), [Row({"a": object()}), Row({"a": "\ud800"}), Row({})])
    assert [(refusal.index, refusal.code) for refusal in refusals] == [(0, "wrong_type"), (1, "invalid_utf8")]
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert put(builder([Column("id", "String", "id")]), [Row(deep)])[0].code == "wrong_type"
    broken = BlockBuilder([Column("id", "String", "id"), *COLUMNS[1:]], encode_json=str)  # type: ignore[arg-type]
    put(broken, [Row("kept")])
    with pytest.raises(TypeError, match="returned str instead of bytes"):
        put(broken, [Row({})])
    assert broken.finish().native() == b"\x02\x01\x02id\x06String\x04kept\x04name\x06String\x01x"


class Dynamic(msgspec.Struct):
    id: int

    @property
    def name(self) -> str:
        return f"n{self.id}"


class Child(Row):
    extra: int = 0


class Interposed(msgspec.Struct):
    id: int
    name: str = "x"

    def __getattribute__(self, name: str) -> Any:
        return 9 if name == "id" else super().__getattribute__(name)


class Plain:
    def __init__(self) -> None:
        self.id = 4
        self.name = "p"


class Slots:
    __slots__ = ("id", "name")

    def __init__(self) -> None:
        self.id = 5
        self.name = "s"


@pytest.mark.parametrize(
    ("row", "slots", "expected"),
    [
        (Row(1), (2, 0), b"\x01"),
        (Child(2, "c"), (2, 0), b"\x02"),
        (Slots(), (2, 0), b"\x05"),
        (Dynamic(3), (1, 1), b"\x03"),
        (Interposed(1), (0, 2), b"\x09"),
        (Plain(), (0, 2), b"\x04"),
    ],
)
def test_attributes_are_read_at_their_slot_only_where_that_is_sure(row: Any, slots: Any, expected: bytes) -> None:
    target = builder()
    put(target, [row])
    assert target.slots_read == {type(row): slots}
    assert target.finish().native()[10:12] == b"8" + expected


def test_a_deleted_attribute_is_an_attribute_error() -> None:
    row = Slots()
    del row.name
    target = builder()
    with pytest.raises(AttributeError):
        put(target, [row])
    assert target.rows == 0


def test_rows_of_several_types_go_to_their_own_builders() -> None:
    one, two = builder(), builder([Column("id", "String", "id")])
    rows = [Row(1), Child("a"), Row(2), Row(999), Child("b")]
    status = bytearray(5)
    refusals = append({Row: one, Child: two}, rows, run(5), None, None, status)
    assert (list(status), [refusal.index for refusal in refusals]) == ([1, 1, 1, 3, 1], [3])
    assert list(one.finish().lineage()[3]) == [0, 2]
    assert list(two.finish().lineage()[3]) == [1, 4]
