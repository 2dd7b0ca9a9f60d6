"""Recovery and the claims: what it does to partitions that are being read already."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.batch import TableBlock
from pipeline.beyond import PAGE_OFFSETS, Ahead, Beyond
from pipeline.clock import ManualClock
from pipeline.commands import Assigned, Prepare
from pipeline.config.schema import Dedup as DedupConfig
from pipeline.dedup import OFFSET_MAX, Dedup
from pipeline.intent import Intent
from pipeline.lane import Ranges
from pipeline.recovery import Recovery
from pipeline.types import Partition, Span
from pipeline.window import TIME_MAX, Window, in_order

NEW = 1
A, B, C, D = (Partition("t", number) for number in range(4))


class Finished(Recovery):
    """Recovery of which only the claims are looked at: every batch is finished already, no row is stored beyond."""

    def __init__(self, dedup: Dedup) -> None:
        nothing = cast("Any", None)
        super().__init__({}, dedup, NoWindow(), nothing, nothing, None, nothing, nothing, ManualClock(), lambda: None)  # type: ignore[arg-type]

    def _finish(self, intent: Intent) -> int:
        assert all(self._dedup.reads(span.partition) for span in intent.spans)
        return 0

    def _stored_beyond(self, positions: Any) -> dict[Any, Any]:
        return {}


class NoWindow:
    def __init__(self) -> None:
        self.reaches: list[Span] = []
        self.batches: list[Sequence[Span]] = []
        self.claimed: list[Span] = []
        self.after_ms: list[int] = []

    def has_ids(self, topic: str) -> bool:
        return True

    def claim_stored(self, topic: str, spans: Sequence[Span], after_ms: int) -> Ahead:
        """Offsets are a millisecond apart, and a window holds half a page. D has rows up to the offset 1,200,000."""
        self.claimed += spans
        self.after_ms.append(after_ms)
        until_ms = spans[-1].next + PAGE_OFFSETS // 2
        return Ahead(until_ms, OFFSET_MAX if until_ms > 1_200_000 else 0)

    def rebuild(self, reaches: Iterable[Span], batches: Iterable[Sequence[Span]]) -> int:
        self.reaches, self.batches = list(reaches), list(batches)
        return 0

    def check_origin(self, stored: Any) -> None:
        pass


def identity_of(dedup: Dedup, partition: Partition) -> int:
    """Claims an id as the partition's next record would, and says who the claim table thinks it was."""
    assert dedup.claims is not None
    key = bytes([partition.number]) * 16
    dedup.claims.claim_many(key, dedup.slot(partition), array("q", [1]))
    found = dedup.claims.find(key)
    assert found is not None
    assert not found[2]
    return found[0]


def claimed(dedup: Dedup, partition: Partition, offset: int, id_of: tuple[Partition, int] | None = None) -> bool:
    """Claims the id of a record of its own, or that of another, of which it is a copy. False: it is a duplicate."""
    assert dedup.claims is not None
    (_, number), original = id_of or (partition, offset)
    key = bytes([number, original]) * 8
    return bool(dedup.claims.claim_many(key, dedup.slot(partition), array("q", [offset]))[0] == NEW)


def test_a_partition_that_is_read_keeps_its_claims_when_a_batch_of_it_comes_with_another_partition() -> None:
    """The batch of a dead worker spans A, taken over now, and B, which moved here before."""
    dedup = Dedup(DedupConfig(key=["id"], ids_max=10_000))
    recovery = Finished(dedup)
    recovery.prepare(Prepare({C: Assigned(1, 0, "")}, ()))
    recovery.prepare(Prepare({B: Assigned(2, 0, "")}, ()))
    before = dedup.slot(B)
    spans = (Span(A, 0, 10), Span(B, 0, 10))
    recovery.prepare(Prepare({A: Assigned(3, 0, "")}, (Intent(spans, 1, bytes(8)),)))
    assert dedup.slot(B) == before
    assert len({identity_of(dedup, partition) for partition in (A, B, C)}) == 3


