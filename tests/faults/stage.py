"""What a run takes place on: three brokers, ClickHouse, the network before them, topics, a table, the configuration."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from pipeline import config as configuration
from pipeline.clickhouse import ClickHouse
from pipeline.contract import load
from pipeline.ddl import create_tables
from pipeline.embedded.apache_kafka import ApacheKafka
from pipeline.embedded.chdb_server import ChdbServer
from pipeline.embedded.child import StartFailed
from pipeline.errors import DependencyDown
from pipeline.kafka import Cluster
from pipeline.types import Partition
from pipeline.workload import Generator, Mix, shape
from tests.faults.network import CLICKHOUSE, Network, broker

T = TypeVar("T")
HEAP_MB = 256
SESSION_S = 6.0
"""After this long without a sign a worker has lost its partitions, in both protocols."""
INSERT_TIMEOUT_S = 3
OUR_TIMEOUT_S = 120
"""When the suite itself asks, for every row there is."""
IDS_MAX = 4_000_000
"""More than a run of an hour has: after its offsets are lost, one worker may read all of it again."""
SOCKET_TIMEOUT_S = 10
"""How long a Kafka client waits for an answer; librdkafka's default of a minute would leave little of a short run."""


class Setting(NamedTuple):
    """What a run is made of, beside its faults."""

    seed: int = 1
    protocol: str = "classic"
    partitions: int = 8
    events_per_s: float = 800.0
    window_s: int = 60
    duplicates: float = 0.08
    poison: float = 0.004
    tombstones: float = 0.002
    static: bool = True
    """Workers have names of their own in the group (`kafka.instance_id`)."""

    def generator(self) -> Generator:
        """Duplicates repeat what is up to a quarter more than the window before them."""
        in_window = self.window_s * self.events_per_s / self.partitions
        mix = Mix(
            duplicates=self.duplicates,
            poison=self.poison,
            tombstones=self.tombstones,
            duplicate_distance_max=max(1, int(1.25 * in_window)),
        )
        return Generator(shape("flat"), self.seed, mix)


class Servers:
    """Brokers, ClickHouse, and the network before them. A context manager; inside it everything runs."""

    kafka: ApacheKafka
    clickhouse: ChdbServer

    def __init__(self, directory: Path, brokers: int = 3) -> None:
        self.directory = directory
        self.nodes = range(1, brokers + 1)
        self.network = Network(self.nodes)
        self._stack = ExitStack()

    def __enter__(self) -> Servers:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        self._stack.enter_context(self.network)
        # Leaders go back to where they belong only when a fault says so.
        settings = {"auto.leader.rebalance.enable": "false", "min.insync.replicas": str(min(2, len(self.nodes)))}
        ports = {node: self.network.ports[broker(node)] for node in self.nodes}
        self.kafka = ApacheKafka(
            self.directory / "kafka", len(self.nodes), settings, proxy_ports=ports, heap_mb=HEAP_MB
        )
        for node in self.nodes:
            self.network.lead(broker(node), self.kafka.behind_proxy(node))
        self._stack.enter_context(self.kafka)
        self.clickhouse = self._stack.enter_context(ChdbServer(self.directory / "clickhouse", faults=True))
        self.network.lead(CLICKHOUSE, self.clickhouse.port)
        self.admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap, "log_level": 0})
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port in ports.values())
        self.url = f"http://127.0.0.1:{self.network.ports[CLICKHOUSE]}"

    def start_clickhouse(self) -> None:
        patiently(self.clickhouse.start, (StartFailed, OSError), 60.0)


