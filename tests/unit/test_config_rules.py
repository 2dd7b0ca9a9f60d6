"""Every rule of the configuration: one value that breaks it, one next to it that does not."""

from __future__ import annotations

from typing import Any

import pytest
from config_for_tests import GOOD, problems, verdict, warnings

from pipeline.config import rules, rules_clickhouse, rules_flow, rules_kafka
from pipeline.config.bounds import BOUNDS, ORDERS, Bound, Order
from pipeline.config.facts import value_at
from pipeline.config.load import from_data

WIDE: dict[str, Any] = {
    "limits.stall_ms_max": 86_399_000,
    "kafka.max_poll_interval_ms": 86_400_000,
    "limits.rows_in_flight_max": 100_000_000,
    "limits.bytes_in_flight_max": 64 * 1024**3,
    "batch.bytes_max": 128 * 1024**2,
}
"""Limits far apart, so that a bound can be tried without touching a relation."""


def at(key: str, value: Any) -> list[str]:
    """The rules that `key` breaks at this value."""
    return [problem.rule for problem in problems({**WIDE, key: value}) if problem.key == key]


def test_the_good_configuration_has_neither_problems_nor_warnings() -> None:
    assert verdict({}) == ([], [])


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.key)
def test_bound(bound: Bound) -> None:
    whole = isinstance(value_at(from_data(GOOD, {}).config, bound.key), int)
    step = 1 if whole else 0.01
    low, high = (int(bound.low), int(bound.high)) if whole else (bound.low, bound.high)
    for outside in (low - step, high + step):
        (rule,) = at(bound.key, outside)
        assert bound.reason in rule
        assert "must be from" in rule
    for inside in (low, high):
        assert not [rule for rule in at(bound.key, inside) if "must be from" in rule]


def test_a_number_that_is_none_is_out_of_bounds() -> None:
    (problem,) = problems({"dead_letters.ratio_max": float("nan")})
    assert problem.value == "nan"


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: f"{order.less}-{order.more}")
def test_order(order: Order) -> None:
    """Around the point where the two meet, chosen inside the bounds of both."""
    ranges = {bound.key: bound for bound in BOUNDS}
    less, more = ranges[order.less], ranges[order.more]
    meet = int(max(less.low, more.low)) + 10
    assert meet < min(less.high, more.high)

    def broken(low: int, high: int) -> list[str]:
        found = problems({order.less: low, order.more: high})
        return [problem.fix for problem in found if problem.key == order.less and order.reason in problem.rule]

    assert broken(meet + 1, meet)
    assert bool(broken(meet, meet)) is order.strict
    assert not broken(meet - 1, meet)


def test_the_fix_of_an_order_satisfies_it() -> None:
    (problem,) = problems({"limits.stall_ms_max": 300_000})
    assert "Set limits.stall_ms_max to 299999 or less" in problem.fix
    assert not problems({"limits.stall_ms_max": 299_999})


