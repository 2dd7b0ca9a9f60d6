"""The claim table against its oracle: random schedules of claims, freezes, rotations and restores, and sizes at thresholds."""

from __future__ import annotations

import random
import struct
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from native_cases import SECRET, parity

from _native import claims, oracle
from _native.oracle import string


class Schedule(RuleBasedStateMachine):
    """Both tables are told the same; what they answer, count and remember must be equal."""

    @initialize(ids_max=st.integers(9, 60), generations=st.integers(4, 9))
    def start(self, ids_max: int, generations: int) -> None:
        self.native = claims.ClaimTable(ids_max, secret=SECRET, generations=generations)
        self.twin = oracle.ClaimTable(ids_max, secret=SECRET, generations=generations)
        self.open: list[int] = []
        self.seen: set[bytes] = set()

    @rule(identity=st.integers(0, 2))
    def open_slot(self, identity: int) -> None:
        slot = self.native.open_slot(identity)
        assert slot == self.twin.open_slot(identity)
        self.open.append(slot)

    @rule(pick=st.integers(0), valid_below=st.integers(-1, 30))
    def freeze_slot(self, pick: int, valid_below: int) -> None:
        if self.open:
            slot = self.open.pop(pick % len(self.open))
            self.native.freeze_slot(slot, valid_below)
            self.twin.freeze_slot(slot, valid_below)

    @rule()
    def rotate(self) -> None:
        self.native.rotate()
        self.twin.rotate()

    @rule()
    def drop(self) -> None:
        self.native.drop()
        self.twin.drop()

    @rule(pick=st.integers(0), ids=st.lists(st.integers(0, 60), max_size=50), first=st.integers(0, 30))
    def claim(self, pick: int, ids: list[int], first: int) -> None:
        if self.open:
            slot = self.open[pick % len(self.open)]
            data = b"".join(self.id_of(number) for number in ids)
            offsets = array("q", range(first, first + len(ids)))
            assert self.native.claim_many(data, slot, offsets) == self.twin.claim_many(data, slot, offsets)

    @rule(pick=st.integers(0), rows=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2), st.integers(0, 40))))
    def restore(self, pick: int, rows: list[tuple[int, int, int]]) -> None:
        if self.open:
            slots = {0: self.open[pick % len(self.open)], 2: self.open[-1]}
            data = b"".join(self.id_of(number) + struct.pack("<iq", partition, at) for number, partition, at in rows)
            assert self.native.restore(data, ["UUID"], slots) == self.twin.restore(data, ["UUID"], slots)

    def id_of(self, number: int) -> bytes:
        id = random.Random(number).randbytes(16)
        self.seen.add(id)
        return id

    @invariant()
    def equal(self) -> None:
        if hasattr(self, "native"):
            assert self.native.generations == self.twin.generations
            assert (self.native.ids, self.native.slots) == (self.twin.ids, self.twin.slots)
            assert (self.native.rotations, self.native.ids_dropped) == (self.twin.rotations, self.twin.ids_dropped)
            assert self.native.early_drops == 0
            assert self.native.ids <= self.native.ids_max
            assert self.native.nbytes - self.native.slots * 4096 <= self.native.nbytes_max
            assert all(self.native.find(id) == self.twin.find(id) for id in self.seen)


TestSchedule = Schedule.TestCase
TestSchedule.settings = parity


