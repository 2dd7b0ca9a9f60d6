"""The form of dead letters, since when they are looked for, and the limit on the share of rejects; nothing talks to Kafka."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from pipeline.clock import ManualClock
from pipeline.config.schema import Kafka
from pipeline.deadletter import SKEW_MS, DeadLetters, RatioLimit
from pipeline.errors import RejectLimitExceeded
from pipeline.letter import POINTER_KEY_BYTES_MAX, message, pointer, record_of
from pipeline.types import DeadLetter, Headers, Partition, Reject, RejectCode, Stage


def letter(
    *, key: bytes | None = b"k", value: bytes | None = b"v", headers: Headers = (), detail: str = "d"
) -> DeadLetter:
    reject = Reject(Stage.CONTRACT, RejectCode.WRONG_TYPE, detail)
    return DeadLetter(Partition("orders", 3), 42, 1_700_000_000_123, key, value, headers, reject, "shop:Order@2")


def test_a_letter_keeps_key_value_and_headers_and_adds_ours() -> None:
    sent = message(letter(headers=[("trace", b"\xff"), ("trace", None)]), "pipe")
    assert sent["key"] == b"k"
    assert sent["value"] == b"v"
    assert sent["headers"] == [
        ("trace", b"\xff"),
        ("trace", None),
        ("penstock-topic", b"orders"),
        ("penstock-partition", b"3"),
        ("penstock-offset", b"42"),
        ("penstock-timestamp", b"1700000000123"),
        ("penstock-stage", b"contract"),
        ("penstock-code", b"wrong_type"),
        ("penstock-detail", b"d"),
        ("penstock-contract", b"shop:Order@2"),
        ("penstock-pipeline", b"pipe"),
        ("penstock-attempt", b"1"),
    ]


@pytest.mark.parametrize(("key", "value"), [(None, None), (b"", b""), (None, b"v")])
def test_absent_stays_absent_and_empty_stays_empty(key: bytes | None, value: bytes | None) -> None:
    sent = message(letter(key=key, value=value), "pipe")
    assert (sent["key"], sent["value"]) == (key, value)


def test_a_letter_that_was_put_back_counts_on_and_has_each_header_once() -> None:
    first = message(letter(headers=[("own", b"1")]), "pipe")
    again = message(letter(headers=first["headers"]), "pipe")  # type: ignore[arg-type]
    names = [name for name, _ in again["headers"]]
    assert len(names) == len(set(names))
    assert dict(again["headers"])["penstock-attempt"] == b"2"
    assert dict(again["headers"])["own"] == b"1"


@pytest.mark.parametrize("count", [b"", b"x", b"-1", None, "²".encode()])
def test_an_odd_attempt_counts_as_none(count: bytes | None) -> None:
    sent = message(letter(headers=[("penstock-attempt", count)]), "pipe")
    assert dict(sent["headers"])["penstock-attempt"] == b"1"


def test_a_detail_is_bounded_and_encodable() -> None:
    sent = message(letter(detail="é\ud800" * 10_000), "pipe")
    assert len(dict(sent["headers"])["penstock-detail"] or b"") < 4_000


def test_a_pointer_says_what_it_leaves_out() -> None:
    sent = pointer(letter(value=b"x" * 5_000, headers=[("own", b"y" * 5_000)]), "pipe")
    assert sent["value"] is None
    assert sent["key"] == b"k"
    assert dict(sent["headers"])["penstock-truncated"] == b"value=5000 headers=1"
    assert "own" not in dict(sent["headers"])


@pytest.mark.parametrize(("extra", "kept"), [(0, True), (1, False)])
def test_a_pointer_keeps_a_short_key(extra: int, kept: bool) -> None:
    key = b"k" * (POINTER_KEY_BYTES_MAX + extra)
    sent = pointer(letter(key=key), "pipe")
    assert (sent["key"] == key) is kept
    assert (f"key={len(key)}" in str(dict(sent["headers"])["penstock-truncated"])) is not kept


@pytest.mark.parametrize("form", [message, pointer])
def test_a_letter_names_its_record(form: object) -> None:
    headers = form(letter(), "pipe")["headers"]  # type: ignore[operator]
    assert record_of(headers, "pipe") == (Partition("orders", 3), 42)
    assert record_of(headers, "another pipeline") is None


@pytest.mark.parametrize("broken", ["topic", "partition", "offset", "pipeline"])
def test_other_messages_are_passed_over(broken: str) -> None:
    headers = [
        (name, b"\xff") if name == f"penstock-{broken}" else (name, value)
        for name, value in message(letter(), "pipe")["headers"]
    ]
    assert record_of(headers, "pipe") is None
    assert record_of([(name, value) for name, value in headers if name != f"penstock-{broken}"], "pipe") is None
    assert record_of(None, "pipe") is None
    assert record_of([], "pipe") is None


@pytest.mark.parametrize(("moved_s", "looked_back_s"), [(60, 0), (-3_600, 3_600)])
def test_a_letter_is_looked_for_from_the_earlier_time_when_the_clock_was_set(
    monkeypatch: pytest.MonkeyPatch, moved_s: int, looked_back_s: int
) -> None:
    """It carries the time of its sending, which may be before that of the first attempt (found by the simulation)."""
    clock, since = ManualClock(), list[int]()
    config, nothing = Kafka(brokers="127.0.0.1:1", group="g"), cast("Any", None)
    letters = DeadLetters(
        config, "dead", clock, nothing, pipeline="shop", stopping=nothing, random=nothing, clients=nothing
    )
    monkeypatch.setattr(letters, "_found", lambda wanted, since_ms: since.append(since_ms) or {})
    begun_ms = clock.wall_ms() - SKEW_MS
    clock.advance(moved_s)
    assert letters._arrived([letter()], begun_ms) == set()
    assert since == [begun_ms - looked_back_s * 1000]


def test_the_ratio_is_that_of_the_last_records() -> None:
    limit = RatioLimit(0.5, 100)
    for _ in range(10):
        limit.add(10, 0)
    for _ in range(5):
        limit.add(10, 10)
    with pytest.raises(RejectLimitExceeded, match="were rejected, more than"):
        limit.add(1, 1)


def test_old_rejects_are_forgotten() -> None:
    limit = RatioLimit(0.5, 100)
    for _ in range(1_000):
        limit.add(10, 5)
        limit.add(1, 0)


def test_the_first_rejects_of_a_worker_do_not_stop_it() -> None:
    limit = RatioLimit(0.1, 1_000)
    limit.add(100, 100)
    with pytest.raises(RejectLimitExceeded):
        limit.add(1, 1)


def test_a_ratio_of_one_never_stops_and_of_zero_always() -> None:
    always, never = RatioLimit(0.0, 100), RatioLimit(1.0, 100)
    for records in (1, 99, 100, 101, 5_000):
        never.add(records, records)
        always.add(records, 0)
    with pytest.raises(RejectLimitExceeded):
        always.add(1, 1)


def test_a_run_longer_than_the_window_counts_by_its_share() -> None:
    RatioLimit(0.5, 100).add(1_000, 500)
    with pytest.raises(RejectLimitExceeded):
        RatioLimit(0.5, 100).add(1_000, 520)


def test_an_empty_run_is_nothing() -> None:
    limit = RatioLimit(0.0, 1)
    limit.add(0, 0)


def test_the_limit_agrees_with_counting() -> None:
    """Runs of one record: the window is exactly the last `records_max`."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed = {seed}")
    chance = random.Random(seed)
    for _ in range(50):
        size, ratio = chance.randrange(1, 30), chance.choice([0.1, 0.3, 0.5])
        limit, seen = RatioLimit(ratio, size), []
        for _ in range(200):
            seen.append(int(chance.random() < 0.3))
            if sum(seen[-size:]) > ratio * size:
                with pytest.raises(RejectLimitExceeded):
                    limit.add(1, seen[-1])
                break
            limit.add(1, seen[-1])
