"""The parts of the producer that need no broker: rates, latencies, how events are spread over partitions, the command line."""

from __future__ import annotations

import random

import pytest

from pipeline.cli import main
from pipeline.workload import Generator, Mix, Outcome, shape
from pipeline.workload.produce import Histogram, TokenBucket, expected, shares


def test_a_token_bucket_grants_the_rate_over_time_and_no_more() -> None:
    now = 0.0
    bucket = TokenBucket(1_000.0, now=lambda: now)
    total = bucket.take(10**6)
    for _ in range(1_000):
        now += 0.003
        total += bucket.take(10**6)
    assert 2_900 <= total <= 3_060


def test_a_slow_rate_still_grants_single_records() -> None:
    now = 0.0
    bucket = TokenBucket(2.0, now=lambda: now)
    granted = [bucket.take(5)]
    for _ in range(20):
        now += 0.25
        granted.append(bucket.take(5))
    assert set(granted) == {0, 1}
    assert sum(granted) == 11


def test_without_a_rate_everything_is_granted() -> None:
    assert TokenBucket(0.0).take(12_345) == 12_345


def test_a_histogram_is_right_within_two_percent(rng: random.Random) -> None:
    durations = sorted(rng.lognormvariate(-5, 1) for _ in range(10_000))
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    summary = histogram.summary()
    assert summary.samples == 10_000
    for found, share in ((summary.p50_ms, 0.5), (summary.p99_ms, 0.99)):
        exact_ms = durations[int(share * 10_000) - 1] * 1_000
        assert exact_ms * 0.999 <= found <= exact_ms * 1.021
    assert summary.max_ms == pytest.approx(durations[-1] * 1_000, abs=0.001)


def test_an_empty_histogram() -> None:
    assert Histogram().summary() == (0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(("events", "partitions"), [(7, 3), (8, 8), (1, 4), (100_001, 8)])
def test_events_are_spread_evenly(events: int, partitions: int) -> None:
    firsts = {number: 10 * number for number in range(partitions)}
    counts = [end - firsts[number] for number, end in shares(events, firsts).items()]
    assert sum(counts) == events
    assert max(counts) - min(counts) <= 1


def test_expected_counts_are_those_of_the_records() -> None:
    mix = Mix(duplicates=0.1, poison=0.1, tombstones=0.05, late=0.1)
    generator = Generator(shape("flat"), 3, mix)
    found = expected(generator, {0: (100, 2_100), 3: (0, 70_000)})
    records = [*generator.records(0, 100, 2_000), *generator.records(3, 0, 70_000)]
    for outcome in Outcome:
        assert found[outcome] == sum(record.fate.outcome is outcome for record in records)
    codes = {key: count for key, count in found.items() if key.startswith("letter:")}
    assert sum(codes.values()) == found[Outcome.LETTER]
    assert "letter:out_of_range" in codes


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--brokers", "127.0.0.1:1"],
        ["--brokers", "127.0.0.1:1", "--topic", "t", "--duplicates", "0.8", "--poison", "0.8"],
    ],
)
def test_impossible_requests_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gen", *words]) == 2
    assert capsys.readouterr().err.startswith("penstock gen: ")


def test_shares_outside_zero_and_one_are_usage_errors() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gen", "--brokers", "x", "--topic", "t", "--late", "1.5"])
    assert ended.value.code == 2
