"""Records for a drawn contract: mostly good, then spoiled in their structure or in their bytes."""

from __future__ import annotations

from tests.fuzz import packed, values
from tests.fuzz.draw import Drawn
from tests.fuzz.values import Dice

TOKENS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"null", b"true", b"0", b"-", b".", b"e", b" ", b"\n", b"\0", b"\x7f",
    b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\xe2\x82", b"\xef\xbb\xbf",
    b"\\u0041",
    b"\\", b'\\"', b"1e5", b"00",
)  # fmt: skip
PACKED_TOKENS = (
    *(bytes((code,)) for code in range(0xC0, 0xE0)),
    b"\x80", b"\x81", b"\x8f", b"\x90", b"\x91", b"\xa0", b"\xa1a", b"\xbf", b"\x00", b"\x7f",
    b"\xff", b"\xe0", b"\xd9\x05hello", b"\xc4\x10" + bytes(16), b"\xd6\xff\x00\x00\x00\x01", b"\xcb\x3f\xf0" + bytes(6),
    b"\xa3\xed\xa0\x80", b"\xa1\xff", b"\xa2\xc3\xa9", b"\xdd\xff\xff\xff\xff", b"\xce\xff\xff\xff\xff",
)  # fmt: skip
ODDS = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.05, 0.1, 0.3, 1.0)
"""How odd records are: most hold nothing that is rarely right."""


def record(rng: Dice, drawn: Drawn) -> bytes:
    """One record, good as far as its makers are, sometimes changed in its structure."""
    tag, fields = rng.choice(drawn.types)
    pairs = [*tag, *((name, make(rng)) for name, make in fields if not rng.oddly(0.02))]
    if rng.oddly(0.5):
        pairs = _changed(rng, pairs)
    elif rng.random() < 0.3:
        pairs = _turned(rng, pairs)
    if drawn.packed:
        return packed.record(rng, pairs)
    loose = rng.random() < 0.1
    blank = (lambda: values.blank(rng)) if loose else str
    parts = [f'{blank()}"{name}"{blank()}:{blank()}{text}{blank()}' for name, text in pairs]
    whole = blank() + "{" + ",".join(parts) + "}" + blank()
    return whole.encode("utf-8", "surrogatepass")


def _changed(rng: Dice, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields with something done to them that a record from elsewhere might show."""
    pairs = list(pairs)
    place = rng.randrange(len(pairs) + 1)
    what = rng.randrange(8)
    if what == 0:
        pairs.insert(place, (rng.choice(("unknown", "x", "", "event ", "é")), values.anything(rng)))
    elif what == 1 and pairs:
        pairs.pop(place % len(pairs))
    elif what == 2 and pairs:
        pairs.insert(place, pairs[rng.randrange(len(pairs))])
    elif what == 3:
        rng.shuffle(pairs)
    elif what == 4 and pairs:
        name, _ = pairs[place % len(pairs)]
        pairs[place % len(pairs)] = (name, rng.choice(values.ODD))
    elif what == 5 and pairs:
        name, text = pairs[place % len(pairs)]
        pairs[place % len(pairs)] = (f"\\u{ord(name[0]):04x}{name[1:]}", text)
    elif what == 6 and pairs:
        name, _ = pairs[place % len(pairs)]
        pairs[place % len(pairs)] = (name, values.anything(rng))
    elif pairs:
        one, other = rng.randrange(len(pairs)), rng.randrange(len(pairs))
        pairs[one], pairs[other] = (pairs[one][0], pairs[other][1]), (pairs[other][0], pairs[one][1])
    return pairs


def _turned(rng: Dice, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields in another order, or with one that nobody knows: as good as before, where other fields are allowed."""
    pairs = list(pairs)
    if rng.random() < 0.7:
        rng.shuffle(pairs)
    else:
        pairs.insert(
            rng.randrange(len(pairs) + 1), (rng.choice(("unknown", "x", "", "event ", "é")), values.anything(rng))
        )
    return pairs


def touched(rng: Dice, value: bytes) -> bytes:
    """The record with letters and digits changed for others, which leaves it a record, mostly a good one."""
    made = bytearray(value)
    for _ in range(rng.choice((1, 2, 4))):
        at = rng.randrange(len(made))
        byte = made[at]
        if 0x30 <= byte <= 0x39:
            made[at] = rng.choice(b"0123456789")
        elif 0x61 <= byte <= 0x7A and rng.random() < 0.3:
            made[at] = rng.choice(b"abcdefghijklmnopqrstuvwxyz")
    return bytes(made)


def spoiled(rng: Dice, value: bytes, other: bytes, tokens: tuple[bytes, ...]) -> bytes:
    """The record with one to three changes of its bytes; `other` lends parts."""
    made = bytearray(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(made) + 1)
        what = rng.randrange(9)
        if what == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif what == 1 and at < len(made):
            made[at] = rng.choice(tokens)[0]
        elif what == 2:
            del made[at : at + rng.choice((1, 1, 2, 8))]
        elif what == 3:
            made[at:at] = rng.choice(tokens)
        elif what == 4 and rng.random() < 0.3:
            del made[at:]
        elif what == 5:
            start = rng.randrange(len(other) + 1)
            made[at:at] = other[start : start + rng.randrange(1, 20)]
        elif what == 6:
            made[at:at] = made[at : at + rng.randrange(1, 30)]
        elif what == 7:
            made[at : at + 1] = rng.choice(tokens)
        elif at < len(made) and 0x30 <= made[at] <= 0x39:
            made[at] = 0x30 + rng.randrange(10)
    return bytes(made)


def batch(rng: Dice, drawn: Drawn, count: int) -> list[bytes | None]:
    """Records of which some repeat others, some are changed or spoiled, and a few are none."""
    rng.packed = drawn.packed
    tokens = PACKED_TOKENS if drawn.packed else TOKENS
    good = []
    for _ in range(max(2, count // 4)):
        rng.odd = rng.choice(ODDS)
        good.append(record(rng, drawn))
    rng.odd = 1.0
    made: list[bytes | None] = []
    while len(made) < count:
        roll = rng.random()
        value = good[rng.randrange(len(good))]
        if roll < 0.001:
            made.append(rng.choice((None, b"")))
        elif roll < 0.34:
            made.append(value)
        elif roll < 0.8 and value:
            made.append(touched(rng, value))
        else:
            made.append(spoiled(rng, value, good[rng.randrange(len(good))], tokens))
    return made
