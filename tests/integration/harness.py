"""What an integration test of the whole pipeline needs: a table, a topic, a configuration file, workers as real processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clickhouse_connect
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from pipeline import intent as intents
from pipeline.embedded.apache_kafka import ApacheKafka
from pipeline.embedded.mock_kafka import MockKafka

COLUMNS = "id UUID, number UInt64, name String"
PARTITIONS = 4
COORDINATOR_STARTING = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)
"""What a broker says that has just started and does not know yet which groups are its own."""


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Returns the first true value; fails with `what` at the deadline."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


class WorkerProcess:
    """`penstock run` in a process of its own; its log lines are kept."""

    def __init__(self, config: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.log = config.parent / f"worker-{uuid.uuid4().hex[:8]}.log"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", "run", "-c", str(config), *arguments],
                stderr=stream,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
            )

    def lines(self) -> list[dict[str, Any]]:
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                found.append({"message": line})
        return found

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, text: str, timeout_s: float = 30) -> None:
        """Waits until the log holds `text`."""
        wait_until(lambda: text in self.text() or self.process.poll() is not None, timeout_s, f"{text!r} in the log")
        assert text in self.text(), self.text()[-4_000:]

    def port(self) -> int:
        """The port of metrics and health, from the log."""
        wait_until(lambda: "9464" in self.text() or any("port" in line for line in self.lines()), 30, "the HTTP port")
        return int(next(line["port"] for line in self.lines() if "port" in line))

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port()}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def wait(self, timeout_s: float = 60) -> int:
        """The exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not exit within {timeout_s} s:\n{self.text()[-4_000:]}") from None

    def terminate(self, timeout_s: float = 60) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


