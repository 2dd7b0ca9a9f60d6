"""The contracts and the properties of the Kafka clients, as far as they can be checked without a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.config import Config
from pipeline.errors import ConfigurationError
from pipeline.preflight.brokers import deadlines
from pipeline.preflight.checks import Check, Status, of_problem

if TYPE_CHECKING:
    from pipeline.contract import Contract

NOT_LOOKED_AT = (
    "topics, offsets, retention, rights, clocks, tables, views, parts and insert rates need Kafka and ClickHouse: "
    "check without --offline"
)


def offline(config: Config) -> Iterator[Check]:
    """What needs no server; the configuration itself has passed already, or there would be none."""
    from pipeline import contract as contracts
    from pipeline.kafka import refused_properties

    yield deadlines(config)
    for problem in refused_properties(config.kafka):
        yield of_problem(problem, Status.PROBLEM, configuration=True)
    for route in config.routes:
        name = f"contract {route.topic}"
        if not route.contract:
            text = f"is inferred from the table {route.table}, which only ClickHouse knows"
            yield Check("contract", name, Status.SKIPPED, text)
            continue
        try:
            loaded = contracts.load(route, config.dedup, {})
        except ConfigurationError as error:
            for problem in error.problems:
                yield of_problem(problem, Status.PROBLEM, code="contract", configuration=True)
        else:
            yield Check("contract", name, Status.OK, described(config, route.topic, loaded))
    yield Check("offline", "kafka, clickhouse", Status.SKIPPED, NOT_LOOKED_AT)


def described(config: Config, topic: str, contract: Contract) -> str:
    """A contract in one line: what it fills, and what of it costs more than the rest."""
    from pipeline.assembly import NO_DEDUP, lane_of
    from pipeline.dedup import Dedup

    targets = [f"{target.table} ({len(target.columns)} columns)" for target in contract.tables.values()]
    left = lane_of(topic, contract, config, Dedup(NO_DEDUP)).left
    costly = f"; left to msgspec, which costs more: {'; '.join(left)}" if left else ""
    return f"{contract.name} fills {', '.join(targets)}{costly}"
