"""When an open batch is full or old enough."""

from __future__ import annotations

import pytest

from pipeline.batch import Counts, OpenBatch, Taken
from pipeline.config.schema import Batch
from pipeline.types import Partition

OPENED_S, AGE_MS = 100.0, 1_000
WALL_MS = 1_700_000_000_000
"""When it is opened."""


def opened(oldest_ms: int) -> OpenBatch:
    batch = OpenBatch([], Batch(age_ms_max=AGE_MS))
    batch.cover(Partition("t", 0), 0, 1, OPENED_S)
    batch.add(Taken(Counts(records=1), [], oldest_ms))
    return batch


def trigger(batch: OpenBatch, after_ms: int) -> str | None:
    return batch.seal_trigger(OPENED_S + after_ms / 1000, WALL_MS + after_ms)


@pytest.mark.parametrize(
    ("oldest_ms", "open_ms"),
    [
        (WALL_MS, 1_000),
        (WALL_MS - 40, 960),
        (WALL_MS - 500, 500),
        pytest.param(WALL_MS - 501, 1_000, id="catching up"),
        pytest.param(WALL_MS - 86_400_000, 1_000, id="a day behind"),
        pytest.param(WALL_MS + 5_000, 1_000, id="a producer whose clock is ahead"),
        pytest.param(-1, 1_000, id="no timestamps"),
    ],
)
def test_the_time_in_kafka_counts_when_it_was_short(oldest_ms: int, open_ms: int) -> None:
    batch = opened(oldest_ms)
    assert trigger(batch, open_ms - 1) is None
    assert trigger(batch, open_ms) == "age"


def test_a_record_that_is_read_late_counts_too() -> None:
    batch = opened(WALL_MS)
    batch.add(Taken(Counts(records=1), [], WALL_MS - 200))
    assert trigger(batch, 799) is None
    assert trigger(batch, 800) == "age"


def test_what_was_not_begun_is_not_sealed() -> None:
    assert OpenBatch([], Batch(age_ms_max=AGE_MS)).seal_trigger(1e9, WALL_MS) is None
