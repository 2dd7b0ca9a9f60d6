"""The least rights a pipeline needs in Kafka and ClickHouse, as commands, and which of them are missing. Pure.

Kafka: READ on a topic or group implies DESCRIBE, and WRITE on any topic lets a producer be idempotent (brokers 2.8 and
later). ClickHouse: any grant on a table shows its rows in system.tables and system.columns; those two and
system.settings are open to everybody, the other system tables are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline.config.schema import Config
from pipeline.errors import ConfigurationError
from pipeline.preflight.checks import Check, Status
from pipeline.preflight.tables import tables_of

LINEAGE = ("_topic", "_partition", "_offset", "_timestamp")
_ALL = {"Read": "READ", "Write": "WRITE", "Describe": "DESCRIBE", "DescribeConfigs": "DESCRIBE_CONFIGS"}


class Acl(NamedTuple):
    """A right in Kafka. `operation` as the command writes it; `needed` by a worker, or only to check."""

    kind: str
    """`topic`, `group` or `cluster`."""
    name: str
    operation: str
    why: str
    needed: bool = True

    @property
    def listed(self) -> str:
        """The operation as brokers list it."""
        return _ALL[self.operation]


class Grant(NamedTuple):
    """A right in ClickHouse: `GRANT privilege ON where`."""

    privilege: str
    where: str
    why: str
    needed: bool = True


def acls(config: Config) -> list[Acl]:
    """What the Kafka user of a worker, and of `penstock check`, must be allowed."""
    found = [Acl("topic", route.topic, "Read", "records") for route in config.routes]
    found.append(Acl("group", config.kafka.group, "Read", "membership and offsets"))
    if letters := config.dead_letters.topic:
        found.append(Acl("topic", letters, "Write", "dead letters"))
        found.append(Acl("topic", letters, "Read", "dead letters that are written already"))
    topics = [*(route.topic for route in config.routes), *([letters] if letters else [])]
    found += [Acl("topic", topic, "DescribeConfigs", "`penstock check`", needed=False) for topic in topics]
    found.append(Acl("cluster", "", "DescribeConfigs", "`penstock check`", needed=False))
    return list(dict.fromkeys(found))


def principal(config: Config) -> str:
    """Who a worker is to the brokers' authorizer."""
    if config.kafka.sasl.mechanism:
        return f"User:{config.kafka.sasl.username}"
    if config.kafka.tls.certificate_file:
        return "User:CN=... (the subject of kafka.tls.certificate_file)"
    return "User:ANONYMOUS"


def acl_command(config: Config, needed: Sequence[Acl]) -> str:
    """The command that gives rights on one thing."""
    first = needed[0]
    where = "--cluster" if first.kind == "cluster" else f"--{first.kind} {first.name}"
    operations = " ".join(f"--operation {acl.operation}" for acl in needed)
    who = f"--allow-principal '{principal(config)}'"
    return f"kafka-acls.sh --bootstrap-server {config.kafka.brokers} --add {who} {operations} {where}"


def acl_commands(config: Config) -> list[tuple[bool, str]]:
    """Whether a worker needs it, and the command, for all rights: one command for each thing."""
    grouped: dict[tuple[bool, str, str], list[Acl]] = {}
    for acl in acls(config):
        grouped.setdefault((acl.needed, acl.kind, acl.name), []).append(acl)
    return [(key[0], acl_command(config, found)) for key, found in grouped.items()]


def read_columns(config: Config) -> dict[str, Sequence[str]] | None:
    """The columns a worker reads back, by table, as far as they are known without a server; None: a contract is broken.

    An inferred contract names its fields like the columns.
    """
    from pipeline import contract as contracts

    found: dict[str, Sequence[str]] = {}
    try:
        for route in config.routes:
            if route.contract:
                targets = contracts.load(route, config.dedup, {}).tables.values()
                found |= {target.table: [*LINEAGE, *target.key_columns] for target in targets}
            else:
                found[route.table] = [*LINEAGE, *(key for key in config.dedup.key if not key.startswith("@"))]
    except ConfigurationError:
        return None
    return found