def test_a_partition_of_somebody_else_is_closed_again_after_its_batch() -> None:
    dedup = Dedup(DedupConfig(key=["id"], ids_max=10_000))
    recovery = Finished(dedup)
    spans = (Span(A, 0, 10), Span(B, 0, 10))
    recovery.prepare(Prepare({A: Assigned(3, 0, "")}, (Intent(spans, 1, bytes(8)),)))
    assert dedup.reads(A)
    assert not dedup.reads(B)


def test_claims_of_what_was_recovered_outlive_a_partition_that_went_before_it_was_ready() -> None:
    """The engine knows only what was committed; copies elsewhere gave way to the batch that recovery has finished since."""
    dedup = Dedup(DedupConfig(key=["id"], ids_max=10_000))
    recovery = Finished(dedup)
    recovery.prepare(Prepare({A: Assigned(1, 0, ""), B: Assigned(2, 3, "")}, (Intent((Span(B, 3, 6),), 1, bytes(8)),)))
    assert [claimed(dedup, B, offset) for offset in (5, 6)] == [True, True]
    dedup.freeze(B, 3)
    assert not claimed(dedup, A, 7, id_of=(B, 5))
    assert claimed(dedup, A, 8, id_of=(B, 6))


def test_the_window_reaches_over_what_was_finished_between_two_declared_batches() -> None:
    """B's batch from 6 to 9 is finished, and no metadata names it any more; the batch behind it holds copies of its records."""
    dedup = Dedup(DedupConfig(key=["id"], ids_max=10_000))
    recovery = Finished(dedup)
    batches = (Span(A, 0, 2), Span(B, 3, 6)), (Span(A, 2, 4), Span(B, 9, 12))
    intents = tuple(Intent(spans, number, bytes(8)) for number, spans in enumerate(batches))
    recovery.prepare(Prepare({A: Assigned(1, 0, "")}, intents))
    window = cast("NoWindow", recovery._window)
    assert sorted(window.reaches) == [Span(A, 0, 2), Span(B, 3, 9)]
    assert window.batches == list(batches)


def test_what_is_read_for_the_window_is_read_in_the_order_of_the_batches() -> None:
    """A later batch has dropped copies for the sake of an earlier one, also in a partition that is read first."""
    batches = (
        [Span(B, 6, 8), Span(C, 0, 2)],
        [Span(A, 2, 4), Span(B, 9, 12)],
        [Span(A, 4, 6), Span(D, 1, 2)],  # A's is where reading begins; nothing is asked for D.
    )
    asked = [Span(A, 0, 5), Span(B, 3, 10), Span(C, 0, 7)]
    assert list(in_order(asked, batches)) == [
        [Span(B, 3, 6)],
        [Span(B, 6, 8), Span(C, 0, 2)],
        [Span(A, 0, 2), Span(B, 8, 9)],
        [Span(A, 2, 4), Span(B, 9, 10)],
        [Span(A, 4, 5)],
        [Span(C, 2, 7)],
    ]
    assert list(in_order(asked, ())) == [asked]


def test_the_claims_of_a_partition_that_is_read_go_back_to_the_window_before_an_older_batch() -> None:
    """Its reading began at 500, and knew what is in the window before that: copies in the batch are of earlier records."""
    dedup = Dedup(DedupConfig(key=["id"], ids_max=10_000))
    recovery = Finished(dedup)
    recovery.prepare(Prepare({B: Assigned(1, 500, "")}, ()))
    dedup.pass_time(B, array("q", [1_700_000_000_000]))
    batches = (Span(A, 0, 2), Span(B, 100, 120)), (Span(A, 2, 4), Span(B, 120, 140))
    intents = tuple(Intent(spans, number, bytes(8)) for number, spans in enumerate(batches))
    recovery.prepare(Prepare({A: Assigned(2, 0, "")}, intents))
    window = cast("NoWindow", recovery._window)
    assert sorted(window.reaches) == [Span(A, 0, 2), Span(B, 100, 120)]
    assert dedup.reads(B)
    dedup.restore(bytes(16) + bytes(12), ["UUID"], B, b"")
    assert not dedup._awaited.get(B), "it waits for no record: it may be at its end"


class Stored:
    """A sink that has the rows of three records."""

    def stored(self, table: str, spans: Any) -> dict[Partition, list[tuple[int, int]]]:
        return {A: [(10, 11)], B: [(4, 6)]}


