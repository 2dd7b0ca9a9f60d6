"""`penstock check` on the real ClickHouse engine, put into each state that a check is about, and out of it by its own fix."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from pipeline.clickhouse import connection
from pipeline.preflight import live
from tests.integration.doctor import COLUMNS, LINEAGE, WINDOW, Setup


def insert(setup: Setup, what: str, times: int = 1) -> None:
    for _ in range(times):
        setup.sql(f"INSERT INTO orders (event_id, amount) SELECT toString(generateUUIDv4()), {what}")


# Traffic


def test_a_window_that_the_fleet_uses_up(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    """However slow the machine is, 30 inserts are 10 in the busiest minute, and 0.5 a second at most."""
    setup.table(settings="SETTINGS non_replicated_deduplication_window = 1000")
    insert(setup, "1", times=30)
    found = setup.check(capsys, 0).one("window-rate")
    assert (found.status, "busiest of the last five minutes" in found.text) == ("ok", True)
    setup.sql("ALTER TABLE orders MODIFY SETTING non_replicated_deduplication_window = 20")
    report = setup.check(capsys, 1)
    found = report.one("window-rate")
    assert (found.status, found.text.startswith("20 remembered inserts last ")) == ("problem", True)
    assert report.one("window-blocks").status == "warning"
    setup.sql(found.fix)
    assert setup.check(capsys, 0).well("window-rate")


def test_a_window_that_does_not_last_for_an_outage_without_lineage(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    setup.table(COLUMNS)
    insert(setup, "1", times=30)
    assert setup.check(capsys, 0, "--outage", "1000").one("window-rate").status == "warning"
    assert setup.check(capsys, 0, "--outage", "1").well("window-rate")


def test_a_table_that_is_not_written_yet(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    found = setup.check(capsys, 0).one("window-rate")
    assert "not measured: 1 worker, a batch each 500 to 1000 ms" in found.text


def test_merges_hide_no_insert(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    insert(setup, "1", times=12)
    setup.sql("OPTIMIZE TABLE orders FINAL")
    report = setup.check(capsys, 0)
    assert "blocks a second (busiest of the last five minutes)" in report.one("window-rate").text
    assert report.one("parts").text == "1 active part"


def test_more_inserts_than_recovery_reckons_with(
    setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.table()
    insert(setup, "1", times=12)
    assert not setup.check(capsys, 0).of("insert-rate")
    monkeypatch.setattr("pipeline.sink.INSERTS_PER_S_MAX", 0.01)
    assert setup.check(capsys, 0).one("insert-rate").status == "warning"


def test_a_partition_key_that_cuts_blocks_up(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table(partition="amount")
    insert(setup, "number FROM numbers(3)")
    found = setup.check(capsys, 0).one("partitioning")
    assert (found.status, found.text.startswith("PARTITION BY amount: an insert reaches ")) == ("ok", True)
    insert(setup, "number FROM numbers(40)")
    found = setup.check(capsys).one("partitioning")
    assert (found.status in ("warning", "problem"), "cuts one insert into up to" in found.text) == (True, True)


def test_an_insert_that_reaches_more_partitions_than_are_remembered(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    setup.table(partition="amount", settings="SETTINGS non_replicated_deduplication_window = 2")
    insert(setup, "number FROM numbers(40)")
    found = setup.check(capsys, 1).one("partitioning")
    assert (found.status, "so nothing is deduplicated" in found.text) == ("problem", True)


def test_parts_that_are_not_merged(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table(settings=f"{WINDOW}, parts_to_delay_insert = 8, parts_to_throw_insert = 10")
    setup.sql("SYSTEM STOP MERGES orders")
    try:
        insert(setup, "1", times=3)
        assert setup.check(capsys, 0).well("parts")
        insert(setup, "1")
        found = setup.check(capsys, 0).one("parts")
        assert (found.status, "will be slowed down at 8" in found.text) == ("warning", True)
        insert(setup, "1", times=4)
        found = setup.check(capsys, 0).one("parts")
        assert (found.status, "are slowed down (parts_to_delay_insert = 8)" in found.text) == ("warning", True)
        insert(setup, "1", times=2)
        found = setup.check(capsys, 1).one("parts")
        assert (found.status, "are refused (parts_to_throw_insert = 10)" in found.text) == ("problem", True)
    finally:
        setup.sql("SYSTEM START MERGES orders")


@pytest.fixture
def part_log(setup: Setup) -> Iterator[str]:
    """The embedded engine keeps no `system.part_log`; this is a table in its place, with the columns a server's has."""
    setup.sql(
        "CREATE TABLE system.part_log (query_id String, event_type Enum8('NewPart' = 1, 'MergeParts' = 2, "
        "'DownloadPart' = 3), event_date Date DEFAULT today(), event_time DateTime, duration_ms UInt64, "
        "database String, table String, part_name String) ENGINE = Memory"
    )
    try:
        yield f"'{setup.database.database}', 'orders'"
    finally:
        setup.sql("DROP TABLE system.part_log")