class Stage:
    """A pipeline on servers: topics, a table, a configuration, by a name of their own. A context manager.

    `config_file` leads workers through the proxies, `config` leads past them.
    """

    def __init__(
        self, servers: Servers, directory: Path, setting: Setting, name: str = "faults", **sections: Mapping[str, Any]
    ) -> None:
        self.servers = servers
        self.setting = setting
        self.name = name
        self.topic, self.letters, self.table = f"{name}-events", f"{name}-letters", f"{name}_events"
        self.partitions = [Partition(self.topic, number) for number in range(setting.partitions)]
        self._sections = sections
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.config_file = self._write("penstock.toml", servers.bootstrap, servers.url, INSERT_TIMEOUT_S)
        direct = self._write("direct.toml", servers.kafka.bootstrap, servers.clickhouse.url, OUR_TIMEOUT_S)
        self.config = configuration.load(direct, {})

    def __enter__(self) -> Stage:
        self.cluster = Cluster(self.config.kafka)
        self.tables = ClickHouse(self.config.clickhouse)
        self.servers.kafka.create_topic(self.topic, self.setting.partitions)
        self.servers.kafka.create_topic(self.letters, 1)
        for statement in create_tables(load(self.config.routes[0], self.config.dedup, {})):
            self.tables.command(statement)
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.close()
        self.tables.close()

    def _write(self, name: str, brokers: str, url: str, timeout_s: int) -> Path:
        setting, workload = self.setting, shape("flat")
        kafka = {
            "brokers": brokers,
            "group": self.name,
            "group_protocol": setting.protocol,
            "revoke_drain_ms_max": 2_000,
        }
        kafka["commit_timeout_ms"] = SOCKET_TIMEOUT_S * 1000
        kafka["librdkafka"] = {"socket.timeout.ms": SOCKET_TIMEOUT_S * 1000, "reconnect.backoff.max.ms": 1_000}
        if setting.protocol == "classic":
            kafka["session_timeout_ms"] = int(SESSION_S * 1000)
        tree: dict[str, dict[str, Any]] = {
            "kafka": kafka,
            "clickhouse": {"urls": [url], "retry_wait_ms_max": 500, "insert_timeout_ms": timeout_s * 1000},
            "dedup": {"key": list(workload.key), "window_s": setting.window_s, "ids_max": IDS_MAX},
            # Fewer partitions than a worker has by itself, so that some wait for the next batch.
            "batch": {"age_ms_max": 200, "partitions_max": 3},
            "dead_letters": {"topic": self.letters},
            "http": {"host": "127.0.0.1", "port": 0},
        }
        for section, keys in self._sections.items():
            tree.setdefault(section, {}).update(keys)
        lines = [f"name = {_toml(self.name)}"]
        for section, keys in tree.items():
            lines += [f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in keys.items())]
        route = {"topic": self.topic, "table": self.table, "contract": workload.contract}
        lines += ["[[routes]]", *(f"{key} = {_toml(value)}" for key, value in route.items())]
        path = self.directory / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def committed(self) -> dict[int, tuple[int, str]]:
        """Partition number -> committed offset (0: none) and metadata. Empty while the group cannot say."""
        try:
            found = self.cluster.committed(self.partitions)
        except DependencyDown:
            return {}
        return {partition.number: (max(0, offset), metadata) for partition, (offset, metadata) in found.items()}

    def moved(self) -> bool:
        """Whether something of every partition is committed."""
        found = self.committed()
        return bool(found) and all(offset for offset, _ in found.values())


def patiently(attempt: Callable[[], T], errors: type[Exception] | tuple[type[Exception], ...], seconds: float) -> T:
    """Tries again until it works; the last error when it does not within `seconds`."""
    deadline_s = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except errors:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)


def delete_group(stage: Stage, seconds: float) -> None:
    """Forgets the committed offsets, as soon as the group has no member left."""

    def attempt() -> None:
        # A client of its own each time: one that knows a coordinator that has moved goes on asking it.
        admin = AdminClient({"bootstrap.servers": stage.servers.kafka.bootstrap, "log_level": 0})
        try:
            admin.delete_consumer_groups([stage.name], request_timeout=10)[stage.name].result(15)
        except KafkaException as error:
            # An attempt whose answer was lost has done it.
            if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise

    patiently(attempt, KafkaException, seconds)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)