CASES: list[tuple[str, str, dict[str, Any], str, dict[str, Any]]] = [
    # rule, what a message must say, what breaks it, the key it names, what does not break it
    ("name", "letters", {"name": "a/b"}, "name", {"name": "a-b"}),
    ("name", "letters", {"name": "a" * 65}, "name", {"name": "a" * 64}),
    ("name", "letters", {"name": ""}, "name", {"name": "a"}),
    ("brokers", "host:port", {"kafka.brokers": "a:9092;b:9092"}, "kafka.brokers", {"kafka.brokers": "a:9092, b"}),
    ("brokers", "host:port", {"kafka.brokers": "a:65536"}, "kafka.brokers", {"kafka.brokers": "[::1]:65535"}),
    ("brokers", "host:port", {"kafka.brokers": "a:9092,"}, "kafka.brokers", {"kafka.brokers": "SSL://a:9092"}),
    ("brokers", "credentials", {"kafka.brokers": "u:p@a:9092"}, "kafka.brokers", {"kafka.brokers": "a:9092"}),
    ("group", "1 to 249", {"kafka.group": ""}, "kafka.group", {"kafka.group": "g" * 249}),
    ("start", "ISO 8601", {"kafka.start": "yesterday"}, "kafka.start", {"kafka.start": "latest"}),
    (
        "start",
        "without a zone",
        {"kafka.start": "2026-01-31T06:00:00"},
        "kafka.start",
        {"kafka.start": "2026-01-31T06:00:00+02:00"},
    ),
    (
        "start",
        "before 1970",
        {"kafka.start": "1969-01-01T00:00:00Z"},
        "kafka.start",
        {"kafka.start": "1970-01-01T00:00:00Z"},
    ),
    (
        "consumer_protocol",
        "the brokers decide it",
        {"kafka.group_protocol": "consumer", "kafka.session_timeout_ms": 45_000},
        "kafka.session_timeout_ms",
        {"kafka.group_protocol": "consumer"},
    ),
    (
        "classic_protocol",
        "at most kafka.max_poll_interval_ms",
        {"kafka.session_timeout_ms": 300_001},
        "kafka.session_timeout_ms",
        {"kafka.session_timeout_ms": 300_000},
    ),
    ("static_membership", "letters", {"kafka.instance_id": "a b"}, "kafka.instance_id", {"kafka.instance_id": ""}),
    (
        "sasl",
        "without kafka.sasl.mechanism",
        {"kafka.sasl.username": "u"},
        "kafka.sasl.username",
        {"kafka.sasl.username": ""},
    ),
    (
        "sasl",
        "is needed for PLAIN",
        {"kafka.sasl.mechanism": "PLAIN", "kafka.sasl.username": "u"},
        "kafka.sasl.password",
        {},
    ),
    ("sasl", "is needed for PLAIN", {"kafka.sasl.mechanism": "PLAIN"}, "kafka.sasl.username", {}),
    (
        "tls",
        "no effect",
        {"kafka.tls.ca_file": __file__},
        "kafka.tls.ca_file",
        {"kafka.tls.enabled": True, "kafka.tls.ca_file": __file__},
    ),
    ("tls", "cannot be read", {"kafka.tls.enabled": True, "kafka.tls.ca_file": "/no/such"}, "kafka.tls.ca_file", {}),
    (
        "tls",
        "needed with",
        {"kafka.tls.enabled": True, "kafka.tls.key_file": __file__},
        "kafka.tls.certificate_file",
        {"kafka.tls.enabled": True, "kafka.tls.key_file": __file__, "kafka.tls.certificate_file": __file__},
    ),
    (
        "pass_through",
        "set by penstock itself",
        {"kafka.librdkafka": {"enable.auto.commit": True}},
        "kafka.librdkafka.enable.auto.commit",
        {"kafka.librdkafka": {"socket.timeout.ms": 1000}},
    ),
    (
        "pass_through",
        "written with dots",
        {"kafka.librdkafka": {"group_id": "x"}},
        "kafka.librdkafka.group_id",
        {"kafka.librdkafka": {"client.rack": "a_b"}},
    ),
    (
        "pass_through",
        "is no librdkafka key",
        {"kafka.librdkafka": {"Socket.Timeout.Ms": 1}},
        "kafka.librdkafka.Socket.Timeout.Ms",
        {"kafka.librdkafka": {"debug": "cgrp"}},
    ),
    (
        "pass_through",
        "is a secret",
        {"kafka.librdkafka": {"sasl.oauthbearer.client.secret": "x"}},
        "kafka.librdkafka.sasl.oauthbearer.client.secret",
        {"kafka.librdkafka": {"sasl.mechanism": "OAUTHBEARER"}},
    ),
    (
        "pass_through",
        "contradicts",
        {"kafka.sasl.mechanism": "PLAIN", "kafka.librdkafka": {"sasl.mechanism": "OAUTHBEARER"}},
        "kafka.librdkafka.sasl.mechanism",
        {"kafka.librdkafka": {"sasl.mechanism": "OAUTHBEARER"}},
    ),
    ("urls", "names no server", {"clickhouse.urls": []}, "clickhouse.urls", {"clickhouse.urls": ["https://a"]}),
    (
        "urls",
        "not an http",
        {"clickhouse.urls": ["a:8123"]},
        "clickhouse.urls[0]",
        {"clickhouse.urls": ["http://a:8123/proxy"]},
    ),
    (
        "urls",
        "is not a URL",
        {"clickhouse.urls": ["http://a:99999"]},
        "clickhouse.urls[0]",
        {"clickhouse.urls": ["http://a:65535"]},
    ),
    (
        "urls",
        "credentials",
        {"clickhouse.urls": ["http://u:p@a:8123"]},
        "clickhouse.urls[0]",
        {"clickhouse.urls": ["http://[::1]:8123"]},
    ),
    ("urls", "no host", {"clickhouse.urls": ["http://:8123"]}, "clickhouse.urls[0]", {}),
    ("urls", "more than", {"clickhouse.urls": ["http://a?database=x"]}, "clickhouse.urls[0]", {}),
    (
        "urls",
        "native protocol",
        {"clickhouse.urls": ["http://a:9000"]},
        "clickhouse.urls[0]",
        {"clickhouse.urls": ["http://a:9001"]},
    ),
    (
        "urls",
        "no directory",
        {"clickhouse.urls": ["chdb://"]},
        "clickhouse.urls[0]",
        {"clickhouse.urls": ["chdb:///tmp/x"]},
    ),
    (
        "urls",
        "2 times",
        {"clickhouse.urls": ["http://a", "http://a"]},
        "clickhouse.urls",
        {"clickhouse.urls": ["http://a", "http://b"]},
    ),
    ("urls", "mixes", {"clickhouse.urls": ["chdb:///x", "http://a"]}, "clickhouse.urls", {}),
    (
        "database",
        "begin with a letter",
        {"clickhouse.database": "a-b"},
        "clickhouse.database",
        {"clickhouse.database": "_a1"},
    ),
    ("username", "is empty", {"clickhouse.username": ""}, "clickhouse.username", {"clickhouse.username": "u"}),
    (
        "settings",
        "set by penstock itself",
        {"clickhouse.settings": {"async_insert": 1}},
        "clickhouse.settings.async_insert",
        {"clickhouse.settings": {"insert_quorum": 2}},
    ),
    ("settings", "no ClickHouse setting", {"clickhouse.settings": {"a.b": 1}}, "clickhouse.settings.a.b", {}),
    ("settings", "is a secret", {"clickhouse.settings": {"my_password": "x"}}, "clickhouse.settings.my_password", {}),
    ("routes", "names no topic", {"routes": []}, "routes", {}),
    (
        "routes",
        "pattern",
        {"routes": [{"topic": "^o", "table": "t"}]},
        "routes[0].topic",
        {"routes": [{"topic": "o", "table": "t"}]},
    ),
    ("routes", "letters", {"routes": [{"topic": "a b", "table": "t"}]}, "routes[0].topic", {}),
    (
        "routes",
        "together with",
        {"routes": [{"topic": "o", "table": "t", "tables": {"A": "u"}, "contract": "m:A"}]},
        "routes[0].table",
        {},
    ),
    ("routes", "is required", {"routes": [{"topic": "o"}]}, "routes[0].table", {}),
    (
        "routes",
        "no table name",
        {"routes": [{"topic": "o", "table": "a.b.c"}]},
        "routes[0].table",
        {"routes": [{"topic": "o", "table": "a.b"}]},
    ),
    (
        "routes",
        "module:Struct",
        {"routes": [{"topic": "o", "table": "t", "contract": "shop.events"}]},
        "routes[0].contract",
        {},
    ),
    (
        "routes",
        "tagged union",
        {"routes": [{"topic": "o", "tables": {"A": "a"}}]},
        "routes[0].contract",
        {"routes": [{"topic": "o", "tables": {"A": "a"}, "contract": "shop.events:Any"}]},
    ),
    (
        "topics_once",
        "also the topic of routes[0]",
        {"routes": [{"topic": "o", "table": "a"}, {"topic": "o", "table": "b"}]},
        "routes[1].topic",
        {"routes": [{"topic": "o", "table": "a"}, {"topic": "p", "table": "b"}]},
    ),
    (
        "tables_once",
        "share a token",
        {"routes": [{"topic": "o", "table": "a"}, {"topic": "p", "table": "default.a"}]},
        "routes[1].table",
        {"routes": [{"topic": "o", "table": "a"}, {"topic": "p", "table": "other.a"}]},
    ),
    (
        "tables_once",
        "share a token",
        {"routes": [{"topic": "o", "tables": {"A": "a", "B": "a"}, "contract": "m:U"}]},
        "routes[0].tables.B",
        {"routes": [{"topic": "o", "tables": {"A": "a", "B": "b"}, "contract": "m:U"}]},
    ),
    ("dedup_key", "must stand alone", {"dedup.key": ["@key", "a"]}, "dedup.key", {"dedup.key": ["@key"]}),
    ("dedup_key", "is unknown", {"dedup.key": ["@header:"]}, "dedup.key", {"dedup.key": ["@header:id"]}),
    ("dedup_key", "empty entry", {"dedup.key": [""]}, "dedup.key", {"dedup.key": []}),
    ("dedup_key", "twice", {"dedup.key": ["a", "a"]}, "dedup.key", {"dedup.key": ["a", "b"]}),
    ("dead_letter_topic", "letters", {"dead_letters.topic": "a b"}, "dead_letters.topic", {}),
    ("dead_letter_topic", "come back for ever", {"dead_letters.topic": "orders"}, "dead_letters.topic", {}),
    ("dead_letter_topic", "no effect", {"dead_letters.on_reject": "stop"}, "dead_letters.topic", {}),
    ("http_host", "is empty", {"http.host": ""}, "http.host", {"http.host": "", "http.enabled": False}),
]

