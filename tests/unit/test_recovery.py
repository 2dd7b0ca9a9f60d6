"""Recovery and the claims: what it does to partitions that are being read already."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, cast

from pipeline.batch import TableBlock
from pipeline.clock import ManualClock
from pipeline.commands import Assigned, Prepare
from pipeline.config.schema import Dedup as DedupConfig
from pipeline.dedup import Dedup
from pipeline.intent import Intent
from pipeline.lane import Ranges
from pipeline.recovery import Recovery
from pipeline.types import Partition, Span

NEW = 1
A, B, C = (Partition("t", number) for number in range(3))


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

    def rebuild(self, reaches: Iterable[Span]) -> int:
        self.reaches = list(reaches)
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


class Beyond(Recovery):
    def __init__(self, letters: Letters, stored: dict[Partition, Ranges]) -> None:
        nothing = cast("Any", None)
        super().__init__(
            {},
            nothing,
            cast("Any", NoWindow()),
            nothing,
            nothing,
            cast("Any", letters),
            nothing,
            nothing,
            nothing,
            nothing,
        )
        self._found = stored

    def _stored(self, spans: Any, but_for: Any = frozenset()) -> dict[Partition, Ranges]:
        return self._found


def test_letters_are_looked_for_where_rows_beyond_the_position_are_stored() -> None:
    """Offsets were set back or lost."""
    letters = Letters()
    left_out = Beyond(letters, {A: Ranges([(5, 9)])})._stored_beyond({A: 0, B: 0, C: 0})
    assert {partition: one.end for partition, one in left_out.items()} == {A: 9, C: 4}
    assert left_out[A].written == left_out[A].rejected == {7}
    assert Beyond(letters, {})._stored_beyond({A: 9}) == {}
    assert letters.searches == 1
