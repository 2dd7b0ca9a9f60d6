"""What the data plane remembers of rows that are stored beyond a position, driven command by command without its thread."""

from __future__ import annotations

import threading
from typing import Any, cast

from pipeline.beyond import Ahead, Beyond
from pipeline.clock import ManualClock
from pipeline.commands import Assigned, Discard, Prepare, Read
from pipeline.config.schema import ClickHouse, Config, Kafka, Route
from pipeline.config.schema import Dedup as DedupConfig
from pipeline.dedup import Dedup
from pipeline.flow import Flow
from pipeline.lane import Ranges
from pipeline.metrics import Metrics
from pipeline.recovery import Prepared
from pipeline.threads import Threads
from tests.unit.test_lane import HERE, Run, lane

NOTHING = cast("Any", None)


class Source:
    def assign(self, positions: dict[Any, int]) -> None:
        pass


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
    def __init__(self) -> None:
        config = Config(
            name="p",
            kafka=Kafka(brokers="k:1", group="g"),
            clickhouse=ClickHouse(urls=["http://c:1"]),
            routes=[Route(topic="t", table="x")],
            dedup=DedupConfig(key=["id"], ids_max=1_000),
        )
        self.lane, _ = lane()
        self.recovery = Recovery()
        self.source = Source()
        self.flow = Flow(
            config,
            {"t": self.lane},
            Dedup(config.dedup),
            cast("Any", self.recovery),
            NOTHING,
            lambda event: None,
            Metrics(),
            ManualClock(),
            threading.Event(),
            Threads(),
        )
        self.tell(Prepare({HERE: Assigned(1, 10, "")}, ()))

    def tell(self, command: Any) -> None:
        self.flow._obey_one(command, cast("Any", self.source))

    def read(self) -> int:
        """Takes the run of four records; how many rows the batch has then."""
        self.flow._take(cast("Any", Run()), 0.0)
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