def grants(
    config: Config,
    columns: Mapping[str, Sequence[str]] | None = None,
    *,
    replicated: bool | None = None,
) -> list[Grant]:
    """What the ClickHouse user of a worker, and of `penstock check`, must be granted.

    `columns`: those a worker reads back, by table, where the contracts are known; SELECT is asked for the whole table
    otherwise. `replicated`: whether the tables are; None: not known.
    """
    from pipeline.clickhouse import quote, quote_table

    found = []
    for table in dict.fromkeys(tables_of(config)):
        where = quote_table(table if "." in table else f"{config.clickhouse.database}.{table}")
        found.append(Grant("INSERT", where, "rows"))
        read = (columns or {}).get(table)
        if read is None:
            found.append(Grant("SELECT", where, "what is stored already"))
        elif read:
            names = ", ".join(quote(name) for name in dict.fromkeys(read))
            found.append(Grant(f"SELECT({names})", where, "what is stored already"))
    if replicated is not True:
        found.append(Grant("SELECT", "system.merge_tree_settings", "the deduplication window"))
    if replicated is not False:
        found.append(Grant("SELECT", "system.replicated_merge_tree_settings", "the deduplication window"))
    found += [Grant("SELECT", f"system.{name}", "`penstock check`", needed=False) for name in ("parts", "part_log")]
    return found


def grant_statement(grant: Grant, user: str) -> str:
    """The statement that gives a right."""
    from pipeline.clickhouse import quote

    return f"GRANT {grant.privilege} ON {grant.where} TO {quote(user)}"


def acl_checks(
    config: Config, allowed: Mapping[tuple[str, str], frozenset[str] | None], missing: Sequence[str] = ()
) -> Iterator[Check]:
    """`allowed`: (kind, name) -> operations this user may do there; None or absent: the brokers do not tell.

    `missing` are topics that do not exist: nothing is said of them.
    """
    name = "kafka privileges"
    wanted: dict[tuple[str, str], list[Acl]] = {}
    for acl in acls(config):
        if acl.needed and not (acl.kind == "topic" and acl.name in missing):
            wanted.setdefault((acl.kind, acl.name), []).append(acl)
    denied, untold = [], []
    for where, needed in wanted.items():
        may = allowed.get(where)
        if may is None:
            untold.append(" ".join(where))
        elif lacking := [acl for acl in needed if acl.listed not in may]:
            denied.append(lacking)
    for lacking in denied:
        what = " and ".join(acl.operation.upper() for acl in lacking)
        why = ", ".join(acl.why for acl in lacking)
        text = f"{principal(config)} may not {what} {lacking[0].kind} {lacking[0].name} ({why})"
        yield Check("kafka-privileges", name, Status.PROBLEM, text, acl_command(config, lacking))
    if untold:
        text = f"the brokers do not tell what this user may do with {', '.join(untold)}"
        yield Check("kafka-privileges", name, Status.SKIPPED, text)
    if not denied and not untold:
        yield Check("kafka-privileges", name, Status.OK, f"{principal(config)} may do what a worker does")


def grant_checks(config: Config, granted: Sequence[tuple[Grant, bool | None]]) -> Iterator[Check]:
    """Which grants are missing; None: the server cannot be asked (it is older than CHECK GRANT)."""
    name, user = "clickhouse privileges", config.clickhouse.username
    untold = [grant for grant, yes in granted if yes is None and grant.needed]
    missing = [grant for grant, yes in granted if yes is False]
    for grant in missing:
        text = f"{user} lacks {grant.privilege} on {grant.where} ({grant.why})"
        status = Status.PROBLEM if grant.needed else Status.WARNING
        yield Check("clickhouse-privileges", name, status, text, grant_statement(grant, user))
    if untold:
        text = "this server cannot be asked for single rights; compare SHOW GRANTS with `penstock check --privileges`"
        yield Check("clickhouse-privileges", name, Status.SKIPPED, text)
    elif not any(grant.needed for grant in missing):
        yield Check("clickhouse-privileges", name, Status.OK, f"{user} may do what a worker does")
