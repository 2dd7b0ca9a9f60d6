"""Whether a configuration can work: against itself, against the contracts, and against Kafka and ClickHouse as they are now.

It looks and never changes anything: no topic, table, group or offset. What it finds is a list of checks, each with the fix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from pipeline.config import Config
from pipeline.errors import ConfigurationError, DependencyDown, Exit, Problem, SinkError
from pipeline.types import Partition

if TYPE_CHECKING:
    from pipeline.clickhouse import ClickHouse, TableFacts
    from pipeline.contract import Contract
    from pipeline.kafka import Cluster

WINDOW_BLOCKS_FEW = 1_000
"""Fewer remembered blocks than this are used up by a busy fleet within minutes."""
METADATA_BYTES_NEEDED = 4_000
UNKNOWN_TABLE = 60


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    DOWN = "down"
    SKIPPED = "skipped"


class Check(NamedTuple):
    """One thing looked at."""

    name: str
    status: Status
    text: str
    fix: str = ""
    configuration: bool = False
    """A problem of the file itself, as opposed to one of what it meets."""


def exit_code(checks: Sequence[Check]) -> Exit:
    """78 when the configuration is wrong, else 69 when a dependency is down, else 1 when something does not fit, else 0."""
    if any(check.configuration and check.status is Status.PROBLEM for check in checks):
        return Exit.CONFIG
    if any(check.status is Status.DOWN for check in checks):
        return Exit.UNAVAILABLE
    return Exit.NO if any(check.status is Status.PROBLEM for check in checks) else Exit.OK


def of_problem(problem: Problem, status: Status, *, configuration: bool = False) -> Check:
    """A problem as a check."""
    shown = f"{problem.value} " if problem.value else ""
    return Check(problem.key, status, f"{shown}{problem.rule}", problem.fix, configuration)


def offline(config: Config) -> Iterator[Check]:
    """The contracts alone; the configuration itself has passed already, or there would be none."""
    from pipeline import contract as contracts
    from pipeline.kafka import refused_properties

    for problem in refused_properties(config.kafka):
        yield of_problem(problem, Status.PROBLEM, configuration=True)
    for route in config.routes:
        name = f"contract {route.topic}"
        if not route.contract:
            yield Check(name, Status.SKIPPED, f"is inferred from the table {route.table}, which only ClickHouse knows")
            continue
        try:
            loaded = contracts.load(route, config.dedup, {})
        except ConfigurationError as error:
            for problem in error.problems:
                yield of_problem(problem, Status.PROBLEM, configuration=True)
        else:
            yield Check(name, Status.OK, _described(loaded))


def kafka(config: Config, timeout_s: float) -> Iterator[Check]:
    """Brokers, credentials, topics, the dead-letter topic, and what brokers allow."""
    from pipeline.kafka import Cluster

    try:
        cluster = Cluster(config.kafka, timeout_s=timeout_s)
    except ConfigurationError as error:
        yield from (of_problem(problem, Status.PROBLEM, configuration=True) for problem in error.problems)
        return
    try:
        cluster.wait(timeout_s)
        brokers = cluster.brokers()
        text = f"{len(brokers)} broker{'s' if len(brokers) != 1 else ''}, cluster {cluster.cluster_id() or 'without an id'}"
        yield Check("kafka", Status.OK, text)
        partitions = {route.topic: cluster.topic_partitions(route.topic) for route in config.routes}
        for index, (topic, number) in enumerate(partitions.items()):
            yield _topic(number, f"topic {topic}", f"routes[{index}].topic")
        yield _group(config, cluster, partitions)
        if topic := config.dead_letters.topic:
            yield _topic(cluster.topic_partitions(topic), f"topic {topic}", "dead_letters.topic")
            yield from _dead_letter_size(config, cluster.settings("topic", topic))
        yield from broker_limits(config, cluster.settings("broker", str(brokers[0])) if brokers else {})
    except DependencyDown as error:
        yield _down("kafka", error)
    finally:
        cluster.close()


def _topic(partitions: int, name: str, key: str) -> Check:
    if partitions:
        return Check(name, Status.OK, f"{partitions} partition{'s' if partitions != 1 else ''}")
    return Check(
        name, Status.PROBLEM, "does not exist", f"Create it, or correct {key}; topics are never created by themselves"
    )


def _group(config: Config, cluster: Cluster, partitions: Mapping[str, int]) -> Check:
    """What the group has committed: whether it is ours, and what the next worker will have to finish."""
    from pipeline.intent import ForeignIntent, Identity, decode

    name = f"group {config.kafka.group}"
    existing = [topic for topic, number in partitions.items() if number]
    identity = Identity(config.name, cluster.cluster_id(), cluster.topic_ids(existing))
    committed = cluster.committed(Partition(topic, at) for topic in existing for at in range(partitions[topic]))
    declared = set()
    for partition, (_, metadata) in committed.items():
        try:
            declared |= {intent.identity for intent in decode(metadata, identity, partition)}
        except ForeignIntent as error:
            text, _, fix = str(error).partition(". ")
            return Check(name, Status.PROBLEM, text, fix)
    positions = sum(offset >= 0 for offset, _ in committed.values())
    text = f"has committed {positions} of {len(committed)} partitions"
    if declared:
        text += f", {len(declared)} batch{'es' if len(declared) != 1 else ''} declared and not finished"
    return Check(name, Status.OK, text)


def _dead_letter_size(config: Config, settings: Mapping[str, str]) -> Iterator[Check]:
    limit = settings.get("max.message.bytes", "")
    if limit.isdecimal() and int(limit) < config.limits.record_bytes_max:
        yield Check(
            f"topic {config.dead_letters.topic}",
            Status.WARNING,
            f"takes records up to {limit} bytes, limits.record_bytes_max is {config.limits.record_bytes_max}",
            "Raise its max.message.bytes: a reject that does not fit there holds up its partition",
        )


def broker_limits(config: Config, settings: Mapping[str, str]) -> Iterator[Check]:
    """What a broker's own configuration forbids. Empty settings could not be read and say nothing."""
    name = "kafka limits"
    if not settings:
        yield Check(name, Status.SKIPPED, "the brokers' configuration cannot be read (no right to, or not supported)")
        return
    room = settings.get("offset.metadata.max.bytes", "")
    if room.isdecimal() and int(room) < METADATA_BYTES_NEEDED:
        yield Check(
            name,
            Status.PROBLEM,
            f"offset.metadata.max.bytes is {room}, and offset commits carry up to {METADATA_BYTES_NEEDED} bytes",
            "Set it to 4096, its default, on all brokers",
        )
    protocols = settings.get("group.coordinator.rebalance.protocols", "")
    if config.kafka.group_protocol == "consumer" and "consumer" not in protocols:
        yield Check(
            name,
            Status.PROBLEM,
            'the brokers do not offer kafka.group_protocol = "consumer"'
            + (f" (they offer {protocols})" if protocols else " (they are older than 4.0)"),
            'Use group_protocol = "classic", or upgrade the brokers to 4.0 or later',
        )
    yield from _session_limits(config, settings)


