"""The demo's judgement: which declared batches belong together, what is held back, what counts as success."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipeline.demo import Options, Result
from pipeline.demo.hunt import groups
from pipeline.demo.result import Kill
from pipeline.demo.show import Gate
from pipeline.errors import ConfigurationError
from pipeline.intent import Intent
from pipeline.types import Partition, Span
from pipeline.verify import Report
from pipeline.verify.oracle import Oracle
from pipeline.workload import Generator, shape
from pipeline.workload.produce import Latency


def batch(*numbers: int) -> tuple[int, tuple[Intent, ...]]:
    return 0, (Intent(tuple(Span(Partition("t", number), 0, 5) for number in numbers), 1, b"c" * 8),)


@pytest.mark.parametrize(
    ("flights", "expected"),
    [
        ([], 0),
        ([batch(0, 1, 2)], 1),
        ([batch(0, 1), batch(2, 3)], 2),
        ([batch(0, 1), batch(1, 2), batch(3)], 2),
        ([batch(0), batch(1), batch(2), batch(0, 1, 2)], 1),
        ([batch(0, 1), batch(2, 3), batch(4, 5), batch(1, 2)], 2),
    ],
)
def test_batches_that_share_partitions_belong_to_one_worker(flights: list[Any], expected: int) -> None:
    assert groups(flights) == expected


def test_the_gate_holds_back_a_share_and_keeps_the_pace() -> None:
    gate = Gate({0: 100, 1: 50}, None)
    assert gate() == {0: 100, 1: 50}
    gate.share = 1 / 3
    assert gate() == {0: 33, 1: 16}
    paced = Gate({0: 100, 1: 50}, lambda: {0: 10, 1: 500})  # type: ignore[arg-type]
    assert paced() == {0: 10, 1: 50}


def result(**changes: Any) -> Result:
    oracle = Oracle("t", Generator(shape("flat"), 1))
    oracle.offsets, oracle.unique = 1_000, 990
    kill = Kill(1, 2, 300, 1, 0.4)
    values: dict[str, Any] = {
        "options": Options(events=1_000, kill=1),
        "produced": 1_000,
        "seconds": 2.0,
        "worker_cpu_s": 0.5,
        "worker_start_cpu_s": 0.4,
        "exit_codes": (0, 0),
        "kills": (kill,),
        "latency": Latency(10, 1.0, 2.0, 3.0),
        "report": Report(rows=980, dead_letters=10, duplicates=10, records=1_000),
        "oracle": oracle,
        "kept": "",
    }
    return Result(**(values | changes))


def test_the_promised_keys_come_first() -> None:
    found = result().as_json()
    promised = "produced unique rows duplicates_dropped dead_letters missing doubled kills seconds events_per_second"
    assert list(found)[:12] == [*promised.split(), "worker_cpu_us_per_event", "ok"]
    assert found["ok"] is True
    assert (found["unique"], found["events_per_second"], found["worker_cpu_us_per_event"]) == (990, 500.0, 500.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"report": Report(missing=1)},
        {"report": Report(doubled=1)},
        {"report": Report(unexpected=1)},
        {"kills": ()},
        {"kills": (Kill(1, 0, 0, 0, 0.4),)},
        {"exit_codes": (0, 75)},
        {"produced": 999},
    ],
)
def test_what_is_not_shown_is_not_ok(changes: dict[str, Any]) -> None:
    assert not result(**changes).ok


def test_the_report_says_what_the_kills_hit() -> None:
    text = "\n".join(result(kills=(Kill(2, 1, 300, 1, 0.4), Kill(2, 3, 900, 0, 0.7), Kill(2, 0, 0, 0, 0.8))).lines())
    assert "killed at 40% with 1 batch of 300 records in flight, declared and not inserted; started again" in text
    assert "killed at 70% with 3 batches of 900 records in flight, inserted and not committed; started again" in text
    assert "killed at 80%, no batch of it in flight" in text


@pytest.mark.parametrize("changes", [{"events": 3}, {"partitions": 0}, {"workers": 17}, {"kill": -1}])
def test_impossible_demos_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="--"):
        dataclasses.replace(Options(), **changes).check()