class Pipeline:
    """One pipeline under test: names of its own on shared servers."""

    protocol = "classic"
    """The mock cluster's classic groups wait five seconds at every rebalance; its `consumer` groups are quick."""

    def __init__(self, directory: Path, brokers: str, clickhouse_url: str, *, database: str = "default") -> None:
        self.directory = directory
        self.brokers = brokers
        self.clickhouse_url = clickhouse_url
        self.database = database
        name = uuid.uuid4().hex[:8]
        self.topic = f"events-{name}"
        self.letters_topic = f"letters-{name}"
        self.table = f"events_{name}"
        self.group = f"group-{name}"
        self.name = f"test-{name}"
        self.workers: list[WorkerProcess] = []
        self._producer = Producer(
            {"bootstrap.servers": brokers, "enable.idempotence": True, "message.max.bytes": 10**9, "log_level": 2}
        )
        self.client = clickhouse_connect.get_client(
            dsn=clickhouse_url, database=database, autogenerate_session_id=False
        )

    def create_table(
        self, columns: str, *, order_by: str = "tuple()", lineage: bool = True, settings: str = ""
    ) -> None:
        added = (
            ", _topic LowCardinality(String), _partition Int32, _offset Int64, _timestamp DateTime64(3)"
            if lineage
            else ""
        )
        settings = settings or "non_replicated_deduplication_window = 100000"
        self.client.command(
            f"CREATE TABLE {self.table} ({columns}{added}) ENGINE = MergeTree ORDER BY {order_by} SETTINGS {settings}"
        )

    def config(self, **sections: Mapping[str, Any]) -> Path:
        """Writes the configuration; `sections` override keys of the defaults, section by section."""
        tree: dict[str, dict[str, Any]] = {
            "kafka": {"brokers": self.brokers, "group": self.group} | group(self.protocol),
            "clickhouse": {"urls": [self.clickhouse_url], "database": self.database, "retry_wait_ms_max": 500},
            "dedup": {"key": ["id"]},
            "batch": {"age_ms_max": 200},
            "dead_letters": {"topic": self.letters_topic},
            "http": {"host": "127.0.0.1", "port": 0},
        }
        route: dict[str, Any] = {"topic": self.topic, "table": self.table}
        for name, keys in sections.items():
            (route if name == "route" else tree.setdefault(name, {})).update(keys)
        lines = [f'name = "{self.name}"']
        for name, keys in tree.items():
            lines += [
                f"[{name}]",
                *(f"{_key(key)} = {_toml(value)}" for key, value in keys.items() if value is not None),
            ]
        lines += ["[[routes]]", *(f"{key} = {_toml(value)}" for key, value in route.items())]
        path = self.directory / "penstock.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def produce(self, values: Iterable[bytes | None], *, partition: int = 0, topic: str = "", **more: Any) -> int:
        """Sends records to one partition, in order, acknowledged. Returns how many."""
        producer = self._producer
        failures: list[Any] = []
        count = 0
        for value in values:
            while True:
                try:
                    producer.produce(
                        topic or self.topic,
                        value=value,
                        partition=partition,
                        on_delivery=lambda error, _: error and failures.append(error),
                        **more,
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            count += 1
            producer.poll(0)
        assert producer.flush(30) == 0
        assert not failures, failures
        return count

    def start(self, config: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> WorkerProcess:
        worker = WorkerProcess(config, *arguments, environment=environment)
        self.workers.append(worker)
        return worker

    def run_until_caught_up(self, config: Path, timeout_s: float = 60) -> WorkerProcess:
        worker = self.start(config, "--until-caught-up")
        assert worker.wait(timeout_s) == 0, worker.text()[-4_000:]
        return worker

    def rows(self, columns: str = "*", more: str = "ORDER BY _partition, _offset") -> Sequence[Sequence[Any]]:
        return self.client.query(f"SELECT {columns} FROM {self.table} {more}").result_rows

    def count(self) -> int:
        return int(self.client.query(f"SELECT count() FROM {self.table}").result_rows[0][0])

    def copies(self) -> int:
        """The largest number of rows that one record has."""
        sql = f"SELECT max(c) FROM (SELECT count() AS c FROM {self.table} GROUP BY _topic, _partition, _offset)"
        return int(self.client.query(sql).result_rows[0][0])

    def committed(self, partitions: Iterable[int]) -> dict[int, tuple[int, str]]:
        """Partition number -> (next offset, metadata) as the group holds them."""
        consumer = Consumer({"bootstrap.servers": self.brokers, "group.id": self.group})
        try:
            found = consumer.committed([TopicPartition(self.topic, number) for number in partitions], timeout=10)
            return {entry.partition: (entry.offset, entry.metadata or "") for entry in found}
        finally:
            consumer.close()

    def commit(self, partition: int, next_offset: int, metadata: str) -> None:
        """Commits for the group, which must never have had members."""
        consumer = Consumer({"bootstrap.servers": self.brokers, "group.id": self.group})
        try:
            entry = TopicPartition(self.topic, partition, next_offset, metadata)
            consumer.commit(offsets=[entry], asynchronous=False)
        finally:
            consumer.close()

    def cluster_id(self) -> str:
        return str(self._producer.list_topics(timeout=10).cluster_id)

    def in_flight(self, partitions: Iterable[int]) -> bool:
        return any(metadata.startswith(intents.PREFIX) for _, metadata in self.committed(partitions).values())

    def letters(self, count: int, timeout_s: float = 20) -> list[Any]:
        """Reads `count` dead letters, and fails when there are more or fewer."""
        consumer = Consumer({"bootstrap.servers": self.brokers, "group.id": "reader", "enable.partition.eof": True})
        consumer.assign([TopicPartition(self.letters_topic, 0, 0)])
        found: list[Any] = []
        try:
            deadline_s = time.monotonic() + timeout_s
            while time.monotonic() < deadline_s:
                message = consumer.poll(0.2)
                if message is not None and message.error() is None:
                    found.append(message)
                elif message is not None and len(found) >= count:
                    break
        finally:
            consumer.close()
        assert len(found) == count, [dict(m.headers() or []) for m in found]
        return found

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.client.command(f"DROP TABLE IF EXISTS {self.table} SYNC")
        self.client.close()


@contextmanager
def opened(
    directory: Path,
    kafka: MockKafka | ApacheKafka,
    clickhouse_url: str,
    columns: str = COLUMNS,
    **topic_settings: str,
) -> Iterator[Pipeline]:
    """A pipeline with its topics and its table; on the mock cluster with its quick groups."""
    made = Pipeline(directory, kafka.bootstrap, clickhouse_url)
    kafka.create_topic(made.topic, PARTITIONS, **topic_settings)
    kafka.create_topic(made.letters_topic, 1)
    if isinstance(kafka, MockKafka):
        made.protocol = "consumer"
    made.create_table(columns)
    try:
        yield made
    finally:
        made.close()


def event(number: int, identity: int | None = None) -> bytes:
    known = uuid.UUID(int=number if identity is None else identity)
    return json.dumps({"id": str(known), "number": number, "name": "x" * 60}).encode()


def group(protocol: str) -> dict[str, Any]:
    """With `consumer` the broker sets the session timeout, and naming one is an error."""
    return {"group_protocol": protocol, "session_timeout_ms": 6_000 if protocol == "classic" else None}


class Feeder:
    """Produces in the background until told to stop: ever new numbers, some of them twice."""

    def __init__(self, pipeline: Pipeline, rng: random.Random, *, per_second: int = 4_000) -> None:
        self._pipeline = pipeline
        self._rng = rng
        self._pause_s = 400 / per_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.produced = 0
        self.unique = 0

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the broker did not take what was produced"

    def _run(self) -> None:
        while not self._stop.is_set():
            partition = self._rng.randrange(PARTITIONS)
            fresh = range(self.unique, self.unique + 400)
            values = [event(number) for number in fresh]
            # Copies of what was just sent, in the same partition.
            values += [event(number) for number in self._rng.sample(list(fresh), 20)]
            self.produced += self._pipeline.produce(values, partition=partition)
            self.unique += 400
            self._stop.wait(self._pause_s)


def settle(pipeline: Pipeline, workers: list[WorkerProcess], feeder: Feeder) -> None:
    """Waits until everything produced is stored, stops the workers gracefully and compares."""
    wait_until(lambda: pipeline.count() >= feeder.unique, 90, f"{feeder.unique} rows, {pipeline.count()} now")
    for worker in workers:
        assert worker.terminate() == 0, worker.text()[-3_000:]
    assert pipeline.copies() == 1
    twice = pipeline.rows(
        "number, groupArray((_partition, _offset))", "GROUP BY id, number HAVING count() > 1 ORDER BY number LIMIT 20"
    )
    assert not twice, (twice, [worker.text()[-5_000:] for worker in workers])
    assert pipeline.count() == feeder.unique
    assert int(pipeline.rows("uniqExact(id)", "")[0][0]) == feeder.unique
    committed = pipeline.committed(range(PARTITIONS))
    stored = dict(pipeline.rows("_partition, max(_offset)", "GROUP BY _partition"))  # type: ignore[arg-type]
    assert sum(offset for offset, _ in committed.values()) == feeder.produced, (committed, stored)
    assert not pipeline.in_flight(range(PARTITIONS))


def _key(key: str) -> str:
    return f'"{key}"' if "." in key else key


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)
