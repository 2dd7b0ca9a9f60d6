"""JSON texts drawn at random: mostly what a field of a type may hold, at times at its bounds, at times something else."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable


class Dice(random.Random):
    """Randomness with a taste: `odd` is how often, between 0 and 1, what is rarely right is drawn. Records that are
    `packed` are MessagePack, for which texts may be marked to become what JSON does not have."""

    odd = 1.0
    packed = False

    def oddly(self, share: float) -> bool:
        return self.random() < share * self.odd


Make = Callable[[Dice], str]

AS_BYTES, AS_STAMP = "\ue000", "\ue001"
"""What a text begins with that becomes MessagePack's bytes (16 of them when it is a UUID) or a timestamp."""

ALPHABET = "abcXYZ019 _-.:/'üß€😀\x7f"
ESCAPES = (
    '\\"',
    "\\\\",
    "\\/",
    "\\b",
    "\\f",
    "\\n",
    "\\r",
    "\\t",
    "\\u0041",
    "\\u00e9",
    "\\u0000",
    "\\ud83d\\ude00",
    "\\uD83D\\uDE00",
)
SHORT_ESCAPES = ('\\"', "\\\\", "\\b", "\\f", "\\n", "\\r", "\\t")
NUMBERS = (
    "0", "-0", "1", "-1", "7", "127", "128", "-128", "-129", "255", "256", "32767", "65535", "65536", "2147483647",
    "-2147483648", "4294967295", "4294967296", "9007199254740991", "9007199254740993", "9223372036854775807",
    "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "18446744073709551615",
    "18446744073709551616", "-18446744073709551615", "99999999999999999999", "10000000000000000000",
    "340282366920938463463374607431768211456", "1700000000", "1700000000123", "1700000000123456",
    "0.0", "-0.0", "1.0", "0.1", "-2.5", "1e5", "1E+5", "1e-5", "2.50", "0.00001", "0.0001", "0.000123", "123456789012345.5",
    "1234567890123456.7", "3.4028235e38", "3.5e38", "1e308", "1e309", "1e-400", "1e22", "1e23", "9007199254740993.0",
    "0.3333333333333333", "100.00", "1.005", "99999999.99", "5e-324", "2.2250738585072014e-308", "1e0", "12345678.9",
)  # fmt: skip
ODD = (
    "null", "true", "false", "{}", "[]", '""', '"x"', "0", "-0", "1.5", "[1]", '{"a":1}', '{"a":{"b":[1,2,{"c":null}]}}',
    "[[[[]]]]", '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"\\x"', "01", "1.", ".5", "+1", "1e", "nul", "tru", "NaN",
    "Infinity", "-", '"unclosed', "{", "[", '{"a"}', '{"a":1,}', "[1,]", '{"a":1,"a":2}', '"\t"', "'x'", "1 2", "[1 2]",
    "[" * 70 + "]" * 70, "1e400", "1" * 25, "0." + "1" * 30, "[1.0,0.1,-0.0,1e16,1e-7]", '{"k":0.0001,"l":123456.789}',
)  # fmt: skip
BLANKS = ("", "", "", "", "", "", " ", "\n", "\t", "\r\n", "  ")


def blank(rng: Dice) -> str:
    return rng.choice(BLANKS)


def number(rng: Dice) -> str:
    if rng.oddly(0.7):
        return rng.choice(NUMBERS)
    if rng.random() < 0.3:
        return floating(rng)
    return str(rng.randrange(-(10 ** rng.randrange(1, 18)), 10**12))


def integer(low: int, high: int) -> Make:
    """An integer within bounds; at times one of them, or beyond."""
    bounds = [str(one) for one in (low, high, low - 1, high + 1, 0, 1, low + 1, high - 1)]

    def make(rng: Dice) -> str:
        if rng.oddly(0.15):
            return rng.choice(bounds)
        if rng.oddly(0.05):
            return number(rng)
        least = max(low, -(10**6))
        return str(rng.randrange(least, max(least, min(high, 10 ** rng.randrange(1, 19))) + 1))

    return make