WARNINGS: list[tuple[str, str, dict[str, Any], str, dict[str, Any]]] = [
    ("static_membership", "expel each other", {"kafka.instance_id": "a"}, "kafka.instance_id", {}),
    (
        "isolation",
        "rolled back",
        {"kafka.isolation": "read_uncommitted"},
        "kafka.isolation",
        {"kafka.isolation": "read_committed"},
    ),
    (
        "tls",
        "accepts any certificate",
        {"kafka.tls.enabled": True, "kafka.tls.verify": False},
        "kafka.tls.verify",
        {"kafka.tls.verify": False},
    ),
    (
        "threads",
        "never work",
        {"clickhouse.insert_threads": 5},
        "clickhouse.insert_threads",
        {"clickhouse.insert_threads": 4},
    ),
    ("dedup_unused", "no effect", {"dedup.key": [], "dedup.window_s": 60}, "dedup.window_s", {"dedup.window_s": 60}),
    (
        "dead_letter_topic",
        "stops at the first",
        {"dead_letters.topic": ""},
        "dead_letters.topic",
        {"dead_letters.topic": "", "dead_letters.on_reject": "stop"},
    ),
    (
        "dropped_rejects",
        "forgets them",
        {"dead_letters.topic": "", "dead_letters.on_reject": "drop"},
        "dead_letters.on_reject",
        {},
    ),
    (
        "metadata_room",
        "further ones wait",
        {"limits.batches_in_flight_max": 8},
        "limits.batches_in_flight_max",
        {"limits.batches_in_flight_max": 8, "batch.partitions_max": 24},
    ),
]


