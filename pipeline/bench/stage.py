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
from pipeline.workload import Generator, Mix, Outcome, Shape
from pipeline.workload.produce import Feed, expected, shares

TOPIC = "bench"
LIVE_TOPIC = "bench-live"
"""And a number: empty, for what is measured while records arrive; one a round, or the next worker would read the rest of it."""
DEAD_LETTERS = "bench-dead"
LIVE_FETCH = 'librdkafka = {"fetch.wait.max.ms" = 10}'
"""The embedded broker holds a fetch that found nothing for all its wait, whatever comes in meanwhile; Kafka answers at once."""
CHILD_S_MAX = 300.0
DUPLICATES = 0.05
POISON = 0.001
MIX = Mix(duplicates=DUPLICATES, poison=POISON)

_CONFIG = """\
name = "bench-{name}"
[kafka]
brokers = "{brokers}"
group = "bench-{name}"
reader = "{reader}"
{fetch}
[clickhouse]
urls = ["{url}"]
[[routes]]
topic = "{topic}"
contract = "{contract}"
{target}
[dedup]
key = [{key}]
{window}
{lane}
[batch]
age_ms_max = {age_ms_max}
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
    workload: str = "flat"
    seed: int = 1
    reader: Literal["native", "confluent"] = "native"
    compression: str = "zstd"
    """As `penstock gen` writes. It is paid for by the floor and by the worker alike."""
    lane: Literal["", "native", "msgspec"] = ""
    """Empty: as the configuration has it by default."""
    warm_records: int = 0
    """Read before anything is counted. If any are, a worker's window is full from the start, and larger than the topic, so that
    it drops no id that a duplicate needs."""


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

    def records_in(self, partitions: int) -> int:
        """Records of the first partitions."""
        return sum(list(self._ends().values())[:partitions])

    def poison(self, partitions: int) -> int:
        """How many of them are bad records. A baseline may skip these and no others."""
        ends = {number: (0, end) for number, end in self._ends().items() if number < partitions}
        return expected(Generator(self.shape, self.plan.seed, MIX), ends)[Outcome.LETTER]

    def _ends(self) -> dict[int, int]:
        return shares(self.records, dict.fromkeys(range(self.plan.partitions), 0))

    def tables(self, name: str) -> dict[str, str]:
        """Tag -> table; a workload that is no union has the one tag ""."""
        if self.shape.tags == ("",):
            return {"": name}
        return {tag: f"{name}_{index}" for index, tag in enumerate(self.shape.tags)}

    def create_tables(self, name: str) -> Contract:
        """The workload's tables, empty, and the contract that fills them."""
        route = self._route(name)
        dedup = Dedup(key=list(self.shape.key))
        for statement in ddl.create_tables(contracts.load(route, dedup, {})):
            self.clickhouse.command(statement)
        columns: dict[str, list[TableColumn]] = {
            table: self.clickhouse.columns(table) for table in self.tables(name).values()
        }
        return contracts.load(route, dedup, columns)

    def stop_merges(self, name: str) -> None:
        """Merges cost every program the same a row, but start when they like: a short run has few, a long one many."""
        for table in self.tables(name).values():
            self.clickhouse.command(f"SYSTEM STOP MERGES {table}")

    def drop_tables(self, name: str) -> None:
        """Gives their memory and files back; what is stored is of no use after it was counted."""
        for table in self.tables(name).values():
            self.clickhouse.command(f"DROP TABLE {table} SYNC")

    def stored(self, name: str) -> tuple[int, int]:
        """(rows, different event ids) in the tables together."""
        found = [
            self.clickhouse.query_rows(f"SELECT count(), uniqExact(event_id) FROM {table}")[0]
            for table in self.tables(name).values()
        ]
        return sum(int(rows) for rows, _ in found), sum(int(ids) for _, ids in found)

    def write_config(self, name: str, table: str, *, claims: bool = True, live_topic: str = "") -> Path:
        """A configuration with everything on, for a group and a pipeline name of its own.

        Without `claims` there is no dedup. `live_topic` is one that is filled meanwhile; its batches seal after half a second.
        """
        path = self.directory / f"{name}.toml"
        route = self._route(table)
        target = f'table = "{route.table}"'
        if route.tables:
            target = "tables = {" + ", ".join(f'"{tag}" = "{name}"' for tag, name in route.tables.items()) + "}"
        path.write_text(
            _CONFIG.format(
                name=name,
                brokers=self.kafka.brokers,
                reader=self.kafka.reader,
                url=self.engine.url,
                topic=live_topic or TOPIC,
                target=target,
                contract=self.shape.contract,
                key=", ".join(f'"{field}"' for field in self.shape.key) if claims else "",
                age_ms_max=500 if live_topic else 1_000,
                dead_letters=DEAD_LETTERS,
                fetch=LIVE_FETCH if live_topic else "",
                window=f"ids_max = {self.records * 5 // 4}" if self.plan.warm_records else "",
                lane=f'[decode]\nlane = "{self.plan.lane}"' if self.plan.lane else "",
            )
        )
        return path

    def _route(self, table: str) -> Route:
        tables = self.tables(table)
        if "" in tables:
            return Route(topic=TOPIC, table=table, contract=self.shape.contract)
        return Route(topic=TOPIC, tables=tables, contract=self.shape.contract)


