"""The checks of tables, views, traffic, settings and clocks, as functions of facts: when they fire, and when they do not."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.clickhouse import INSERT_SETTINGS, TableFacts
from pipeline.config.load import from_data
from pipeline.config.schema import Config
from pipeline.preflight import Check, Status, table_checks
from pipeline.preflight.clocks import Reading, clock_check, record_clock_checks
from pipeline.preflight.rates import (
    Inserts,
    Parts,
    insert_time_checks,
    part_checks,
    planned,
    rate_checks,
    spread_checks,
)
from pipeline.preflight.servers import Setting, setting_checks
from pipeline.preflight.views import SEND_TO_VIEWS, TOKEN_PER_VIEW, View, view_checks

OK, WARNING, PROBLEM, SKIPPED = Status.OK, Status.WARNING, Status.PROBLEM, Status.SKIPPED
DAY_S, WEEK_S = 86_400, 604_800


def config(urls: int = 1, **sections: Any) -> Config:
    clickhouse = {"urls": [f"http://a{index}" for index in range(urls)], **sections.pop("clickhouse", {})}
    base = {"kafka": {"brokers": "a:1", "group": "g"}, "routes": [{"topic": "t", "table": "t"}], **sections}
    return from_data({"name": "p", "clickhouse": clickhouse, **base}, {}).config


def facts(**changes: Any) -> TableFacts:
    good = TableFacts("ReplicatedMergeTree", True, 100_000, WEEK_S, "", "", (), True)
    return good._replace(**changes)


def plain(**changes: Any) -> TableFacts:
    return facts(engine="MergeTree", replicated=False, window_s=None, **changes)


def verdicts(checks: Any) -> list[tuple[str, Status]]:
    return [(check.code, check.status) for check in checks]


# Tables


def tables(of: TableFacts, outage_s: float = DAY_S, **sections: Any) -> list[Check]:
    return list(table_checks(config(**sections), "t", "`d`.`t`", of, outage_s))


@pytest.mark.parametrize(
    "good", [facts(), plain(), facts(engine="SharedReplacingMergeTree"), plain(window_blocks=1_000)]
)
def test_nothing_is_said_of_a_good_table(good: TableFacts) -> None:
    assert tables(good) == []


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (plain(window_blocks=0), ("token", PROBLEM)),
        (facts(window_blocks=0), ("token", PROBLEM)),
        (plain(window_blocks=999), ("window-blocks", WARNING)),
        (facts(window_s=239), ("window-seconds", PROBLEM)),
        (facts(engine="Distributed", replicated=False, window_s=None, window_blocks=0), ("engine", WARNING)),
        (plain(lineage=False), ("lineage", WARNING)),
        (facts(engine="ReplicatedSummingMergeTree", lineage=False), ("lineage", WARNING)),
    ],
)
def test_what_is_wrong_with_a_table(of: TableFacts, expected: tuple[str, Status]) -> None:
    (check,) = tables(of)
    assert (check.code, check.status) == expected
    assert check.name == "table t"
    assert check.fix


def test_the_fix_of_a_window_names_the_setting_of_the_engine() -> None:
    fix = "ALTER TABLE `d`.`t` MODIFY SETTING {}replicated_deduplication_window = 100000"
    assert tables(facts(window_blocks=0))[0].fix == fix.format("")
    assert tables(plain(window_blocks=0))[0].fix == fix.format("non_")


def test_several_servers_need_a_replicated_table() -> None:
    assert verdicts(tables(plain(), urls=2)) == [("servers", PROBLEM)]
    assert tables(plain(), urls=1) == tables(facts(), urls=2) == []


def test_a_window_in_seconds_must_outlive_an_outage_where_there_is_no_lineage() -> None:
    blind = facts(lineage=False, window_s=3_600)
    assert tables(facts(window_s=3_600)) == [], "lineage answers for older batches"
    assert ("window-seconds", WARNING) in verdicts(tables(blind))
    assert verdicts(tables(blind, outage_s=1_800)) == [("lineage", WARNING)]
    assert ("window-seconds", WARNING) in verdicts(tables(blind, outage_s=1_801))
    (check,) = [one for one in tables(blind, outage_s=30 * DAY_S) if one.code == "window-seconds"]
    assert check.fix.endswith(f"replicated_deduplication_window_seconds = {60 * DAY_S}")


def test_a_window_in_seconds_must_outlive_the_repetitions_of_an_insert() -> None:
    assert tables(facts(window_s=240)) == []
    slow = {"clickhouse": {"insert_timeout_ms": 200_000}}
    assert verdicts(tables(facts(window_s=399), **slow)) == [("window-seconds", PROBLEM)]
    assert tables(facts(window_s=400), **slow) == []


# Views

KNOWN = {SEND_TO_VIEWS}


def view(name: str = "d.v", target: str = "`d`.`sums`", **changes: Any) -> View:
    return View(name, target, plain(**changes) if changes.pop("seen", True) else None)


def test_views_whose_targets_remember_are_well() -> None:
    assert list(view_checks("t", [], KNOWN)) == []
    assert verdicts(view_checks("t", [view(), view("d.w", "`d`.`other`")], KNOWN)) == [("views", OK)]
    null = View("d.v", "`d`.`n`", facts(engine="Null", window_blocks=0))
    assert verdicts(view_checks("t", [null], KNOWN)) == [("views", OK)], "a Null table keeps no row to double"


def test_a_view_whose_target_remembers_nothing_doubles() -> None:
    (check,) = view_checks("t", [view(window_blocks=0)], KNOWN)
    assert (check.code, check.status) == ("views", WARNING)
    assert check.fix == "ALTER TABLE `d`.`sums` MODIFY SETTING non_replicated_deduplication_window = 100000"
    summing = View("d.v", "`d`.`s`", plain(window_blocks=0)._replace(engine="SummingMergeTree"))
    (check,) = view_checks("t", [summing], KNOWN)
    assert "its totals will not show it" in check.text
    log = View("d.v", "`d`.`log`", facts(engine="Log", window_blocks=0))
    assert verdicts(view_checks("t", [log], KNOWN)) == [("views", WARNING)]


def test_a_target_that_cannot_be_seen_is_not_called_well() -> None:
    assert verdicts(view_checks("t", [View("d.v", "`d`.`s`", None)], KNOWN)) == [("views", SKIPPED)]
    assert verdicts(view_checks("t", [View("d.v", "", None)], KNOWN)) == [("views", SKIPPED)]


def test_a_server_too_old_for_views() -> None:
    assert verdicts(view_checks("t", [view()], set())) == [("views-version", WARNING)]


def test_a_server_that_gives_the_blocks_of_two_views_one_token() -> None:
    both = [view("d.v"), view("d.w")]
    old = KNOWN | {TOKEN_PER_VIEW}
    assert verdicts(view_checks("t", both, KNOWN)) == [("views", OK)], "the server tells them apart"
    assert verdicts(view_checks("t", both, old)) == [("views-version", PROBLEM)]
    assert verdicts(view_checks("t", both, old, {TOKEN_PER_VIEW})) == [("views", OK)]
    assert verdicts(view_checks("t", [view("d.v"), view("d.w", "`d`.`other`")], old)) == [("views", OK)]


# Traffic


def inserts(rate: float = 1.0, spread: int = 1, insert_ms: int = 0) -> Inserts:
    return Inserts(rate, spread, insert_ms, "measured")


def rated(of: TableFacts, rate: float, outage_s: float = DAY_S) -> list[Check]:
    return list(rate_checks(config(), "t", "`t`", of, inserts(rate), 100, outage_s))


def test_a_window_in_blocks_must_outlive_the_repetitions_of_an_insert() -> None:
    assert verdicts(rated(plain(window_blocks=2_400), 10)) == [("window-rate", OK)]
    (check,) = rated(plain(window_blocks=2_399), 10)
    assert (check.code, check.status) == ("window-rate", PROBLEM)
    assert check.fix == "ALTER TABLE `t` MODIFY SETTING non_replicated_deduplication_window = 100000"


def test_a_window_in_blocks_must_outlive_an_outage_where_there_is_no_lineage() -> None:
    blind = plain(lineage=False, window_blocks=100_000)
    assert verdicts(rated(blind, 1, outage_s=50_000)) == [("window-rate", OK)]
    (check,) = rated(blind, 1, outage_s=50_001)
    assert (check.code, check.status) == ("window-rate", WARNING)
    assert check.fix.endswith("= 100002")
    assert verdicts(rated(plain(window_blocks=100_000), 1, outage_s=WEEK_S)) == [("window-rate", OK)]
    assert "lineage columns" in rated(blind, 50)[0].fix, "a window of millions is no advice"


def test_nothing_is_said_of_the_rate_without_a_window_or_inserts() -> None:
    assert rated(plain(window_blocks=0), 5) == rated(plain(), 0) == []


def test_more_inserts_than_recovery_reckons_with() -> None:
    assert verdicts(rated(plain(window_blocks=1_000_000), 100)) == [("window-rate", OK)]
    assert verdicts(rated(plain(window_blocks=1_000_000), 101)) == [("window-rate", OK), ("insert-rate", WARNING)]


def test_what_is_not_measured_comes_from_the_configuration() -> None:
    assert planned(config(), 3).blocks_per_s == 6
    assert planned(config(batch={"age_ms_max": 250}), 3).blocks_per_s == 24
    assert planned(config(), 0).blocks_per_s == 2, "the worker that is going to be started"
    assert "3 workers" in planned(config(), 3).basis
    few = plain(window_blocks=1_000)
    guessed = rate_checks(config(), "t", "`t`", few, planned(config(), 9), 100)
    assert verdicts(guessed) == [("window-rate", WARNING)], "a guess is no reason to refuse"
    assert verdicts(rated(few, 9)) == [("window-rate", PROBLEM)]


LIMITS = Parts(0, 0, 1_000, 3_000, 100_000, 100)


@pytest.mark.parametrize(
    ("spread", "window", "expected"),
    [
        (0, 100_000, []),
        (1, 100_000, [("partitioning", OK)]),
        (10, 100_000, [("partitioning", OK)]),
        (11, 100_000, [("partitioning", WARNING)]),
        (50, 100_000, [("partitioning", WARNING)]),
        (51, 100_000, [("partitioning", PROBLEM)]),
        (20, 20, [("partitioning", WARNING)]),
        (20, 19, [("partitioning", PROBLEM)]),
    ],
)
def test_a_partition_key_that_cuts_blocks_up(spread: int, window: int, expected: list[tuple[str, Status]]) -> None:
    of = plain(partition_key="toDate(at)", window_blocks=window)
    assert verdicts(spread_checks("t", of, inserts(spread=spread), LIMITS)) == expected


def test_a_table_without_partitions_is_not_cut_up() -> None:
    assert list(spread_checks("t", plain(), inserts(spread=1), LIMITS)) == []


@pytest.mark.parametrize(
    ("fullest", "active", "status"),
    [
        (499, 499, OK),
        (500, 500, WARNING),
        (1_000, 1_000, WARNING),
        (2_999, 2_999, WARNING),
        (3_000, 3_000, PROBLEM),
        (10, 49_999, OK),
        (10, 50_000, WARNING),
    ],
)
def test_parts_that_merges_do_not_keep_up_with(fullest: int, active: int, status: Status) -> None:
    (check,) = part_checks("t", inserts(), LIMITS._replace(fullest=fullest, active=active))
    assert (check.code, check.status) == ("parts", status)
    assert bool(check.fix) == (status is not OK)


def test_parts_without_limits_are_only_counted() -> None:
    assert verdicts(part_checks("t", inserts(), Parts(9_000, 9_000, 0, 0, 0, 0))) == [("parts", OK)]


def test_inserts_that_take_almost_as_long_as_their_deadline() -> None:
    assert list(insert_time_checks(config(), "t", inserts(insert_ms=60_000))) == []
    assert verdicts(insert_time_checks(config(), "t", inserts(insert_ms=60_001))) == [("insert-time", WARNING)]


# Settings


def settings(**changes: Setting) -> dict[str, Setting]:
    return {key: Setting(str(value), False) for key, value in INSERT_SETTINGS.items()} | changes


def set_checks(found: dict[str, Setting], **clickhouse: Any) -> list[Check]:
    return list(setting_checks(config(clickhouse=clickhouse), INSERT_SETTINGS, found, "u"))


def test_settings_that_may_be_sent() -> None:
    assert verdicts(set_checks(settings())) == [("insert-settings", OK)]
    assert verdicts(set_checks({})) == [("insert-settings", OK)], "what a server does not know is not sent"
    assert verdicts(set_checks(settings(max_insert_threads=Setting("1", True)))) == [("insert-settings", OK)]
    wide = Setting("16", False, "1", "16")
    assert verdicts(set_checks(settings(max_insert_threads=wide))) == [("insert-settings", OK)]


def test_async_inserts_by_default_do_no_harm_unless_they_are_forced() -> None:
    (check,) = set_checks(settings(async_insert=Setting("1", False)))
    assert (check.code, check.status) == ("async-insert", OK)
    (check,) = set_checks(settings(async_insert=Setting("1", True)))
    assert (check.code, check.status) == ("async-insert", PROBLEM)
    assert "the user u" in check.text


@pytest.mark.parametrize("setting", [Setting("8", True), Setting("8", False, "2", "16"), Setting("0", False, "", "0")])
def test_a_setting_that_the_profile_fixes(setting: Setting) -> None:
    (check,) = set_checks(settings(max_insert_threads=setting))
    assert (check.code, check.status) == ("insert-settings", PROBLEM)
    assert "max_insert_threads" in check.text


def test_inserts_that_the_server_would_cancel() -> None:
    key = "max_execution_time"
    assert verdicts(set_checks(settings(max_execution_time=Setting("0", False)))) == [("insert-settings", OK)]
    assert verdicts(set_checks(settings(max_execution_time=Setting("120", False)))) == [("insert-settings", OK)]
    (check,) = set_checks(settings(max_execution_time=Setting("119.5", False)))
    assert (check.code, check.status, check.fix) == ("execution-time", WARNING, f"ALTER USER u SETTINGS {key} = 0")
    (check,) = set_checks(settings(), settings={key: 60})
    assert (check.code, "[clickhouse.settings]" in check.fix) == ("execution-time", True)
    assert verdicts(set_checks(settings(max_execution_time=Setting("9", False)), settings={key: 0})) == [
        ("insert-settings", OK)
    ]


# Clocks


@pytest.mark.parametrize(
    ("theirs_ms", "status"),
    [
        (0, OK),
        (100, OK),
        (5_099, OK),
        (5_100, WARNING),
        (-4_999, OK),
        (-5_000, WARNING),
        (240_100, PROBLEM),
        (-240_000, PROBLEM),
    ],
)
def test_a_server_whose_clock_is_apart(theirs_ms: int, status: Status) -> None:
    """The question took 100 ms: so much is not held against a clock."""
    now_ms = 1_700_000_000_000
    check = clock_check("http://a", Reading(now_ms, now_ms + theirs_ms, now_ms + 100))
    assert (check.code, check.status) == ("clock", status)
    assert bool(check.fix) == (status is not OK)


def test_records_from_the_future() -> None:
    now_ms = 1_700_000_000_000
    for newest_ms in (None, -1, now_ms - 10**9, now_ms, now_ms + 59_999):
        assert list(record_clock_checks("t", newest_ms, now_ms, by_broker=False)) == []
    (check,) = record_clock_checks("t", now_ms + 60_000, now_ms, by_broker=False)
    assert (check.code, check.status, check.name) == ("record-clock", WARNING, "topic t")
    assert "a producer's clock" in check.fix
    (check,) = record_clock_checks("t", now_ms + 60_000, now_ms, by_broker=True)
    assert "the brokers' clocks" in check.fix
