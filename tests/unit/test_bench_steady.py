"""What a measured program used, from the record on from which it is counted."""

from __future__ import annotations

import os

import pytest

from pipeline.bench import steady
from pipeline.bench.sizes import SIZES, warm_records
from pipeline.bench.steady import Steady


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The CPU seconds that are used next, one after the other."""
    left: list[float] = []
    monkeypatch.setattr(steady, "cpu_s", lambda: left.pop(0))
    return left


def test_what_is_paid_once_is_told_apart(cpu: list[float]) -> None:
    one = Steady(warm_records=300)
    cpu += [1.0, 7.0, 8.0]
    one.begin()
    one.begin()
    one.read(200)
    one.read(400)
    one.read(600)
    told = one.figures(900)
    assert told["start_cpu_s"] == 1.0
    assert told["cold_us"] == pytest.approx(6.0 / 400 * 1e6)
    assert told["cpu_us"] == pytest.approx(1.0 / 500 * 1e6)
    assert told["cpu_s"] == 7.0
    assert 0 <= told["wall_us"] <= told["wall_s"] * 1e6


def test_without_warm_records_all_are_counted(cpu: list[float]) -> None:
    one = Steady()
    cpu += [1.0, 1.5, 3.5]
    one.begin()
    one.read(10)
    told = one.figures(10)
    assert told["cpu_us"] == pytest.approx(2.0 / 10 * 1e6)
    assert told["cold_us"] == 0


def test_a_run_that_is_over_before_it_is_warm_is_counted_as_a_whole(cpu: list[float]) -> None:
    one = Steady(warm_records=300)
    cpu += [1.0, 4.0, 4.0]
    one.begin()
    one.read(900)
    assert one.figures(900)["cpu_us"] == pytest.approx(3.0 / 900 * 1e6)


def test_the_process_beside_is_counted_from_the_same_moment() -> None:
    one = Steady(beside=os.getpid())
    one.begin()
    sum(range(200_000))
    assert one.figures(1)["beside_us"] >= 0


@pytest.mark.parametrize("name", SIZES)
def test_a_short_topic_has_no_warm_part(name: str) -> None:
    default = SIZES[name].records
    assert warm_records(name, default // 10) == 0
    assert 0 < warm_records(name, default) < default // 2
