"""MessagePack by its type bytes: each with right, short, long and missing contents, as every kind of field, in both lanes."""

from __future__ import annotations

import datetime
import enum
import uuid
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import pytest

from pipeline.contract import ch, ignored
from tests.fuzz.draw import load
from tests.fuzz.lanes import Lanes


class Word(enum.Enum):
    A = "a"


class Level(enum.IntEnum):
    ONE = 1


class Inner(msgspec.Struct):
    a: int
    b: str = "x"


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    a: Any = None


FIELDS: dict[str, Any] = {
    "int": Annotated[int, ch("Int64")],
    "unsigned": Annotated[int, ch("UInt64")],
    "small": Annotated[int, ch("Int8")],
    "big": Annotated[int, ch("Int256")],
    "float": float,
    "single": Annotated[float, ch("Float32")],
    "half": Annotated[float, ch("BFloat16")],
    "bool": bool,
    "str": str,
    "fixed": Annotated[str, ch("FixedString(8)")],
    "optional": str | None,
    "bytes": bytes,
    "moment": datetime.datetime,
    "seconds": Annotated[datetime.datetime, ch("DateTime")],
    "uuid": uuid.UUID,
    "decimal": Annotated[Decimal, ch("Decimal(18, 2)")],
    "enum": Word,
    "level": Annotated[Level, ch("UInt8")],
    "any": Any,
    "any_day": Annotated[Any, ch("Date")],
    "any_float": Annotated[Any, ch("Float64")],
    "raw": msgspec.Raw,
    "list": list[Any],
    "ints": list[int],
    "texts": dict[str, str],
    "dict": dict[str, Any],
    "inner": Annotated[Inner, ch("String")],
    "strict": Annotated[Strict, ch("String")],
    "looked_at": Annotated[Any, ignored],
    "bytes_looked_at": Annotated[bytes, ignored],
    "text_looked_at": Annotated[str, ignored],
}


def contents(code: int) -> list[bytes]:
    """Values that begin with this byte: whole ones, then some that are not."""
    one = bytes((code,))
    if code < 0x80 or code >= 0xE0 or code in (0xC0, 0xC1, 0xC2, 0xC3):
        return [one]
    if code < 0x90:
        count = code & 15
        keys = b"".join(bytes((0xA1, 0x61 + n, n)) for n in range(count))
        return [
            one + keys,
            one + keys[:-1],
            one + b"\xa1a\x01" * count,
            one + bytes(2 * count),
            one + b"\xa1a\xa1b" * count,
        ]
    if code < 0xA0:
        return [
            one + item * (code & 15)
            for item in (b"\x07", b"\xa1x", b"\xc0", b"\xcb" + bytes(8), b"\x91\x80", b"\xc1", b"")
        ]
    if code < 0xC0:
        return [one + text for text in _texts(code & 31)]
    return [one + rest for rest in _CONTENTS[code]]


