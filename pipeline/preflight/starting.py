"""The checks of a table's definition that a worker also makes at its start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.config.schema import Config
from pipeline.preflight.checks import Check
from pipeline.preflight.tables import OUTAGE_S, table_checks
from pipeline.preflight.views import view_checks

if TYPE_CHECKING:
    from pipeline.clickhouse import ClickHouse, TableFacts

UNKNOWN_TABLE = 60


def definition_checks(
    config: Config, client: ClickHouse, table: str, facts: TableFacts, outage_s: float = OUTAGE_S
) -> Iterator[Check]:
    """What keeps inserts into a table, and into the tables that its views fill, from being exactly-once."""
    from pipeline.clickhouse import quote_table
    from pipeline.preflight import ask_clickhouse as ask

    yield from table_checks(config, table, quote_table(".".join(client.split(table))), facts, outage_s)
    if facts.views:
        found = ask.views(client, facts.views)
        yield from view_checks(table, found, ask.known_settings(client), config.clickhouse.settings)
