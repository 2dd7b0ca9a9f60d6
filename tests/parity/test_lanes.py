"""The native lane against msgspec, in JSON and MessagePack: every kind of field at every threshold, keys, unions, recovery."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_cases import parity

from pipeline import workload
from pipeline.config.schema import Dedup, Route
from pipeline.contract import ch, ignored, null_as_default
from pipeline.contract import load as load_contract
from pipeline.lane import LeftOut, Ranges
from pipeline.workload import Generator, Mix
from tests.fuzz import packed, values
from tests.fuzz.draw import COLUMNS, ENUM, JSON_TEXT, SCALARS, Kind, load, of_one
from tests.fuzz.lanes import FIRST_OFFSET, Lanes
from tests.fuzz.values import NUMBERS, ODD, Dice

KINDS = (*SCALARS, *JSON_TEXT)
TEXTS = (
    "",
    "a",
    "bb",
    "ü",
    "\u20ac",
    "\U0001f600",
    "x" * 7,
    "x" * 8,
    "x" * 9,
    "x" * 15,
    "x" * 16,
    "x" * 17,
    "x" * 127,
    "x" * 128,
)
MORE = (
    '"\\u0061"', '"\\ud83d\\ude00"', '"\\ud83d"', '"a\\/b"', '"2024-02-29"', '"2023-02-29"', '"2024-02-29T23:59:59Z"',
    '"1.50"', '"-0.000"', '"1e3"', '"1.2.3.4"', '"::1"', '"00000000-0000-0000-0000-000000000001"', '"aGk="',
    "[null]", '{"a":null}',
)  # fmt: skip
# What JSON parsers are known to differ in, by our own listing: accepted, refused, or left to the implementation.
DOCUMENTS = (
    b'{}', b' {} ', b'\n\t\r{}', b'[]', b'null', b'true', b'1', b'"a"', b'', b' ', b'\xef\xbb\xbf{}', b'{}\x00', b'{} x',
    b'{}}', b'{', b'}', b'{"a"}', b'{"a":}', b'{:1}', b'{,}', b'{"value":1,}', b"{'value':1}", b'{value:1}',
    b'{"value" 1}', b'{"value"::1}', b'/**/{}', b'{} //', b'{"value":1/**/}', b'\xff\xfe{\x00}\x00', b'{"":0}',
    b'{"value":1}{"value":2}', b'{"a":1,"a":2}', b'{"value":1,"value":2}', b'{"v\\u0061lue":1}', b'{"\xff":1}',
    b'{"a":"\xff"}', b'\x0c{}', b'{"a":[[[[[[[[[[]]]]]]]]]]}', b'{"a":' + b"[" * 63 + b"]" * 63 + b"}",
    b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}",
    b'{"a":' + b'{"b":' * 70 + b"1" + b"}" * 71, b'{"a":[1,,2]}', b'{"a":[,1]}', b'{"a":[1,]}', b'{"a":[1 2]}',
    b'{"a":"\t"}', b'{"a":"\x7f"}', b'{"a":"\\u00"}', b'{"a":"\\u12G4"}', b'{"a":"\\', b'{"a":"', b'{"a":tru',
    b'{"a":trux}', b'{"a":True}', b'{"a":nan}', b'{"a":-}', b'{"a":--1}', b'{"a":1e+}', b'{"a":1.e1}', b'{"a":0x1}',
    b'{"a":1_0}', b'{"a":\xc2\xa01}', b'{"a":"\\ud800\\udbff"}', b'{"a":"\\udc00"}', b'{"a":"\xed\xbf\xbf"}',
    b'{"a":"\xc1\xbf"}', b'{"a":"\xe0\x9f\xbf"}', b'{"a":"\xf0\x8f\xbf\xbf"}', b'{"a":"\xf5\x80\x80\x80"}',
    b'{"a":"\xf4\x8f\xbf\xbf"}', b'{"a":"\xe2\x82"}',
)  # fmt: skip


FORMATS = pytest.mark.parametrize("msgpack", [False, True], ids=["json", "msgpack"])


def record(text: str, dice: Dice | None = None) -> bytes:
    """A record with this value; MessagePack where there are dice, which say in what form."""
    if dice is not None and dice.packed:
        return packed.record(dice, [("value", text), ("after", "1")])
    return f'{{"value":{text},"after":1}}'.encode("utf-8", "surrogatepass")


def dice_of(seed: int, odd: float, msgpack: bool) -> Dice:
    dice = Dice(seed)
    dice.odd, dice.packed = odd, msgpack
    return dice


def same(lanes: Lanes, records: list[bytes | None]) -> None:
    """Asserts it for all at once, and names the one that differs."""
    if difference := lanes.difference(records):
        alone = [(one, found) for one in records if (found := lanes.difference([one]))]
        pytest.fail(f"{alone[:1] or difference}")


def named(kind: Kind) -> str:
    return f"{kind.annotation}-{kind.chtype}".replace(" ", "")


@FORMATS
@pytest.mark.parametrize("kind", KINDS, ids=named)
def test_every_kind_at_every_threshold(kind: Kind, msgpack: bool) -> None:
    texts = [*NUMBERS, *ODD, *MORE, *(f'"{text}"' for text in (*TEXTS, *NUMBERS))]
    dice = dice_of(1, 0.0, msgpack)
    same(Lanes(of_one(kind, packed=msgpack), ()), [record(text, dice) for text in texts])


@FORMATS
@pytest.mark.parametrize("kind", KINDS, ids=named)
@given(seed=st.integers(0, 2**32), odd=st.sampled_from([0.0, 0.2, 1.0]))
@parity
def test_every_kind_as_drawn(kind: Kind, msgpack: bool, seed: int, odd: float) -> None:
    dice = dice_of(seed, odd, msgpack)
    lanes = Lanes(of_one(kind, packed=msgpack), ())
    same(lanes, [record(kind.make(dice), dice) for _ in range(20)])


@FORMATS
@pytest.mark.parametrize("kind", [kind for kind in SCALARS if "LowCard" not in kind.chtype], ids=named)
def test_optional_and_null(kind: Kind, msgpack: bool) -> None:
    dice = dice_of(2, 1.0, msgpack)
    texts = ["null", *(kind.make(dice) for _ in range(30)), "nul", "nulll", "{}"]
    without = [b"\x80", b"\x81\xa5after\x02"] if msgpack else [b"{}", b'{"after":2}']
    records: list[bytes | None] = [*(record(text, dice) for text in texts), *without]
    same(Lanes(of_one(kind, optional=True, chtype=f"Nullable({kind.chtype})", packed=msgpack), ()), records)
    same(Lanes(of_one(kind, null_as_default, optional=True, packed=msgpack), ()), records)
    same(Lanes(of_one(kind, ignored, packed=msgpack), ()), records)


@FORMATS
@pytest.mark.parametrize("kind", SCALARS, ids=named)
def test_inside_arrays_and_maps(kind: Kind, msgpack: bool) -> None:
    array = Kind(list[kind.annotation], f"Array({kind.chtype})", kind.make, kind.markers)
    pairs = Kind(dict[str, kind.annotation], f"Map(String, {kind.chtype})", kind.make, kind.markers)
    dice = dice_of(7, 0.1, msgpack)
    for whole, make in ((array, values.array_of(kind.make)), (pairs, values.object_of(kind.make))):
        records = [record(make(dice), dice) for _ in range(60)] + [record(text, dice) for text in ODD]
        same(Lanes(of_one(whole, packed=msgpack), ()), records)


@FORMATS
def test_maps_with_a_key_twice_and_with_many_keys(msgpack: bool) -> None:
    lanes = Lanes(of_one(Kind(dict[str, int], "Map(String, Int64)", values.anything), packed=msgpack), ())
    texts = ['{"a":1,"a":2}', '{"a":1,"\\u0061":2}', '{"":1,"":2}', '{"abcdefgh1":1,"abcdefgh2":2,"abcdefgh1":3}']
    texts += [
        "{" + ",".join(f'"k{n}":{n}' for n in range(count)) + "}"
        for count in (0, 1, 63, 64, 65, 1023, 1024, 1025, 1100)
    ]
    dice = dice_of(3, 0.0, msgpack)
    same(lanes, [record(text, dice) for text in texts])


@pytest.mark.parametrize("forbid", [False, True])
def test_documents(forbid: bool) -> None:
    fields: list[Any] = [("value", int, 0), ("a", Annotated[Any, ignored], None)]
    known = load(msgspec.defstruct("Known", fields, forbid_unknown_fields=forbid))
    unknown = load(msgspec.defstruct("Unknown", [("value", int, 0)], forbid_unknown_fields=forbid))
    raw = load(
        msgspec.defstruct(
            "Kept", [("value", int, 0), ("a", msgspec.Raw, msgspec.Raw(b"null"))], forbid_unknown_fields=forbid
        )
    )
    for contract in (known, unknown, raw):
        same(
            Lanes(contract, ()),
            [
                *DOCUMENTS,
                *(record(text) for text in ODD),
                *(f'{{"a":{text}}}'.encode("utf-8", "surrogatepass") for text in ODD),
            ],
        )


@FORMATS
@pytest.mark.parametrize("chtype", COLUMNS)
def test_inferred_columns(chtype: str, msgpack: bool) -> None:
    from pipeline.contract import TableColumn

    columns = [TableColumn("value", chtype), TableColumn("after", "UInt8")]
    route = Route(topic="fuzz", table="t", format="msgpack" if msgpack else "json")
    dice = dice_of(4, 0.0, msgpack)
    records: list[bytes | None] = [record(text, dice) for text in (*NUMBERS, *ODD, *MORE, "null")]
    records.append(b"\x80" if msgpack else b"{}")
    for timezone in ("UTC", "Europe/Berlin"):
        same(Lanes(load_contract(route, Dedup(), {"t": columns}, timezone=timezone), ()), records)


def test_an_enum_column_of_plain_text() -> None:
    lanes = Lanes(of_one(Kind(str, ENUM, values.text)), ())
    same(lanes, [record(f'"{text}"') for text in ("a", "bb", "ccc", "it's", "ü", "A", "", "a ", "it\\u0027s")])
    assert lanes.handed_over == 3  # what no label is; an escape is read


@pytest.mark.parametrize("name", ["flat", "commerce", "logs", "wide", "nested"])
def test_the_workloads_go_through_the_native_lane(name: str) -> None:
    shape = workload.shape(name)
    tags = [tag for tag in shape.tags if tag]
    route = Route(
        topic="t",
        table="" if tags else "x",
        tables={tag: f"t{index}" for index, tag in enumerate(tags)},
        contract=shape.contract,
    )
    lanes = Lanes(load_contract(route, Dedup(key=list(shape.key)), {}), shape.key)
    mix = Mix(duplicates=0.1, poison=0.02, unknown_version=0.01, tombstones=0.01)
    made = list(Generator(shape, 11, mix).records(0, 0, 1_500))
    same(lanes, [one.value for one in made])
    # Only what ends as no row may be handed over.
    assert 0 < lanes.handed_over <= sum(one.fate.code != "" or one.value is None for one in made)


class Event(msgspec.Struct):
    id: Annotated[str, ch("UUID")]
    name: str
    number: int = 0


IDS = [f"00000000-0000-0000-0000-0000000000{number:02}" for number in range(40)]


def repacked(records: list[bytes | None]) -> list[bytes | None]:
    """The same in MessagePack; what is no JSON stays as it is."""
    made: list[bytes | None] = []
    for one in records:
        try:
            made.append(msgspec.msgpack.encode(msgspec.json.decode(one or b"")))
        except msgspec.DecodeError:
            made.append(one)
    return made


@FORMATS
@pytest.mark.parametrize("key", [(), ("id",), ("name",), ("number",), ("name", "number"), ("@key",)])
def test_keys(key: tuple[str, ...], msgpack: bool) -> None:
    lanes = Lanes(load(Event, key, packed=msgpack), key)
    dice = Dice(3)
    records: list[bytes | None] = [
        b'{"id":"%s","name":"%d","number":%d}' % (dice.choice(IDS).encode(), dice.randrange(9), dice.randrange(9))
        for _ in range(300)
    ]
    records += (
        [b'{"id":"%s","name":""}' % one.encode() for one in IDS] + [None, b"", b"{", b'{"number":1}'] + records[:50]
    )
    same(lanes, repacked(records) if msgpack else records)


@FORMATS
def test_stored_rows_are_left_out(msgpack: bool) -> None:
    lanes = Lanes(load(Event, ("id",), packed=msgpack), ("id",))
    records: list[bytes | None] = [b'{"id":"%s","name":"n"}' % one.encode() for one in IDS] + [b"{", None, b""]
    records = repacked(records) if msgpack else records
    stored = Ranges([(FIRST_OFFSET + 3, FIRST_OFFSET + 9), (FIRST_OFFSET + 39, FIRST_OFFSET + 42)])
    assert lanes.difference(records, LeftOut(stored, frozenset([FIRST_OFFSET + 40]))) == ""
    assert lanes.difference(records, LeftOut(stored.gaps())) == ""
    assert lanes.difference(records, LeftOut(Ranges([]))) == ""


@FORMATS
def test_records_larger_than_allowed(msgpack: bool) -> None:
    lanes = Lanes(of_one(Kind(str, "String", values.text), packed=msgpack), ())
    records: list[bytes | None] = [record('"' + "x" * (100_000 - 23 + more) + '"') for more in (-1, 0, 1, 2)]
    if msgpack:
        around = len(msgspec.msgpack.encode({"value": "x" * 70_000, "after": 1})) - 70_000
        records = [
            msgspec.msgpack.encode({"value": "x" * (100_000 - around + more), "after": 1}) for more in (-1, 0, 1, 2)
        ]
    same(lanes, records)


@FORMATS
@pytest.mark.parametrize("where", range(6))
def test_unions(where: int, msgpack: bool) -> None:
    first = msgspec.defstruct("First", [("a", int), ("b", str)], tag_field="type", tag="First")
    second = msgspec.defstruct(
        "Second", [("a", str), ("c", float, 0.5)], tag_field="type", tag="Second.v1", forbid_unknown_fields=True
    )
    lanes = Lanes(load(first | second, (), {"First": "f", "Second.v1": "s"}, packed=msgpack), ())
    texts = (
        ['"type":"First"', '"a":1', '"b":"x"'], ['"type":"Second.v1"', '"a":"y"'], ['"type":"Third"', '"a":1'],
        ['"a":1', '"b":"x"'], ['"type":"F\\u0069rst"', '"a":2', '"b":"z"'],
        ['"type":"First"', '"type":"First"', '"a":1', '"b":""'], ['"type":"First"', '"type":"Second.v1"', '"a":1'],
        ['"type":null', '"a":1'], ['"type":1'], ['"t\\u0079pe":"First"', '"a":2', '"b":"z"'],
        ['"type":"Second.v1"', '"a":"y"', '"c":2', '"d":1'], ['"type":"First"', '"a":1', '"b":"x"', '"d":{"type":"Second.v1"}'],
        ['"type":{"type":"First"}', '"a":1'],
    )  # fmt: skip
    turned = [one[where % len(one) :] + one[: where % len(one)] for one in texts]
    if msgpack:
        dice = dice_of(where, 0.0, msgpack)
        fields = [[tuple(part.split(":", 1)) for part in one] for one in turned]
        packs = [packed.record(dice, [(name.strip('"'), text) for name, text in one]) for one in fields]
        same(lanes, [*packs, b"\x80", b"\x81\xa4type", b"\x90"])
        return
    same(lanes, [("{" + ",".join(one) + "}").encode() for one in turned] + [b"{}", b'{"type"}', b"[]"])


@FORMATS
def test_a_type_with_too_many_fields_in_a_union(msgpack: bool) -> None:
    """It crashed: only the lane as a whole was left out when no type could be taken."""
    wide = msgspec.defstruct("Wide", [(f"f{n}", int, 0) for n in range(9_000)], tag_field="type", tag="Wide")
    small = msgspec.defstruct("Small", [("a", int)], tag_field="type", tag="Small")
    lanes = Lanes(load(wide | small, (), {"Wide": "w", "Small": "s"}, packed=msgpack), ())
    records: list[bytes | None] = [b'{"type":"Small","a":1}', b'{"type":"Wide","f8999":5,"f1":2}']
    same(lanes, repacked(records) if msgpack else records)
    assert lanes.handed_over == 1
