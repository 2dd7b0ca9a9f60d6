"""What becomes of rows that ClickHouse refuses: their letters are made of the records, which may have left the topic."""

from __future__ import annotations

from typing import Any, cast

from pipeline.batch import TableBlock
from pipeline.delivery import Delivery
from pipeline.intent import Identity
from pipeline.types import DeadLetter, Partition, Reject, RejectCode, Span, Stage
from tests.unit.test_lane import HERE, Run, lane

REFUSED = Reject(Stage.INSERT, RejectCode.REFUSED, "ClickHouse code 469")


class Sink:
    """Refuses the rows of two records; compaction has removed the first of them from the topic meanwhile."""

    def insert(self, write: Any) -> list[tuple[Partition, int, Reject]]:
        return [(HERE, 9, REFUSED), (HERE, 10, REFUSED)]


class Source:
    def __init__(self) -> None:
        self._left = [Run()]

    def assign(self, positions: dict[Partition, int]) -> None:
        pass

    def poll(self, records_max: int, timeout_s: float) -> list[Any]:
        return self._left

    def close(self) -> None:
        pass


class Letters:
    def __init__(self) -> None:
        self.written: list[DeadLetter] = []

    def write(self, letters: list[DeadLetter]) -> None:
        self.written += letters


def test_a_refused_record_that_has_left_the_topic_has_a_letter_without_a_value() -> None:
    made, _ = lane()
    letters = Letters()
    delivery = Delivery(
        Identity("p", "c", {"t": "id"}),
        cast("Any", Sink()),
        cast("Any", letters),
        lambda topic: made,
        cast("Any", Source),
        on_reject="letter",
    )
    block = TableBlock("t", "x", ("id",), cast("Any", Run()))
    block.block.rows = 2  # type: ignore[misc]
    assert delivery.deliver((Span(HERE, 9, 14),), [block], [], lambda: None) == 2
    assert sorted((letter.offset, letter.value) for letter in letters.written) == [(9, None), (10, b'{"id":10}')]