def _session_limits(config: Config, settings: Mapping[str, str]) -> Iterator[Check]:
    session = config.kafka.session_timeout_ms
    low, high = settings.get("group.min.session.timeout.ms", ""), settings.get("group.max.session.timeout.ms", "")
    if config.kafka.group_protocol != "classic" or not (low.isdecimal() and high.isdecimal()):
        return
    if not int(low) <= session <= int(high):
        yield Check(
            "kafka limits",
            Status.PROBLEM,
            f"the brokers take a session timeout from {low} to {high} ms, kafka.session_timeout_ms is {session}",
            f"Set kafka.session_timeout_ms to {low if session < int(low) else high}",
        )


def clickhouse(config: Config) -> Iterator[Check]:
    """Servers, credentials, versions, tables and how they deduplicate, and the contracts against their columns."""
    import msgspec

    from pipeline.clickhouse import ClickHouse

    up = []
    for url in config.clickhouse.urls:
        check = _server(url, ClickHouse(msgspec.structs.replace(config.clickhouse, urls=[url])))
        up += [url] if check.status is Status.OK else []
        yield check
    if not up:
        return
    client = ClickHouse(msgspec.structs.replace(config.clickhouse, urls=up))
    try:
        yield from _contracts(config, client)
        for table in tables_of(config):
            yield from _table(config, table, client)
    except (SinkError, DependencyDown) as error:
        yield _down("clickhouse", error)
    finally:
        client.close()


def tables_of(config: Config) -> list[str]:
    """Every table that rows go to, in the order of the routes."""
    return [table for route in config.routes for table in (route.tables.values() if route.tables else [route.table])]


def _server(url: str, client: ClickHouse) -> Check:
    try:
        client.ping()
        version = ".".join(str(part) for part in client.version()[:3])
        return Check("clickhouse", Status.OK, f"{url}: version {version}")
    except SinkError as error:
        return _down("clickhouse", error)
    finally:
        client.close()


