"""The window passes with the records' own time, however much of it one poll brings: a backlog is read as it was written."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from tests.integration.harness import Pipeline, event

STEP_MS = 300_000
BEGIN_MS = 1_767_225_600_000


def backlog(pipeline: Pipeline, partition: int, steps: int) -> None:
    """An event every five minutes, and ten minutes after each a copy of it."""
    first = partition * 100_000
    producer = Producer({"bootstrap.servers": pipeline.brokers, "linger.ms": 500, "log_level": 2})
    for step in range(steps):
        for number in [step, step - 2] if step >= 2 else [step]:
            time_ms = BEGIN_MS + step * STEP_MS
            producer.produce(pipeline.topic, event(first + number), partition=partition, timestamp=time_ms)
    assert producer.flush(30) == 0


@pytest.mark.parametrize("partitions", [1, 3])
def test_copies_within_the_window_are_recognised_in_a_backlog(pipeline: Pipeline, partitions: int) -> None:
    """Days of records in a poll, small batches in between, and partitions of which one is read ahead of the others."""
    config = pipeline.config(dedup={"window_s": 3_600}, batch={"rows_max": 150}, limits={"poll_records_max": 400})
    for partition in range(partitions):
        backlog(pipeline, partition, 1_000)
    pipeline.run_until_caught_up(config)
    assert pipeline.rows("count(), uniqExact(id)", "") == [(1_000 * partitions, 1_000 * partitions)]
