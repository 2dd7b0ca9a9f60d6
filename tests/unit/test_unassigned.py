"""When partitions that nobody has are on their way, and when they are lost to the group."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.clock import ManualClock
from pipeline.config.schema import Kafka
from pipeline.types import Partition
from pipeline.unassigned import LOOK_EVERY_S, Unassigned

ONE, TWO = Partition("t", 1), Partition("t", 2)
DRAIN_MS = 10_000


def looker(**keys: Any) -> tuple[Unassigned, ManualClock]:
    clock = ManualClock()
    config = Kafka(brokers="b:1", group="g", revoke_drain_ms_max=DRAIN_MS, **{"instance_id": "one", **keys})
    return Unassigned(config, clock), clock


@pytest.mark.parametrize("keys", [{"instance_id": ""}, {"group_protocol": "consumer"}])
def test_only_a_static_member_of_a_classic_group_looks(keys: dict[str, str]) -> None:
    unassigned, _ = looker(**keys)
    unassigned.joined()
    assert not unassigned.wanted


def test_one_look_is_enough_when_every_partition_is_somebodys() -> None:
    unassigned, _ = looker()
    assert unassigned.wanted
    assert not unassigned.seen(frozenset())
    assert not unassigned.wanted
    unassigned.joined()
    assert unassigned.wanted


def test_a_partition_that_may_be_on_its_way_is_looked_for_again() -> None:
    unassigned, clock = looker()
    assert not unassigned.seen({ONE, TWO})
    clock.advance(DRAIN_MS / 1000)
    assert not unassigned.seen({ONE, TWO})
    clock.advance(2 * LOOK_EVERY_S)
    assert unassigned.seen({TWO}) == {TWO}
    assert unassigned.wanted


@pytest.mark.parametrize("between", [None, frozenset(), frozenset({TWO})], ids=["rebalance", "none", "another"])
def test_what_comes_between_two_looks_begins_the_time_anew(between: frozenset[Partition] | None) -> None:
    unassigned, clock = looker()
    unassigned.seen({ONE})
    clock.advance(DRAIN_MS / 1000)
    assert not unassigned.seen(between)
    assert unassigned.wanted or between == frozenset()
    clock.advance(2 * LOOK_EVERY_S)
    assert not unassigned.seen({ONE})
    clock.advance(DRAIN_MS / 1000 + 2 * LOOK_EVERY_S)
    assert unassigned.seen({ONE}) == {ONE}
