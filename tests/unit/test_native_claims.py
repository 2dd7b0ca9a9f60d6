"""What a claim means, told as stories, and what the claim table refuses. The oracle covers the rest (tests/parity)."""

from __future__ import annotations

import random
from array import array

import pytest

from _native.claims import ClaimTable

SECRET = b"0123456789abcdef"
NEW, DUPLICATE = 1, 2
A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))


def table(ids_max: int = 64) -> ClaimTable:
    return ClaimTable(ids_max, secret=SECRET)


def claim(claims: ClaimTable, id: bytes, slot: int, offset: int) -> int:
    return claims.claim_many(id, slot, array("q", [offset]))[0]


def test_the_first_record_owns_its_id_and_copies_are_duplicates() -> None:
    claims = table()
    slot, other = claims.open_slot(1), claims.open_slot(2)
    assert claim(claims, A, slot, 10) == NEW
    assert claim(claims, A, slot, 11) == DUPLICATE
    assert claim(claims, A, other, 10) == DUPLICATE
    assert claim(claims, B, other, 10) == NEW


def test_two_copies_inside_one_batch_are_duplicates() -> None:
    claims = table()
    verdicts = claims.claim_many(A + B + A + B, claims.open_slot(1), array("q", [1, 2, 3, 4]))
    assert list(verdicts) == [NEW, NEW, DUPLICATE, DUPLICATE]


def test_a_record_read_again_is_never_its_own_duplicate() -> None:
    claims = table()
    first = claims.open_slot(1)
    assert claim(claims, A, first, 10) == NEW
    assert claim(claims, A, first, 10) == NEW
    claims.freeze_slot(first, 11)  # durable below 11
    again = claims.open_slot(1)
    assert claim(claims, A, again, 10) == NEW
    assert claim(claims, A, again, 11) == DUPLICATE


def test_claims_of_a_discarded_batch_are_void() -> None:
    claims = table()
    first = claims.open_slot(1)
    assert list(claims.claim_many(A + B, first, array("q", [10, 20]))) == [NEW, NEW]
    claims.freeze_slot(first, 15)
    assert claims.find(B) == (1, 20, True)
    other = claims.open_slot(2)
    assert claim(claims, A, other, 7) == DUPLICATE  # 10 is durable
    assert claim(claims, B, other, 7) == NEW  # 20 will be read again, and then lose
    assert claim(claims, B, claims.open_slot(1), 20) == DUPLICATE


def test_a_refreshed_claim_belongs_to_the_new_reading() -> None:
    claims = table()
    first = claims.open_slot(1)
    claim(claims, A, first, 10)
    claims.freeze_slot(first, 0)
    second = claims.open_slot(1)
    assert claim(claims, A, second, 10) == NEW
    assert claim(claims, A, claims.open_slot(2), 3) == DUPLICATE


def test_generations_are_dropped_whole_and_slots_with_them() -> None:
    claims = ClaimTable(8, secret=SECRET, generations=4)
    slot = claims.open_slot(1)
    claim(claims, A, slot, 1)
    claims.freeze_slot(slot, 2)
    claims.rotate()
    claims.rotate()
    claims.rotate()
    assert (claims.generations, claims.slots, claims.ended) == ([0, 0, 0, 1], 1, 3)
    claims.rotate()
    assert (claims.generations, claims.slots, claims.ids_dropped) == ([0, 0, 0, 0], 0, 1)
    assert claims.find(A) is None
    reused = claims.open_slot(2)
    assert reused != slot
    with pytest.raises(ValueError, match="has been dropped"):
        claim(claims, A, slot, 1)


