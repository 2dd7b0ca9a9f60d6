"""What the baselines share: their arguments, the flat workload's row, their clients and their report."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import clickhouse_connect
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from pipeline.bench.steady import Steady

COLUMNS = ("event_id", "viewed_at", "user_id", "country", "path", "status", "duration_ms", "cached")
INSERT_ROWS = 50_000
"""Rows an insert. More would cost memory and hardly less CPU."""

Row = tuple[Any, ...]


class Job(NamedTuple):
    """What to read, and where to; how many records are read before anything is counted, and the engine's process."""

    brokers: str
    topic: str
    partitions: int
    url: str
    table: str
    warm_records: int
    engine: int

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Job:
        brokers, topic, partitions, url, table, warm_records, engine = arguments
        return cls(brokers, topic, int(partitions), url, table, int(warm_records), int(engine))

    def clickhouse(self) -> Any:
        address = urlsplit(self.url)
        return clickhouse_connect.get_client(host=address.hostname, port=address.port, compress="lz4")


def open_consumer(job: Job) -> Consumer:
    """Reads the partitions of the job from their beginning."""
    consumer = Consumer(
        {
            "bootstrap.servers": job.brokers,
            "group.id": f"baseline-{job.table}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.assign([TopicPartition(job.topic, number, OFFSET_BEGINNING) for number in range(job.partitions)])
    return consumer


def end_of_partition(error: KafkaError) -> int:
    """1, for the count of ends; any other error ends the program."""
    if error.code() != KafkaError._PARTITION_EOF:
        raise SystemExit(str(error))
    return 1


def row_of(event: Mapping[str, Any]) -> Row:
    """A row as it is usually written, or an error for a record that the table cannot take.

    Without the check of the status a bad one would fail the insert of all.
    """
    return (
        uuid.UUID(event["event_id"]),
        datetime.fromtimestamp(event["viewed_at"] / 1000, UTC),
        int(event["user_id"]),
        event["country"],
        event["path"],
        _status(event["status"]),
        event["duration_ms"],
        event["cached"],
    )


def cheap_row_of(event: Mapping[str, Any]) -> Row:
    """The same with no object that clickhouse-connect can do without: it takes text for a UUID, and ticks for a time."""
    event_id = event["event_id"]
    if len(event_id) != 36:
        raise ValueError("event_id")
    return (
        event_id,
        event["viewed_at"],
        int(event["user_id"]),
        event["country"],
        event["path"],
        _status(event["status"]),
        event["duration_ms"],
        event["cached"],
    )


def _status(status: int) -> int:
    if not 0 <= status < 65_536:
        raise ValueError("status")
    return status


class Report:
    """Counts what was done and prints it at the end. `records` are those read, `skipped` those that no row was made of."""

    def __init__(self, job: Job) -> None:
        self.records = 0
        self.skipped = 0
        self._rows = 0
        self._steady = Steady(job.warm_records, job.engine)
        self._steady.begin()

    def inserted(self, rows: int) -> None:
        """So many more, and every record read until now has its row."""
        self._rows += rows
        self._steady.read(self.records)

    def print(self) -> None:
        counts = {"records": self.records, "rows": self._rows, "skipped": self.skipped}
        print(json.dumps(counts | self._steady.figures(self.records)))


def run(main: Callable[[Job, Report], None], arguments: Sequence[str]) -> None:
    """Runs a baseline; its time begins after the imports, as a worker's does."""
    job = Job.parse(arguments)
    report = Report(job)
    main(job, report)
    report.print()
