"""Records for a drawn contract: mostly good, then spoiled in their structure or in their bytes."""

from __future__ import annotations

from tests.fuzz import values
from tests.fuzz.draw import Drawn
from tests.fuzz.values import Dice

TOKENS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"null", b"true", b"0", b"-", b".", b"e", b" ", b"\n", b"\0", b"\x7f",
    b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\xe2\x82", b"\xef\xbb\xbf",
    b"\\u0041",
    b"\\", b'\\"', b"1e5", b"00",
)  # fmt: skip


def record(rng: Dice, drawn: Drawn) -> bytes:
    """One record, good as far as its makers are, sometimes changed in its structure."""
    tag, fields = rng.choice(drawn.types)
    pairs = [*tag, *((name, make(rng)) for name, make in fields if not rng.oddly(0.02))]
    if rng.oddly(0.5):
        pairs = _changed(rng, pairs)
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


def spoiled(rng: Dice, value: bytes, other: bytes) -> bytes:
    """The record with one to three changes of its bytes; `other` lends parts."""
    made = bytearray(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(made) + 1)
        what = rng.randrange(9)
        if what == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif what == 1 and at < len(made):
            made[at] = rng.choice(b'{}[],:"\\0123456789-+.eE tfnu\x00\x1f\x80\xff')
        elif what == 2:
            del made[at : at + rng.choice((1, 1, 2, 8))]
        elif what == 3:
            made[at:at] = rng.choice(TOKENS)
        elif what == 4 and rng.random() < 0.3:
            del made[at:]
        elif what == 5:
            start = rng.randrange(len(other) + 1)
            made[at:at] = other[start : start + rng.randrange(1, 20)]
        elif what == 6:
            made[at:at] = made[at : at + rng.randrange(1, 30)]
        elif what == 7:
            made[at : at + 1] = rng.choice(TOKENS)
        elif at < len(made) and 0x30 <= made[at] <= 0x39:
            made[at] = 0x30 + rng.randrange(10)
    return bytes(made)


def batch(rng: Dice, drawn: Drawn, count: int) -> list[bytes | None]:
    """Records of which some repeat others, some are spoiled, and a few are none."""
    good = []
    for _ in range(max(2, count // 6)):
        rng.odd = rng.choice((0.0, 0.0, 0.05, 0.1, 0.3, 1.0))
        good.append(record(rng, drawn))
    rng.odd = 1.0
    made: list[bytes | None] = []
    while len(made) < count:
        roll = rng.random()
        value = good[rng.randrange(len(good))]
        if roll < 0.001:
            made.append(rng.choice((None, b"")))
        elif roll < 0.5:
            made.append(value)
        else:
            made.append(spoiled(rng, value, good[rng.randrange(len(good))]))
    return made
