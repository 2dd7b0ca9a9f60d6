"""What the data plane remembers of rows that are stored beyond a position, and what it lets wait; driven without its thread."""

from __future__ import annotations

import threading
from array import array
from typing import Any, cast

import pytest

from pipeline.beyond import Ahead, Beyond
from pipeline.clock import ManualClock
from pipeline.commands import Assigned, Discard, Prepare, Read
from pipeline.config.schema import Batch, ClickHouse, Config, Kafka, Route
from pipeline.config.schema import Dedup as DedupConfig
from pipeline.dedup import Dedup
from pipeline.flow import Flow
from pipeline.lane import Ranges
from pipeline.metrics import Metrics
from pipeline.recovery import Prepared
from pipeline.threads import Threads
from pipeline.types import Partition, PartitionEnd, SourceFault, Span
from tests.unit.test_lane import HERE, Run, lane

NOTHING = cast("Any", None)


class Source:
    def assign(self, positions: dict[Any, int]) -> None:
        pass

    def poll(self, records_max: int, timeout_s: float) -> list[Any]:
        return []


class Recovery:
    """The row of offset 11 is stored beyond the position."""

    def __init__(self) -> None:
        self.claimed: list[tuple[int, int]] = []

    def prepare(self, command: Prepare) -> Prepared:
        positions = dict.fromkeys(command.partitions, 10)
        beyond = {
            partition: Beyond(
                partition, 12, frozenset(), lambda span: Ranges([(11, 12)]), lambda span, after_ms: Ahead()
            )
            for partition in command.partitions
        }
        return Prepared({HERE: 1}, positions, beyond, 0, 0)

    def claim(self, records: Any, first: int, cut: int, stored: Ranges) -> None:
        self.claimed += [(offset, cut) for offset in records.offsets[first:cut] if offset in stored]


class Driver:
    def __init__(self, batch: Batch | None = None) -> None:
        config = Config(
            name="p",
            kafka=Kafka(brokers="k:1", group="g"),
            clickhouse=ClickHouse(urls=["http://c:1"]),
            routes=[Route(topic="t", table="x")],
            dedup=DedupConfig(key=["id"], ids_max=1_000),
            batch=batch or Batch(),
        )
        self.lane, _ = lane()
        self.recovery = Recovery()
        self.source = Source()
        self.clock = ManualClock()
        self.flow = Flow(
            config,
            {"t": self.lane},
            Dedup(config.dedup),
            cast("Any", self.recovery),
            NOTHING,
            lambda event: None,
            Metrics(),
            self.clock,
            threading.Event(),
            Threads(),
        )
        self.tell(Prepare({HERE: Assigned(1, 10, "")}, ()))

    def tell(self, command: Any) -> None:
        self.flow._obey_one(command, cast("Any", self.source))

    def read(self) -> int:
        """Takes the run of four records; how many rows the batch has then."""
        self.flow._begin(cast("Any", Run()), 0.0)
        self.flow._take_runs()
        return self.flow._batch.rows


def test_rows_stored_beyond_the_position_are_left_out_again_when_they_are_read_again() -> None:
    """After a rebalance of other partitions everything undeclared is read again: these rows are still stored."""
    driver = Driver()
    driver.tell(Read({HERE: 10}, 0))
    assert driver.read() == 3
    driver.tell(Discard({HERE: 10}, {}, 1))
    assert driver.read() == 3
    driver.tell(Discard({HERE: 12}, {}, 2))
    assert not driver.flow._beyond


def test_rows_that_are_left_out_have_claims() -> None:
    """They may be older than the window that was rebuilt, and copies of them follow."""
    driver = Driver()
    driver.tell(Read({HERE: 10}, 0))
    driver.read()
    assert driver.recovery.claimed == [(11, 4)]


# More partitions than a batch takes

THERE, FURTHER = Partition("t", 1), Partition("t", 2)


class RunOf(Run):
    def __init__(self, partition: Partition, first: int) -> None:
        self.partition = partition
        self.offsets = array("q", range(first, first + 4))
        self.next_offset = first + 4
        super().__init__()


