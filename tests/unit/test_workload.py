"""Workloads: pure functions of (seed, partition, offset), whose duplicates and poison are what their fates say."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from pipeline.types import RejectCode
from pipeline.workload import NAMES, Generator, Mix, Outcome, shape
from pipeline.workload.make import (
    BLOCK_RECORDS,
    DUPLICATE_DISTANCE_MAX,
    DUPLICATE_LOOKS_MAX,
    START_MS,
    STEP_MS,
    Made,
)

EVERYTHING = Mix(duplicates=0.1, poison=0.1, late=0.1, unknown_version=0.1, tombstones=0.05, keys=True, headers=True)
SIZES = {
    "flat": (190, 215),
    "commerce": (650, 750),
    "logs": (1_400, 1_600),
    "wide": (1_800, 2_200),
    "nested": (1_800, 2_200),
}


def made(name: str, seed: int, mix: Mix = EVERYTHING, partition: int = 0, count: int = 3_000) -> list[Made]:
    return list(Generator(shape(name), seed, mix).records(partition, 0, count))


@pytest.mark.parametrize("name", NAMES)
def test_a_record_does_not_depend_on_how_it_was_asked_for(name: str) -> None:
    whole = made(name, 7, count=1_300)
    again = Generator(shape(name), 7, EVERYTHING)
    pieces = [again.record(0, offset) for offset in (1_299, 0, 1_023, 1_024, 1_025, 500)]
    assert pieces == [whole[offset] for offset in (1_299, 0, 1_023, 1_024, 1_025, 500)]
    assert list(again.records(0, 1_000, 100)) == whole[1_000:1_100]


@pytest.mark.parametrize("name", NAMES)
def test_seed_and_partition_change_everything(name: str) -> None:
    first = {record.value for record in made(name, 1, Mix(), count=50)}
    assert first.isdisjoint(record.value for record in made(name, 2, Mix(), count=50))
    assert first.isdisjoint(record.value for record in made(name, 1, Mix(), partition=1, count=50))


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_unique_but_for_duplicates(name: str) -> None:
    records = made(name, 3)
    originals = [record.key for record in records if record.fate.outcome is not Outcome.DUPLICATE]
    assert len(set(originals)) == len(originals)
    assert all(
        re.fullmatch(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}", key or b"")
        for key in originals
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_duplicate_repeats_the_bytes_of_a_row_not_far_before_it(name: str) -> None:
    records = made(name, 4)
    duplicates = [(offset, record) for offset, record in enumerate(records) if record.fate.outcome is Outcome.DUPLICATE]
    assert duplicates
    for offset, duplicate in duplicates:
        origin = records[duplicate.fate.origin]
        assert 0 < offset - duplicate.fate.origin <= DUPLICATE_DISTANCE_MAX + DUPLICATE_LOOKS_MAX
        assert origin.fate.outcome is Outcome.ROW
        assert (duplicate.key, duplicate.value, duplicate.headers) == (origin.key, origin.value, origin.headers)


def test_shares_are_kept() -> None:
    kinds = Counter(record.fate.kind or "row" for record in made("flat", 5, count=20_000))
    poisons = {poison.name for poison in shape("flat").poisons}
    shares = {
        "duplicates": kinds["duplicate"],
        "poison": sum(kinds[name] for name in poisons),
        "late": kinds["late"],
        "version": kinds["unknown_version"],
        "tombstones": kinds["tombstone"],
    }
    expected = {"duplicates": 2_000, "poison": 2_000, "late": 2_000, "version": 2_000, "tombstones": 1_000}
    for name, count in expected.items():
        assert abs(shares[name] - count) < 5 * count**0.5, (name, shares)
    assert poisons <= kinds.keys()


def test_late_records_lie_hours_before_their_neighbours() -> None:
    for offset, record in enumerate(made("flat", 6)):
        behind_ms = START_MS + offset * STEP_MS - record.timestamp_ms
        assert (behind_ms >= 3_600_000) == (record.fate.kind == "late")
        assert behind_ms == 0 or record.fate.kind == "late"


def test_fates_are_the_same_without_the_values() -> None:
    generator = Generator(shape("commerce"), 8, EVERYTHING)
    records = made("commerce", 8, count=2 * BLOCK_RECORDS + 5)
    fates = generator.fates(0, 0, len(records))
    assert [index for index, record in enumerate(records) if record.fate.kind] == sorted(fates)
    assert all(records[index].fate == fate for index, fate in fates.items())
    assert generator.fates(0, 1_000, 100) == {i - 1_000: f for i, f in fates.items() if 1_000 <= i < 1_100}


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_as_announced(name: str) -> None:
    values = [record.value or b"" for record in made(name, 9, Mix(), count=1_000)]
    low, high = SIZES[name]
    assert low < sum(map(len, values)) / len(values) < high


@pytest.mark.parametrize("name", NAMES)
def test_poison_changes_the_value_and_names_a_reject(name: str) -> None:
    good = made(name, 10, Mix(), count=200)
    for poison in (*shape(name).poisons, shape(name).unknown_version):
        assert isinstance(poison.code, RejectCode)
        for record in good:
            assert poison.spoil(record.value or b"") != record.value, poison.name


def test_tags_name_the_member_of_the_union() -> None:
    generator = Generator(shape("commerce"), 11)
    for offset, record in enumerate(generator.records(2, 0, 300)):
        assert (record.value or b"").startswith(b'{"type":"%b"' % generator.tag(2, offset).encode())
    assert {generator.tag(2, offset) for offset in range(300)} == set(shape("commerce").tags)


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(ValueError, match=r"add up to 1\.200"):
        Mix(duplicates=0.6, poison=0.6).thresholds()
    with pytest.raises(ValueError, match="not between 0 and 1"):
        Mix(late=-0.1).thresholds()
    assert Generator(shape("flat"), 1, Mix(duplicates=1.0)).record(0, 5).fate.outcome is Outcome.ROW


def test_unknown_workload() -> None:
    with pytest.raises(KeyError):
        shape("wild")
