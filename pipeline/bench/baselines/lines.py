"""Baseline: a bare C consumer in front of JSONEachRow. Values go on as they are, joined by newlines in C; ClickHouse parses.

This is the work that ClickHouse's own Kafka engine does, with the consumer in a process of its own. JSONEachRow reads a bare
integer as seconds, so the times stay integers: `viewed_at` of this table is an Int64, which costs ClickHouse no more.
"""

from __future__ import annotations

import http.client
import sys
from urllib.parse import urlencode, urlsplit

from pipeline.bench.baselines.common import COLUMNS, Job, Report, run
from pipeline.config.schema import Kafka
from pipeline.source import open_reader

PARTITION_END = -191
INSERT_RECORDS = 200_000
"""As many as a worker's batch."""
SETTINGS = {
    "input_format_allow_errors_ratio": 0.1,
    "input_format_parallel_parsing": 0,
    "max_insert_threads": 1,
    "async_insert": 0,
    "min_insert_block_size_rows": 1_000_000,
    "min_insert_block_size_bytes": 0,
    "max_insert_block_size": 1_000_000,
}
"""Bad records are skipped; the rest as for a worker's blocks."""


def main(job: Job, report: Report) -> None:
    reader = open_reader(Kafka(brokers=job.brokers, group="baseline-lines"))
    reader.assign([(job.topic, number, 0) for number in range(job.partitions)])
    statement = f"INSERT INTO {job.table} ({', '.join(COLUMNS)}) FORMAT JSONEachRow"
    path = "/?" + urlencode({"query": statement, **SETTINGS})
    connection = http.client.HTTPConnection(urlsplit(job.url).netloc, timeout=120)
    chunks: list[bytes] = []
    records = ends = 0
    while ends < job.partitions:
        runs, signals = reader.poll(10_000, 1_000)
        ends += sum(signal[3] == PARTITION_END for signal in signals)
        for found in runs:
            chunks.append(found.lines())
            records += len(found)
        if records >= INSERT_RECORDS or (ends == job.partitions and records):
            report.records += records
            post(connection, path, b"".join(chunks))
            report.inserted(0)
            chunks, records = [], 0
    reader.close()


def post(connection: http.client.HTTPConnection, path: str, body: bytes) -> None:
    """One insert."""
    connection.request("POST", path, body)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"ClickHouse answered {answer.status}: {text[:300]!r}")


if __name__ == "__main__":
    run(main, sys.argv[1:])
