"""The order in which `penstock check` looks at the live systems: Kafka, then ClickHouse with what Kafka told of the fleet.

It asks, hands the facts to the checks, and passes on what they find. It changes nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pipeline.clock import Clock, SystemClock
from pipeline.config import Config
from pipeline.errors import ConfigurationError, DependencyDown, SinkError
from pipeline.preflight import brokers, clocks, groups, privileges, rates, servers, topics
from pipeline.preflight.checks import Check, Status, down, of_problem, plural
from pipeline.preflight.contracts import described
from pipeline.preflight.starting import UNKNOWN_TABLE, definition_checks
from pipeline.preflight.tables import OUTAGE_S, table_summary, tables_of
from pipeline.types import Partition

if TYPE_CHECKING:
    from pipeline.clickhouse import ClickHouse, TableFacts
    from pipeline.contract import Contract
    from pipeline.kafka import Group, Inspection

SYSTEM_CLOCK = SystemClock()
ACCESS_DENIED = 497


class Terms(NamedTuple):
    """What the operator wants to be true, and how long to wait for Kafka."""

    timeout_s: float = 10.0
    outage_s: float = OUTAGE_S
    clock: Clock = SYSTEM_CLOCK


def kafka(config: Config, terms: Terms) -> Generator[Check, None, int]:
    """Brokers, rights, topics, the group and the brokers' limits. Returns the number of workers to reckon with."""
    from pipeline.kafka import Inspection

    try:
        cluster = Inspection(config.kafka, timeout_s=terms.timeout_s)
    except ConfigurationError as error:
        yield from (of_problem(problem, Status.PROBLEM, configuration=True) for problem in error.problems)
        return 1
    try:
        cluster.wait(terms.timeout_s)
        return (yield from _kafka(config, terms, cluster))
    except DependencyDown as error:
        yield down("kafka", error)
        return 1
    finally:
        cluster.close()


def _kafka(config: Config, terms: Terms, cluster: Inspection) -> Generator[Check, None, int]:
    ids = cluster.brokers()
    text = f"{plural(len(ids), 'broker')}, cluster {cluster.cluster_id() or 'without an id'}"
    yield Check("kafka", "kafka", Status.OK, text)
    keys = {route.topic: f"routes[{index}].topic" for index, route in enumerate(config.routes)}
    if letters := config.dead_letters.topic:
        keys[letters] = "dead_letters.topic"
    visible = cluster.visible(keys)
    for topic, key in keys.items():
        yield _visible(topic, visible[topic], key)
    existing = {topic: number for topic, number in visible.items() if number}
    allowed = cluster.allowed([topic for topic in keys if visible[topic] != 0], config.kafka.group)
    yield from privileges.acl_checks(config, allowed, missing=[topic for topic in keys if visible[topic] == 0])
    limits = cluster.settings("broker", str(ids[0])) if ids else {}
    sources = {topic: existing[topic] for topic in keys if topic in existing and topic != letters}
    group = cluster.group()
    committed = yield from _group(config, cluster, group, sources, allowed, limits)
    settings_of = {topic: cluster.settings("topic", topic) for topic in existing}
    yield from topics.unread_settings([topic for topic in existing if not settings_of[topic]])
    for topic, settings in settings_of.items():
        yield from topics.compaction_checks(config, topic, settings, letters=topic == letters)
        if topic == letters:
            yield from topics.letter_size_checks(config, topic, settings)
        else:
            yield from _backlog(config, terms, cluster, topic, settings, committed)
    yield from brokers.broker_limits(config, limits, terms.outage_s)
    return max(1, len(group.client_ids))


def _visible(topic: str, partitions: int | None, key: str) -> Check:
    if partitions is None:
        return Check("topic", f"topic {topic}", Status.SKIPPED, "cannot be seen by this user, if it exists")
    return topics.topic_check(topic, partitions, key)


def _group(
    config: Config,
    cluster: Inspection,
    group: Group,
    sources: Mapping[str, int],
    allowed: Mapping[tuple[str, str], frozenset[str] | None],
    limits: Mapping[str, str],
) -> Generator[Check, None, dict[Partition, tuple[int, str]]]:
    """What the group has committed, and who is in it; returns the former."""
    from pipeline.intent import Identity
    from pipeline.kafka import properties

    may = allowed.get(("group", config.kafka.group))
    if may is not None and "DESCRIBE" not in may:
        yield Check("group", f"group {config.kafka.group}", Status.SKIPPED, "cannot be seen by this user")
        return {}
    readable = {topic: number for topic, number in sources.items() if _may_describe(allowed.get(("topic", topic)))}
    identity = Identity(config.name, cluster.cluster_id(), cluster.topic_ids(readable))
    committed = cluster.committed(Partition(topic, at) for topic, number in readable.items() for at in range(number))
    yield groups.committed_check(config, identity, committed)
    client_id = str(properties(config.kafka, "membership")["client.id"])
    yield from groups.member_checks(config, group, sum(sources.values()), client_id, limits)
    return committed


def _may_describe(operations: frozenset[str] | None) -> bool:
    return operations is None or "DESCRIBE" in operations


def _backlog(
    config: Config,
    terms: Terms,
    cluster: Inspection,
    topic: str,
    settings: Mapping[str, str],
    committed: Mapping[Partition, tuple[int, str]],
) -> Iterator[Check]:
    """Whether what is not read yet will last, and the newest timestamp."""
    partitions = [partition for partition in committed if partition.topic == topic]
    now_ms = terms.clock.wall_ms()
    marks = cluster.watermarks(partitions)
    kept_ms = topics.retention_ms(settings)
    aged: list[Mapping[Partition, int]] = []
    if kept_ms is not None:
        for share in topics.AGE_SHARES:
            aged.append(cluster.offsets_for_times(dict.fromkeys(partitions, max(0, int(now_ms - share * kept_ms)))))
    backlogs = [
        topics.Backlog(partition.number, committed[partition][0], *marks[partition], [one[partition] for one in aged])
        for partition in partitions
    ]
    yield from topics.retention_checks(config, topic, settings, backlogs)
    by_broker = settings.get("message.timestamp.type") == "LogAppendTime"
    yield from clocks.record_clock_checks(topic, cluster.newest_ms(partitions), now_ms, by_broker=by_broker)


