"""verify without servers: windows over gaps, letters, the account of a run, the oracle, the report."""

from __future__ import annotations

import itertools
import random
from array import array
from collections import Counter
from collections.abc import Iterable

import pytest

from pipeline.types import Headers, Partition
from pipeline.verify import Reach, Report, account
from pipeline.verify import letters as dead_letters
from pipeline.verify.account import _Window
from pipeline.verify.oracle import Oracle
from pipeline.verify.stored import NOTHING, Stored
from pipeline.workload import Generator, Mix, Outcome, shape

P = Partition("t", 1)


class Run:
    """Records as a list of offsets."""

    def __init__(self, offsets: Iterable[int]) -> None:
        self.partition = P
        self.offsets = array("q", offsets)
        self.timestamps = array("q", [0] * len(self.offsets))
        self.values: list[bytes | None] = [b"x"] * len(self.offsets)
        self.next_offset = self.offsets[-1] + 1
        self.nbytes = len(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets)

    def value(self, index: int) -> bytes | None:
        return self.values[index]

    def key(self, index: int) -> bytes | None:
        return None

    def headers(self, index: int) -> Headers:
        return ()


class MemoryTables:
    """Target tables as a list of the offsets of their rows."""

    def __init__(self, rows: Iterable[int]) -> None:
        self.rows = sorted(rows)
        self.asked: list[tuple[int, int]] = []

    def stored(self, partition: Partition, first: int, next_: int) -> Stored:
        self.asked.append((first, next_))
        inside = [offset for offset in self.rows if first <= offset < next_]
        counts = {offset: inside.count(offset) for offset in set(inside)}
        return Stored(frozenset(counts), {offset: count for offset, count in counts.items() if count > 1})


def test_windows_cover_every_record_once_whatever_the_gaps(rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(200):
        account_window = rng.choice([1, 2, 3, 7, 50])
        monkeypatch.setattr(account, "WINDOW_OFFSETS", account_window)
        offsets = sorted(rng.sample(range(10, 400), rng.randint(1, 120)))
        end = offsets[-1] + 1 + rng.randint(0, 5)
        tables = MemoryTables(rng.sample(offsets, len(offsets) // 2))
        window = _Window(tables, dead_letters.of([]), P, 10, end)  # type: ignore[arg-type]
        seen: list[int] = []
        cuts = sorted({0, len(offsets), *(rng.randint(0, len(offsets)) for _ in range(4))})
        for start, stop in itertools.pairwise(cuts):
            run = Run(offsets[start:stop])
            for first, cut in window.pieces(run, 0, len(run)):
                piece = run.offsets[first:cut]
                seen += piece
                assert {o for o in piece if o in tables.rows} == window.stored.offsets & set(piece)
        assert seen == offsets
        assert window.position == offsets[-1] + 1
        assert all(next_ - first <= account_window and next_ <= end for first, next_ in tables.asked)


def test_letters_between_and_repeated() -> None:
    other = Partition("t", 2)
    letters = dead_letters.of([(P, 5), (P, 3), (P, 5), (P, 9), (P, 5), (other, 5)])
    assert letters.between(P, 3, 9) == Stored(frozenset({3, 5}), {5: 3})
    assert letters.between(P, 0, 3) == NOTHING
    assert letters.between(Partition("t", 7), 0, 99) == NOTHING
    assert letters.between(P, 6, 99) == Stored(frozenset({9}), {})
    assert letters.between(other, 0, 99) == Stored(frozenset({5}), {})


@pytest.mark.parametrize("letters_max", [7, 8, 50, 10_000])
def test_letters_are_read_again_when_there_is_no_room_for_all(
    letters_max: int, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "LETTERS_MAX", letters_max)
    places = [(Partition("t", rng.randrange(3)), rng.randrange(300)) for _ in range(900)]
    letters = dead_letters.of(places)
    held = 0
    for number in range(3):
        partition = Partition("t", number)
        for first in range(0, 300, 7):
            due = Counter(offset for where, offset in places if where == partition and first <= offset < first + 7)
            several = {offset: count for offset, count in due.items() if count > 1}
            assert letters.between(partition, first, first + 7) == Stored(frozenset(due), several)
            held = max(held, letters.held)
    assert held <= letters_max
    distinct = len(set(places))
    assert letters.passes == 1 if letters_max > distinct else letters.passes >= distinct // letters_max


def checked(rows: Iterable[int], lettered: Iterable[int], *, low: int = 0, count: int = 3_000) -> tuple[Report, Oracle]:
    oracle = Oracle("t", generator())
    report = Report()
    letters = dead_letters.of((P, offset) for offset in lettered)
    oracle.check([Reach(P, 0, low, count, count)], MemoryTables(rows), letters, report)  # type: ignore[arg-type]
    return report, oracle


def generator() -> Generator:
    return Generator(shape("flat"), 9, Mix(duplicates=0.1, poison=0.05, tombstones=0.05, late=0.02))


def due(outcome: Outcome, count: int = 3_000) -> list[int]:
    return [offset for offset, made in enumerate(generator().records(1, 0, count)) if made.fate.outcome is outcome]


def test_the_oracle_agrees_with_what_it_made() -> None:
    report, oracle = checked(due(Outcome.ROW), due(Outcome.LETTER))
    assert report.ok
    assert oracle.offsets == 3_000
    assert oracle.unique == 3_000 - len(due(Outcome.DUPLICATE))
    assert oracle.expected == {outcome: len(due(outcome)) for outcome in Outcome}
    assert sum(oracle.unreadable.values()) == 0


def test_the_oracle_finds_what_kafka_no_longer_tells() -> None:
    rows, lettered, copies = due(Outcome.ROW), due(Outcome.LETTER), due(Outcome.DUPLICATE)
    report, oracle = checked([*rows[1:], rows[7], copies[0]], lettered[1:], low=3_000)
    assert (report.missing, report.doubled, report.unexpected) == (2, 2, 0)
    whys = {one.offset: one.why for found in report.examples.values() for one in found}
    assert whys.keys() == {rows[0], rows[7], copies[0], lettered[0]}
    assert "repeats offset" in whys[copies[0]]
    assert sum(oracle.unreadable.values()) == 3_000


def test_what_kafka_still_tells_is_only_unexpected() -> None:
    rows, lettered = due(Outcome.ROW), due(Outcome.LETTER)
    report, _ = checked(rows[1:], [*lettered, rows[5]])
    assert (report.missing, report.doubled, report.unexpected) == (0, 0, 2)
    assert not report.ok


def test_a_report_lists_a_bounded_number_of_faults() -> None:
    report = Report(examples_max=3)
    for offset in range(10):
        report.fault("missing", "t", 0, offset, "no row")
    report.fault("doubled", "t", 1, 5, "2 rows")
    lines = "\n".join(report.lines())
    assert "missing: t/0 offset 2: no row" in lines
    assert "missing: and 7 more" in lines
    assert "doubled: t/1 offset 5: 2 rows" in lines
    found = report.as_json()
    assert (found["missing"], found["doubled"], found["ok"]) == (10, 1, False)
    assert len(found["examples"]["missing"]) == 3