def test_the_part_log_is_preferred(setup: Setup, part_log: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Four inserts of two parts each in one minute, and a merge, and a download of another replica's insert."""
    setup.table(partition="amount % 2")
    log = "INSERT INTO system.part_log (query_id, event_type, event_time, duration_ms, database, table, part_name) SELECT "
    minute = "toStartOfMinute(now()) - 600"
    columns = f"{minute} + number, 900, {part_log}, concat(toString(number % 2), '_1_1_0')"
    setup.sql(f"{log} concat('q', toString(intDiv(number, 2))), 'NewPart', {columns} FROM numbers(8)")
    setup.sql(f"{log} '', 'MergeParts', {minute}, 90000, {part_log}, '0_1_9_1'")
    setup.sql(f"{log} '', 'DownloadPart', {minute}, 1, {part_log}, '0_2_2_0'")
    report = setup.check(capsys, 0)
    assert "at 0.15 blocks a second (busiest minute of the last hour)" in report.one("window-rate").text
    assert report.one("partitioning").text.endswith("an insert reaches 2 partitions at most")
    assert not report.of("insert-time")
    setup.sql(f"{log} 'slow', 'NewPart', {minute}, 70000, {part_log}, '0_3_3_0'")
    found = setup.check(capsys, 0).one("insert-time")
    assert (found.status, "took 70 s for an insert" in found.text) == ("warning", True)
    wide = f"{minute}, 9, {part_log}, concat(toString(number), '_9_9_0')"
    setup.sql(f"{log} 'wide', 'NewPart', {wide} FROM numbers(50)")
    assert setup.check(capsys, 0).one("partitioning").status == "warning"
    setup.sql(f"{log} 'wider', 'NewPart', {wide} FROM numbers(51)")
    found = setup.check(capsys, 1).one("partitioning")
    assert (found.status, "cuts one insert into up to 51 parts" in found.text) == ("problem", True)
    setup.write(clickhouse="[clickhouse.settings]\nmax_partitions_per_insert_block = 200")
    assert setup.check(capsys, 0).one("partitioning").status == "warning"


# Views


def test_a_view_whose_target_remembers_nothing(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    setup.sql("CREATE TABLE totals (amount Int64) ENGINE = SummingMergeTree ORDER BY tuple()")
    setup.sql("CREATE MATERIALIZED VIEW totals_view TO totals AS SELECT amount FROM orders")
    found = setup.check(capsys, 0).one("views")
    assert found.status == "warning"
    assert f"feeds {setup.database.database}.totals_view: a repeated insert repeats in" in found.text
    assert "its totals will not show it" in found.text
    setup.sql(found.fix)
    report = setup.check(capsys, 0)
    assert report.one("views").text == "1 view remembers inserts as it does"
    assert "warning" not in report.statuses()


def test_views_behind_views_and_inner_tables(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    setup.sql(f"CREATE TABLE first (amount Int64) ENGINE = MergeTree ORDER BY tuple() {WINDOW}")
    setup.sql("CREATE TABLE `second one` (amount Int64) ENGINE = MergeTree ORDER BY tuple()")
    setup.sql("CREATE MATERIALIZED VIEW to_first TO first AS SELECT amount FROM orders")
    setup.sql("CREATE MATERIALIZED VIEW to_second TO `second one` AS SELECT amount FROM first")
    setup.sql(
        "CREATE MATERIALIZED VIEW inside ENGINE = SummingMergeTree ORDER BY amount AS SELECT amount, 1 AS one FROM orders"
    )
    found = setup.check(capsys, 0).of("views")
    assert {one.status for one in found} == {"warning"}
    assert sorted(one.text.partition(":")[0].rpartition(".")[2] for one in found) == ["inside", "to_second"]
    for one in found:
        setup.sql(one.fix)
    assert setup.check(capsys, 0).one("views").text == "3 views remember inserts as it does"


def test_the_fix_of_a_view_makes_a_repeated_insert_single(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    """What the check claims of views, as the engine does it."""
    setup.table()
    setup.sql("CREATE TABLE copies (amount Int64) ENGINE = MergeTree ORDER BY tuple()")
    setup.sql("CREATE MATERIALIZED VIEW copy TO copies AS SELECT amount FROM orders")
    sent = (
        " SETTINGS async_insert = 0, deduplicate_blocks_in_dependent_materialized_views = 1, insert_deduplication_token"
    )

    def twice(token: str) -> int:
        for _ in range(2):
            setup.sql(f"INSERT INTO orders (event_id, amount) {sent} = '{token}' SELECT 'a', 1")
        return int(setup.sql("SELECT count() FROM copies"))

    assert twice("first") == 2
    setup.sql(setup.check(capsys, 0).one("views").fix)
    assert twice("second") == 3


# The user: settings and grants


@pytest.fixture
def restricted(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Settings that every session begins with, as a settings profile of the user would have it."""
    profile: dict[str, str] = {}
    opened = connection.open_client

    def open_client(*arguments: Any) -> Any:
        client = opened(*arguments)
        for key, value in profile.items():
            client.params[key] = value
        return client

    monkeypatch.setattr(connection, "open_client", open_client)
    return profile


def test_a_user_without_the_right_to_insert(
    setup: Setup, restricted: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    setup.table()
    assert setup.check(capsys, 0).well("clickhouse-privileges")
    restricted["readonly"] = "2"
    found = setup.check(capsys, 1).one("clickhouse-privileges", "problem")
    where = f"`{setup.database.database}`.`orders`"
    assert found.text == f"default lacks INSERT on {where} (rows)"
    assert found.fix == f"GRANT INSERT ON {where} TO `default`"


def refuse(setup: Setup, match: str, code: int, name: str) -> None:
    """The server refuses statements about this, as one does that is older or does not allow it."""
    setup.database.server.fault("fail", match=match, code=code, name=name, times=100, inserts_only=False)


def test_a_server_older_than_check_grant(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    refuse(setup, "CHECK GRANT", 62, "SYNTAX_ERROR")
    found = setup.check(capsys, 0).one("clickhouse-privileges")
    assert (found.status, "penstock check --privileges" in found.text) == ("skipped", True)


def test_system_tables_that_the_user_may_not_read(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    """Without parts and part log less is known; without the settings of the engine a worker cannot start."""
    setup.table()
    refuse(setup, "FROM system.part", 497, "ACCESS_DENIED")
    report = setup.check(capsys, 0)
    assert report.one("parts").status == "skipped"
    assert "not measured" in report.one("window-rate").text
    setup.database.server.clear_faults()
    refuse(setup, "system.merge_tree_settings WHERE name LIKE", 497, "ACCESS_DENIED")
    found = setup.check(capsys, 1).one("clickhouse-privileges", "problem")
    assert "the rest is not known" in found.text
    assert "penstock check --privileges" in found.fix


def test_a_server_that_does_not_mark_obsolete_settings(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    setup.sql(f"CREATE TABLE copies (amount Int64) ENGINE = MergeTree ORDER BY tuple() {WINDOW}")
    for name in ("one", "other"):
        setup.sql(f"CREATE MATERIALIZED VIEW {name} TO copies AS SELECT amount FROM orders")
    assert setup.check(capsys, 0).one("views").text == "2 views remember inserts as it does"
    refuse(setup, "is_obsolete", 47, "UNKNOWN_IDENTIFIER")
    found = setup.check(capsys, 1).one("views-version")
    assert "gives their blocks one token" in found.text
    setup.write(clickhouse=f"[clickhouse.settings]\n{found.fix.partition(': ')[2]}")
    refuse(setup, "is_obsolete", 47, "UNKNOWN_IDENTIFIER")
    assert setup.check(capsys, 0).well("views")


def test_async_insert_is_on_by_default_and_switched_off(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.table()
    found = setup.check(capsys, 0).one("async-insert")
    assert (found.status, "on by default on this server" in found.text) == ("ok", True)


def test_async_insert_that_cannot_be_switched_off(
    setup: Setup, restricted: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    setup.table()
    restricted["readonly"] = "1"
    found = setup.check(capsys, 1).one("async-insert")
    assert (found.status, found.text.partition(";")[0]) == (
        "problem",
        "async_insert is 1 and the profile of the user default does not let it be changed",
    )


def test_inserts_that_the_server_would_cancel(
    setup: Setup, restricted: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    setup.table()
    restricted["max_execution_time"] = "60"
    found = setup.check(capsys, 0).one("execution-time")
    assert (found.status, found.fix) == ("warning", "ALTER USER default SETTINGS max_execution_time = 0")
    restricted["max_execution_time"] = "120"
    assert not setup.check(capsys, 0).of("execution-time")


# Clocks


class Ahead:
    """Our clock, wrong by some seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return int((time.time() + self._seconds) * 1000)


def test_clocks_that_are_apart(
    setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.table(f"{COLUMNS}, {LINEAGE}")
    assert setup.check(capsys, 0).well("clock")
    for seconds, status, side in (
        (60, "warning", "behind"),
        (-60, "warning", "ahead of"),
        (3_600, "problem", "behind"),
    ):
        monkeypatch.setattr("pipeline.preflight.Terms", partial(live.Terms, clock=Ahead(seconds)))
        found = setup.check(capsys).one("clock")
        assert (found.status, f" {side} this machine" in found.text) == (status, True)