class Rows:
    def lineage(self) -> Any:
        return ["t"], [0, 0, 0], [0, 0, 1], [10, 11, 5]


def test_a_row_is_missing_though_as_many_others_are_stored() -> None:
    """The batch was written under another contract, and the record of B at 4 has left the topic since."""
    nothing = cast("Any", None)
    recovery = Recovery({}, nothing, nothing, cast("Any", Stored()), nothing, None, nothing, nothing, nothing, nothing)
    block = TableBlock("t", "x", (), cast("Any", Rows()))
    assert recovery._missing((Span(A, 10, 12), Span(B, 4, 6)), [block]) == 1


class Letters:
    def __init__(self) -> None:
        self.searches = 0

    def written(self, spans: Any, since_ms: int) -> dict[tuple[Partition, int], str]:
        assert since_ms == 0
        self.searches += 1
        return {(A, 7): "insert", (C, 3): "decode"}


class Table:
    """A sink with one table, which has rows of A at 5 to 8, and of D at 2 and from 1,000,000 to 1,200,000."""

    rows = ((A, 5, 9), (D, 2, 3), (D, 1_000_000, 1_200_001))

    def __init__(self) -> None:
        self.asked: list[Span] = []

    def has_lineage(self, table: str) -> bool:
        return True

    def extents(self, table: str, spans: Sequence[Span]) -> dict[Partition, tuple[int, int]]:
        found: dict[Partition, tuple[int, int]] = {}
        for partition, ranges in self._inside(spans).items():
            found[partition] = ranges[0][0], ranges[-1][1]
        return found

    def stored(self, table: str, spans: Sequence[Span]) -> dict[Partition, list[tuple[int, int]]]:
        self.asked += spans
        return self._inside(spans)

    def _inside(self, spans: Sequence[Span]) -> dict[Partition, list[tuple[int, int]]]:
        found: dict[Partition, list[tuple[int, int]]] = {}
        for partition, first, next_ in self.rows:
            for span in spans:
                low, high = max(first, span.first), min(next_, span.next)
                if span.partition == partition and low < high:
                    found.setdefault(partition, []).append((low, high))
        return found


class Reading(Recovery):
    """Recovery of which only the look beyond the positions is of interest."""

    def __init__(self, letters: Letters, table: Table) -> None:
        nothing = cast("Any", None)
        sink, window = cast("Any", table), cast("Any", NoWindow())
        dedup = Dedup(DedupConfig(key=["id"], ids_max=10_000))
        super().__init__(
            {}, dedup, window, sink, nothing, cast("Any", letters), nothing, nothing, nothing, lambda: None
        )

    def _tables(self, spans: Sequence[Span]) -> list[str]:
        return ["x"] if spans else []


def test_letters_are_looked_for_where_rows_beyond_the_position_are_stored() -> None:
    """Offsets were set back or lost."""
    letters = Letters()
    beyond = Reading(letters, Table())._stored_beyond({A: 0, B: 0, C: 0})
    assert {partition: one.end for partition, one in beyond.items()} == {A: 9, C: 4}
    left_out = beyond[A].left_out(0, 8)
    assert left_out is not None
    assert left_out.written == left_out.rejected == {7}
    assert beyond[C].left_out(4, 9) is None
    assert Reading(letters, Table())._stored_beyond({A: 9, B: 0}) == {}
    assert letters.searches == 1


