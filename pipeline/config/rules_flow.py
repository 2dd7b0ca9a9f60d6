"""Rules of what flows: routes, dedup, batches, dead letters, http."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from pipeline.config.facts import Facts, Finding
from pipeline.config.rules_clickhouse import is_identifier
from pipeline.config.rules_kafka import is_topic_name
from pipeline.config.schema import Route

_CONTRACT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_METADATA_BYTES_MAX = 4_000
_SPAN_BYTES = 11
"""A span in the metadata of a commit: topic 1, partition 1, first offset 5, length 3, and one to spare."""


def routes(facts: Facts) -> Iterator[Finding]:
    if not facts.config.routes:
        yield Finding("routes", "names no topic", "Add a line [[routes]] with a topic and a table")
    for index, route in enumerate(facts.config.routes):
        yield from _topic(f"routes[{index}].topic", route.topic)
        yield from _target(f"routes[{index}]", route)
        yield from _contract(f"routes[{index}]", route)


def _topic(key: str, topic: str) -> Iterator[Finding]:
    if topic.startswith("^"):
        yield Finding(
            key, "is a pattern", "Name each topic in a route of its own: a new topic must not begin to flow unseen"
        )
    elif not is_topic_name(topic):
        yield Finding(
            key,
            "must be letters, digits, '.', '_' or '-', at most 249",
            "Write the topic's name as the brokers list it",
        )


def _target(key: str, route: Route) -> Iterator[Finding]:
    if route.table and route.tables:
        yield Finding(
            f"{key}.table",
            "cannot be set together with tables",
            "Keep table for one kind of record, tables for a tagged union",
            reads=(f"{key}.tables",),
        )
    if not route.table and not route.tables:
        yield Finding(
            f"{key}.table",
            "is required and missing",
            'Set table = "...", or tables with one entry a tag',
            reads=(f"{key}.tables",),
        )
    named = {f"{key}.table": route.table} if route.table else {}
    named |= {f"{key}.tables.{tag}": table for tag, table in route.tables.items()}
    for where, table in named.items():
        parts = table.split(".")
        if len(parts) > 2 or not all(map(is_identifier, parts)):
            yield Finding(
                where,
                "is no table name",
                'Write "table" or "database.table", each of letters, digits and "_"',
                reads=(f"{key}.tables",),
            )


def _contract(key: str, route: Route) -> Iterator[Finding]:
    if route.contract and not _CONTRACT.fullmatch(route.contract):
        yield Finding(
            f"{key}.contract",
            "must be module:Struct",
            'Write contract = "shop.events:OrderPaid", a module that Python can import',
        )
    if route.tables and not route.contract:
        yield Finding(
            f"{key}.contract",
            "is needed with tables: only a tagged union says which record goes where",
            'Write contract = "module:Union"',
            reads=(f"{key}.tables",),
        )


def topics_once(facts: Facts) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, route in enumerate(facts.config.routes):
        if route.topic in first:
            yield Finding(
                f"routes[{index}].topic",
                f"is also the topic of routes[{first[route.topic]}], and a record takes one route",
                "Merge the two: a tagged union as contract, and tables with one entry a tag",
                reads=(f"routes[{first[route.topic]}].topic",),
            )
        first.setdefault(route.topic, index)


def tables_once(facts: Facts) -> Iterator[Finding]:
    """Two row types of one batch for one table would be two blocks under one token, and the second would vanish."""
    first: dict[str, str] = {}
    default = facts.config.clickhouse.database
    for index, route in enumerate(facts.config.routes):
        targets = {f"routes[{index}].table": route.table} if route.table else {}
        targets |= {f"routes[{index}].tables.{tag}": table for tag, table in route.tables.items()}
        for key, table in targets.items():
            full = table if "." in table else f"{default}.{table}"
            if full in first:
                yield Finding(
                    key,
                    f"is also the target of {first[full]}; their blocks would share a token, and ClickHouse would drop one",
                    "Give each its own table (a Merge table or a view can join them), or a pipeline of its own",
                    reads=(first[full], f"routes[{index}].tables"),
                )
            first.setdefault(full, key)


def dedup_key(facts: Facts) -> Iterator[Finding]:
    key = facts.config.dedup.key
    special = [part for part in key if part.startswith("@")]
    if special and len(key) > 1:
        yield Finding("dedup.key", f'"{special[0]}" must stand alone', f'Write key = ["{special[0]}"], or fields only')
    for part in special:
        if part != "@key" and not (part.startswith("@header:") and len(part) > len("@header:")):
            yield Finding(
                "dedup.key", f'"{part}" is unknown', 'Write fields of the contract, "@key", or "@header:NAME"'
            )
    if any(not part.strip() for part in key):
        yield Finding(
            "dedup.key",
            "has an empty entry",
            'Write fields of the contract, such as key = ["event_id"], or [] for none',
        )
    for part in sorted({part for part in key if key.count(part) > 1}):
        yield Finding("dedup.key", f'names "{part}" twice', "Keep one")


def dedup_unused(facts: Facts) -> Iterator[Finding]:
    if not facts.config.dedup.key:
        for key in facts.given(("dedup.window_s", "dedup.ids_max", "dedup.rebuild")):
            yield Finding(
                key,
                "has no effect while dedup.key is empty",
                'Set key = ["event_id"] (the fields that identify an event), or remove this key',
                reads=("dedup.key",),
                warning=True,
            )


def dead_letter_topic(facts: Facts) -> Iterator[Finding]:
    letters = facts.config.dead_letters
    key = "dead_letters.topic"
    if not letters.topic:
        if letters.on_reject == "letter":
            yield Finding(
                key,
                "is empty, so the pipeline stops at the first record it has to reject",
                'Name a topic, or say so with on_reject = "stop" or "drop"',
                reads=("dead_letters.on_reject",),
                warning=True,
            )
        return
    if not is_topic_name(letters.topic):
        yield Finding(
            key,
            "must be letters, digits, '.', '_' or '-', at most 249",
            "Write the topic's name as the brokers list it",
        )
    for index, route in enumerate(facts.config.routes):
        if route.topic == letters.topic:
            yield Finding(
                key,
                f"is also the topic of routes[{index}]: a rejected record would come back for ever",
                f'Name another topic, such as topic = "{letters.topic}-dead"',
                reads=(f"routes[{index}].topic",),
            )
    if letters.on_reject != "letter":
        yield Finding(
            key,
            f'has no effect with on_reject = "{letters.on_reject}"',
            'Set on_reject = "letter", or remove the topic',
            reads=("dead_letters.on_reject",),
        )


def dropped_rejects(facts: Facts) -> Iterator[Finding]:
    if facts.config.dead_letters.on_reject == "drop":
        yield Finding(
            "dead_letters.on_reject",
            "counts rejected records and forgets them",
            'Set on_reject = "letter" and a topic to keep them',
            warning=True,
        )


def metadata_room(facts: Facts) -> Iterator[Finding]:
    """The engine waits when the metadata is full, so this costs speed and never a record."""
    config = facts.config
    head = 20 + len(config.name) + sum(9 + len(route.topic) for route in config.routes)
    batch = 20 + config.batch.partitions_max * _SPAN_BYTES
    most = int((_METADATA_BYTES_MAX * 3 / 4 - head) // batch)
    if config.limits.batches_in_flight_max > most:
        yield Finding(
            "limits.batches_in_flight_max",
            f"is more than about {max(most, 1)} batches of {config.batch.partitions_max} partitions, "
            "whose spans fill the metadata of an offset commit; further ones wait",
            f"Set it to {max(most, 1)}, or lower batch.partitions_max",
            reads=("batch.partitions_max", "name", "routes"),
            warning=True,
        )


def http_host(facts: Facts) -> Iterator[Finding]:
    if facts.config.http.enabled and not facts.config.http.host:
        yield Finding(
            "http.host", "is empty", 'Write host = "0.0.0.0" for every interface, "127.0.0.1" for this machine only'
        )


RULES: tuple[Callable[[Facts], Iterable[Finding]], ...] = (
    routes,
    topics_once,
    tables_once,
    dedup_key,
    dedup_unused,
    dead_letter_topic,
    dropped_rejects,
    metadata_room,
    http_host,
)
