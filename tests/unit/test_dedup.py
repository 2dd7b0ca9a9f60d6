"""The window: how long an id is remembered, by the records' own time, and what ends a reading does to claims."""

from __future__ import annotations

import struct
import uuid
from array import array
from collections.abc import Callable

import pytest

from pipeline.config.schema import Dedup as DedupConfig
from pipeline.dedup import GENERATIONS, Dedup, domain
from pipeline.types import Partition

HERE, THERE = Partition("t", 0), Partition("t", 1)
NEW, DUPLICATE = 1, 2
START_MS = 1_700_000_000_000
WINDOW_MS = 3_600_000


def made(**options: object) -> Dedup:
    dedup = Dedup(DedupConfig(key=["id"], window_s=3_600, ids_max=10_000, **options))  # type: ignore[arg-type]
    dedup.open(HERE)
    dedup.open(THERE)
    dedup.rest(THERE)
    return dedup


def claim(dedup: Dedup, partition: Partition, offset: int, name: int = 7) -> int:
    assert dedup.claims is not None
    return dedup.claims.claim_many(name.to_bytes(16, "little"), dedup.slot(partition), array("q", [offset]))[0]


@pytest.mark.parametrize(("passed_s", "verdict"), [(0, DUPLICATE), (3_599, DUPLICATE), (3_600 * 2, NEW)])
def test_an_id_is_remembered_for_the_window_and_not_for_long_after(passed_s: int, verdict: int) -> None:
    dedup = made()
    start_ms = 1_700_000_000_000
    dedup.pass_time(HERE, array("q", [start_ms]))
    assert claim(dedup, HERE, 1) == NEW
    step_s = 3_600 // (GENERATIONS - 1) // 3
    for at_s in [*range(0, passed_s, step_s), passed_s]:
        dedup.pass_time(HERE, array("q", [start_ms + at_s * 1_000]))
    assert claim(dedup, HERE, 2) == verdict


def test_a_silence_longer_than_the_window_ends_it() -> None:
    dedup = made()
    dedup.pass_time(HERE, array("q", [START_MS]))
    claim(dedup, HERE, 1)
    dedup.rest(HERE)
    dedup.pass_time(HERE, array("q", [START_MS + 2 * WINDOW_MS]))
    assert claim(dedup, HERE, 2) == NEW


@pytest.mark.parametrize("ahead_s", [600, 36_000])
def test_a_partition_that_lags_has_the_whole_window_of_its_own_time(ahead_s: int) -> None:
    """However far another one is ahead, and also what the one ahead holds is kept meanwhile."""
    dedup = made()
    claim(dedup, HERE, 1, name=1)
    for at_s in range(0, ahead_s + 3_600, 200):
        dedup.pass_time(HERE, array("q", [START_MS + min(at_s, 3_500) * 1000]))
        dedup.pass_time(THERE, array("q", [START_MS + at_s * 1000]))
    claim(dedup, THERE, 1, name=2)
    assert claim(dedup, HERE, 2, name=1) == DUPLICATE
    for at_s in range(3_600, ahead_s + 3_600, 200):
        dedup.pass_time(HERE, array("q", [START_MS + at_s * 1000]))
    dedup.pass_time(THERE, array("q", [START_MS + (ahead_s + 7_000) * 1000]))
    assert claim(dedup, THERE, 2, name=2) == DUPLICATE


def test_a_run_that_spans_more_than_the_window_does_not_end_it_for_its_own_first_records() -> None:
    dedup = made()
    dedup.pass_time(HERE, array("q", [START_MS]))
    claim(dedup, HERE, 1)
    dedup.pass_time(HERE, array("q", range(START_MS, START_MS + 10 * WINDOW_MS, 60_000)))
    assert claim(dedup, HERE, 2) == DUPLICATE
    dedup.pass_time(HERE, array("q", [START_MS + 11 * WINDOW_MS]))
    dedup.pass_time(HERE, array("q", [START_MS + 11 * WINDOW_MS]))
    assert claim(dedup, HERE, 3) == NEW


@pytest.mark.parametrize("leave", [Dedup.rest, lambda dedup, partition: dedup.freeze(partition, 100)])
def test_the_window_does_not_wait_for_a_partition_at_its_end_or_gone(leave: Callable[[Dedup, Partition], None]) -> None:
    dedup = made()
    claim(dedup, THERE, 1)
    dedup.pass_time(HERE, array("q", [START_MS]))
    leave(dedup, HERE)
    for at_s in range(0, 2 * 3_600 + 1_200, 200):
        dedup.pass_time(THERE, array("q", [START_MS + at_s * 1000]))
    assert claim(dedup, THERE, 2) == NEW