def test_only_a_full_table_or_its_owner_drops_ids() -> None:
    claims = ClaimTable(16, secret=SECRET, generations=8)
    slot = claims.open_slot(1)
    for number in range(16):
        claim(claims, number.to_bytes(16, "big"), slot, number)
        if number < 4:
            claims.rotate()
    assert (claims.generations, claims.ids_dropped) == ([4, 4, 4, 1, 1, 1, 1], 0)
    claim(claims, A, slot, 16)
    assert (claims.generations, claims.ids_dropped) == ([1, 4, 4, 4, 1, 1, 1], 1)
    claims.drop()
    assert (claims.generations, claims.ids_dropped) == ([1, 4, 4, 4, 1, 1], 2)
    for _ in range(9):
        claims.drop()
    assert (claims.generations, claims.ended) == ([1], 0)


def test_slots_are_reused_so_that_rebalances_do_not_grow_the_table() -> None:
    claims = ClaimTable(16, secret=SECRET, generations=4)
    for number in range(1000):
        claims.freeze_slot(claims.open_slot(number), 0)
        claims.rotate()
    assert claims.slots <= 5
    assert claims.nbytes < 100_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids_max": 15}, r"ids_max is 15; it must be in \[16,"),
        ({"ids_max": 2**31 + 1}, "ids_max"),
        ({"ids_max": 16, "secret": b"short"}, "must have 16"),
        ({"ids_max": 8, "generations": 3}, r"generations is 3; it must be in \[4, 64\]"),
        ({"ids_max": 80, "generations": 65}, "generations is 65"),
    ],
)
def test_bad_limits_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClaimTable(**({"secret": SECRET} | arguments))  # type: ignore[arg-type]


def test_misuse_is_refused() -> None:
    claims = table()
    slot = claims.open_slot(1)
    with pytest.raises(ValueError, match="is not a slot"):
        claim(claims, A, slot + 1, 0)
    claims.freeze_slot(slot, 0)
    with pytest.raises(ValueError, match="frozen"):
        claim(claims, A, slot, 0)
    with pytest.raises(ValueError, match="frozen"):
        claims.freeze_slot(slot, 0)
    with pytest.raises(ValueError, match="17 bytes of ids for 1 offsets"):
        claims.claim_many(A + b"x", claims.open_slot(1), array("q", [0]))
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        claims.find(b"abc")
    with pytest.raises(ValueError, match="cannot be part of a deduplication key"):
        claims.restore(b"", ["Array(String)"], {})
    with pytest.raises(ValueError, match="1 to 16 columns"):
        claims.restore(b"", [], {})


def test_a_string_longer_than_the_rows_is_an_error() -> None:
    claims = table()
    for rows in (b"\xff" * 9, b"\xff" * 7 + b"\x7f" + b"x" * 20, b"\x05abc"):
        with pytest.raises(ValueError, match="end inside a row"):
            claims.restore(rows, ["String"], {0: claims.open_slot(0)})


def test_memory_stays_under_its_bound() -> None:
    claims = table(300_000)
    slot = claims.open_slot(1)
    for turn in range(4):
        ids = b"".join(((turn << 64) + number).to_bytes(16, "little") for number in range(100_000))
        claims.claim_many(ids, slot, array("q", range(100_000)))
        assert claims.nbytes - 1024 <= claims.nbytes_max
    assert claims.ids <= 300_000
    assert claims.nbytes_max / 300_000 < 56
    assert claims.early_drops == 0


@pytest.mark.parametrize("place", range(15))
def test_ids_that_count_up_in_any_two_bytes_are_spread_under_every_seed(place: int) -> None:
    """Found by a replay that wrote copies: a chain of buckets was full, and the window dropped, under one seed in 300."""
    chance = random.Random(place)
    for _ in range(400):
        fixed = chance.randbytes(16)
        ids = b"".join(fixed[:place] + number.to_bytes(2, "big") + fixed[place + 2 :] for number in range(4_000))
        claims = ClaimTable(100_000, secret=chance.randbytes(16))
        claims.claim_many(ids, claims.open_slot(1), array("q", range(4_000)))
        assert (claims.early_drops, claims.ids) == (0, 4_000)