def floating(rng: Dice) -> str:
    if rng.oddly(0.3):
        return number(rng)
    if rng.oddly(0.4):
        return repr(rng.uniform(-1, 1) * 10.0 ** rng.randrange(-12, 20))
    return repr(rng.randrange(-(10**6), 10 ** rng.randrange(1, 13)) / 10 ** rng.randrange(1, 4))


def text(rng: Dice) -> str:
    """A string, its quotes included."""
    length = rng.choice((0, 7, 8, 9, 15, 16, 17, 31, 40, 127, 128)) if rng.oddly(0.3) else rng.randrange(1, 9)
    plain = rng.random() < 0.6
    letters = "abcdefgh 01" if plain else ALPHABET
    parts = [rng.choice(letters) for _ in range(length)]
    if rng.random() < 0.15:
        for _ in range(rng.randrange(1, 4)):
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(ESCAPES if rng.oddly(0.5) else SHORT_ESCAPES))
    return '"' + "".join(parts) + '"'


def few_bytes(rng: Dice) -> str:
    """A string for a column of 8 bytes."""
    return text(rng) if rng.oddly(0.3) else f'"{"".join(rng.choice("abc 01") for _ in range(rng.randrange(9)))}"'


def boolean(rng: Dice) -> str:
    return rng.choice(("0", "1", "null")) if rng.oddly(0.2) else rng.choice(("true", "false"))


def one_of(texts: tuple[str, ...], share_odd: float = 0.1) -> Make:
    """One of the texts as a string; at times another."""

    def make(rng: Dice) -> str:
        return text(rng) if rng.oddly(share_odd) else json.dumps(rng.choice(texts), ensure_ascii=False)

    return make


def one_number(numbers: tuple[int, ...]) -> Make:
    """One of the numbers; at times another."""

    def make(rng: Dice) -> str:
        return str(rng.randrange(-5, 305)) if rng.oddly(0.1) else str(rng.choice(numbers))

    return make


def uuid_text(rng: Dice) -> str:
    made = str(uuid.UUID(int=rng.getrandbits(128)))
    if rng.oddly(0.06):
        made = rng.choice(
            (made.replace("-", ""), made.upper(), "{" + made + "}", made[:-1], made + "0", made.replace("-", "_"))
        )
    if rng.random() > 0.9:
        made = str(uuid.UUID(int=rng.randrange(20)))
    return f'"{made}"'


def marked(make: Make, mark: str, share: float) -> Make:
    """A share of the texts is marked, in MessagePack."""

    def one(rng: Dice) -> str:
        made = make(rng)
        return f'"{mark}{made[1:]}' if rng.packed and made[0] == '"' and rng.random() < share else made

    return one


def moment(rng: Dice) -> str:
    """A time in one of the forms that may be met, mostly RFC 3339."""
    year = (
        rng.choice((1969, 1900, 1899, 2106, 2299, 2300, 1, 0, 9999))
        if rng.oddly(0.4)
        else rng.choice((1970, 2024, 2026))
    )
    month, date = (
        (rng.randrange(14), rng.randrange(33)) if rng.oddly(0.2) else (rng.randrange(1, 13), rng.randrange(1, 29))
    )
    clock = f"{rng.randrange(25 if rng.oddly(0.1) else 24):02}:{rng.randrange(60):02}"
    seconds = "" if rng.oddly(0.1) else f":{rng.randrange(61 if rng.oddly(0.1) else 60):02}"
    fraction = ""
    if rng.random() < 0.5:
        count = rng.choice((0, 7, 9, 12)) if rng.oddly(0.3) else rng.choice((1, 2, 3, 3, 6, 6))
        fraction = ("," if rng.oddly(0.1) else ".") + "".join(rng.choice("0123456789") for _ in range(count))
    zone = rng.choice(("Z", "Z", "z", "", "+01:00", "-05:30", "-00:00", "+23:59"))
    if rng.oddly(0.2):
        zone = rng.choice(("+0100", "+01", "+24:00", " Z", "+1:00"))
    return f'"{year:04}-{month:02}-{date:02}{rng.choice("TTTTt ")}{clock}{seconds}{fraction}{zone}"'


