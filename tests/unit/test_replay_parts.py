"""What a replay adds to a worker: the salt, the turn, the rate, and blocks of which some rows are left."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from pipeline import intent as intents
from pipeline import native
from pipeline.clock import ManualClock
from pipeline.commands import Assigned, Commit, CommitOutcome, Payload
from pipeline.config.schema import ClickHouse, Config, Kafka, Route
from pipeline.contract import encode_json
from pipeline.engine import Engine
from pipeline.intent import Identity
from pipeline.lane import merged
from pipeline.replay.plan import Plan, group_of
from pipeline.replay.screen import Left
from pipeline.replay.stretch import Allowance, Stretch
from pipeline.selection import parse
from pipeline.types import Partition, Span

P, Q = Partition("t", 0), Partition("t", 1)
IDENTITY = Identity("p", "c", {})


class Row(msgspec.Struct):
    number: int


def block(offsets: range) -> native.Block:
    columns = [native.Column("number", "UInt64", "number"), native.Column("_offset", "Int64", "@offset")]
    builder = native.BlockBuilder(columns, encode_json=encode_json)
    run = native.Run("t", 0, 0, array("q", offsets), array("q", [0] * len(offsets)))
    native.append({Row: builder}, [Row(offset) for offset in offsets], run, None, None, bytearray(len(offsets)))
    return builder.finish()


def test_some_rows_of_a_block_are_a_block() -> None:
    left = Left(block(range(10, 20)), [1, 4, 9])
    assert left.rows == 3
    assert [list(column) for column in left.lineage()] == [["t"], [0, 0, 0], [0, 0, 0], [11, 14, 19]]
    assert left.native() == block(range(10, 20)).native([1, 4, 9])
    assert left.native([0, 2]) == block(range(10, 20)).native([1, 9])


def test_the_salt_is_declared_and_makes_other_tokens() -> None:
    engine = Engine(IDENTITY, bytes(8), ManualClock(), advance_ms_max=1_000, salt="s1")
    engine.assigned({P: Assigned(1, None, "")})
    [first] = [command for command in engine.prepared({P: 1}, {P: 0}) if isinstance(command, Commit)]
    engine.sealed([Span(P, 0, 10)], Payload(), empty=False, flow_epoch=engine.flow_epoch)
    commands = engine.commit_done(first.number, CommitOutcome.ACCEPTED)
    [commit] = [command for command in commands if isinstance(command, Commit)]
    [declared] = intents.decode(commit.entries[P].metadata, IDENTITY, P)
    assert declared.salt == "s1"
    tokens = {intents.token(IDENTITY, "x", declared.spans, salt=salt) for salt in ("", "s1", "s2")}
    assert len(tokens) == 3


def test_the_rate_is_kept_and_time_that_nobody_used_is_not_made_up_for() -> None:
    clock = ManualClock()
    allowance = Allowance(100, clock)
    read = 0
    for _ in range(1_000):
        clock.advance(0.01)
        now = allowance.now()
        allowance.spend(now)
        read += now
    assert 990 <= read <= 1_030
    clock.advance(3_600)
    assert allowance.now() <= 25
    assert Allowance(0, clock).now() > 10**9
    slow = Allowance(0.5, clock)
    assert slow.now() == 1
    slow.spend(1)
    assert slow.now() == 0
    clock.advance(2)
    assert slow.now() == 1


def test_one_partition_after_the_other() -> None:
    stretch = cast("Any", SimpleNamespace(end={P: 10, Q: 20}.__getitem__))
    assert Stretch.turn(stretch, {Q: 5, P: 9}) == {P: 9}
    assert Stretch.turn(stretch, {Q: 5, P: 10}) == {Q: 5}
    assert Stretch.turn(stretch, {Q: 20, P: 10}) == {}


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([], []),
        ([(5, 6), (1, 3), (3, 5)], [(1, 6)]),
        ([(1, 9), (2, 3), (10, 11)], [(1, 9), (10, 11)]),
    ],
)
def test_ranges_are_merged(ranges: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    assert merged(ranges) == expected


def test_the_group_is_that_of_the_question() -> None:
    config = Config(
        name="p",
        kafka=Kafka(brokers="b", group="g"),
        clickhouse=ClickHouse(urls=["http://c"]),
        routes=[Route(topic="t", table="e")],
    )
    one = group_of(config, parse("t/0:5", "t/0:9"))
    assert one.startswith("g-replay-")
    assert one == group_of(config, parse("t/0:5", "t/0:9"))
    others = [parse("t/0:5", "t/0:10"), parse("t/0:5", None), parse("5", "9", ["t/0"]), parse("earliest", None)]
    assert len({group_of(config, other) for other in others} | {one}) == 5


def test_how_far_an_earlier_run_came() -> None:
    spans = {P: Span(P, 10, 20), Q: Span(Q, 5, 5)}
    assert Plan(spans, "g", {}, False, ()).begun is False
    assert Plan(spans, "g", {P: 10, Q: 5}, False, ()).begun is False
    assert Plan(spans, "g", {P: 10}, True, ()).begun is True
    half = Plan(spans, "g", {P: 14, Q: 99}, False, ())
    assert (half.offsets, half.offsets_before, half.begun) == (10, 4, True)
    assert Plan(spans, "g", {P: 99}, False, ()).offsets_before == 10
