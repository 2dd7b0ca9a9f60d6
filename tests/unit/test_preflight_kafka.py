"""The checks of brokers, topics, the group and privileges, as functions of facts: when they fire, and when they do not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.config.load import from_data
from pipeline.config.schema import Config
from pipeline.errors import Exit, Problem
from pipeline.intent import Identity, Intent, encode
from pipeline.kafka import Group
from pipeline.preflight import Check, Status, broker_limits, deadlines, exit_code, of_problem
from pipeline.preflight.checks import duration
from pipeline.preflight.groups import committed_check, member_checks
from pipeline.preflight.privileges import Grant, acl_checks, acl_command, acls, grant_checks, grants, read_columns
from pipeline.preflight.topics import (
    Backlog,
    compaction_checks,
    letter_size_checks,
    retention_checks,
    topic_check,
    unread_settings,
)
from pipeline.types import Partition, Span

OK, WARNING, PROBLEM, SKIPPED = Status.OK, Status.WARNING, Status.PROBLEM, Status.SKIPPED
DAY_S = 86_400


def config(kafka: dict[str, Any] | None = None, environ: dict[str, str] | None = None, **sections: Any) -> Config:
    base: dict[str, Any] = {
        "name": "p",
        "kafka": {"brokers": "a:1", "group": "g", **(kafka or {})},
        "clickhouse": {"urls": ["http://a"]},
        "routes": [{"topic": "t", "table": "t"}],
        "dead_letters": {"topic": "dead"},
    }
    return from_data(base | sections, environ or {}).config


def verdicts(checks: Any) -> list[tuple[str, Status]]:
    return [(check.code, check.status) for check in checks]


# Brokers

BROKER = {
    "offset.metadata.max.bytes": "4096",
    "group.coordinator.rebalance.protocols": "classic,consumer",
    "group.min.session.timeout.ms": "6000",
    "group.max.session.timeout.ms": "1800000",
    "offsets.retention.minutes": "10080",
}
CONSUMER = config({"group_protocol": "consumer"})


def test_brokers_that_allow_what_is_needed() -> None:
    assert verdicts(broker_limits(config(), BROKER)) == [("broker-settings", OK)]
    assert verdicts(broker_limits(CONSUMER, BROKER)) == [("broker-settings", OK)]
    edge = BROKER | {"offset.metadata.max.bytes": "4000", "offsets.retention.minutes": "1440"}
    assert verdicts(broker_limits(config(), edge, DAY_S)) == [("broker-settings", OK)]


def test_brokers_that_tell_nothing() -> None:
    assert verdicts(broker_limits(config(), {})) == [("broker-settings", SKIPPED)]


@pytest.mark.parametrize(
    ("changes", "where", "code", "says"),
    [
        ({"offset.metadata.max.bytes": "3999"}, config(), "offset-metadata", "offset commits carry up to 4000 bytes"),
        ({"group.coordinator.rebalance.protocols": "classic"}, CONSUMER, "group-protocol", "they offer classic"),
        ({"group.coordinator.rebalance.protocols": ""}, CONSUMER, "group-protocol", "older than 4.0"),
        ({"group.min.session.timeout.ms": "60000"}, config(), "session-timeout", "from 60000 to 1800000 ms"),
        ({"group.max.session.timeout.ms": "30000"}, config(), "session-timeout", "from 6000 to 30000 ms"),
    ],
)
def test_what_brokers_forbid(changes: dict[str, str], where: Config, code: str, says: str) -> None:
    (check,) = broker_limits(where, BROKER | changes)
    assert (check.code, check.status) == (code, PROBLEM)
    assert says in check.text
    assert check.fix


def test_a_protocol_that_is_not_used_does_not_matter() -> None:
    old = BROKER | {"group.coordinator.rebalance.protocols": "classic"}
    assert verdicts(broker_limits(config(), old)) == [("broker-settings", OK)]
    tight = BROKER | {"group.max.session.timeout.ms": "30000"}
    assert verdicts(broker_limits(CONSUMER, tight)) == [("broker-settings", OK)], "the broker decides it there"


def test_offsets_that_are_forgotten_during_an_outage() -> None:
    short = BROKER | {"offsets.retention.minutes": "1439"}
    assert verdicts(broker_limits(config(), short, DAY_S)) == [("offset-retention", WARNING)]
    assert verdicts(broker_limits(config(), short, DAY_S - 60)) == [("broker-settings", OK)]


def test_deadlines_grow_from_the_insert_to_the_group() -> None:
    assert deadlines(config()).status is OK
    good = config()
    late = msgspec.structs.replace(good.clickhouse, insert_timeout_ms=240_000)
    hasty = msgspec.structs.replace(good.kafka, max_poll_interval_ms=240_000)
    for broken in (msgspec.structs.replace(good, clickhouse=late), msgspec.structs.replace(good, kafka=hasty)):
        check = deadlines(broken)
        assert (check.code, check.status) == ("deadlines", PROBLEM)
        assert exit_code([check]) is Exit.CONFIG


# Topics


def test_a_topic_is_there_or_not() -> None:
    assert topic_check("t", 3, "routes[0].topic").status is OK
    assert topic_check("t", 0, "routes[0].topic").status is PROBLEM


def test_topics_whose_configuration_cannot_be_read() -> None:
    assert list(unread_settings([])) == []
    assert verdicts(unread_settings(["t", "dead"])) == [("topic-settings", SKIPPED)]


def test_compaction() -> None:
    for policy in ({}, {"cleanup.policy": "delete"}):
        assert list(compaction_checks(config(), "t", policy, letters=False)) == []
        assert list(compaction_checks(config(), "t", policy, letters=True)) == []
    for compacted in ("compact", "compact,delete"):
        (check,) = compaction_checks(config(), "t", {"cleanup.policy": compacted}, letters=False)
        assert (check.code, check.status) == ("compaction", WARNING)
        assert check.fix.endswith("--entity-name t --alter --add-config cleanup.policy=delete")
        (check,) = compaction_checks(config(), "dead", {"cleanup.policy": compacted}, letters=True)
        assert (check.code, check.status) == ("compaction", PROBLEM)


def test_dead_letters_that_do_not_fit() -> None:
    limit = config().limits.record_bytes_max
    assert list(letter_size_checks(config(), "dead", {"max.message.bytes": str(limit)})) == []
    assert list(letter_size_checks(config(), "dead", {})) == []
    found = letter_size_checks(config(), "dead", {"max.message.bytes": str(limit - 1)})
    assert verdicts(found) == [("dead-letter-size", WARNING)]


WEEK = {"retention.ms": "604800000", "cleanup.policy": "delete"}


def retained(settings: dict[str, str], *backlogs: Backlog, where: Config | None = None) -> list[Check]:
    return list(retention_checks(where or config(), "t", settings, backlogs))


def test_a_backlog_that_will_last() -> None:
    (check,) = retained(WEEK, Backlog(0, 90, 0, 100, [50, 20]), Backlog(1, -1, 0, 7, [0, 0]))
    assert (check.code, check.status, check.text) == ("retention", OK, "kept 7 days, lag 10")
    assert retained({"retention.ms": "-1"}, Backlog(0, 0, 0, 100))[0].text == "kept without a limit of time, lag 100"
    assert retained({}, Backlog(0, 0, 0, 100)) == [], "nothing is known"


def test_records_that_were_removed_before_they_were_read() -> None:
    (check,) = retained(WEEK, Backlog(0, 90, 91, 100, [91, 91]))
    assert (check.code, check.status) == ("retention", PROBLEM)
    assert "offsets 90 to 90 were removed" in check.text
    assert verdicts(retained(WEEK, Backlog(0, 91, 91, 100, [91, 91]))) == [("retention", OK)]
    assert verdicts(retained(WEEK, Backlog(0, -1, 91, 100, [91, 91]))) == [("retention", OK)], "nothing was committed"


@pytest.mark.parametrize(("committed", "status"), [(9, PROBLEM), (10, WARNING), (49, WARNING), (50, OK), (100, OK)])
def test_unread_records_that_grow_old(committed: int, status: Status) -> None:
    """Offsets below 10 are older than nine tenths of the retention time, those below 50 than half of it."""
    assert verdicts(retained(WEEK, Backlog(0, committed, 0, 100, [50, 10]))) == [("retention", status)]


def test_a_partition_that_is_read_to_its_end_is_not_late() -> None:
    assert verdicts(retained(WEEK, Backlog(0, 100, 0, 100, [100, 100]))) == [("retention", OK)]


def test_a_log_that_is_kept_by_size() -> None:
    sized = {"retention.ms": "-1", "retention.bytes": "1000000"}
    assert verdicts(retained(sized, Backlog(0, 109, 100, 200))) == [("retention", WARNING)]
    assert verdicts(retained(sized, Backlog(0, 110, 100, 200))) == [("retention", OK)]
    assert verdicts(retained(sized, Backlog(0, 5, 0, 100))) == [("retention", OK)], "nothing was removed so far"
    assert verdicts(retained({"retention.ms": "-1", "retention.bytes": "-1"}, Backlog(0, 109, 100, 200))) == [
        ("retention", OK)
    ]


def test_a_window_that_is_rebuilt_from_kafka() -> None:
    def at(rebuild: str, window_s: int) -> Config:
        return config(dedup={"key": ["id"], "rebuild": rebuild, "window_s": window_s})

    assert verdicts(retained(WEEK, where=at("kafka", 604_801))) == [("retention", WARNING)]
    assert verdicts(retained(WEEK, where=at("kafka", 604_800))) == [("retention", OK)]
    assert verdicts(retained(WEEK, where=at("clickhouse", 604_801))) == [("retention", OK)]


# The group

IDENTITY = Identity("p", "", {})
INTENT = Intent((Span(Partition("t", 0), 5, 9),), 1_700_000_000_000, bytes(8))


def test_what_the_group_has_committed() -> None:
    committed = {Partition("t", 0): (5, encode(IDENTITY, [INTENT])), Partition("t", 1): (-1, "")}
    check = committed_check(config(), IDENTITY, committed)
    assert (check.code, check.status) == ("group", OK)
    assert check.text == "has committed 1 of 2 partitions, 1 batch declared and not finished"
    foreign = {Partition("t", 0): (5, encode(Identity("other", "", {}), [INTENT]))}
    assert committed_check(config(), IDENTITY, foreign).status is PROBLEM


def members(group: Group, partitions: int = 4, where: Config | None = None, **settings: str) -> list[Check]:
    found = {key.replace("_", "."): value for key, value in settings.items()}
    return list(member_checks(where or config(), group, partitions, "penstock-membership", found))


def workers(number: int, protocol: str = "classic") -> Group:
    return Group(["penstock-membership"] * number, protocol)


def test_members_of_the_group() -> None:
    assert members(Group()) == []
    assert verdicts(members(workers(4))) == [("group-members", OK)]
    assert verdicts(members(workers(5))) == [("group-members", WARNING)]
    (check,) = members(Group(["penstock-membership", "rdkafka"], "classic"))
    assert (check.code, check.status) == ("group-members", PROBLEM)
    assert "not penstock's: rdkafka" in check.text


def test_a_group_that_cannot_change_its_protocol() -> None:
    key = "group_consumer_migration_policy"
    assert verdicts(members(workers(1), where=CONSUMER)) == [("group-members", OK)], "bidirectional by default"
    for policy, back in (("disabled", "disabled"), ("downgrade", "upgrade")):
        assert ("group-protocol", PROBLEM) in verdicts(members(workers(1), where=CONSUMER, **{key: policy}))
        assert ("group-protocol", PROBLEM) in verdicts(members(workers(1, "consumer"), **{key: back}))
    assert verdicts(members(workers(1), where=CONSUMER, **{key: "upgrade"})) == [("group-members", OK)]
    assert verdicts(members(workers(1), **{key: "disabled"})) == [("group-members", OK)]
    assert members(Group([], "classic"), where=CONSUMER, **{key: "disabled"}) == []


# Privileges

ALL = {
    ("topic", "t"): frozenset({"READ", "DESCRIBE"}),
    ("topic", "dead"): frozenset({"READ", "WRITE", "DESCRIBE"}),
    ("group", "g"): frozenset({"READ", "DESCRIBE"}),
}


def test_a_user_that_may_do_what_a_worker_does() -> None:
    assert verdicts(acl_checks(config(), ALL)) == [("kafka-privileges", OK)]
    without = {key: value for key, value in ALL.items() if key != ("topic", "dead")}
    assert verdicts(acl_checks(config(dead_letters={}), without)) == [("kafka-privileges", OK)]
    assert verdicts(acl_checks(config(), without, ["dead"])) == [("kafka-privileges", OK)], "the topic is missing"


@pytest.mark.parametrize(
    ("where", "may", "command"),
    [
        (("topic", "t"), {"DESCRIBE"}, "--operation Read --topic t"),
        (("topic", "dead"), {"READ"}, "--operation Write --topic dead"),
        (("topic", "dead"), set(), "--operation Write --operation Read --topic dead"),
        (("group", "g"), {"DESCRIBE"}, "--operation Read --group g"),
    ],
)
def test_a_right_that_is_missing_in_kafka(where: tuple[str, str], may: set[str], command: str) -> None:
    (check,) = acl_checks(config(), ALL | {where: frozenset(may)})
    assert (check.code, check.status) == ("kafka-privileges", PROBLEM)
    assert check.fix == f"kafka-acls.sh --bootstrap-server a:1 --add --allow-principal 'User:ANONYMOUS' {command}"


def test_brokers_that_do_not_tell_what_is_allowed() -> None:
    assert verdicts(acl_checks(config(), ALL | {("group", "g"): None})) == [("kafka-privileges", SKIPPED)]
    assert verdicts(acl_checks(config(), {})) == [("kafka-privileges", SKIPPED)]


def test_the_principal_is_who_the_brokers_see() -> None:
    sasl = {"sasl": {"mechanism": "PLAIN", "username": "reader"}}
    where = config(sasl, {"PENSTOCK__KAFKA__SASL__PASSWORD": "secret"})
    (command,) = [acl_command(where, [acl]) for acl in acls(where) if acl.kind == "group"]
    assert "--allow-principal 'User:reader'" in command


def test_the_least_grants() -> None:
    where = config(dedup={"key": ["event_id"]})
    found = [(grant.privilege, grant.where) for grant in grants(where, read_columns(where)) if grant.needed]
    assert found == [
        ("INSERT", "`default`.`t`"),
        ("SELECT(`_topic`, `_partition`, `_offset`, `_timestamp`, `event_id`)", "`default`.`t`"),
        ("SELECT", "system.merge_tree_settings"),
        ("SELECT", "system.replicated_merge_tree_settings"),
    ]
    one_kind = [grant.where for grant in grants(where, {"t": []}, replicated=True)]
    assert one_kind[:2] == ["`default`.`t`", "system.replicated_merge_tree_settings"], "nothing is read back"
    assert "system.merge_tree_settings" not in one_kind
    assert read_columns(config(dedup={"key": ["@key"]})) == {"t": ["_topic", "_partition", "_offset", "_timestamp"]}
    assert [grant.privilege for grant in grants(config())][:2] == ["INSERT", "SELECT"], "contracts are not known"
    assert read_columns(config(routes=[{"topic": "t", "table": "t", "contract": "nowhere:Nothing"}])) is None


def test_a_grant_that_is_missing() -> None:
    needed, besides = Grant("INSERT", "`d`.`t`", "rows"), Grant("SELECT", "system.parts", "check", needed=False)
    assert verdicts(grant_checks(config(), [(needed, True), (besides, True)])) == [("clickhouse-privileges", OK)]
    (check,) = grant_checks(config(), [(needed, False), (besides, True)])
    assert (check.status, check.fix) == (PROBLEM, "GRANT INSERT ON `d`.`t` TO `default`")
    found = list(grant_checks(config(), [(needed, True), (besides, False)]))
    assert [check.status for check in found] == [WARNING, OK]
    assert verdicts(grant_checks(config(), [(needed, None), (besides, None)])) == [("clickhouse-privileges", SKIPPED)]


# All of them


def test_exit_codes() -> None:
    def ended(*statuses: Status, configuration: bool = False) -> Exit:
        return exit_code([Check("c", "n", status, "t", "f", configuration) for status in statuses])

    assert ended() is ended(OK, WARNING, SKIPPED) is Exit.OK
    assert ended(OK, PROBLEM) is Exit.NO
    assert ended(PROBLEM, Status.DOWN) is Exit.UNAVAILABLE
    assert ended(PROBLEM, Status.DOWN, configuration=True) is Exit.CONFIG
    assert of_problem(Problem("a.b", "1", "is wrong", "do"), WARNING).text == "1 is wrong"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (3, "3 s"), (3.3, "3.3 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (604_800, "7 days")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_every_check_is_in_the_documentation_and_nothing_else() -> None:
    root = Path(__file__).parents[2]
    sources = "".join(path.read_text() for path in sorted((root / "pipeline" / "preflight").glob("*.py")))
    sources += (root / "pipeline" / "cli" / "check.py").read_text()
    made = set(re.findall(r'\b(?:Check|down)\(\s*"([a-z-]+)"', sources))
    made |= set(re.findall(r'code(?:: str)? ?= ?"([a-z-]+)"', sources)) | {"async-insert", "insert-settings"}
    told = re.findall(r"^\| `([a-z-]+)` \|", (root / "docs" / "doctor.md").read_text(), re.M)
    assert len(told) == len(set(told))
    assert made == set(told)
