"""A member that was not polled for so long that its client may have left the group does not go on as if nothing had been."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.clock import ManualClock
from pipeline.config.schema import Kafka
from pipeline.membership import Membership, MembershipLost
from pipeline.threads import Threads
from tests.integration.harness import wait_until


class Client:
    """A consumer that has nothing to say."""

    def __init__(self) -> None:
        self.polls = 0
        self.closed = False

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        pass

    def poll(self, timeout_s: float) -> None:
        self.polls += 1

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("unpolled_s", "anew"), [(5.0, False), (9.6, True)])
def test_who_was_not_polled_for_nearly_as_long_as_the_group_allows_joins_anew(unpolled_s: float, anew: bool) -> None:
    clock, made, told, alive = ManualClock(), [], cast("list[Any]", []), [True]

    def consumer(properties: Any, logger: Any) -> Client:
        made.append(Client())
        return made[-1]

    config = Kafka(brokers="127.0.0.1:1", group="g", max_poll_interval_ms=10_000)
    clients = cast("Any", SimpleNamespace(consumer=consumer))
    member = Membership(config, ["t"], told.append, clock, lambda: alive[0], Threads(), clients)
    member.start()
    wait_until(lambda: bool(made) and made[0].polls > 1, 30, "polls")
    alive[0] = False
    time.sleep(0.2)
    polls = made[0].polls
    clock.advance(unpolled_s)
    alive[0] = True
    wait_until(lambda: made[1:] != [] and made[1].polls > 0 if anew else made[0].polls > polls + 1, 30, "polls again")
    assert len(made) == (2 if anew else 1)
    assert [made[0].closed, told] == ([True, [MembershipLost("not polled for 10 s")]] if anew else [False, []])
    assert member.stop(10)
