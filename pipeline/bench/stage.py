"""The stage of a measurement: a broker and an engine, each a process of its own, and a topic filled once for all rounds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline import contract as contracts
from pipeline import ddl, workload
from pipeline.clickhouse import ClickHouse
from pipeline.config.schema import ClickHouse as ClickHouseConfig
from pipeline.config.schema import Dedup, Kafka, Route
from pipeline.contract import Contract, TableColumn
from pipeline.embedded.chdb_server import ChdbServer
from pipeline.errors import DependencyDown, GaveUp, InvariantViolated
from pipeline.kafka import Cluster
from pipeline.types import Partition
from pipeline.workload import Generator, Mix, Shape
from pipeline.workload.produce import Feed, shares

TOPIC = "bench"
DEAD_LETTERS = "bench-dead"
PARTITION_RECORDS_MAX = {"zstd": 40_000, "lz4": 36_000, "none": 20_000}
"""By compression: records of 200 bytes that the mock cluster surely keeps; above 5 MiB of batches it drops the oldest."""
CHILD_S_MAX = 300.0
DUPLICATES = 0.05
POISON = 0.001

_CONFIG = """\
name = "bench-{name}"
[kafka]
brokers = "{brokers}"
group = "bench-{name}"
reader = "{reader}"
[clickhouse]
urls = ["{url}"]
[[routes]]
topic = "{topic}"
table = "{table}"
contract = "{contract}"
[dedup]
key = [{key}]
[dead_letters]
topic = "{dead_letters}"
[http]
host = "127.0.0.1"
port = 0
[log]
level = "warning"
format = "text"
"""


@dataclass(frozen=True)
class Plan:
    """What is measured: the topic, and how it is read."""

    records: int
    partitions: int
    seed: int = 1
    reader: Literal["native", "confluent"] = "native"
    compression: str = "zstd"
    """As `penstock gen` writes. It is paid for by the floor and by the worker alike."""


@dataclass
class Stage:
    """What the rounds work on. `nbytes` are the values in the topic."""

    directory: Path
    plan: Plan
    shape: Shape
    kafka: Kafka
    engine: ChdbServer
    clickhouse: ClickHouse
    nbytes: int

    @property
    def records(self) -> int:
        return self.plan.records

    def create_table(self, name: str) -> Contract:
        """An empty table for the workload, and the contract that fills it."""
        route = Route(topic=TOPIC, table=name, contract=self.shape.contract)
        dedup = Dedup(key=list(self.shape.key))
        for statement in ddl.create_tables(contracts.load(route, dedup, {})):
            self.clickhouse.command(statement)
        columns: list[TableColumn] = self.clickhouse.columns(name)
        return contracts.load(route, dedup, {name: columns})

    def write_config(self, name: str, table: str) -> Path:
        """A configuration with everything on, for a group and a pipeline name of its own."""
        path = self.directory / f"{name}.toml"
        path.write_text(
            _CONFIG.format(
                name=name,
                brokers=self.kafka.brokers,
                reader=self.kafka.reader,
                url=self.engine.url,
                topic=TOPIC,
                table=table,
                contract=self.shape.contract,
                key=", ".join(f'"{field}"' for field in self.shape.key),
                dead_letters=DEAD_LETTERS,
            )
        )
        return path


@contextlib.contextmanager
def opened(directory: Path, plan: Plan) -> Iterator[Stage]:
    """Starts broker and engine, fills the topic with the flat workload, and stops everything at the end."""
    shape = workload.shape("flat")
    with contextlib.ExitStack() as stack:
        brokers = stack.enter_context(_broker(plan.partitions))
        kafka = Kafka(brokers=brokers, group="bench", reader=plan.reader)
        engine = stack.enter_context(ChdbServer(directory / "engine"))
        clickhouse = ClickHouse(ClickHouseConfig(urls=[engine.url]))
        stack.callback(clickhouse.close)
        nbytes = _fill(kafka, Generator(shape, plan.seed, Mix(duplicates=DUPLICATES, poison=POISON)), plan)
        yield Stage(directory, plan, shape, kafka, engine, clickhouse, nbytes)


def child(module: str, *arguments: str) -> dict[str, Any]:
    """Runs a module in a process of its own and gives the JSON object it prints last."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=CHILD_S_MAX, check=False, env=_environment()
        )
    except subprocess.TimeoutExpired:
        raise GaveUp(
            f"the measured process `{module}` was not done within {CHILD_S_MAX:.0f} s and was killed"
        ) from None
    if done.returncode != 0 or not done.stdout.strip():
        raise DependencyDown(f"the measured process `{module}` ended with {done.returncode}; its messages are above")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _environment() -> dict[str, str]:
    """Ours, without overlays of the configuration: the run must be the one that is described."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK__")}


@contextlib.contextmanager
def _broker(partitions: int) -> Iterator[str]:
    """The mock cluster in a process of its own; gives its address."""
    topics = [f"--topic={TOPIC}:{partitions}", f"--topic={DEAD_LETTERS}:1"]
    command = [sys.executable, "-m", "pipeline.embedded.mock_kafka", *topics]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout is not None else ""
            if not line:
                raise DependencyDown("the mock cluster did not start; its messages are above")
            yield str(json.loads(line)["bootstrap"])
        finally:
            process.send_signal(signal.SIGTERM)


def _unseen(sent: int) -> None:
    """No progress is shown: the topic is full within seconds."""


def _fill(kafka: Kafka, generator: Generator, plan: Plan) -> int:
    """Writes the workload and makes sure that the broker has kept all of it. Gives the bytes of all values."""
    firsts = dict.fromkeys(range(plan.partitions), 0)
    feed = Feed(kafka, TOPIC, generator, compression=plan.compression)
    nbytes = feed.run(shares(plan.records, firsts), firsts, _unseen).nbytes
    marks = Cluster(kafka).watermarks(Partition(TOPIC, number) for number in range(plan.partitions))
    kept = sum(end - begin for begin, end in marks.values())
    if kept != plan.records:
        raise InvariantViolated(f"bench: the broker kept {kept} of {plan.records} records; use more partitions")
    return nbytes
