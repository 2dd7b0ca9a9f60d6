"""Baseline: bytewax, a Python stream framework over a compiled dataflow engine, with its own Kafka source.

ClickHouse is no sink of its own: rows are collected by partition of the flow and inserted by column.
"""

from __future__ import annotations

import sys
from typing import Any

import orjson
from bytewax import operators
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from pipeline.bench.baselines.columns import insert
from pipeline.bench.baselines.common import INSERT_ROWS, Job, Report, Row, cheap_row_of, run


class FirstPartitions(KafkaSource):
    """The framework's source, for the first partitions of the topic only; it opens a consumer for each."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.brokers.split(","), [job.topic], tail=False, batch_size=10_000)
        self._parts = [f"{number}-{job.topic}" for number in range(job.partitions)]

    def list_parts(self) -> list[str]:
        return self._parts


class Table(DynamicSink[Row]):
    """The table as a sink of the framework."""

    def __init__(self, job: Job, report: Report) -> None:
        self._job = job
        self._report = report

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Inserter:  # noqa: ARG002
        return Inserter(self._job, self._report)


class Inserter(StatelessSinkPartition[Row]):
    """Collects rows and inserts them."""

    def __init__(self, job: Job, report: Report) -> None:
        self._client = job.clickhouse()
        self._table = job.table
        self._report = report
        self._rows: list[Row] = []

    def write_batch(self, items: list[Row]) -> None:
        self._rows += items
        if len(self._rows) >= INSERT_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()

    def _flush(self) -> None:
        self._report.inserted(insert(self._client, self._table, self._rows))
        self._rows = []


def main(job: Job, report: Report) -> None:
    def parse(message: Any) -> Row | None:
        report.records += 1
        try:
            return cheap_row_of(orjson.loads(message.value))
        except (ValueError, KeyError, TypeError):
            report.skipped += 1
            return None

    flow = Dataflow("baseline")
    stream = operators.input("kafka", flow, FirstPartitions(job))
    operators.output("clickhouse", operators.filter_map("parse", stream, parse), Table(job, report))
    run_main(flow)


if __name__ == "__main__":
    run(main, sys.argv[1:])