def ids(case: tuple[Any, ...]) -> str:
    return f"{case[0]}-{case[1].replace(' ', '_')}"


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_rule(case: tuple[str, str, dict[str, Any], str, dict[str, Any]]) -> None:
    _, says, breaks, key, keeps = case
    found = [problem for problem in problems(breaks) if problem.key == key and says in problem.rule]
    assert len(found) == 1, problems(breaks)
    assert found[0].fix
    assert not [problem for problem in problems(keeps) if problem.key == key and says in problem.rule]


@pytest.mark.parametrize("case", WARNINGS, ids=ids)
def test_warning(case: tuple[str, str, dict[str, Any], str, dict[str, Any]]) -> None:
    _, says, breaks, key, keeps = case
    found = [told for told in warnings(breaks) if told.key == key and says in told.rule]
    assert len(found) == 1, warnings(breaks)
    assert found[0].fix
    assert not [told for told in warnings(keeps) if told.key == key and says in told.rule]


def test_sasl_without_tls_is_a_warning() -> None:
    environ = {"PENSTOCK__KAFKA__SASL__PASSWORD": "hunter2"}
    sasl = {"kafka.sasl.mechanism": "PLAIN", "kafka.sasl.username": "u"}
    (told,) = warnings(sasl, environ)
    assert "the password and the records" in told.rule
    assert not warnings({**sasl, "kafka.tls.enabled": True}, environ)
    (told,) = warnings({**sasl, "kafka.sasl.mechanism": "SCRAM-SHA-512"}, environ)
    assert "attack the password" in told.rule