def clickhouse(config: Config, terms: Terms, workers: int = 1) -> Iterator[Check]:
    """Servers, clocks, settings, tables with their views and parts, contracts against their columns, and grants."""
    import msgspec

    from pipeline.clickhouse import ClickHouse

    up = []
    for url in config.clickhouse.urls:
        client = ClickHouse(msgspec.structs.replace(config.clickhouse, urls=[url]))
        try:
            found = list(_server(url, client, terms.clock))
        except SinkError as error:
            found = [down("clickhouse", error)]
        finally:
            client.close()
        up += [url] if found[0].status is Status.OK else []
        yield from found
    if not up:
        return
    client = ClickHouse(msgspec.structs.replace(config.clickhouse, urls=up))
    try:
        yield from _clickhouse(config, terms, client, workers)
    except SinkError as error:
        yield _refused(error) if error.code == ACCESS_DENIED else down("clickhouse", error)
    except DependencyDown as error:
        yield down("clickhouse", error)
    finally:
        client.close()


def _refused(error: SinkError) -> Check:
    """A question that the user may not ask; which right it lacks was told before, as far as the server knows."""
    text, _, fix = str(error).partition(". ")
    return Check(
        "clickhouse-privileges", "clickhouse privileges", Status.PROBLEM, f"{text}: the rest is not known", fix
    )


def _server(url: str, client: ClickHouse, clock: Clock) -> Iterator[Check]:
    from pipeline.preflight import ask_clickhouse as ask

    client.ping()
    version = ".".join(str(part) for part in client.version()[:3])
    yield Check("clickhouse", "clickhouse", Status.OK, f"{url}: version {version}")
    yield clocks.clock_check(url, ask.clock(client, clock))


def _clickhouse(config: Config, terms: Terms, client: ClickHouse, workers: int) -> Iterator[Check]:
    from pipeline.preflight import ask_clickhouse as ask

    user_settings = ask.settings(client)
    yield from servers.setting_checks(config, _sent(), user_settings, config.clickhouse.username)
    contracts = yield from _contracts(config, client)
    yield from _grants(config, client, contracts)
    for table in dict.fromkeys(tables_of(config)):
        try:
            facts = client.table_facts(table)
        except SinkError as error:
            if error.code != UNKNOWN_TABLE:
                raise
            continue  # The contract check has said so.
        found = list(definition_checks(config, client, table, facts, terms.outage_s))
        if not any(check.status is Status.PROBLEM for check in found):
            yield table_summary(table, facts)
        yield from found
        if facts.engine.endswith("MergeTree"):
            theirs = user_settings.get(ask.PARTITIONS_MAX, servers.Setting("0", False)).value
            limit = int(config.clickhouse.settings.get(ask.PARTITIONS_MAX, theirs))
            yield from _traffic(config, terms, client, table, facts, workers, limit)


def _sent() -> Mapping[str, object]:
    from pipeline.clickhouse import INSERT_SETTINGS

    return INSERT_SETTINGS


def _grants(config: Config, client: ClickHouse, contracts: Mapping[str, Contract]) -> Iterator[Check]:
    """Rights come before what they are needed for: without them the questions that follow fail."""
    from pipeline.preflight import ask_clickhouse as ask

    targets = [target for contract in contracts.values() for target in contract.tables.values()]
    columns = {
        target.table: [
            name
            for name in dict.fromkeys([*privileges.LINEAGE, *target.key_columns])
            if name in {column.name for column in target.columns}
        ]
        for target in targets
    }
    wanted = privileges.grants(config, columns, replicated=ask.replicated(client, tables_of(config)))
    yield from privileges.grant_checks(config, ask.granted(client, wanted))


def _traffic(
    config: Config, terms: Terms, client: ClickHouse, table: str, facts: TableFacts, workers: int, partitions_max: int
) -> Iterator[Check]:
    """What the fleet's inserts do to a table."""
    from pipeline.clickhouse import quote_table
    from pipeline.preflight import ask_clickhouse as ask
    from pipeline.sink import INSERTS_PER_S_MAX

    inserts = ask.inserts(client, table) or rates.planned(config, workers)
    yield from rates.rate_checks(
        config, table, quote_table(".".join(client.split(table))), facts, inserts, INSERTS_PER_S_MAX, terms.outage_s
    )
    yield from rates.insert_time_checks(config, table, inserts)
    parts = ask.parts(client, table, ask.part_limits(client, table, facts), partitions_max)
    if parts is None:
        yield Check(
            "parts", f"table {table}", Status.SKIPPED, "its parts cannot be counted (no right to read system.parts)"
        )
        return
    yield from rates.spread_checks(table, facts, inserts, parts)
    yield from rates.part_checks(table, inserts, parts)


def _contracts(config: Config, client: ClickHouse) -> Generator[Check, None, Mapping[str, Contract]]:
    """Exactly what a worker does at its start."""
    from pipeline.assembly import load_contracts

    try:
        loaded = load_contracts(config, client, None)
    except ConfigurationError as error:
        for problem in error.problems:
            yield of_problem(problem, Status.PROBLEM, code="contract")
        return {}
    for topic, contract in loaded.items():
        yield Check("contract", f"contract {topic}", Status.OK, described(config, topic, contract))
    return loaded
