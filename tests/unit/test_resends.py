"""What librdkafka's counters say of an offset commit that was answered: whether a copy of it may still be on its way."""

from __future__ import annotations

import json

import pytest

from pipeline.kafka.resends import SENT_ONCE_S, Resends, Sent, sent

SLOW_S = SENT_ONCE_S


def statistics(commits: int, lost: int, waiting: int = 0) -> str:
    coordinator = {"tx": 50, "rx": 50 - lost - waiting, "waitresp_cnt": waiting, "req": {"OffsetCommit": commits}}
    other = {"tx": 900, "rx": 1, "waitresp_cnt": 0, "req": {"OffsetCommit": 0}}
    return json.dumps({"name": "rdkafka", "brokers": {"GroupCoordinator": coordinator, "127.0.0.1:1/1": other}})


def test_counters_are_those_of_the_coordinator() -> None:
    assert sent(statistics(3, 2, waiting=1)) == Sent(3, 2)
    assert sent('{"brokers": {}}') == Sent(0, 0)
    assert sent("{}") == Sent(0, 0)


def test_a_fast_commit_was_sent_once_and_a_slow_one_may_have_been() -> None:
    resends = Resends()
    assert resends.ended(SENT_ONCE_S * 0.99, accepted=True)
    assert not resends.ended(SENT_ONCE_S, accepted=True)


@pytest.mark.parametrize(
    ("commits", "lost", "answered"),
    [
        (4, 0, True),
        (4, 1, True),  # Something else was lost, a heartbeat maybe; the commit itself was sent once.
        (5, 0, True),  # A broker that is no longer the coordinator said so, and the next one took it.
        (5, 1, False),
        (7, 2, False),
    ],
)
def test_a_slow_commit_is_sure_when_it_was_sent_once_or_nothing_was_lost(
    commits: int, lost: int, answered: bool
) -> None:
    resends = Resends()
    for _ in range(3):
        resends.ended(0.01, accepted=True)
    resends.ended(SLOW_S, accepted=True)
    assert resends.told(statistics(3, 0)) is None, "from before the commit's end, perhaps"
    resends.polled()
    assert resends.told(statistics(commits, lost)) is answered


def test_it_is_counted_from_the_last_statistics_on() -> None:
    resends = Resends()
    resends.polled()
    assert resends.told(statistics(12, 3)) is False, "nobody knows of these commits"
    resends.ended(0.01, accepted=True)
    resends.ended(0.01, accepted=False)  # Refused: sent once or not at all.
    resends.ended(SLOW_S, accepted=True)
    resends.polled()
    assert resends.told(statistics(14, 4)) is True
    resends.ended(SLOW_S, accepted=True)
    resends.polled()
    assert resends.told(statistics(16, 5)) is False
