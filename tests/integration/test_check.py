"""`penstock check` against servers: each thing that can be wrong with them, told with its fix, and nothing changed."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.clickhouse import TableFacts
from pipeline.config.load import from_data
from pipeline.config.schema import Config
from pipeline.preflight import Status, broker_limits, table_faults

COLUMNS = "event_id String, amount Int64"
LINEAGE = "_topic LowCardinality(String), _partition Int32, _offset Int64, _timestamp DateTime64(3)"
WINDOW = "SETTINGS non_replicated_deduplication_window = 100000"


class Setup:
    """A file for `check`, topics on a mock cluster and tables in a database of their own."""

    def __init__(self, directory: Path, kafka: Any, database: Any) -> None:
        self.path = directory / "penstock.toml"
        self.kafka = kafka
        self.database = database

    def sql(self, statement: str) -> None:
        url = f"{self.database.url}/?database={self.database.database}"
        with urllib.request.urlopen(urllib.request.Request(url, data=statement.encode()), timeout=60) as answer:
            answer.read()

    def table(self, columns: str = f"{COLUMNS}, {LINEAGE}", settings: str = WINDOW) -> None:
        self.sql(f"CREATE TABLE orders ({columns}) ENGINE = MergeTree ORDER BY tuple() {settings}")

    def write(self, extra: str = "", route: str = 'table = "orders"') -> None:
        self.path.write_text(
            f"""
            name = "orders"
            [kafka]
            brokers = "{self.kafka.bootstrap}"
            group = "penstock-orders"
            [clickhouse]
            urls = ["{self.database.url}"]
            database = "{self.database.database}"
            [[routes]]
            topic = "orders"
            {route}
            [dead_letters]
            topic = "orders-dead"
            {extra}
            """
        )

    def check(self, capsys: pytest.CaptureFixture[str], code: int) -> list[tuple[str, str, str, str]]:
        assert cli.main(["check", "-c", str(self.path), "--json", "--timeout", "5"]) == code
        found = json.loads(capsys.readouterr().out)
        assert found["exit"] == code
        return [(check["status"], check["name"], check["text"], check["fix"]) for check in found["checks"]]


@pytest.fixture
def setup(tmp_path: Path, mock_kafka: Any, chdb_server: Any) -> Setup:
    mock_kafka.create_topic("orders", 3)
    mock_kafka.create_topic("orders-dead", 1)
    made = Setup(tmp_path, mock_kafka, chdb_server)
    made.write()
    return made


def test_all_is_well(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    checks = setup.check(capsys, 0)
    assert {status for status, *_ in checks} == {"ok", "skipped"}
    texts = {name: text for _, name, text, _ in checks}
    assert texts["kafka"].startswith("1 broker, cluster mockCluster")
    assert texts["topic orders"] == "3 partitions"
    assert texts["topic orders-dead"] == "1 partition"
    assert texts["group penstock-orders"] == "has committed 0 of 3 partitions"
    assert texts["contract orders"] == "inferred:orders fills orders (6 columns)"
    assert texts["table orders"] == "MergeTree, remembers 100000 inserts, lineage columns"
    assert ": version " in texts["clickhouse"]


def test_topics_that_are_missing(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    setup.write('[dedup]\nkey = ["event_id"]', 'table = "orders"\n[[routes]]\ntopic = "payments"\ntable = "payments"')
    setup.sql(f"CREATE TABLE payments ({COLUMNS}, {LINEAGE}) ENGINE = MergeTree ORDER BY tuple() {WINDOW}")
    checks = setup.check(capsys, 1)
    assert ("problem", "topic payments", "does not exist", checks_fix("routes[1].topic")) in checks


def checks_fix(key: str) -> str:
    return f"Create it, or correct {key}; topics are never created by themselves"


def commit(bootstrap: str, metadata: str) -> None:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "penstock-orders", "enable.auto.commit": False})
    consumer.commit(offsets=[TopicPartition("orders", 1, 5, metadata)], asynchronous=False)
    consumer.close()


def test_what_the_group_has_committed(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.intent import Identity, Intent, encode
    from pipeline.types import Partition, Span

    setup.table()
    declared = Intent((Span(Partition("orders", 1), 5, 9),), 1_700_000_000_000, bytes(8))
    commit(setup.kafka.bootstrap, encode(Identity("orders", "", {}), [declared]))
    texts = {name: text for _, name, text, _ in setup.check(capsys, 0)}
    assert texts["group penstock-orders"] == "has committed 1 of 3 partitions, 1 batch declared and not finished"
    commit(setup.kafka.bootstrap, encode(Identity("payments", "", {}), [declared]))
    (problem,) = [check for check in setup.check(capsys, 1) if check[0] == "problem"]
    assert problem[1] == "group penstock-orders"
    assert "declared by the pipeline 'payments'" in problem[2]
    assert "Give each pipeline a group of its own" in problem[3]


def test_a_table_that_is_missing(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    (problem,) = [check for check in setup.check(capsys, 1) if check[0] == "problem"]
    assert problem[1] == "routes[0].table"
    assert "no such table" in problem[2]
    assert "penstock ddl" in problem[3]


def test_a_table_that_remembers_nothing_and_has_no_lineage(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table(COLUMNS, "")
    checks = {(status, name): (text, fix) for status, name, text, fix in setup.check(capsys, 1)}
    text, fix = checks["problem", "table orders"]
    assert "remembers no inserts (non_replicated_deduplication_window = 0)" in text
    setup.sql(fix)
    text, fix = checks["warning", "table orders"]
    assert "has no lineage columns" in text
    setup.sql(fix)
    assert {status for status, *_ in setup.check(capsys, 0)} == {"ok", "skipped"}, "the fixes can be run as they are"


def test_columns_against_the_contract(
    setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = setup.path.parent / "check_contract_for_test.py"
    module.write_text("import msgspec\nclass Order(msgspec.Struct):\n    event_id: str\n    amunt: int\n")
    monkeypatch.syspath_prepend(str(module.parent))
    setup.write(route='table = "orders"\ncontract = "check_contract_for_test:Order"')
    setup.table()
    found = [f"{text} {fix}" for status, _, text, fix in setup.check(capsys, 1) if status == "problem"]
    assert any("Order.amunt" in text and "Did you mean 'amount'?" in text for text in found)


def test_a_view_is_told(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    setup.sql("CREATE TABLE totals (amount Int64) ENGINE = MergeTree ORDER BY tuple()")
    setup.sql("CREATE MATERIALIZED VIEW totals_view TO totals AS SELECT amount FROM orders")
    (warning,) = [text for status, name, text, _ in setup.check(capsys, 0) if status == "warning"]
    assert "totals_view: a repeated insert repeats there" in warning


def test_kafka_down_does_not_hide_what_clickhouse_says(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    setup.kafka.close()
    checks = setup.check(capsys, 69)
    assert [name for status, name, *_ in checks if status == "down"] == ["kafka"]
    assert ("ok", "table orders") in {check[:2] for check in checks}


def test_one_of_two_servers_down(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    text = setup.path.read_text().replace('urls = ["', 'urls = ["http://127.0.0.1:1", "')
    setup.path.write_text(text)
    checks = setup.check(capsys, 69)
    assert [(name, "127.0.0.1:1" in text) for status, name, text, _ in checks if status == "down"] == [
        ("clickhouse", True)
    ]
    (problem,) = [text for status, _, text, _ in checks if status == "problem"]
    assert "an insert repeated on another one would be stored twice" in problem


# What servers here cannot be brought to say, from the same facts


def config(**kafka: Any) -> Config:
    base = {"brokers": "a:1", "group": "g", **kafka}
    data = {"name": "p", "kafka": base, "clickhouse": {"urls": ["http://a"]}, "routes": [{"topic": "t", "table": "t"}]}
    return from_data(data, {}).config


def facts(**changes: Any) -> TableFacts:
    good = TableFacts("ReplicatedMergeTree", True, 100_000, 604_800, "", "", (), True)
    return good._replace(**changes)


def test_replicated_tables() -> None:
    assert list(table_faults(config(), "`t`", facts())) == []
    ((status, text, fix),) = table_faults(config(), "`t`", facts(window_blocks=0))
    assert status is Status.PROBLEM
    assert fix == "ALTER TABLE `t` MODIFY SETTING replicated_deduplication_window = 100000"
    ((status, text, fix),) = table_faults(config(), "`t`", facts(window_blocks=999))
    assert (status, "remembers only 999 inserts" in text) == (Status.WARNING, True)
    ((status, text, fix),) = table_faults(config(), "`t`", facts(window_s=239))
    assert (status, "2 x clickhouse.insert_timeout_ms = 240 s" in text) == (Status.PROBLEM, True)
    assert list(table_faults(config(), "`t`", facts(window_s=240))) == []
    ((status, text, _),) = table_faults(config(), "`t`", facts(engine="Distributed"))
    assert (status, "does not remember tokens" in text) == (Status.WARNING, True)


def test_what_brokers_allow() -> None:
    good = {
        "offset.metadata.max.bytes": "4096",
        "group.coordinator.rebalance.protocols": "classic,consumer",
        "group.min.session.timeout.ms": "6000",
        "group.max.session.timeout.ms": "1800000",
    }
    consumer = config(group_protocol="consumer")
    assert list(broker_limits(config(), good)) == []
    assert list(broker_limits(consumer, good)) == []
    (unread,) = broker_limits(config(), {})
    assert unread.status is Status.SKIPPED
    for changes, where, says in (
        ({"offset.metadata.max.bytes": "1024"}, config(), "offset commits carry up to 4000 bytes"),
        ({"group.coordinator.rebalance.protocols": "classic"}, consumer, "they offer classic"),
        ({"group.coordinator.rebalance.protocols": ""}, consumer, "older than 4.0"),
        ({"group.min.session.timeout.ms": "60000"}, config(), "from 60000 to 1800000 ms"),
        ({"group.max.session.timeout.ms": "30000"}, config(), "from 6000 to 30000 ms"),
    ):
        (check,) = broker_limits(where, {**good, **changes})
        assert check.status is Status.PROBLEM
        assert says in check.text
        assert check.fix


@pytest.mark.kafka
def test_a_real_broker_tells_what_it_allows(apache_kafka: Any) -> None:
    from pipeline.kafka import Cluster

    cluster = Cluster(config(brokers=apache_kafka.bootstrap).kafka)
    settings = cluster.settings("broker", str(cluster.brokers()[0]))
    cluster.close()
    assert settings["offset.metadata.max.bytes"] == "4096"
    assert list(broker_limits(config(), settings)) == []
    assert list(broker_limits(config(group_protocol="consumer"), settings)) == []
