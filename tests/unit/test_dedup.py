"""The window: how long an id is remembered, by the records' own time, and what ends a reading does to claims."""

from __future__ import annotations

from array import array

import pytest

from pipeline.config.schema import Dedup as DedupConfig
from pipeline.dedup import GENERATIONS, Dedup, domain
from pipeline.types import Partition

HERE, THERE = Partition("t", 0), Partition("t", 1)
NEW, DUPLICATE = 1, 2


def made(**options: object) -> Dedup:
    dedup = Dedup(DedupConfig(key=["id"], window_s=3_600, ids_max=10_000, **options))  # type: ignore[arg-type]
    dedup.open(HERE)
    dedup.open(THERE)
    return dedup


def claim(dedup: Dedup, partition: Partition, offset: int, name: int = 7) -> int:
    assert dedup.claims is not None
    return dedup.claims.claim_many(name.to_bytes(16, "little"), dedup.slot(partition), array("q", [offset]))[0]


@pytest.mark.parametrize(("passed_s", "verdict"), [(0, DUPLICATE), (3_599, DUPLICATE), (3_600 * 2, NEW)])
def test_an_id_is_remembered_for_the_window_and_not_for_long_after(passed_s: int, verdict: int) -> None:
    dedup = made()
    start_ms = 1_700_000_000_000
    dedup.pass_time(array("q", [start_ms]))
    assert claim(dedup, HERE, 1) == NEW
    step_s = 3_600 // (GENERATIONS - 1) // 3
    for at_s in [*range(0, passed_s, step_s), passed_s]:
        dedup.pass_time(array("q", [start_ms + at_s * 1_000]))
    assert claim(dedup, HERE, 2) == verdict


def test_a_silence_longer_than_the_window_ends_it() -> None:
    dedup = made()
    dedup.pass_time(array("q", [1_700_000_000_000]))
    claim(dedup, HERE, 1)
    dedup.pass_time(array("q", [1_700_000_000_000 + 2 * 3_600_000]))
    assert claim(dedup, HERE, 2) == NEW


def test_a_silence_in_the_middle_of_a_run_does_not_end_what_came_after_it() -> None:
    dedup = made()
    before_ms = 1_700_000_000_000
    after_ms = before_ms + 2 * 3_600_000
    dedup.pass_time(array("q", [before_ms, before_ms, after_ms]))
    claim(dedup, HERE, 3)
    dedup.pass_time(array("q", [after_ms + 1_000]))
    assert claim(dedup, HERE, 4) == DUPLICATE


def test_a_few_records_of_the_far_future_do_not_empty_the_window() -> None:
    dedup = made()
    now_ms = 1_700_000_000_000
    dedup.pass_time(array("q", [now_ms]))
    claim(dedup, HERE, 1)
    for _ in range(GENERATIONS):
        dedup.pass_time(array("q", [now_ms] * 9 + [now_ms * 2]))
    assert claim(dedup, HERE, 2) == DUPLICATE


def test_records_without_a_time_move_nothing() -> None:
    dedup = made()
    claim(dedup, HERE, 1)
    for _ in range(GENERATIONS * 2):
        dedup.pass_time(array("q", [-1, -1]))
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
