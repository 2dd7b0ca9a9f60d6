"""CREATE TABLE texts: what is in them and what is refused. That an engine takes them is tested with a real one."""

from __future__ import annotations

import contracts_for_tests
import pytest

from pipeline.config.schema import Dedup, Route
from pipeline.contract import load
from pipeline.ddl import Engine, create_table, create_tables, identifier, table_name
from pipeline.errors import ConfigurationError


def test_the_statement_of_a_struct() -> None:
    assert create_table(contracts_for_tests.Event, "shop.events", key=["id"]) == (
        "CREATE TABLE `shop`.`events`\n"
        "(\n"
        "    `id` UUID,\n"
        "    `user_id` UInt32,\n"
        "    `sent_at` DateTime64(3),\n"
        "    `country` LowCardinality(String),\n"
        "    `amount` Nullable(Decimal(18, 2)),\n"
        "    `body` String,\n"
        "    `_topic` LowCardinality(String),\n"
        "    `_partition` Int32,\n"
        "    `_offset` Int64,\n"
        "    `_timestamp` DateTime64(3),\n"
        "    INDEX _offset_minmax _offset TYPE minmax GRANULARITY 1\n"
        ")\n"
        "ENGINE = MergeTree\n"
        "ORDER BY (`id`)\n"
        "SETTINGS non_replicated_deduplication_window = 100000"
    )


def test_one_statement_per_table_of_a_union() -> None:
    route = Route(
        topic="t", tables={"OrderPaid": "paid", "OrderShipped": "shipped"}, contract="contracts_for_tests:Orders"
    )
    paid, shipped = create_tables(load(route, Dedup(key=["id"]), {}), Engine(replacing=True))
    assert paid.startswith("CREATE TABLE `paid`")
    assert "`amount` Int64" in paid
    assert shipped.startswith("CREATE TABLE `shipped`")
    assert "ENGINE = ReplacingMergeTree\nORDER BY (`id`)" in shipped


def test_every_option() -> None:
    engine = Engine(
        replacing=True,
        version="_timestamp",
        replicated=True,
        path="/tables/{uuid}",
        replica="r1",
        cluster="all",
        order_by=("country", "id"),
        partition_by="toYYYYMM(sent_at)",
        ttl="toDateTime(sent_at) + INTERVAL 1 YEAR",
        settings={"storage_policy": "hot", "replicated_deduplication_window": 5},
    )
    assert create_table(contracts_for_tests.Event, "events", engine).partition("\nENGINE")[2] == (
        " = ReplicatedReplacingMergeTree('/tables/{uuid}', 'r1', `_timestamp`)\n"
        "PARTITION BY toYYYYMM(sent_at)\n"
        "ORDER BY (`country`, `id`)\n"
        "TTL toDateTime(sent_at) + INTERVAL 1 YEAR\n"
        "SETTINGS replicated_deduplication_window = 5, replicated_deduplication_window_seconds = 604800, "
        "storage_policy = 'hot'"
    )


def test_without_a_key_rows_are_sorted_by_their_lineage() -> None:
    assert "ORDER BY (`_topic`, `_partition`, `_offset`)" in create_table([("x", "UInt8")], "t")


def test_lineage_columns_that_are_there_are_not_repeated() -> None:
    assert create_table([("_offset", "UInt64"), ("x", "UInt8")], "t").count("`_offset` ") == 1


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (Engine(order_by=("nope",)), "order_by = nope: the table has no such column"),
        (Engine(order_by=("amount",)), "amount Nullable(Decimal(18, 2)): a sorting key cannot hold this type"),
        (Engine(version="id", replacing=True), "version = id UUID: the version of a row must be"),
        (Engine(version="nope", replacing=True), "version = nope: the table has no such column"),
        (Engine(version="_timestamp"), "only a replacing table has a version column"),
    ],
)
def test_what_clickhouse_would_refuse_is_refused_here(engine: Engine, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create_table(contracts_for_tests.Event, "events", engine)
    assert says in str(caught.value)


def test_names_are_quoted() -> None:
    assert identifier("a`b\\c") == "`a\\`b\\\\c`"
    assert table_name("db.my.table") == "`db`.`my.table`"