def _texts(nbytes: int) -> list[bytes]:
    """Bytes of this number: ASCII, two and four bytes a letter, cut off, not UTF-8, one too few."""
    wide = ("ü" * nbytes).encode()
    return [
        b"a" * nbytes, wide[: nbytes // 2 * 2] + b"x" * (nbytes % 2), wide[:nbytes], b"\x80" * nbytes, b"\xff" * nbytes,
        (b"\xf0\x9f\x98\x80" * 8)[:nbytes], (b"x" * nbytes)[:-1] + b"\xe2" * bool(nbytes),
        b"a" * max(0, nbytes - 1),
        (b'"\\\x00\x1f\x7f\n\t\x0b' * 20)[:nbytes],
    ]  # fmt: skip


def _sized(size: int, *lengths: int) -> list[bytes]:
    """Lengths of `size` bytes with texts of that length."""
    made = [length.to_bytes(size, "big") + text for length in lengths for text in _texts(length)]
    return [*made, b"\xff" * size, b"\xff" * (size - 1), b""]


def _extensions(nbytes: int) -> list[bytes]:
    made = [bytes((kind,)) + fill * nbytes for kind in (0xFF, 0x00, 0x05, 0x80) for fill in (b"\x00", b"\x01", b"\xff")]
    return [*made, b"\xff" + b"\x00" * (nbytes - 1), b""]


_STAMPS = [
    bytes((nbytes, 0xFF)) + content
    for nbytes, content in (
        (12, bytes(4) + (1_700_000_000).to_bytes(8, "big")),
        (12, (999_999_000).to_bytes(4, "big") + (-1).to_bytes(8, "big", signed=True)),
        (12, (1_500).to_bytes(4, "big") + bytes(8)),
        (12, (999_999_999).to_bytes(4, "big") + bytes(8)),
        (12, (1_000_000_000).to_bytes(4, "big") + bytes(8)),
        (12, bytes(4) + b"\x80" + bytes(7)),
        (12, bytes(4) + (253_402_300_800).to_bytes(8, "big")),
        (12, bytes(4) + (-62_135_596_801).to_bytes(8, "big", signed=True)),
        (11, bytes(11)),
        (13, bytes(13)),
        (8, (500_000 << 34 | 2**34 - 1).to_bytes(8, "big")),
        (4, b"\xff\xff\xff\xff"),
        (0, b""),
        (1, b"\x00"),
    )
]
_WHOLE = (0, 1, 0x7F, 0x80, 0xFF)


def _numbers(size: int) -> list[bytes]:
    """Numbers of this many bytes at their bounds, and one cut short."""
    made = [bytes((first,)) + rest * (size - 1) for first in _WHOLE for rest in (b"\x00", b"\xff")]
    return [*made, (5).to_bytes(size, "big"), b"\x00" * (size - 1)]


_FLOATS = [
    msgspec.msgpack.encode(one)[1:]
    for one in (
        0.0, -0.0, 1.0, 1.5, -2.25, 0.1, 1e22, 1e-5, 1e300, 5e-324, 3.5e38, -3.5e38, 123456.789, 0.0001,
        1e15, 999999999999999.0,
        9007199254740993.0, 0.30000000000000004, float("nan"), float("inf"), float("-inf"),
    )
]  # fmt: skip
_SINGLES = (
    "00000000", "80000000", "3f800000", "3dcccccd", "7f800000", "ff800000", "7fc00000", "7f800001", "00000001",
    "7f7fffff", "3f8000",
)  # fmt: skip


def _counted(size: int, item: bytes, *counts: int) -> list[bytes]:
    """That many items, and counts of what is not there."""
    return [*(count.to_bytes(size, "big") + item * count for count in counts), b"\xff" * size, b"\x00"]


_CONTENTS: dict[int, list[bytes]] = {
    0xCA: [bytes.fromhex(one) for one in _SINGLES],
    0xCB: [*_FLOATS, bytes.fromhex("7ff0000000000001"), bytes.fromhex("fff8000000000000"), bytes(7)],
}
for n in range(5):
    _CONTENTS[0xD4 + n] = _extensions(1 << n)
for n in range(4):
    _CONTENTS[0xCC + n] = _CONTENTS[0xD0 + n] = _numbers(1 << n)
for n in range(3):
    _CONTENTS[0xC4 + n] = [*_sized(1 << n, 0, 1, 8, 16, 20), (16).to_bytes(1 << n, "big") + bytes(range(16))]
    _CONTENTS[0xC7 + n] = [*((0).to_bytes((1 << n) - 1, "big") + one for one in _STAMPS), b"\xff" * (1 << n), b""]
    _CONTENTS[0xD9 + n] = _sized(1 << n, 0, 1, 5, 31, 32, 36, 127, 128)
for n in range(2):
    _CONTENTS[0xDC + n] = _counted(2 << n, b"\x01", 0, 1, 16)
    _CONTENTS[0xDE + n] = _counted(2 << n, b"\xa1a\x01", 0, 1, 2)
CASES = [case for code in range(256) for case in contents(code)]


def lanes_of(name: str) -> Lanes:
    """A contract with one field of the kind, and one that is in every record."""
    return Lanes(load(msgspec.defstruct("One", [("value", FIELDS[name]), ("after", int, 0)]), packed=True), ())


def difference_of(lanes: Lanes, records: list[bytes | None]) -> str:
    """What differs, by the first record that shows it alone."""
    whole = lanes.difference(records)
    alone = ((one, lanes.difference([one])) for one in records) if whole else ()
    return next((f"{one!r}: {found}" for one, found in alone if found), whole)


@pytest.mark.parametrize("name", FIELDS)
def test_every_type_byte(name: str) -> None:
    lanes = lanes_of(name)
    assert lanes.native
    records: list[bytes | None] = [b"\x82\xa5value" + case + b"\xa5after\x01" for case in CASES]
    records += [b"\x81\xa5value" + case for case in CASES]
    assert difference_of(lanes, records) == ""
    assert lanes.handed_over < len(records)


def test_every_type_byte_in_fields_that_nobody_asked_for() -> None:
    lanes = Lanes(load(msgspec.defstruct("One", [("after", int, 0)]), packed=True), ())
    records: list[bytes | None] = [b"\x82\xa5value" + case + b"\xa5after\x01" for case in CASES]
    records += [b"\x82" + case + b"\x01\xa5after\x01" for case in CASES]
    assert difference_of(lanes, records) == ""


def test_every_type_byte_as_the_record() -> None:
    for forbid in (False, True):
        struct = msgspec.defstruct("One", [("a", Any, None)], forbid_unknown_fields=forbid)
        assert difference_of(Lanes(load(struct, packed=True), ()), [*CASES, *(case + b"\x00" for case in CASES)]) == ""


@pytest.mark.parametrize("code", [0x80, 0xDE, 0xDF])
def test_records_cut_off_anywhere(code: int) -> None:
    counts = {0x80: b"\x84", 0xDE: b"\xde\x00\x04", 0xDF: b"\xdf\x00\x00\x00\x04"}
    whole = (
        counts[code]
        + b"\xa1a\xcd\x01\x00\xa1b\xd9\x02\xc3\xbc\xa1c\x92\x01\xcb"
        + bytes(8)
        + b"\xa1d\x81\xa1k\xd6\xff"
        + bytes(4)
    )
    fields = [
        ("a", int, 0),
        ("b", str, ""),
        ("c", Annotated[Any, ch("String")], None),
        ("d", Annotated[Any, ignored], None),
    ]
    lanes = Lanes(load(msgspec.defstruct("One", fields), packed=True), ())
    cut: list[bytes | None] = [whole[:length] for length in range(len(whole) + 1)]
    assert difference_of(lanes, [*cut, whole + b"\xc0", whole + whole]) == ""


def test_depth() -> None:
    records: list[bytes | None] = []
    for depth in (1, 62, 63, 64, 65, 66, 300):
        for item in (b"\x91" * depth + b"\x90", b"\x81\xa1a" * depth + b"\x80"):
            records.append(b"\x82\xa5value" + item + b"\xa5after\x01")
    for name in ("any", "raw", "list", "dict", "looked_at"):
        assert difference_of(lanes_of(name), records) == ""
    assert difference_of(Lanes(load(msgspec.defstruct("One", [("after", int, 0)]), packed=True), ()), records) == ""


def test_keys_of_every_form() -> None:
    """A field's name may come in any of the four forms of text."""
    name = b"value"
    forms = [b"\xa5", b"\xd9\x05", b"\xda\x00\x05", b"\xdb\x00\x00\x00\x05", b"\xc4\x05", b"\xa4", b"\xa6"]
    records: list[bytes | None] = [b"\x82" + form + name + b"\x05\xa5after\x01" for form in forms]
    records += [b"\x82\xa5value\x05\xa5value\x06", b"\x81\xa5valu\xff\x05", b"\x82\xa5valuf\x05\xa5value\x06"]
    lanes = lanes_of("int")
    assert difference_of(lanes, records) == ""
    assert lanes.handed_over == 5  # bytes as a name, two wrong lengths, one twice, no value


@pytest.mark.parametrize("name", ["a", "x" * 31, "x" * 32, "naïve", "x" * 255, "x" * 300])
def test_names_of_every_length(name: str) -> None:
    struct = msgspec.defstruct("One", [("value", int, 0), ("after", int, 0)], rename={"value": name})
    lanes = Lanes(load(struct, packed=True), ())
    pack = msgspec.msgpack.encode
    assert lanes.native
    assert difference_of(lanes, [pack({name: 1, "after": 2}), pack({"after": 2, name: 1}), pack({name[:-1]: 1})]) == ""
    assert lanes.handed_over == 0
