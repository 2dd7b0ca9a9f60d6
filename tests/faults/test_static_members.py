"""Workers with a name of their own in the group (`kafka.instance_id`): what the group takes them for when they come again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.directed import accounted, refuse_inserts
from tests.faults.fleet import Fleet
from tests.faults.stage import SESSION_S, Servers, Setting, Stage
from tests.integration.harness import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]
RENEWED = "leaving the group and joining again"


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_join_whose_answer_is_lost(three_brokers: Servers, tmp_path: Path, protocol: str) -> None:
    """librdkafka 2.16 gives the client up when the consumer protocol takes its second attempt for another member."""

    def lose_the_answer(stage: Stage, fleet: Fleet) -> None:
        request = "join" if protocol == "classic" else "heartbeat"
        trap = three_brokers.network.trap(three_brokers.network.brokers, request, "lose_reply", 0.2)
        worker = fleet.start(1)
        wait_until(lambda: trap.sprung, 30, f"a {request}")
        wait_until(stage.moved, SESSION_S + 60, "the worker reads")
        if protocol == "consumer":
            worker.says(RENEWED, 1.0)

    with Stage(three_brokers, tmp_path, Setting(protocol=protocol, static=True), f"lost_join_{protocol}") as stage:
        found = accounted(stage, lose_the_answer)
    assert found.ok, found


def test_a_worker_is_killed_while_it_gives_partitions_back(three_brokers: Servers, tmp_path: Path) -> None:
    """The group gives its successor what it had kept, without a rebalance: nobody would ever have what it gave back."""

    def kill_inside_the_revoke(stage: Stage, fleet: Fleet) -> None:
        first = fleet.start(1)
        wait_until(stage.moved, 60, "the first worker reads")
        assert stage.cluster.unassigned([stage.topic]) == frozenset()
        refuse_inserts(stage, first)
        fleet.start(2)
        wait_until(lambda: stage.cluster.unassigned([stage.topic]), 30, "a revoke that waits for batches")
        fleet.kill(1)
        fleet.start(1)
        stage.servers.clickhouse.clear_faults()

    with Stage(three_brokers, tmp_path, Setting(static=True), "killed_in_revoke") as stage:
        found = accounted(stage, kill_inside_the_revoke)
    assert found.ok, found


def test_two_workers_of_one_name_expel_each_other_until_one_stops(three_brokers: Servers, tmp_path: Path) -> None:
    """The classic protocol gives the name to the newest, and a worker that is expelled once comes back."""

    def start_both(stage: Stage, fleet: Fleet) -> None:
        fleet.start(1)
        wait_until(stage.moved, 60, "the first worker reads")
        fleet.start(2, name_of=1)
        wait_until(lambda: bool(fleet.exits), 60, "a worker ends")
        assert "give each worker its own" in fleet.exits[0].said, fleet.exits
        fleet.stop(fleet.exits[0].worker)

    with Stage(three_brokers, tmp_path, Setting(static=True), "one_name_classic") as stage:
        found = accounted(stage, start_both)
    assert found.ok, found


def test_a_second_worker_of_the_same_name_waits_for_the_first(three_brokers: Servers, tmp_path: Path) -> None:
    """The consumer protocol leaves the name with the oldest, until that has gone."""

    def start_both(stage: Stage, fleet: Fleet) -> None:
        fleet.start(1)
        wait_until(stage.moved, 60, "the first worker reads")
        second = fleet.start(2, name_of=1)
        second.says(RENEWED)
        assert fleet.stop(1) == 0
        second.says("assigned")
        assert not fleet.exits, fleet.exits

    with Stage(three_brokers, tmp_path, Setting(protocol="consumer", static=True), "one_name_consumer") as stage:
        found = accounted(stage, start_both)
    assert found.ok, found
