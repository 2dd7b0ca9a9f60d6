"""Baseline: a plain Python loop. One message at a time, `json.loads`, rows into clickhouse-connect."""

from __future__ import annotations

import json
import sys

from pipeline.bench.baselines.common import (
    COLUMNS,
    INSERT_ROWS,
    Job,
    Report,
    Row,
    end_of_partition,
    open_consumer,
    row_of,
    run,
)


def main(job: Job, report: Report) -> None:
    client = job.clickhouse()
    consumer = open_consumer(job)
    rows: list[Row] = []
    ends = 0
    while ends < job.partitions:
        message = consumer.poll(30.0)
        if message is None:
            raise SystemExit("the broker is silent")
        if (error := message.error()) is not None:
            ends += end_of_partition(error)
            continue
        report.records += 1
        try:
            rows.append(row_of(json.loads(message.value() or b"")))
        except (ValueError, KeyError, TypeError):
            report.skipped += 1
        if len(rows) == INSERT_ROWS:
            client.insert(job.table, rows, column_names=COLUMNS)
            report.inserted(len(rows))
            rows = []
    if rows:
        client.insert(job.table, rows, column_names=COLUMNS)
        report.inserted(len(rows))
    consumer.close()


if __name__ == "__main__":
    run(main, sys.argv[1:])