def day(rng: Dice) -> str:
    if rng.oddly(0.15):
        return moment(rng)
    year = rng.choice((1900, 1899, 2149, 2150, 2299, 2300, 1, 0)) if rng.oddly(0.4) else rng.choice((2024, 2023, 1970))
    return f'"{year:04}-{rng.randrange(1, 13):02}-{rng.randrange(1, 32 if rng.oddly(0.5) else 29):02}"'


def decimal(places: int, text_share: float) -> Make:
    """A number or its text, mostly of at most so many digits after the point."""

    def make(rng: Dice) -> str:
        digits = 14 if rng.oddly(0.5) else 7
        plain = f"{rng.randrange(-(10 ** rng.randrange(1, digits)), 10 ** rng.randrange(1, digits))}"
        count = rng.choice((0, 4, 5, 10)) if rng.oddly(0.5) else rng.randrange(places + 1)
        if count:
            plain += "." + "".join(rng.choice("0123456789") for _ in range(count))
        if rng.oddly(0.1):
            plain = rng.choice(
                (*NUMBERS, ".5", "5.", "+1", " 1", "1_0", "NaN", "1e999999999999", "0e999999999999", "-.0", "")
            )
        as_text = rng.random() >= text_share if rng.oddly(0.2) else rng.random() < text_share
        return f'"{plain}"' if as_text else plain

    return make


def address4(rng: Dice) -> str:
    if rng.oddly(0.2):
        return address(rng)
    return '"' + ".".join(str(rng.randrange(256)) for _ in range(4)) + '"'


def address(rng: Dice) -> str:
    four = ".".join(str(rng.randrange(270 if rng.oddly(0.1) else 256)) for _ in range(4))
    sixes = ("::", "::1", "fd00::12:ab", "2001:DB8::8:800:200C:417A", f"::ffff:{four}", "1::2::3", "fe80::1%eth0")
    made = rng.choice((four, rng.choice(sixes)))
    if rng.oddly(0.2):
        made = rng.choice(("01.2.3.4", "1.2.3", "1.2.3.4.5", four + " ", "12345::"))
    return f'"{made}"'


def anything(rng: Dice, depth: int = 0) -> str:
    """Any JSON value, mostly valid."""
    if rng.oddly(0.06):
        return rng.choice(ODD)
    roll = rng.random()
    if roll < 0.3 or depth > 4:
        return text(rng)
    if roll < 0.45:
        return number(rng)
    if roll < 0.55:
        return rng.choice(("null", "true", "false"))
    if roll < 0.75:
        return array_of(lambda one: anything(one, depth + 1))(rng)
    return object_of(lambda one: anything(one, depth + 1))(rng)


def array_of(item: Make) -> Make:
    def make(rng: Dice) -> str:
        parts = [blank(rng) + item(rng) + blank(rng) for _ in range(rng.choice((0, 1, 1, 2, 3, 5)))]
        return "[" + ",".join(parts) + "]" if parts else f"[{blank(rng)}]"

    return make


def object_of(value: Make) -> Make:
    def make(rng: Dice) -> str:
        names = [key(rng) for _ in range(rng.choice((0, 1, 2, 3, 5, 12)))]
        parts = [f"{blank(rng)}{name}{blank(rng)}:{blank(rng)}{value(rng)}{blank(rng)}" for name in names]
        return "{" + ",".join(parts) + "}" if parts else "{" + blank(rng) + "}"

    return make


def key(rng: Dice) -> str:
    """A key of a map: now and then one that comes twice."""
    if rng.oddly(0.1):
        return text(rng)
    return f'"{rng.choice("abcdefghijklmnopqrstuvwxyz")}{rng.randrange(40 if rng.odd > 0.5 else 10_000)}"'
