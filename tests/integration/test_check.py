"""`penstock check` against servers: each thing that can be wrong with them, told with its fix, and nothing changed."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import cli
from tests.integration.doctor import COLUMNS, LINEAGE, WINDOW, Setup


def test_all_is_well(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    report = setup.check(capsys, 0)
    assert report.statuses() == {"ok", "skipped"}
    assert report.one("kafka").text.startswith("1 broker, cluster mockCluster")
    assert [one.text for one in report.of("topic")] == ["3 partitions", "1 partition"]
    assert report.one("group").text == "has committed 0 of 3 partitions"
    assert report.one("contract").text == "inferred:orders fills orders (6 columns)"
    assert report.one("table").text == "MergeTree, remembers 100000 inserts, lineage columns"
    assert ": version " in report.one("clickhouse").text
    assert report.well("clock")
    assert report.well("clickhouse-privileges")
    assert [one.check for one in report if one.status == "skipped"] == [
        "kafka-privileges",
        "topic-settings",
        "broker-settings",
    ]


def test_topics_that_are_missing(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    setup.write('[dedup]\nkey = ["event_id"]', 'table = "orders"\n[[routes]]\ntopic = "payments"\ntable = "payments"')
    setup.sql(f"CREATE TABLE payments ({COLUMNS}, {LINEAGE}) ENGINE = MergeTree ORDER BY tuple() {WINDOW}")
    found = setup.check(capsys, 1).one("topic", "problem")
    assert (found.name, found.text) == ("topic payments", "does not exist")
    assert found.fix == "Create it, or correct routes[1].topic; topics are never created by themselves"


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
    commit(setup.bootstrap, encode(Identity("orders", "", {}), [declared]))
    text = "has committed 1 of 3 partitions, 1 batch declared and not finished"
    assert setup.check(capsys, 0).one("group").text == text
    commit(setup.bootstrap, encode(Identity("payments", "", {}), [declared]))
    found = setup.check(capsys, 1).one("group")
    assert (found.status, found.name) == ("problem", "group penstock-orders")
    assert "declared by the pipeline 'payments'" in found.text
    assert "Give each pipeline a group of its own" in found.fix


def test_a_table_that_is_missing(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    found = setup.check(capsys, 1).one("contract")
    assert (found.status, found.name) == ("problem", "routes[0].table")
    assert "no such table" in found.text
    assert "penstock ddl" in found.fix


def test_a_table_that_remembers_nothing_and_has_no_lineage(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table(COLUMNS, "")
    report = setup.check(capsys, 1)
    token, lineage = report.one("token", "problem"), report.one("lineage", "warning")
    assert "remembers no inserts (non_replicated_deduplication_window = 0)" in token.text
    setup.sql(token.fix)
    report = setup.check(capsys, 0)
    assert not report.of("token")
    assert report.one("lineage") == lineage
    setup.sql(lineage.fix)
    assert setup.check(capsys, 0).statuses() == {"ok", "skipped"}, "the fixes can be run as they are"


def test_columns_against_the_contract(
    setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = setup.path.parent / "check_contract_for_test.py"
    module.write_text("import msgspec\nclass Order(msgspec.Struct):\n    event_id: str\n    amunt: int\n")
    monkeypatch.syspath_prepend(str(module.parent))
    setup.write(route='table = "orders"\ncontract = "check_contract_for_test:Order"')
    setup.table()
    found = setup.check(capsys, 1).of("contract", "problem")
    assert any("Order.amunt" in one.text and "Did you mean 'amount'?" in one.fix for one in found)


def test_kafka_down_does_not_hide_what_clickhouse_says(
    setup: Setup, mock_kafka: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    setup.table()
    mock_kafka.close()
    report = setup.check(capsys, 69)
    assert [one.name for one in report if one.status == "down"] == ["kafka"]
    assert report.one("table").status == "ok"


def test_one_of_two_servers_down(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    setup.path.write_text(setup.path.read_text().replace('urls = ["', 'urls = ["http://127.0.0.1:1", "'))
    report = setup.check(capsys, 69)
    assert ["127.0.0.1:1" in one.text for one in report.of("clickhouse", "down")] == [True]
    assert "an insert repeated on another one would be stored twice" in report.one("servers", "problem").text


def test_offline_says_what_it_could_not_look_at(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    report = setup.check(capsys, 0, "--offline")
    assert report.statuses() == {"ok", "skipped"}
    assert "retention, rights, clocks, tables" in report.one("offline").text
    assert not report.of("kafka") + report.of("clickhouse")


def test_people_see_what_is_well_first_and_problems_last(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table(COLUMNS, "")
    assert cli.main(["check", "-c", str(setup.path)]) == 1
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    kinds = [line.split()[0] for line in lines if line.startswith(("ok ", "skipped ", "warning ", "problem "))]
    assert kinds == sorted(kinds, key=["ok", "skipped", "warning", "problem"].index)
    assert len({line[: line.index("  ", 9)] for line in lines if line.startswith("ok ")}) == kinds.count("ok")
    table = f"`{setup.database.database}`.`orders`"
    assert lines[-1].strip() == f"fix: ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 100000"
    assert "[token]" in shown.out
    assert shown.err.strip() == "1 problem, 1 warning"
