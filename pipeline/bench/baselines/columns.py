"""Baseline: what a careful Python programmer writes. Batches of messages, orjson, columns into clickhouse-connect."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import orjson

from pipeline.bench.baselines.common import (
    COLUMNS,
    INSERT_ROWS,
    Job,
    Report,
    Row,
    cheap_row_of,
    end_of_partition,
    open_consumer,
    run,
)


def insert(client: Any, table: str, rows: Sequence[Row]) -> int:
    """Inserts rows by column; gives their number."""
    if rows:
        client.insert(table, list(zip(*rows, strict=True)), column_names=COLUMNS, column_oriented=True)
    return len(rows)


def main(job: Job, report: Report) -> None:
    client = job.clickhouse()
    consumer = open_consumer(job)
    rows: list[Row] = []
    ends = 0
    while ends < job.partitions:
        messages = consumer.consume(10_000, 1.0)
        for message in messages:
            if (error := message.error()) is not None:
                ends += end_of_partition(error)
                continue
            report.records += 1
            try:
                rows.append(cheap_row_of(orjson.loads(message.value() or b"")))
            except (ValueError, KeyError, TypeError):
                report.skipped += 1
        if len(rows) >= INSERT_ROWS:
            report.inserted(insert(client, job.table, rows))
            rows = []
    report.inserted(insert(client, job.table, rows))
    consumer.close()


if __name__ == "__main__":
    run(main, sys.argv[1:])