def test_a_partition_that_is_read_again_is_waited_for() -> None:
    dedup = made()
    claim(dedup, HERE, 1)
    dedup.pass_time(HERE, array("q", [START_MS]))
    dedup.reopen(HERE, 2)
    for at_s in range(0, 3 * 3_600, 200):
        dedup.pass_time(THERE, array("q", [START_MS + at_s * 1000]))
    dedup.pass_time(HERE, array("q", [START_MS + 3_000_000]))
    assert claim(dedup, HERE, 2) == DUPLICATE


def test_a_partition_whose_leader_was_away_has_its_window() -> None:
    dedup = made()
    claim(dedup, HERE, 1)
    dedup.pass_time(HERE, array("q", [START_MS]))
    dedup.rest(HERE)
    for at_s in range(0, 3_700, 50):
        dedup.pass_time(THERE, array("q", [START_MS + at_s * 1000]))
    dedup.pass_time(HERE, array("q", [START_MS + 3_590_000]))
    assert claim(dedup, HERE, 2) == DUPLICATE


@pytest.mark.parametrize("first", [HERE, THERE])
def test_claims_read_back_outlast_a_window_that_was_silent(first: Partition) -> None:
    """Whichever partition is read first after it."""
    dedup = made()
    dedup.pass_time(THERE, array("q", [START_MS]))
    dedup.rest(THERE)
    row = (7).to_bytes(16, "little") + (0).to_bytes(4, "little") + (5).to_bytes(8, "little")
    assert dedup.restore(row, ["UUID"], HERE, b"") == 1
    for partition in [first, HERE, THERE, HERE]:
        dedup.pass_time(partition, array("q", [START_MS + 2 * WINDOW_MS]))
    assert dedup.claims is not None
    for at_s in range(2 * 3_600, 3 * 3_600, 200):
        dedup.pass_time(HERE, array("q", [START_MS + at_s * 1000]))
        dedup.rest(THERE)
    assert sum(dedup.claims.generations) == 1
    for at_s in range(3 * 3_600, 4 * 3_600 + 1_000, 200):
        dedup.pass_time(HERE, array("q", [START_MS + at_s * 1000]))
    assert sum(dedup.claims.generations) == 0


@pytest.mark.parametrize("before", [Dedup.rest, lambda dedup, partition: dedup.reopen(partition, 6), None])
def test_claims_read_back_are_kept_while_another_partition_catches_up_from_far_behind(
    before: Callable[[Dedup, Partition], None] | None,
) -> None:
    """Their partition is at its end, or read anew, before its first record comes (found by the fault suite)."""
    dedup = made()
    row = (7).to_bytes(16, "little") + (0).to_bytes(4, "little") + (5).to_bytes(8, "little")
    dedup.held_until(START_MS + 20 * WINDOW_MS)
    dedup.restore(row, ["UUID"], HERE, b"")
    dedup.settle(HERE, 6)
    dedup.pass_time(THERE, array("q", [START_MS]))
    if before is not None:
        before(dedup, HERE)
    for at_s in range(0, 20 * 3_600, 200):
        dedup.pass_time(THERE, array("q", [START_MS + at_s * 1000]))
    dedup.pass_time(HERE, array("q", [START_MS + 20 * WINDOW_MS + 1_000]))
    assert claim(dedup, HERE, 6) == DUPLICATE


@pytest.mark.parametrize("size", [1, 500])
def test_claims_of_a_batch_that_recovery_read_are_of_the_time_of_its_records(size: int) -> None:
    dedup = made()
    dedup.held_of(array("q", [START_MS + 20 * WINDOW_MS] * size))
    claim(dedup, HERE, 5)
    for at_s in range(0, 20 * 3_600, 200):
        dedup.pass_time(THERE, array("q", [START_MS + at_s * 1000]))
    dedup.pass_time(HERE, array("q", [START_MS + 20 * WINDOW_MS + 1_000]))
    assert claim(dedup, HERE, 6) == DUPLICATE


def test_generations_that_the_full_table_ended_are_known() -> None:
    dedup = Dedup(DedupConfig(key=["id"], window_s=3_600, ids_max=80))
    dedup.open(HERE)
    for number in range(400):
        dedup.pass_time(HERE, array("q", [START_MS + number * 100_000]))
        claim(dedup, HERE, number, name=number)
        held = [
            claim(dedup, HERE, 1_000 + number, name=earlier) == DUPLICATE
            for earlier in range(max(0, number - 5), number)
        ]
        assert all(held), number


