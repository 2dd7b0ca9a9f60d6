"""SipHash-2-4-128 against the published vectors (veorq/SipHash, vectors.h) and against the oracle."""

from __future__ import annotations

import random

from _native import oracle
from _native.siphash import siphash128

VECTORS = {
    0: "a3817f04ba25a8e66df67214c7550293",
    1: "da87c1d86b99af44347659119b22fc45",
    2: "8177228da4a45dc7fca38bdef60affe4",
    7: "a1f1ebbed8dbc153c0b84aa61ff08239",
    8: "3b62a9ba6258f5610f83e264f31497b4",
    15: "5493e99933b0a8117e08ec0f97cfc3d9",
    16: "6ee2a4ca67b054bbfd3315bf85230577",
    31: "2939b0183223fafc1723de4f52c43d35",
    32: "7c3956ca5eeafc3e363e9d556546eb68",
    63: "5150d1772f50834a503e069a973fbd7c",
}
"""Length of the input, expected output: around every length of the last word."""


def test_published_vectors() -> None:
    """The input counts up from 0, as do the 16 bytes of the key."""
    for length, expected in VECTORS.items():
        assert siphash128(bytes(range(length)), bytes(range(16))).hex() == expected


def test_the_oracle_agrees(rng: random.Random) -> None:
    for length in [*range(20), 255, 256, 257, 1000]:
        data, secret = rng.randbytes(length), rng.randbytes(16)
        assert siphash128(data, secret) == oracle.siphash128(data, secret)
