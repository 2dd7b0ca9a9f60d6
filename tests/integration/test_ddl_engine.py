"""The CREATE TABLE texts are executed by a real engine, for every column type and each engine it can run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.contract import LINEAGE
from pipeline.ddl import Engine as TableEngine
from pipeline.ddl import create_table, quote
from tests.integration.native_insert import Engine
from tests.integration.test_contract_inferred import TYPES

COLUMNS = [
    ("id", "UUID"),
    *((f"c {at}", type_.split(" DEFAULT")[0]) for at, type_ in enumerate(TYPES)),
    ("index", "String"),
]


@pytest.fixture
def engine(clickhouse_url: str, clickhouse_database: str) -> Iterator[Engine]:
    made = Engine(clickhouse_url, clickhouse_database)
    yield made
    made.close()


@pytest.mark.parametrize(
    "stored",
    [
        TableEngine(),
        TableEngine(replacing=True),
        TableEngine(
            replacing=True, version="_timestamp", partition_by="toYYYYMM(_timestamp)", order_by=("id", "_offset")
        ),
        TableEngine(ttl="toDateTime(_timestamp) + INTERVAL 1 DAY", settings={"index_granularity": 1024}),
    ],
)
def test_statements_run(engine: Engine, stored: TableEngine) -> None:
    engine.client.command(create_table(COLUMNS, "made", stored, key=["id"]))
    made = {column.name: column.type for column in engine.columns("made")}
    assert list(made) == [name for name, _ in COLUMNS] + list(LINEAGE)
    assert all(made[name] == type_ for name, (_, type_) in LINEAGE.items())
    ((kind, full, key),) = engine.rows(
        "SELECT engine, engine_full, sorting_key FROM system.tables WHERE database = currentDatabase() AND name = 'made'"
    )
    assert (kind, key.strip("()")) == (stored.name, ", ".join(stored.order_by or ("id",)))
    assert "non_replicated_deduplication_window = 100000" in full
    assert engine.rows("SELECT expr, type FROM system.data_skipping_indices WHERE table = 'made'") == [
        ("_offset", "minmax")
    ]


@pytest.mark.parametrize(
    "stored",
    [
        TableEngine(replicated=True),
        TableEngine(replicated=True, replacing=True, cluster="all", version="_timestamp", path="/t/{uuid}"),
    ],
)
def test_replicated_statements_parse(engine: Engine, stored: TableEngine) -> None:
    statement = create_table(COLUMNS, "db.made", stored)
    assert engine.rows(f"EXPLAIN AST {statement}")
    ((formatted,),) = engine.rows(f"SELECT formatQuery({quote(statement)})")
    assert f"ENGINE = {stored.name}" in formatted
    assert "replicated_deduplication_window_seconds = 604800" in formatted


def test_tokens_count_in_the_tables_it_makes(engine: Engine) -> None:
    engine.client.command(create_table([("id", "UInt64")], "made"))
    for value in (1, 2):
        engine.client.command(
            f"INSERT INTO made (id) SETTINGS insert_deduplication_token = 'same', async_insert = 0 VALUES ({value})"
        )
    assert engine.rows("SELECT id FROM made") == [(1,)]