@contextlib.contextmanager
def opened(directory: Path, plan: Plan, *, live_topics: int = 0) -> Iterator[Stage]:
    """Starts broker and engine, fills the topic with the workload, and stops everything at the end."""
    shape = workload.shape(plan.workload)
    with contextlib.ExitStack() as stack:
        brokers = stack.enter_context(_broker(plan.partitions, live_topics))
        kafka = Kafka(brokers=brokers, group="bench", reader=plan.reader)
        engine = stack.enter_context(ChdbServer(directory / "engine"))
        clickhouse = ClickHouse(ClickHouseConfig(urls=[engine.url]))
        stack.callback(clickhouse.close)
        nbytes = _fill(kafka, Generator(shape, plan.seed, MIX), plan)
        yield Stage(directory, plan, shape, kafka, engine, clickhouse, nbytes)


def live_topic(number: int) -> str:
    return f"{LIVE_TOPIC}-{number}"


def child(module: str, *arguments: str, timeout_s: float = CHILD_S_MAX) -> dict[str, Any]:
    """Runs a module in a process of its own and gives the JSON object it prints last."""
    with running(module, *arguments) as process:
        return answer(process, timeout_s)


@contextlib.contextmanager
def running(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A module in a process of its own, which ends with the block; see `answer`."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def waiting_child(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One that has made ready and waits for `let_go`."""
    with running(module, *arguments) as process:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise DependencyDown(f"the measured process `{module}` did not start; its messages are above")
        yield process


def let_go(process: subprocess.Popen[str]) -> None:
    """The line that a waiting child waits for."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str], timeout_s: float = CHILD_S_MAX) -> dict[str, Any]:
    """Waits for its end and gives the JSON object it printed last."""
    module = str(list(process.args)[2])  # type: ignore[arg-type]
    try:
        out, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise GaveUp(f"the measured process `{module}` was not done within {timeout_s:.0f} s and was killed") from None
    if process.returncode != 0 or not out.strip():
        raise DependencyDown(f"the measured process `{module}` ended with {process.returncode}; its messages are above")
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


def environment() -> dict[str, str]:
    """Ours, without overlays of the configuration: the run must be the one that is described."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK__")}


@contextlib.contextmanager
def _broker(partitions: int, live_topics: int) -> Iterator[str]:
    """The mock cluster in a process of its own; gives its address."""
    names = [TOPIC, *map(live_topic, range(live_topics))]
    topics = [*(f"--topic={name}:{partitions}" for name in names), f"--topic={DEAD_LETTERS}:1"]
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
