"""A real Apache Kafka in KRaft mode on loopback, for tests: fetched by Maven, formatted, started, killed, started again.

Each broker is a combined broker and controller, a Java process of its own with its data and log in a directory of the
caller. The jars come from Maven Central into the user's cache, resolved by Maven itself from a generated pom.
"""

from __future__ import annotations

import base64
import fcntl
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pipeline.embedded.child import Child, StartFailed
from pipeline.embedded.ports import free_ports

VERSION = "4.4.0"
JAVA_MIN = 17
BROKERS_MAX = 3
HEAP_MB = 384
FETCH_S_MAX = 300.0
FORMAT_S_MAX = 60.0
START_S_MAX = 240.0
STOP_GRACE_S = 20.0

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>penstock</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


CAUSES_MAX = 4


class FetchFailed(RuntimeError):
    """Maven could not bring the jars. The message holds the end of what it said."""


def unavailable_reason() -> str | None:
    """Why a real Kafka cannot be started here, or None; fetches the jars when they are not in the cache yet.

    With CI=true in the environment and with Java and Maven present, a failing fetch is raised (FetchFailed), so that
    continuous integration never passes by skipping.
    """
    found = _java_version()
    if found is None:
        return f"Java {JAVA_MIN} or later is not installed"
    if found < JAVA_MIN:
        return f"Java {JAVA_MIN} or later is needed, found {found}"
    if not _cached_jars() and shutil.which("mvn") is None:
        return "Maven (mvn) is not installed"
    try:
        jars()
    except FetchFailed as error:
        if os.environ.get("CI") == "true":
            raise
        return str(error)
    return None


