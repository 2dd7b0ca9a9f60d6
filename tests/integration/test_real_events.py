"""Real events: every row equals what ClickHouse itself reads from the same JSON, for contracts written and inferred.

The same records are inserted twice: once by us, as blocks made here or through Kafka and a worker process, and once as
JSONEachRow, which the engine reads. Then the engine compares all columns of all rows, both ways.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Producer

from pipeline.config.schema import Dedup, Route
from pipeline.contract import LINEAGE, Contract, load
from pipeline.embedded.mock_kafka import MockKafka
from tests.integration import webhooks
from tests.integration.harness import Pipeline, WorkerProcess, wait_until
from tests.integration.native_insert import Engine, inferred

RECORDS = 50_000
BLOCK_RECORDS = 5_000
"""The tests that leave Kafka out look at fewer; they are quick and say more when they fail."""
CHUNK = 2_500
PARTITIONS = 8

pytestmark = pytest.mark.skipif(
    not webhooks.PATH.exists(), reason=f"the real events are not here: no {webhooks.PATH.name}"
)


@pytest.fixture
def engine(clickhouse_url: str, clickhouse_database: str) -> Iterator[Engine]:
    made = Engine(clickhouse_url, clickhouse_database)
    yield made
    made.close()


def create(engine: Engine, table: str, columns: str) -> None:
    engine.client.command(f"CREATE TABLE {table} ({columns}) ENGINE = MergeTree ORDER BY delivery")


def written(engine: Engine, table: str, struct: str) -> Contract:
    """The contract of a Struct for a table that exists."""
    route = Route(topic="topic", table=table, contract=f"tests.integration.webhooks:{struct}")
    return load(route, Dedup(key=["delivery"]), {table: engine.columns(table)})


def fill(engine: Engine, contracts: Sequence[Contract], count: int, *, wrapped: bool) -> None:
    """The same records into the tables of the contracts by us, and into `theirs` by ClickHouse."""
    for _, records in webhooks.chunks(count, CHUNK, wrapped=wrapped):
        for contract in contracts:
            assert engine.insert_ours(contract, records) == []
        engine.client.raw_insert(
            "theirs", insert_block=b"\n".join(records), fmt="JSONEachRow", settings={"async_insert": 0}
        )


def assert_equal(engine: Engine, table: str, count: int, theirs: str = "theirs") -> None:
    """All columns of all rows of a table, computed ones included, both ways."""
    names = ", ".join(f"`{column.name}`" for column in engine.columns(table) if column.name not in LINEAGE)
    for one in (table, theirs):
        assert engine.rows(f"SELECT count(), uniqExact(delivery) FROM {one}") == [(count, count)]
    hashed = "SELECT delivery, sipHash128(tuple({0})::String) AS h FROM {1}"
    for one, other in ((table, theirs), (theirs, table)):
        left = engine.rows(
            f"SELECT delivery FROM ({hashed.format(names, one)} EXCEPT {hashed.format(names, other)}) ORDER BY 1 LIMIT 1"
        )
        assert left == [], difference(engine, table, theirs, left[0][0])


def difference(engine: Engine, table: str, theirs: str, delivery: uuid.UUID) -> str:
    """Names the columns in which one row differs."""
    found = []
    for column in engine.columns(theirs):
        values = [
            engine.rows(f"SELECT toString(`{column.name}`) FROM {one} WHERE delivery = '{delivery}'")
            for one in (table, theirs)
        ]
        if values[0] != values[1]:
            found.append(f"{column.name}: ours {str(values[0])[:300]}, theirs {str(values[1])[:300]}")
    return f"{delivery}: " + "; ".join(found)


def test_blocks_of_deliveries_with_the_payload_as_text(engine: Engine) -> None:
    for table in ("written", "inferred", "theirs"):
        create(engine, table, webhooks.WRAPPED_COLUMNS)
    contracts = [written(engine, "written", "Wrapped"), inferred("inferred", engine.columns("inferred"))]
    fill(engine, contracts, BLOCK_RECORDS, wrapped=True)
    for table in ("written", "inferred"):
        assert_equal(engine, table, BLOCK_RECORDS)


def test_blocks_of_deliveries_with_the_fields_of_the_payload(engine: Engine) -> None:
    create(engine, "written", f"{webhooks.WRITTEN_COLUMNS}, {webhooks.COMPUTED}")
    create(engine, "inferred", webhooks.INFERRED_COLUMNS)
    create(engine, "theirs", webhooks.INFERRED_COLUMNS)
    contracts = [written(engine, "written", "Delivery"), inferred("inferred", engine.columns("inferred"))]
    fill(engine, contracts, BLOCK_RECORDS, wrapped=False)
    for table in ("written", "inferred"):
        assert_equal(engine, table, BLOCK_RECORDS)


@pytest.mark.slow
def test_deliveries_through_the_whole_pipeline(
    tmp_path: Path, mock_kafka: MockKafka, engine: Engine, clickhouse_url: str, clickhouse_database: str
) -> None:
    """One worker, two topics: a contract inferred from a table of 35 columns, and one written with the payload as text."""
    pipeline = Pipeline(tmp_path, mock_kafka.bootstrap, clickhouse_url, database=clickhouse_database)
    try:
        for topic in ("wrapped", "hoisted"):
            mock_kafka.create_topic(topic, PARTITIONS)
        mock_kafka.create_topic(pipeline.letters_topic, 1)
        for table, columns in (("wrapped", webhooks.WRAPPED_COLUMNS), ("hoisted", webhooks.INFERRED_COLUMNS)):
            engine.client.command(create_table_like(table, columns))
            create(engine, f"theirs_{table}", columns)
        pipeline.topic, pipeline.table = "wrapped", "wrapped"
        config = pipeline.config(dedup={"key": ["delivery"]}, route={"contract": "tests.integration.webhooks:Wrapped"})
        with config.open("a") as stream:
            stream.write('[[routes]]\ntopic = "hoisted"\ntable = "hoisted"\n')
        worker = pipeline.start(config)
        produce(engine, mock_kafka.bootstrap, worker)
        assert worker.terminate() == 0
        for table in ("wrapped", "hoisted"):
            assert_equal(engine, table, RECORDS, f"theirs_{table}")
        assert pipeline.letters(0, timeout_s=2) == []
    finally:
        for worker in pipeline.workers:
            worker.kill()
        pipeline.client.close()
    counts = "countIf(repository_id > 0) > 0, countIf(length(labels) > 0) > 0, countIf(zen = 'none') > 0"
    assert engine.rows(f"SELECT {counts} FROM hoisted") == [(1, 1, 1)]
    assert engine.rows("SELECT uniqExact(action) > 50 FROM wrapped") == [(1,)]


def create_table_like(table: str, columns: str) -> str:
    lineage = ", ".join(f"{name} {type_}" for name, (_, type_) in LINEAGE.items())
    window = "SETTINGS non_replicated_deduplication_window = 1000"
    return f"CREATE TABLE {table} ({columns}, {lineage}) ENGINE = MergeTree ORDER BY delivery {window}"


def produce(engine: Engine, brokers: str, worker: WorkerProcess) -> None:
    """Sends all records to both topics; the mock cluster keeps 5 MB a partition, so each lot is waited for."""
    producer = Producer({"bootstrap.servers": brokers, "message.max.bytes": 10**8, "queue.buffering.max.kbytes": 10**6})

    def arrived(count: int) -> bool:
        assert worker.process.poll() is None, worker.text()[-4_000:]
        return all(engine.rows(f"SELECT count() FROM {topic}") == [(count,)] for topic in ("wrapped", "hoisted"))

    for first, wrapped in webhooks.chunks(RECORDS, CHUNK, wrapped=True):
        hoisted = list(webhooks.records(first, len(wrapped), wrapped=False))
        for topic, records in (("wrapped", wrapped), ("hoisted", hoisted)):
            for number, record in enumerate(records):
                producer.produce(topic, record, partition=number % PARTITIONS)
            body = b"\n".join(records)
            engine.client.raw_insert(
                f"theirs_{topic}", insert_block=body, fmt="JSONEachRow", settings={"async_insert": 0}
            )
        assert producer.flush(30) == 0
        count = first + len(wrapped)
        wait_until(partial(arrived, count), 60, f"{count} rows in each table")


@pytest.mark.xfail(
    strict=True,
    reason="JSON goes out as String, and ClickHouse casts that without inferring the times that its JSONEachRow infers",
)
def test_json_columns(engine: Engine) -> None:
    for table in ("inferred", "theirs"):
        create(engine, table, webhooks.JSON_COLUMNS)
    fill(engine, [inferred("inferred", engine.columns("inferred"))], 500, wrapped=False)
    assert_equal(engine, "inferred", 500)
