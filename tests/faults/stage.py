"""What a run takes place on: three brokers, ClickHouse, the network before them, topics, a table, the configuration."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pipeline import config as configuration
from pipeline.clickhouse import ClickHouse
from pipeline.config.schema import Config
from pipeline.contract import load
from pipeline.ddl import create_tables
from pipeline.embedded.apache_kafka import ApacheKafka
from pipeline.embedded.chdb_server import ChdbServer
from pipeline.embedded.child import StartFailed
from pipeline.kafka import Cluster
from pipeline.types import Partition
from pipeline.workload import Generator, Mix, shape
from tests.faults.network import CLICKHOUSE, Network, broker

T = TypeVar("T")
NAME = "faults"
TOPIC, LETTERS, TABLE = "events", "letters", "events"
BROKERS = (1, 2, 3)
HEAP_MB = 256
SESSION_S = 6.0
"""After this long without a sign a worker has lost its partitions, in both protocols."""
INSERT_TIMEOUT_S = 3
SOCKET_TIMEOUT_S = 10
"""How long a Kafka client waits for an answer; librdkafka's default of a minute would leave little of a short run."""

_KAFKA = {
    "min.insync.replicas": "2",
    # Leaders go back to where they belong only when a fault says so.
    "auto.leader.rebalance.enable": "false",
}


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


class Stage:
    """A context manager; inside it everything runs. `config` leads past the proxies, `config_file` through them."""

    kafka: ApacheKafka
    clickhouse: ChdbServer
    network: Network
    config: Config
    config_file: Path

    def __init__(self, directory: Path, setting: Setting, **sections: Mapping[str, Any]) -> None:
        self.directory = directory
        self.setting = setting
        self._sections = sections
        self._stack = ExitStack()
        self.partitions = [Partition(TOPIC, number) for number in range(setting.partitions)]

    def __enter__(self) -> Stage:
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.network = self._stack.enter_context(Network(BROKERS))
        ports = {node: self.network.ports[broker(node)] for node in BROKERS}
        self.kafka = ApacheKafka(self.directory / "kafka", len(BROKERS), _KAFKA, proxy_ports=ports, heap_mb=HEAP_MB)
        for node in BROKERS:
            self.network.lead(broker(node), self.kafka.behind_proxy(node))
        self._stack.enter_context(self.kafka)
        self.clickhouse = self._stack.enter_context(ChdbServer(self.directory / "clickhouse", faults=True))
        self.network.lead(CLICKHOUSE, self.clickhouse.port)
        through = ",".join(f"127.0.0.1:{port}" for port in ports.values())
        proxied_url = f"http://127.0.0.1:{self.network.ports[CLICKHOUSE]}"
        self.config_file = self._write("penstock.toml", through, proxied_url)
        direct = self._write("direct.toml", self.kafka.bootstrap, self.clickhouse.url)
        self.config = configuration.load(direct, {})
        self.cluster = Cluster(self.config.kafka)
        self._stack.callback(self.cluster.close)
        self.tables = ClickHouse(self.config.clickhouse)
        self._stack.callback(self.tables.close)
        self.admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap, "log_level": 0})
        self.kafka.create_topic(TOPIC, self.setting.partitions)
        self.kafka.create_topic(LETTERS, 1)
        for statement in create_tables(load(self.config.routes[0], self.config.dedup, {})):
            self.tables.command(statement)

    def _write(self, name: str, brokers: str, url: str) -> Path:
        setting, workload = self.setting, shape("flat")
        kafka = {"brokers": brokers, "group": NAME, "group_protocol": setting.protocol, "revoke_drain_ms_max": 2_000}
        kafka["librdkafka"] = {"socket.timeout.ms": SOCKET_TIMEOUT_S * 1000, "reconnect.backoff.max.ms": 1_000}
        if setting.protocol == "classic":
            kafka["session_timeout_ms"] = int(SESSION_S * 1000)
        tree: dict[str, dict[str, Any]] = {
            "kafka": kafka,
            "clickhouse": {"urls": [url], "retry_wait_ms_max": 500, "insert_timeout_ms": INSERT_TIMEOUT_S * 1000},
            "dedup": {"key": list(workload.key), "window_s": setting.window_s, "ids_max": 1_000_000},
            "batch": {"age_ms_max": 200},
            "dead_letters": {"topic": LETTERS},
            "http": {"host": "127.0.0.1", "port": 0},
        }
        for section, keys in self._sections.items():
            tree.setdefault(section, {}).update(keys)
        lines = [f"name = {_toml(NAME)}"]
        for section, keys in tree.items():
            lines += [f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in keys.items())]
        route = {"topic": TOPIC, "table": TABLE, "contract": workload.contract}
        lines += ["[[routes]]", *(f"{key} = {_toml(value)}" for key, value in route.items())]
        path = self.directory / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def committed(self) -> dict[int, tuple[int, str]]:
        """Partition number -> committed offset (0: none) and metadata. Raises DependencyDown while the group cannot say."""
        found = self.cluster.committed(self.partitions)
        return {partition.number: (max(0, offset), metadata) for partition, (offset, metadata) in found.items()}

    def start_clickhouse(self) -> None:
        patiently(self.clickhouse.start, (StartFailed, OSError), 60.0)


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


def delete_group(admin: AdminClient, seconds: float) -> None:
    """Forgets the committed offsets, as soon as the group has no member left."""
    patiently(
        lambda: admin.delete_consumer_groups([NAME], request_timeout=10)[NAME].result(15), KafkaException, seconds
    )


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)