class Narrow(Driver):
    """A batch takes one partition, and eight rows."""

    def __init__(self) -> None:
        super().__init__(Batch(partitions_max=1, rows_max=8, age_ms_max=500))
        self.sealed: list[tuple[str, tuple[Span, ...], float]] = []
        self.flow._post = self._keep
        self.tell(Read({HERE: 100, THERE: 100, FURTHER: 100}, 0))

    def _keep(self, event: Any) -> None:
        self.sealed.append((event.batch.trigger, event.batch.spans, event.batch.age_s))

    def reads(self, *events: Any, at_s: float = 0.0) -> None:
        self.flow._accept(list(events), at_s, cast("Any", self.source))

    def turns(self, at_s: float) -> None:
        """One turn of the thread's loop, with nothing to poll."""
        self.clock.advance(at_s - self.clock.monotonic_s())
        self.flow._read(cast("Any", self.source))
        self.flow._seal_if_due()


def test_what_has_no_place_in_the_batch_waits_until_it_is_sealed() -> None:
    driver = Narrow()
    driver.reads(RunOf(HERE, 100), RunOf(THERE, 100), at_s=0.1)
    driver.turns(at_s=0.2)
    assert driver.sealed == []
    assert driver.flow.positions() == {HERE: 104, THERE: 100, FURTHER: 100}
    driver.turns(at_s=0.6)
    assert driver.sealed == [("age", (Span(HERE, 100, 104),), 0.5)]
    driver.turns(at_s=0.7)
    # It is as old as what it was read with.
    assert driver.sealed[1:] == [("age", (Span(THERE, 100, 104),), pytest.approx(0.6))]


def test_a_partition_is_read_in_order_though_it_waits() -> None:
    driver = Narrow()
    driver.reads(RunOf(HERE, 100), RunOf(THERE, 100), PartitionEnd(THERE, 110), at_s=0.1)
    assert THERE not in driver.flow.at_end
    driver.turns(at_s=0.7)
    driver.turns(at_s=0.8)
    assert [spans for _, spans, _ in driver.sealed] == [(Span(HERE, 100, 104),), (Span(THERE, 100, 110),)]
    assert THERE in driver.flow.at_end


def test_no_more_waits_than_a_batch_takes() -> None:
    driver = Narrow()
    driver.reads(RunOf(HERE, 100), RunOf(THERE, 100), RunOf(FURTHER, 100))
    assert driver.flow._records_max() == 1
    driver.turns(at_s=0.1)
    assert driver.sealed == [("partitions", (Span(HERE, 100, 104),), 0.1)]
    assert driver.flow.positions() == {HERE: 104, THERE: 104, FURTHER: 100}


def test_what_waits_is_read_again_after_a_new_assignment() -> None:
    driver = Narrow()
    driver.reads(RunOf(HERE, 100), RunOf(THERE, 100))
    driver.tell(Discard({HERE: 100, THERE: 100}, {}, 1))
    driver.reads(RunOf(THERE, 100))
    assert driver.flow.positions() == {HERE: 100, THERE: 104}


def test_the_end_of_a_partition_that_waited_comes_again_when_another_is_halted() -> None:
    driver = Narrow()
    driver.reads(
        RunOf(HERE, 100), RunOf(THERE, 100), SourceFault(FURTHER, 100, -1, "gone", "it is"), PartitionEnd(THERE, 104)
    )
    assert driver.flow.positions()[THERE] == 100
    assert THERE not in driver.flow.at_end


def test_offsets_without_records_at_the_end_wait_for_a_place_too() -> None:
    """Nothing tells of them again: the partition would be behind for ever."""
    driver = Narrow()
    driver.reads(RunOf(HERE, 100), PartitionEnd(THERE, 103), at_s=0.1)
    driver.turns(at_s=0.7)
    driver.turns(at_s=0.8)
    driver.turns(at_s=1.4)
    assert [spans for _, spans, _ in driver.sealed] == [(Span(HERE, 100, 104),), (Span(THERE, 100, 103),)]
