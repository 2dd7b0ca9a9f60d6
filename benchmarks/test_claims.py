"""The claim table in its steady state: full, 95 % new ids and 5 % that it holds."""

from __future__ import annotations

import itertools
import random
from array import array
from typing import Any

import pytest

from pipeline.native import ClaimTable

CLAIMS = 100_000
DUPLICATES = 0.05


@pytest.mark.parametrize("ids", [10_000, 1_000_000, 20_000_000])
def test_claims(stated: Any, ids: int) -> None:
    chance = random.Random(1)
    table = ClaimTable(ids, secret=b"0123456789abcdef")
    slot = table.open_slot(0)
    offsets = itertools.count()
    recent = b""
    for start in range(0, ids, CLAIMS):
        count = min(CLAIMS, ids - start)
        recent = chance.randbytes(16 * count)
        table.claim_many(recent, slot, array("q", itertools.islice(offsets, count)))
    resident = table.nbytes

    def arguments() -> tuple[tuple[Any, ...], dict[str, Any]]:
        nonlocal recent
        again = int(CLAIMS * DUPLICATES)
        # Of the ids claimed last, so that they are there also when the table holds fewer than are claimed at once.
        known = recent[-16 * min(again, ids // 16) :]
        fresh = chance.randbytes(16 * CLAIMS - len(known))
        recent = fresh
        return (known + fresh, slot, array("q", itertools.islice(offsets, CLAIMS))), {}

    result = stated(table.claim_many, rows=CLAIMS, nbytes=16 * CLAIMS, setup=arguments, rounds=10, table_bytes=resident)
    assert result.count(2) >= min(int(CLAIMS * DUPLICATES), ids // 16)
