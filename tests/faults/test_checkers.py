"""A check of the checkers: a worker without one of its safeguards is caught, and with it nothing is found.

Each schedule runs twice, so that what is reported comes from the safeguard that is missing and from nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.account import Account
from tests.faults.directed import (
    Schedule,
    accounted,
    kill_while_nothing_is_inserted,
    late_insert_of_a_dead_worker,
    zombie_that_inserts_again,
)
from tests.faults.stage import Servers, Setting, Stage

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
SETTING = Setting(partitions=4, events_per_s=400, static=False)


@pytest.fixture
def stage(three_brokers: Servers, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    name = f"checked_{abs(hash(request.node.name)) % 10**8}"
    with Stage(three_brokers, tmp_path, SETTING, name) as made:
        yield made
    three_brokers.clickhouse.clear_faults()
    three_brokers.network.heal()


def check(stage: Stage, schedule: Schedule, sabotage: str, tell: Callable[[str], None]) -> Account:
    found = accounted(stage, schedule, sabotage)
    what = f"{schedule.__name__}, {sabotage or 'with everything'}"
    tell(f"{what}: {found.produced} produced, {found.missing} missing, {found.doubled} doubled")
    return found


@pytest.mark.parametrize("sabotage", ["", "no_intents"])
def test_without_intents_there_are_duplicates(stage: Stage, sabotage: str, tell: Callable[[str], None]) -> None:
    found = check(stage, late_insert_of_a_dead_worker, sabotage, tell)
    assert (found.doubled > 0) is bool(sabotage), found
    assert found.missing == 0, found


@pytest.mark.parametrize("sabotage", ["", "commit_before_insert"])
def test_with_a_commit_before_the_insert_there_are_losses(
    stage: Stage, sabotage: str, tell: Callable[[str], None]
) -> None:
    found = check(stage, kill_while_nothing_is_inserted, sabotage, tell)
    assert (found.missing > 0) is bool(sabotage), found
    assert found.doubled == 0, found


@pytest.mark.parametrize("sabotage", ["", "no_token"])
def test_without_tokens_a_zombie_makes_duplicates(stage: Stage, sabotage: str, tell: Callable[[str], None]) -> None:
    found = check(stage, zombie_that_inserts_again, sabotage, tell)
    assert (found.doubled > 0) is bool(sabotage), found
    assert found.missing == 0, found
