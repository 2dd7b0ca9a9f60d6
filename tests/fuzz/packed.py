"""JSON texts as MessagePack: the shortest form of a value or a longer one, right or a little wrong."""

from __future__ import annotations

import datetime
import json
import math
import struct
import uuid
from typing import Any, NamedTuple

from tests.fuzz.values import AS_BYTES, AS_STAMP, Dice

NEVER = b"\xc1"
JUNK = (
    NEVER, b"", b"\xd4\x05\x00", b"\xd6\xff\x00\x00\x00\x01", b"\xc7\x00\xff", b"\xc7\x0d\xff" + bytes(13), b"\xc4\x01a",
    b"\xd9\x02\xc3\xa9", b"\xa2\xe2\x82", b"\xa1\xff", b"\xa3\xed\xa0\x80", b"\xdb\xff\xff\xff\xff", b"\xdd\x00\x00\x00\x00",
    b"\xdd\xff\xff\xff\xff", b"\xdf\x00\x00\x00\x00", b"\x81\x01\x02", b"\x81\xc4\x01a\x02", b"\x82\xa1a\x01\xa1a\x02",
    b"\x91" * 70 + b"\x90", b"\xca\x7f\xc0\x00\x00", b"\xcb\x7f\xf0" + bytes(6), b"\xcb\x80" + bytes(7),
    b"\xd7\xff\xff\xff\xff\xfc\x00\x00\x00\x01", b"\xc7\x0c\xff\x3b\x9a\xc9\xff" + b"\xff" * 8,
    b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7),
    b"\xcc\x07", b"\xd0\xff", b"\xd2\xff\xff\xff\x85", b"\xc8\x00\x04\xff\x65\x00\x00\x00", b"\xc0", b"\xc3", b"\x80", b"\x90",
)  # fmt: skip
"""Values that are seldom met, or never right."""
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Pairs(NamedTuple):
    """An object as it stands, with keys that may come twice."""

    pairs: list[tuple[str, Any]]


_decoder = json.JSONDecoder(object_pairs_hook=Pairs)


def value(rng: Dice, text: str) -> bytes:
    """A JSON value as MessagePack; junk for what is none."""
    if rng.oddly(0.01):
        return rng.choice(JUNK)
    try:
        return encode(rng, _decoder.decode(text.strip()))
    except (ValueError, RecursionError):
        return rng.choice(JUNK)


def record(rng: Dice, pairs: list[tuple[str, str]]) -> bytes:
    """A record of fields whose values are JSON texts."""
    count = len(pairs) + (rng.choice((-1, 1)) if rng.oddly(0.02) else 0)
    parts = [head(rng, count, 0x80, 16, (0, 0xDE, 0xDF))]
    for name, text in pairs:
        parts += (string(rng, name.encode("utf-8", "surrogatepass")), value(rng, text))
    return b"".join(parts)


def encode(rng: Dice, made: Any) -> bytes:
    if made is None or isinstance(made, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[made]
    if isinstance(made, int):
        return whole(rng, made)
    if isinstance(made, float):
        return real(rng, made)
    if isinstance(made, str):
        return marked(rng, made)
    if isinstance(made, Pairs):
        parts = [head(rng, len(made.pairs), 0x80, 16, (0, 0xDE, 0xDF))]
        for name, one in made.pairs:
            parts += (encode(rng, name), encode(rng, one))
        return b"".join(parts)
    return head(rng, len(made), 0x90, 16, (0, 0xDC, 0xDD)) + b"".join(encode(rng, one) for one in made)


def head(rng: Dice, length: int, fixed: int, fixed_end: int, wide: tuple[int, int, int]) -> bytes:
    """A length with its type byte: the shortest form, at times a longer one. `wide` are the bytes for 1, 2 and 4 bytes."""
    length = max(0, length)
    longer = rng.random() < 0.03
    if fixed and length < fixed_end and not longer:
        return bytes((fixed | length,))
    size = rng.randrange(3) if longer else 0
    while not wide[size] or length >= 1 << (8 << size):
        size += 1
    return bytes((wide[size],)) + length.to_bytes(1 << size, "big")


def string(rng: Dice, content: bytes) -> bytes:
    length = len(content) + (rng.choice((-1, 1)) if rng.oddly(0.003) else 0)
    return head(rng, length, 0xA0, 32, (0xD9, 0xDA, 0xDB)) + content


def binary(rng: Dice, content: bytes) -> bytes:
    return head(rng, len(content), 0, 0, (0xC4, 0xC5, 0xC6)) + content


def whole(rng: Dice, number: int) -> bytes:
    """An integer; one beyond 64 bits is a float."""
    if not -(2**63) <= number < 2**64:
        return b"\xcb" + struct.pack(">d", float(number) if abs(number) < 10**300 else math.inf)
    longer = rng.random() < 0.05
    if -32 <= number < 128 and not longer:
        return bytes((number & 0xFF,))
    forms = [(0xCC + size, 1 << size, False) for size in range(4) if 0 <= number < 1 << (8 << size)]
    forms += [
        (0xD0 + size, 1 << size, True)
        for size in range(4)
        if -(1 << ((8 << size) - 1)) <= number < 1 << ((8 << size) - 1)
    ]
    code, nbytes, signed = rng.choice(forms) if longer else forms[0]
    return bytes((code,)) + number.to_bytes(nbytes, "big", signed=signed)


def real(rng: Dice, number: float) -> bytes:
    if rng.oddly(0.2) and abs(number) < 3e38:
        return b"\xca" + struct.pack(">f", number)
    return b"\xcb" + struct.pack(">d", number)


def marked(rng: Dice, text: str) -> bytes:
    """A text, or what it is marked to become."""
    if text.startswith(AS_BYTES):
        try:
            return binary(rng, uuid.UUID(text[1:]).bytes)
        except ValueError:
            return binary(rng, text[1:].encode("utf-8", "surrogatepass"))
    if text.startswith(AS_STAMP):
        try:
            moment = datetime.datetime.fromisoformat(text[1:])
        except ValueError:
            return string(rng, text[1:].encode("utf-8", "surrogatepass"))
        return stamp(rng, moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC))
    content = text.encode("utf-8", "surrogatepass")
    return binary(rng, content) if rng.oddly(0.01) else string(rng, content)


def stamp(rng: Dice, moment: datetime.datetime) -> bytes:
    """A timestamp in one of the three forms that hold it."""
    since = moment - EPOCH
    seconds, nanos = since.days * 86400 + since.seconds, since.microseconds * 1000
    if rng.oddly(0.1):
        nanos += rng.choice((1, 499, 500, 501, 999))
    forms = [b"\xc7\x0c\xff" + nanos.to_bytes(4, "big") + seconds.to_bytes(8, "big", signed=True)]
    if 0 <= seconds < 2**34:
        forms.append(b"\xd7\xff" + (nanos << 34 | seconds).to_bytes(8, "big"))
    if 0 <= seconds < 2**32 and not nanos:
        forms.append(b"\xd6\xff" + seconds.to_bytes(4, "big"))
    return rng.choice(forms)