def test_a_password_over_plain_http_is_a_warning_unless_it_stays_on_the_machine() -> None:
    environ = {"PENSTOCK__CLICKHOUSE__PASSWORD": "hunter2"}
    (told,) = warnings({"clickhouse.urls": ["http://db:8123"]}, environ)
    assert "without TLS" in told.rule
    assert not warnings({"clickhouse.urls": ["https://db:8443"]}, environ)
    assert not warnings({}, environ)
    assert not warnings({"clickhouse.urls": ["http://db:8123"]})


def test_an_instance_id_from_the_environment_is_no_warning() -> None:
    assert not warnings({}, {"PENSTOCK__KAFKA__INSTANCE_ID": "worker-1"})


def test_every_rule_is_tried_here() -> None:
    tried = {case[0] for case in CASES + WARNINGS} | {"sasl", "clear_password"}
    all_rules = {rule.__name__ for rule in (*rules_kafka.RULES, *rules_clickhouse.RULES, *rules_flow.RULES)}
    assert all_rules == tried
    assert {rule.__name__ for rule in rules.RULES} == all_rules | {"bounds", "orders"}


def test_one_complaint_about_a_number_that_is_out_of_its_range() -> None:
    """900,000 rows also exceed the budget; saying so twice helps nobody."""
    found = problems({"batch.rows_max": 2_000_000})
    assert [problem.key for problem in found] == ["batch.rows_max"]


def test_rules_do_not_look_at_values_that_could_not_be_read() -> None:
    found = problems({"kafka.max_poll_interval_ms": "5m", "clickhouse.urls": "http://a", "routes": "orders"})
    assert [problem.key for problem in found] == ["kafka.max_poll_interval_ms", "clickhouse.urls", "routes"]


def test_what_the_pipeline_owns_is_refused_key_by_key() -> None:
    """The clients' own lists must all be known here, or an override would slip through."""
    from pipeline.clickhouse import OWNED_SETTINGS
    from pipeline.kafka import OWNED_KEYS

    found = problems(
        {"kafka.librdkafka": dict.fromkeys(OWNED_KEYS, "x"), "clickhouse.settings": dict.fromkeys(OWNED_SETTINGS, 1)}
    )
    keys = {problem.key for problem in found if "set by penstock itself" in problem.rule}
    assert keys == {f"kafka.librdkafka.{key}" for key in OWNED_KEYS} | {
        f"clickhouse.settings.{key}" for key in OWNED_SETTINGS
    }
