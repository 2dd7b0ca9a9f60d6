"""Builds the parts of a worker from its configuration, after checking that Kafka, ClickHouse and the contracts fit together.

It opens clients and reads schemas; it consumes and inserts nothing.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline import contract as contracts
from pipeline.batch import Target
from pipeline.bounds import Bounds
from pipeline.clickhouse import ClickHouse
from pipeline.clock import Clock, SystemClock
from pipeline.config import parse_start
from pipeline.config.schema import Config, Route
from pipeline.config.schema import Dedup as DedupConfig
from pipeline.contract import Contract, TableColumn
from pipeline.deadletter import DeadLetters
from pipeline.decode import Decoder
from pipeline.dedup import Dedup, domain
from pipeline.delivery import Delivery
from pipeline.errors import ConfigurationError, DependencyDown, Problem, SinkError
from pipeline.flow import Event as FlowEvent
from pipeline.flow import Flow
from pipeline.intent import Identity, digest
from pipeline.kafka import Clients, Cluster
from pipeline.lane import Lane
from pipeline.metrics import Metrics
from pipeline.native import BlockBuilder, Column
from pipeline.offsets import RETRY_WAIT_MS_MAX, Offsets
from pipeline.patience import Patience
from pipeline.planning import Planned, native_lane
from pipeline.preflight import Status, definition_checks
from pipeline.recovery import Recovery
from pipeline.sink import Sink
from pipeline.source import open_source
from pipeline.threads import Threads
from pipeline.types import Partition, Source
from pipeline.window import Window

log = logging.getLogger(__name__)

STARTUP_S_MAX = 60.0
"""How long a worker waits at its start for Kafka and ClickHouse before it gives up; later it waits for ever."""
UNKNOWN_TABLE = 60
NO_DEDUP = DedupConfig()


@dataclass
class Assembly:
    """Everything a worker consists of but its threads."""

    config: Config
    clock: Clock
    metrics: Metrics
    stopping: threading.Event
    cluster: Cluster
    offsets: Offsets
    clickhouse: ClickHouse
    identity: Identity
    contracts: Mapping[str, Contract]
    sink: Sink
    dead_letters: DeadLetters | None
    delivery: Delivery
    config_digest: bytes
    threads: Threads
    clients: Clients
    bounds: Bounds | None = None
    """Set by `bind`: makes the worker's reading a bounded one."""

    @property
    def topics(self) -> list[str]:
        return self.bounds.topics if self.bounds is not None else [route.topic for route in self.config.routes]

    @property
    def salt(self) -> str:
        """Part of the tokens of new batches; empty but for a replay."""
        return self.bounds.salt if self.bounds is not None else ""

    def bind(self, bounds: Bounds) -> None:
        """Bounds the reading. To be called before `flow`."""
        self.bounds = bounds
        self.delivery.screen = bounds.screen

    def flow(self, post: Callable[[FlowEvent], None]) -> Flow:
        """The data plane with its recovery; they share the claims and nothing else."""
        dedup = Dedup(self.config.dedup)
        live, again = self._lanes(dedup), self._lanes(dedup)
        flow: Flow

        def heartbeat() -> None:
            flow.heartbeat()

        window = Window(
            self.config.dedup,
            dedup,
            self.contracts,
            again,
            self.clickhouse,
            self.sink,
            self.offsets,
            self.open_source,
            self.clock,
            heartbeat,
        )
        recovery = Recovery(
            again,
            dedup,
            window,
            self.sink,
            self.delivery,
            self.dead_letters,
            self._start_positions,
            self.open_source,
            self.clock,
            heartbeat,
            self.bounds,
        )
        flow = Flow(
            self.config,
            live,
            dedup,
            recovery,
            self.open_source,
            post,
            self.metrics,
            self.clock,
            self.stopping,
            self.threads,
            self.bounds,
        )
        return flow

    def open_source(self) -> Source:
        """A source of its own, for whoever reads."""
        return open_source(self.config.kafka)

    def waiting(self) -> list[str]:
        """What ClickHouse, Kafka or the dead-letter topic makes us wait for."""
        waits = [self.sink.waiting, self.offsets.waiting, self.dead_letters.waiting if self.dead_letters else ""]
        return [wait for wait in waits if wait]

    def close(self) -> None:
        if self.dead_letters is not None:
            self.dead_letters.close()
        self.clickhouse.close()
        self.cluster.close()

    def _lanes(self, dedup: Dedup) -> dict[str, Lane]:
        with_ids = self.bounds is not None and dedup.key_is_column
        return {
            topic: lane_of(topic, contract, self.config, dedup, with_ids=with_ids)
            for topic, contract in self.contracts.items()
        }

    def _start_positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Where partitions without a committed offset begin (`kafka.start`)."""
        if self.bounds is not None:
            return {partition: self.bounds.first(partition) for partition in partitions}
        start = parse_start(self.config.kafka.start)
        if isinstance(start, int):
            return self.offsets.for_times(dict.fromkeys(partitions, start))
        index = 0 if start == "earliest" else 1
        return {partition: marks[index] for partition, marks in self.offsets.watermarks(partitions).items()}


def assemble(config: Config, *, wait_s: float = STARTUP_S_MAX) -> Assembly:
    """Opens clients, checks that topics, tables and contracts fit, and gives the parts of a worker.

    Raises DependencyDown when Kafka or ClickHouse cannot be reached within `wait_s` or refuses our credentials, and
    ConfigurationError with every problem when topics, tables and contracts do not fit together.
    """
    clock, metrics, threads, clients = SystemClock(), Metrics(), Threads(), Clients()
    stopping = threads.event()
    cluster = clients.cluster(config.kafka)
    cluster.wait(wait_s)
    clickhouse = ClickHouse(config.clickhouse)
    loaded = _contracts_once_up(config, clickhouse, cluster, wait_s)
    patience = Patience(clock, stopping, random.Random(), metrics, wait_ms_max=RETRY_WAIT_MS_MAX)
    sink = Sink(clickhouse, config.clickhouse, clock, stopping, metrics, random.Random())
    topics = [route.topic for route in config.routes]
    identity = Identity(config.name, cluster.cluster_id(), cluster.topic_ids(topics))
    letters = config.dead_letters
    dead_letters = None
    if letters.topic:
        dead_letters = DeadLetters(
            config.kafka,
            letters.topic,
            clock,
            metrics,
            pipeline=config.name,
            stopping=stopping,
            random=random.Random(),
            clients=clients,
        )
        dead_letters.check()
    lanes = {topic: lane_of(topic, contract, config, Dedup(NO_DEDUP)) for topic, contract in loaded.items()}
    for topic, lane in lanes.items():
        if lane.left:
            log.info("%s: left to msgspec, which costs more: %s", topic, "; ".join(lane.left))
    return Assembly(
        config=config,
        clock=clock,
        metrics=metrics,
        stopping=stopping,
        cluster=cluster,
        offsets=Offsets(cluster, patience),
        clickhouse=clickhouse,
        identity=identity,
        contracts=loaded,
        sink=sink,
        dead_letters=dead_letters,
        delivery=Delivery(
            identity,
            sink,
            dead_letters,
            lanes.__getitem__,
            lambda: open_source(config.kafka),
            on_reject=letters.on_reject,
        ),
        config_digest=digest("\n".join(f"{topic} {contract.digest}" for topic, contract in sorted(loaded.items()))),
        threads=threads,
        clients=clients,
    )


def _contracts_once_up(config: Config, clickhouse: ClickHouse, cluster: Cluster, wait_s: float) -> dict[str, Contract]:
    """Waits for ClickHouse, and again when it goes away between two questions."""
    deadline_s = time.monotonic() + wait_s
    while True:
        wait_for_clickhouse(clickhouse, deadline_s - time.monotonic())
        try:
            return load_contracts(config, clickhouse, cluster, to_write=True)
        except DependencyDown as error:
            passing = isinstance(error.__cause__, SinkError) and error.__cause__.retriable
            if not passing or time.monotonic() >= deadline_s:
                raise


def wait_for_clickhouse(clickhouse: ClickHouse, wait_s: float) -> None:
    """Returns when ClickHouse answers; raises DependencyDown at the deadline, or at once when waiting cannot help."""
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            return clickhouse.ping()
        except SinkError as error:
            if not error.retriable or time.monotonic() >= deadline_s:
                raise DependencyDown(str(error)) from error
        time.sleep(0.5)


def load_contracts(
    config: Config, clickhouse: ClickHouse, cluster: Cluster | None, *, to_write: bool = False
) -> dict[str, Contract]:
    """Every route's contract, checked against its tables; raises ConfigurationError with the problems of all routes.

    `to_write`: tables that cannot take every row exactly once are problems too.
    """
    problems: list[Problem] = []
    found: dict[str, Contract] = {}
    timezone = _timezone(clickhouse)
    for index, route in enumerate(config.routes):
        key = f"routes[{index}]"
        if cluster is not None and not cluster.topic_exists(route.topic):
            fix = "Create it, or correct the name; topics are never created automatically"
            problems.append(Problem(f"{key}.topic", repr(route.topic), "Kafka has no such topic", fix))
        tables = _columns_of(clickhouse, route, key, problems)
        if tables is None:
            continue
        try:
            found[route.topic] = contracts.load(route, config.dedup, tables, timezone=timezone)
        except ConfigurationError as error:
            problems += error.problems
        if to_write:
            for table in tables:
                problems += _table_problems(config, clickhouse, table, key)
    if problems:
        raise ConfigurationError(problems)
    return found


@contextmanager
def _answers_needed() -> Iterator[None]:
    """Whatever ClickHouse does not answer in here keeps the worker from starting."""
    try:
        yield
    except SinkError as error:
        raise DependencyDown(str(error)) from error


def _timezone(clickhouse: ClickHouse) -> str:
    with _answers_needed():
        return str(clickhouse.query_rows("SELECT timezone()", doing="reading the server's time zone")[0][0])


def id_columns(target: contracts.Target) -> list[Column]:
    """The columns of a target that make its event ids and the place of each: what a look-up of ids is asked with."""
    columns = [column for column in target.columns if column.name in target.key_columns]
    return columns + [
        Column(name, contracts.LINEAGE[name][1], contracts.LINEAGE[name][0])
        for name in ("_partition", "_offset", "_timestamp")
    ]


def _table_problems(config: Config, clickhouse: ClickHouse, table: str, key: str) -> list[Problem]:
    """What `penstock check` calls a problem of the table; what it warns of is logged."""
    with _answers_needed():
        found = list(definition_checks(config, clickhouse, table, clickhouse.table_facts(table)))
    problems = []
    for check in found:
        if check.status is Status.PROBLEM:
            problems.append(Problem(f"{key}.table", repr(table), check.text, check.fix))
        elif check.status is not Status.OK:
            log.warning("the table %s %s. %s", table, check.text, check.fix)
    return problems


def _columns_of(
    clickhouse: ClickHouse, route: Route, key: str, problems: list[Problem]
) -> dict[str, Sequence[TableColumn]] | None:
    tables: dict[str, Sequence[TableColumn]] = {}
    missing = False
    for table in route.tables.values() if route.tables else [route.table]:
        try:
            tables[table] = clickhouse.columns(table)
        except SinkError as error:
            if error.code != UNKNOWN_TABLE:
                raise DependencyDown(str(error)) from error
            missing = True
            fix = "`penstock ddl` prints the CREATE TABLE for a contract"
            problems.append(Problem(f"{key}.table", repr(table), "ClickHouse has no such table", fix))
    return None if missing else tables


def lane_of(topic: str, contract: Contract, config: Config, dedup: Dedup, *, with_ids: bool = False) -> Lane:
    """One topic's lane. `with_ids`: its batches also hold the key and lineage columns by themselves."""
    key_columns_count = bool(dedup.key_is_column)
    targets = []
    for row_type, target in contract.tables.items():
        key = target.key_columns if key_columns_count else ()
        scope = domain(topic, target.table)
        builder = BlockBuilder(target.columns, key=key, domain=scope, encode_json=contracts.encode_json)
        names = tuple(column.name for column in target.columns)
        ids = BlockBuilder(id_columns(target), encode_json=contracts.encode_json) if with_ids else None
        targets.append((row_type, Target(topic, target.table, names, builder, ids)))
    decoder = Decoder(contract, config.limits.record_bytes_max, config.dead_letters.tombstones)
    planned = native_lane(contract, targets) if config.decode.lane == "native" else Planned(None, ())
    return Lane(contract, decoder, targets, dedup, *planned)