def test_a_partition_that_catches_up_takes_the_window_of_the_others_only_when_the_table_is_full() -> None:
    """Its old ids ended generations, and each took the place of one of the window (found by the fault suite)."""
    dedup = made()
    for at_s in range(0, 3_500, 100):
        dedup.pass_time(HERE, array("q", [START_MS + at_s * 1000]))
        claim(dedup, HERE, at_s, name=at_s)
    assert dedup.claims is not None
    for number in range(9_000):
        if number % 1_000 == 0:
            dedup.pass_time(THERE, array("q", [START_MS - 80_000_000 + number]))
        claim(dedup, THERE, number, name=1_000_000 + number)
    dedup.pass_time(HERE, array("q", [START_MS + 3_500_000]))
    assert all(claim(dedup, HERE, 9_000, name=at_s) == DUPLICATE for at_s in range(0, 3_500, 100))
    assert claim(dedup, THERE, 9_001, name=1_000_000) == DUPLICATE
    for number in range(2_000):
        claim(dedup, THERE, 9_000 + number, name=2_000_000 + number)
    assert dedup.claims.ids <= 10_000
    assert claim(dedup, HERE, 9_001, name=0) == NEW
    dedup.pass_time(HERE, array("q", [START_MS + 3_500_000]))
    assert len(dedup._ends_ms) == dedup.claims.ended


def test_a_few_records_of_the_far_future_do_not_empty_the_window() -> None:
    dedup = made()
    now_ms = 1_700_000_000_000
    dedup.pass_time(HERE, array("q", [now_ms]))
    claim(dedup, HERE, 1)
    for _ in range(GENERATIONS):
        dedup.pass_time(HERE, array("q", [now_ms] * 9 + [now_ms * 2]))
    assert claim(dedup, HERE, 2) == DUPLICATE


def test_records_without_a_time_move_nothing() -> None:
    dedup = made()
    claim(dedup, HERE, 1)
    for _ in range(GENERATIONS * 2):
        dedup.pass_time(HERE, array("q", [-1, -1]))
    assert claim(dedup, HERE, 2) == DUPLICATE


def test_the_same_record_read_again_is_not_its_own_duplicate() -> None:
    dedup = made()
    assert claim(dedup, HERE, 5) == NEW
    dedup.reopen(HERE, 3)
    assert claim(dedup, HERE, 5) == NEW


def test_a_claim_beyond_what_is_durable_is_void_when_its_partition_goes() -> None:
    dedup = made()
    assert claim(dedup, HERE, 5) == NEW
    dedup.freeze(HERE, 5)
    assert claim(dedup, THERE, 9) == NEW
    assert claim(dedup, THERE, 10) == DUPLICATE


def test_a_row_read_back_takes_the_claim_over_from_a_record_that_may_yet_be_dropped() -> None:
    """A copy of it was read first, in a partition that goes before its batch is written (found by the simulation)."""
    dedup = Dedup(DedupConfig(key=["id"], window_s=3_600, ids_max=10_000))
    dedup.open(THERE)
    dedup.open(HERE)
    assert dedup.claims is not None
    other = uuid.uuid4().bytes
    assert dedup.claims.claim_many(other, dedup.slot(THERE), array("q", [2]))[0] == NEW
    dedup.restore(other + struct.pack("<iq", HERE.number, 7), ["UUID"], HERE, b"")
    dedup.freeze(THERE, 0)
    assert dedup.claims.claim_many(other, dedup.slot(HERE), array("q", [16]))[0] == DUPLICATE


def test_a_claim_of_a_durable_record_stays_when_its_partition_goes() -> None:
    dedup = made()
    assert claim(dedup, HERE, 5) == NEW
    dedup.freeze(HERE, 6)
    assert claim(dedup, THERE, 9) == DUPLICATE


def test_a_stale_claim_does_not_come_back_to_life_with_its_partition() -> None:
    dedup = made()
    assert claim(dedup, HERE, 50) == NEW
    dedup.freeze(HERE, 10)
    dedup.open(HERE)
    assert claim(dedup, THERE, 9) == NEW


def test_domains_tell_topics_and_tables_apart() -> None:
    assert len({domain("a", "t"), domain("b", "t"), domain("a", "u")}) == 3


def test_ids_that_were_dropped_for_want_of_room_are_counted_and_those_the_window_has_passed_are_not() -> None:
    dedup = Dedup(DedupConfig(key=["id"], window_s=3_600, ids_max=80))
    dedup.open(HERE)
    dedup.pass_time(HERE, array("q", [START_MS]))
    for offset in range(80):
        claim(dedup, HERE, offset, name=offset)
    assert dedup.ids_cut() == 0
    for offset in range(80, 100):
        claim(dedup, HERE, offset, name=offset)
    cut = dedup.ids_cut()
    assert 20 <= cut < 80
    for passed in range(1, 5):
        dedup.pass_time(HERE, array("q", [START_MS + passed * 3 * WINDOW_MS]))
    assert dedup.claims is not None
    assert dedup.claims.ids_dropped == 100 > cut
    assert dedup.ids_cut() == 0