def _down(name: str, error: Exception) -> Check:
    text, _, fix = str(error).partition(". ")
    return Check(
        name, Status.DOWN, text, fix or "Check the address, the network, and that the service is up and listens there"
    )


def _contracts(config: Config, client: ClickHouse) -> Iterator[Check]:
    """Exactly what a worker does at its start."""
    from pipeline.assembly import load_contracts

    try:
        loaded = load_contracts(config, client, None)
    except ConfigurationError as error:
        for problem in error.problems:
            yield of_problem(problem, Status.PROBLEM)
        return
    for topic, contract in loaded.items():
        yield Check(f"contract {topic}", Status.OK, _described(contract))


def _described(contract: Contract) -> str:
    targets = [f"{target.table} ({len(target.columns)} columns)" for target in contract.tables.values()]
    return f"{contract.name} fills {', '.join(targets)}"


def _table(config: Config, table: str, client: ClickHouse) -> Iterator[Check]:
    from pipeline.clickhouse import quote_table

    try:
        facts = client.table_facts(table)
    except SinkError as error:
        if error.code != UNKNOWN_TABLE:
            raise
        return  # The contract check has said so.
    faults = list(table_faults(config, quote_table(table), facts))
    yield from (Check(f"table {table}", *fault) for fault in faults)
    if not any(status is Status.PROBLEM for status, _, _ in faults):
        window = f"remembers {facts.window_blocks} inserts"
        window += f" for {facts.window_s} s" if facts.window_s is not None else ""
        yield Check(
            f"table {table}", Status.OK, f"{facts.engine}, {window}{', lineage columns' if facts.lineage else ''}"
        )


def table_faults(config: Config, table: str, facts: TableFacts) -> Iterator[tuple[Status, str, str]]:
    """What keeps inserts into a table from being exactly-once: status, what, fix. `table` as it is written in SQL."""
    if not facts.engine.endswith("MergeTree"):
        yield (
            Status.WARNING,
            f"has the engine {facts.engine}, which does not remember tokens: a repeated insert may be stored twice",
            "Write to a MergeTree table, and let this one read from it",
        )
    elif not facts.window_blocks:
        key = "replicated_deduplication_window" if facts.replicated else "non_replicated_deduplication_window"
        yield (
            Status.PROBLEM,
            f"remembers no inserts ({key} = 0), so a repeated insert is stored twice",
            f"ALTER TABLE {table} MODIFY SETTING {key} = 100000",
        )
    elif facts.window_blocks < WINDOW_BLOCKS_FEW:
        key = "replicated_deduplication_window" if facts.replicated else "non_replicated_deduplication_window"
        yield (
            Status.WARNING,
            f"remembers only {facts.window_blocks} inserts of all workers together",
            f"ALTER TABLE {table} MODIFY SETTING {key} = 100000",
        )
    yield from _window_time(config, table, facts)
    if len(config.clickhouse.urls) > 1 and not facts.replicated:
        yield (
            Status.PROBLEM,
            f"is a {facts.engine} on each of several servers; an insert repeated on another one would be stored twice",
            "Use a ReplicatedMergeTree, or name a single server in clickhouse.urls",
        )
    if not facts.lineage:
        yield (
            Status.WARNING,
            "has no lineage columns: after an outage longer than the deduplication window the pipeline has to stop, "
            "and `penstock verify` cannot account for it",
            f"ALTER TABLE {table} ADD COLUMN _topic LowCardinality(String), ADD COLUMN _partition Int32, "
            "ADD COLUMN _offset Int64, ADD COLUMN _timestamp DateTime64(3)",
        )
    if facts.views:
        yield (
            Status.WARNING,
            f"feeds {', '.join(facts.views)}: a repeated insert repeats there unless those targets remember inserts too",
            "Set the same deduplication window on the tables that the views write to",
        )


def _window_time(config: Config, table: str, facts: TableFacts) -> Iterator[tuple[Status, str, str]]:
    needed_s = 2 * config.clickhouse.insert_timeout_ms // 1000
    if facts.window_s is not None and facts.window_s < needed_s:
        yield (
            Status.PROBLEM,
            f"forgets inserts after {facts.window_s} s, and an insert may be repeated after "
            f"2 x clickhouse.insert_timeout_ms = {needed_s} s",
            f"ALTER TABLE {table} MODIFY SETTING replicated_deduplication_window_seconds = 604800",
        )