@pytest.mark.parametrize("ids_max", [size + more for size in (8, 512, 1024, 4096) for more in (-1, 0, 1)])
def test_sizes_around_growth_and_rotation(ids_max: int, rng: random.Random) -> None:
    """Fills generations exactly, one less and one more, through every growth of the index, with repeats."""
    ids_max = max(ids_max, 16)
    native = claims.ClaimTable(ids_max, secret=SECRET)
    twin = oracle.ClaimTable(ids_max, secret=SECRET)
    slots = native.open_slot(1), twin.open_slot(1)
    full = ids_max // 8
    pool: list[bytes] = []
    offset = 0
    for size in (full - 1, 1, 1, full, full + 1, full * 3, full * 9, 5):
        pool = (pool + [rng.randbytes(16) for _ in range(size)])[-2 * ids_max :]
        batch = b"".join(rng.sample(pool, min(len(pool), size)) + pool[-size:])
        offsets = array("q", range(offset, offset + len(batch) // 16))
        offset += len(offsets)
        assert native.claim_many(batch, slots[0], offsets) == twin.claim_many(batch, slots[1], offsets)
        assert native.generations == twin.generations
    assert all(native.find(id) == twin.find(id) for id in pool)


def test_many_turnovers_keep_the_index_healthy(rng: random.Random) -> None:
    """Twenty tables' worth of ids through one table: lanes are taken over, chains end, nothing alive is lost."""
    native = claims.ClaimTable(4096, secret=SECRET)
    slot = native.open_slot(1)
    before = None
    for turn in range(20):
        ids = [rng.randbytes(16) for _ in range(4096)]
        offsets = array("q", range(turn * 4096, turn * 4096 + 4096))
        assert native.claim_many(b"".join(ids), slot, offsets) == b"\x01" * 4096
        alive = ids[-native.ids :]
        assert all(native.find(id) is not None for id in alive)
        assert sum(native.find(id) is not None for id in ids) == native.ids
        before = before or native.nbytes
        assert native.nbytes == before
    assert native.early_drops == 0


def test_ids_chosen_to_collide_drop_a_generation_early(rng: random.Random) -> None:
    """More ids with one home bucket than a chain of 64 buckets holds: bounded work, and the newest are remembered."""
    native = claims.ClaimTable(1200, secret=SECRET)
    slot = native.open_slot(1)
    filler = b"".join(rng.randbytes(16) for _ in range(1200))
    native.claim_many(filler, slot, array("q", range(1200)))  # the index has its final size
    colliding: list[bytes] = []
    while len(colliding) < 2000:
        id = rng.randbytes(16)
        if native.bucket(id) < 2:
            colliding.append(id)
    verdicts = native.claim_many(b"".join(colliding), slot, array("q", range(10_000, 12_000)))
    assert verdicts == b"\x01" * 2000
    assert native.early_drops > 0
    assert native.ids <= 1200
    assert all(native.find(id) is not None for id in colliding[-140:])


LAYOUTS = {
    ("UUID",): [struct.Struct("16s")],
    ("Nullable(UUID)",): [struct.Struct("16s")],
    ("String",): [None],
    ("LowCardinality(String)", "Int64"): [None, struct.Struct("<q")],
    ("Nullable(String)", "FixedString(3)", "Nullable(Int32)"): [None, struct.Struct("3s"), struct.Struct("<i")],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@parity
@given(data=st.data())
def test_restore_reads_every_layout(layout: tuple[str, ...], data: st.DataObject) -> None:
    native, twin = claims.ClaimTable(64, secret=SECRET), oracle.ClaimTable(64, secret=SECRET)
    slots = {1: native.open_slot(1), -3: native.open_slot(2)}
    assert slots == {1: twin.open_slot(1), -3: twin.open_slot(2)}
    rows = b""
    for _ in range(data.draw(st.integers(0, 20))):
        for text, width in zip(layout, LAYOUTS[layout], strict=True):
            null = "Nullable" in text and data.draw(st.booleans())
            rows += bytes([null]) if "Nullable" in text else b""
            size = width.size if width else data.draw(st.sampled_from([0, 1, 127, 128, 300]))
            value = random.Random(data.draw(st.integers(0, 3))).randbytes(size)
            rows += b"" if null else value if width else string(value)
        rows += struct.pack("<iq", data.draw(st.sampled_from([1, -3, 5])), data.draw(st.integers(0, 2**62)))
    domain = data.draw(st.sampled_from([b"", b"topic\ntable"]))
    assert native.restore(rows, layout, slots, domain) == twin.restore(rows, layout, slots, domain)
    assert native.ids == twin.ids
    if rows:
        with pytest.raises(ValueError, match="end inside a row"):
            native.restore(rows[:-1], layout, slots)