def jars() -> list[Path]:
    """The class path, from the cache or fetched into it. Safe to call from several processes. Raises FetchFailed."""
    found = _cached_jars()
    if found:
        return found
    cache = _cache()
    cache.parent.mkdir(parents=True, exist_ok=True)
    with (cache.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _cached_jars():
            _fetch(cache)
    return _cached_jars()


class ApacheKafka:
    """A cluster of 1 or 3 brokers, numbered from 1, with their data under `directory`. A context manager.

    `properties` are added to every broker's configuration and win over ours. With `users` (name to password) each broker
    has a second listener that asks for SASL/PLAIN, at `sasl_bootstrap`. With `proxy_ports` (broker to port) each has one at
    `behind_proxy(node)` whose clients are told to come to that port of loopback, where a proxy of the caller listens.
    Topics are not created by themselves. Raises StartFailed when a broker does not come up in time.
    """

    def __init__(
        self,
        directory: str | Path,
        brokers: int = 1,
        properties: Mapping[str, str] | None = None,
        *,
        users: Mapping[str, str] | None = None,
        proxy_ports: Mapping[int, int] | None = None,
        heap_mb: int = HEAP_MB,
    ) -> None:
        if not 1 <= brokers <= BROKERS_MAX:
            raise ValueError(f"brokers = {brokers}: 1 to {BROKERS_MAX}")
        self.directory = Path(directory)
        self.brokers = brokers
        self._properties = dict(properties or {})
        self._users = dict(users or {})
        self._proxy_ports = dict(proxy_ports or {})
        self._heap_mb = heap_mb
        self._nodes = range(1, brokers + 1)
        ports = iter(free_ports(4 * brokers))
        self._ports = {node: (next(ports), next(ports), next(ports), next(ports)) for node in self._nodes}
        self._children: dict[int, Child] = {}
        self._formatted = False
        self.bootstrap = ",".join(f"127.0.0.1:{ports[0]}" for ports in self._ports.values())
        self.sasl_bootstrap = ",".join(f"127.0.0.1:{ports[2]}" for ports in self._ports.values()) if self._users else ""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, node: int | None = None) -> None:
        """Starts one broker, or all that do not run; returns when those that run answer as one cluster."""
        if not self._formatted:
            self._format()
        for number in self._nodes if node is None else (node,):
            if not self.running(number):
                if ended := self._children.pop(number, None):
                    ended.kill()
                self._children[number] = self._launch(number)
        self._wait_until_up()

    def kill(self, node: int = 1) -> None:
        """SIGKILL; `start` brings it up again with its data."""
        self._children.pop(node).kill()

    def stop(self, node: int | None = None) -> None:
        """SIGTERM, SIGKILL after a time; all brokers, or one. Stopping twice does nothing."""
        for number in list(self._children) if node is None else [node]:
            child = self._children.pop(number, None)
            if child is not None:
                # A controller without a quorum cannot leave in order: the last brokers of several are not waited for.
                child.stop(STOP_GRACE_S if self.brokers == 1 else 2.0)

    def running(self, node: int = 1) -> bool:
        return node in self._children and self._children[node].running

    def pid(self, node: int = 1) -> int:
        return self._children[node].pid

    def behind_proxy(self, node: int) -> int:
        """The port that the proxy of a broker leads to."""
        return self._ports[node][3]

    def cpu_seconds(self) -> float:
        """CPU time of the brokers that run, since each started."""
        return sum(child.cpu_seconds() for child in self._children.values())

    def log_tail(self, node: int = 1) -> str:
        return self._children[node].log_tail()

    def create_topic(self, topic: str, partitions: int, **config: str) -> None:
        """Creates a topic with a copy on every broker and waits until every partition has a leader. Raises KafkaException."""
        admin = self._admin()
        created = admin.create_topics([NewTopic(topic, partitions, self.brokers, config=config)], operation_timeout=30)
        created[topic].result(timeout=30)
        ends_at = time.monotonic() + 30
        while time.monotonic() < ends_at:
            found = admin.list_topics(topic, timeout=10).topics[topic].partitions
            if len(found) == partitions and all(partition.leader > 0 for partition in found.values()):
                return
            time.sleep(0.05)
        raise StartFailed(f"topic {topic} has partitions without a leader")

    def delete_topic(self, topic: str) -> None:
        # The client must outlive its answer.
        admin = self._admin()
        admin.delete_topics([topic], operation_timeout=30)[topic].result(timeout=30)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def _format(self) -> None:
        """Writes the configurations and formats the storage of every broker for one new cluster."""
        cluster_id = _new_cluster_id()
        for node in self._nodes:
            home = self._home(node)
            home.mkdir(parents=True, exist_ok=True)
            lines = (f"{name}={value}" for name, value in self._configuration(node).items())
            (home / "server.properties").write_text("\n".join(lines) + "\n")
            command = [*self._java(home), "kafka.tools.StorageTool", "format"]
            command += ["--cluster-id", cluster_id, "--config", str(home / "server.properties")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_S_MAX, check=False)
            if done.returncode:
                raise StartFailed(f"Kafka's storage tool refused:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        self._formatted = True

    def _configuration(self, node: int) -> dict[str, str]:
        data_port, controller_port, sasl_port, proxied_port = self._ports[node]
        listeners = {"PLAINTEXT": data_port, "CONTROLLER": controller_port}
        if self._users:
            listeners["SASL_PLAINTEXT"] = sasl_port
        if self._proxy_ports:
            listeners["PROXIED"] = proxied_port
        advertised = listeners | ({"PROXIED": self._proxy_ports[node]} if self._proxy_ports else {})
        users = " ".join(f'user_{name}="{password}"' for name, password in self._users.items())
        copies = str(self.brokers)
        settings = {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{self._ports[n][1]}" for n in self._nodes),
            "listeners": _addresses(listeners),
            "advertised.listeners": _addresses({n: port for n, port in advertised.items() if n != "CONTROLLER"}),
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,"
            "SASL_PLAINTEXT:SASL_PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self._home(node) / "data"),
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": "8",
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "200",
            "group.min.session.timeout.ms": "1000",
            # What the consumer protocol dictates to its members; the defaults are made for large groups.
            "group.consumer.min.session.timeout.ms": "3000",
            "group.consumer.session.timeout.ms": "6000",
            "group.consumer.min.heartbeat.interval.ms": "300",
            "group.consumer.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "500",
            "num.io.threads": "4",
            "num.network.threads": "2",
            "log.cleaner.dedupe.buffer.size": "4194304",
        }
        if self._users:
            settings["sasl.enabled.mechanisms"] = "PLAIN"
            settings["listener.name.sasl_plaintext.plain.sasl.jaas.config"] = (
                f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
            )
        return settings | self._properties

    def _launch(self, node: int) -> Child:
        home = self._home(node)
        command = [*self._java(home), "kafka.Kafka", str(home / "server.properties")]
        return Child(command, home / "server.log", output_to_log=True, guarded=True)

    def _java(self, home: Path) -> list[str]:
        return [
            "java",
            f"-Xmx{self._heap_mb}m",
            "-XX:+UseSerialGC",
            # Start-up counts here, peak speed does not.
            "-XX:TieredStopAtLevel=1",
            "-Djava.awt.headless=true",
            # Native libraries are unpacked there, and a broker that is killed leaves them.
            f"-Djava.io.tmpdir={home}",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-cp",
            os.pathsep.join(str(path) for path in jars()),
        ]

    def _wait_until_up(self) -> None:
        """Until each broker that was started, asked itself, knows itself and the others as alive."""
        ends_at = time.monotonic() + START_S_MAX
        for node, child in self._children.items():
            admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{self._ports[node][0]}", "log_level": 0})
            while not _answers(admin, set(self._children)):
                self._raise_if_one_ended()
                if time.monotonic() > ends_at:
                    reason = f"Kafka broker {node} did not answer within {START_S_MAX:.0f} s"
                    raise StartFailed(f"{reason}; the end of its log:\n{child.log_tail()}")
                time.sleep(0.1)

    def _raise_if_one_ended(self) -> None:
        for node, child in self._children.items():
            if not child.running:
                why = "".join(f"\n{cause}" for cause in causes(child.log.read_text(errors="replace")))
                raise StartFailed(f"Kafka broker {node} ended{why}\nThe end of its log:\n{child.log_tail()}")

    def _home(self, node: int) -> Path:
        return self.directory / f"broker-{node}"


def _addresses(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


def _new_cluster_id() -> str:
    """Kafka's form of a UUID; one that begins with a dash would be taken for an option, and Kafka makes none either."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def causes(log: str) -> list[str]:
    """What the last exceptions in a broker's log go back to, each once. Others are busy after a broker has failed, and fill
    the end of its log."""
    found = [line.removeprefix("Caused by: ") for line in log.splitlines() if line.startswith("Caused by: ")]
    return list(dict.fromkeys(found))[-CAUSES_MAX:]


def _answers(admin: AdminClient, nodes: set[int]) -> bool:
    try:
        found = admin.list_topics(timeout=1)
    except KafkaException:
        return False
    return nodes <= set(found.brokers) and found.controller_id > 0


def _java_version() -> int | None:
    if shutil.which("java") is None:
        return None
    done = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=30, check=False)
    found = re.search(r'version "(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if found else None


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "penstock" / f"kafka-{VERSION}"


def _cached_jars() -> list[Path]:
    return sorted((_cache() / "jars").glob("*.jar"))


def _fetch(cache: Path) -> None:
    """Has Maven copy Kafka and what it needs to `cache`, which appears whole or not at all."""
    building = cache.with_name(f"{cache.name}.{os.getpid()}")
    building.mkdir()
    try:
        pom = building / "pom.xml"
        pom.write_text(_POM.format(version=VERSION))
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={building / 'jars'}", "-DincludeScope=runtime"]
        command = ["mvn", "--quiet", "--batch-mode", "--file", str(pom), *goal]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S_MAX, check=False)
        except subprocess.TimeoutExpired as error:
            raise FetchFailed(f"Maven did not bring Kafka {VERSION} within {FETCH_S_MAX:.0f} s") from error
        if done.returncode:
            raise FetchFailed(f"Maven could not bring Kafka {VERSION}:\n{(done.stdout + done.stderr)[-2000:]}")
        building.rename(cache)
    finally:
        shutil.rmtree(building, ignore_errors=True)