def test_what_is_stored_beyond_the_position_is_asked_for_page_by_page() -> None:
    """All of it in one question took longer than a question may, again and again: the worker never read on."""
    table = Table()
    reading = Reading(Letters(), table)
    beyond = reading._stored_beyond({D: 1})[D]
    assert table.asked == []
    found = [offset for first in range(1, 1_300_000, 900) for offset in stored_in(beyond, first, first + 900)]
    assert found == [2, *range(1_000_000, 1_200_001)]
    assert all(span.next - span.first == PAGE_OFFSETS for span in table.asked)
    assert len(table.asked) == 7
    # What is stored is claimed for a window in advance, behind a page from the time on that the page before has come to.
    window = cast("NoWindow", reading._window)
    assert window.claimed == table.asked[:-1], "the last page was claimed before"
    assert window.after_ms == [0, *(span.next + PAGE_OFFSETS // 2 for span in window.claimed[:-1])]
    # Read again from before the page, as after a rebalance of other partitions.
    assert stored_in(beyond, 999_999, 1_000_001) == [1_000_000]


def stored_in(beyond: Beyond, first: int, next_: int) -> list[int]:
    left_out = beyond.left_out(first, next_)
    return [] if left_out is None else [offset for offset in range(first, next_) if offset in left_out.stored]


SOME_MS = 1_700_000_000_000
"""A record time."""


class TwoTables(Window):
    """Their first rows behind a page, and the latest, are of these record times; the second has a row at these offsets."""

    def __init__(self, times_ms: dict[str, tuple[int, int]], offsets: Sequence[int] = (), ids_max: int = 1_000) -> None:
        self._config = DedupConfig(key=["id"], window_s=60, ids_max=ids_max)
        self._dedup = Dedup(self._config)
        columns = [SimpleNamespace(name="id", type="UUID")]
        targets = {name: SimpleNamespace(table=name, key_columns=("id",), columns=columns) for name in times_ms}
        self._contracts = {"t": cast("Any", SimpleNamespace(tables=targets))}
        self.times_ms = times_ms
        self.offsets = offsets
        self.asked: list[str] = []

    def _ask(self, doing: str, sql: str) -> Sequence[Sequence[Any]]:
        return [(A.number, *times_ms) for name, times_ms in self.times_ms.items() if f"`{name}`" in sql]

    def _ids_of(self, target: Any, sql: str) -> bytes:
        self.asked.append(sql)
        offsets = self.offsets if target.table == "b" else ()
        return b"".join(struct.pack("<qqiq", offset, 0, A.number, offset) for offset in offsets)


def test_rows_of_a_union_are_claimed_up_to_one_record_time() -> None:
    """Also of a table whose own first row is later, or whose rows are all within the window."""
    late, far = SOME_MS + 5_000, SOME_MS + 100_000
    for b_ms in ((late, far), (late, late), (0, late)):
        window = TwoTables({"a": (SOME_MS, far), "b": b_ms})
        assert window.claim_stored("t", [Span(A, 0, 100)], 7) == Ahead(SOME_MS + 60_000)
        assert len(window.asked) == 2
        assert all("> 7 AND " in sql and f"<= {SOME_MS + 60_000})" in sql for sql in window.asked)


@pytest.mark.parametrize("b_ms", [(SOME_MS, SOME_MS + 60_000), (0, SOME_MS), (0, 0)])
def test_what_no_row_is_later_than_is_claimed_once(b_ms: tuple[int, int]) -> None:
    window = TwoTables({"a": (SOME_MS, SOME_MS), "b": b_ms})
    assert window.claim_stored("t", [Span(A, 0, 100)]) == Ahead(TIME_MAX, OFFSET_MAX)


def test_of_more_rows_than_can_be_claimed_the_first_are_and_again_when_half_of_them_are_read() -> None:
    times_ms = {"a": (SOME_MS, SOME_MS), "b": (SOME_MS, SOME_MS + 90_000)}
    window = TwoTables(times_ms, offsets=range(200, 1_200), ids_max=1_000)
    assert window.claim_stored("t", [Span(A, 201, 301)], 7) == Ahead(0, 700)
    asked: list[tuple[Span, int]] = []
    beyond = Beyond(A, 5_000, frozenset(), lambda span: Ranges(()), lambda *words: asked.append(words) or Ahead(0, 700))
    beyond.page_offsets = 100
    for first in range(201, 901, 100):
        beyond.left_out(first, first + 100)
    assert [(span.first, after_ms) for span, after_ms in asked] == [(201, 0), (601, 0), (701, 0), (801, 0)]


def test_of_two_record_times_the_later_one_is_reached() -> None:
    """The first row behind a page may be earlier than the one behind the page before."""
    window = TwoTables({"a": (SOME_MS, SOME_MS + 90_000)})
    assert window.claim_stored("t", [Span(A, 0, 100)], SOME_MS + 70_000) == Ahead(SOME_MS + 70_000)
