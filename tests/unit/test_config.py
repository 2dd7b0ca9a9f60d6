"""The configuration as a whole: file, environment, secrets, what is shown, and what a start needs to know."""

from __future__ import annotations

import datetime
import json
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from config_for_tests import GOOD, changed, problems, warnings

from pipeline import config as configuration
from pipeline.config.load import from_data
from pipeline.config.overlay import variable
from pipeline.config.schema import Config
from pipeline.config.secrets import is_secret_name, shown, without_user_info
from pipeline.config.tree import leaf_keys
from pipeline.errors import ConfigurationError, Exit

SECRET = "hunter2"
MINIMAL = """
name = "orders"
[kafka]
brokers = "kafka:9092"
group = "penstock-orders"
[clickhouse]
urls = ["http://clickhouse:8123"]
[[routes]]
topic = "orders"
table = "orders"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "penstock.toml"
    path.write_text(text)
    return path


def refused(path: Path, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        configuration.load(path, environ or {})
    assert caught.value.exit_code == Exit.CONFIG
    return str(caught.value)


# The file


def test_a_short_file_is_enough_and_the_rest_has_defaults(tmp_path: Path) -> None:
    config = configuration.load(written(tmp_path, MINIMAL), {})
    assert config.kafka.group == "penstock-orders"
    assert config.routes[0].table == "orders"
    assert config.batch.rows_max == 200_000
    assert config.limits == msgspec.convert({}, type(config.limits))


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = refused(
        written(
            tmp_path,
            """
            name = "orders"
            [kafka]
            brokerz = "kafka:9092"
            group = 7
            start = "soon"
            [clickhouse]
            urls = ["http://clickhouse:8123"]
            [[routes]]
            topic = "orders"
            tabel = "orders"
            [batch]
            rows_max = 900000
            """,
        )
    )
    assert text.startswith("configuration: 7 problems\n")
    for line in (
        'kafka.brokerz = "kafka:9092": is not a key this version knows. Did you mean kafka.brokers?',
        'kafka.brokers: is required and missing. Add brokers = "host:9092" under [kafka]',
        'kafka.group = 7: must be a text. Write it in quotes: group = "..."',
        'kafka.start = "soon": must be "earliest", "latest" or an ISO 8601 time',
        'routes[0].tabel = "orders": is not a key this version knows. Did you mean routes[0].table?',
        "routes[0].table: is required and missing",
        "batch.rows_max = 900000: must be from 1 to 500000 (ClickHouse may split a larger insert",
    ):
        assert line in text


def test_problems_are_told_in_the_order_of_the_sections() -> None:
    found = problems({"http.port": -1, "name": "a b", "batch.rows_max": 0, "kafka.start": "x"})
    assert [problem.key for problem in found] == ["name", "kafka.start", "batch.rows_max", "http.port"]


def test_a_missing_section_is_one_problem_not_one_for_each_key() -> None:
    (problem,) = problems({"kafka": ...})
    assert str(problem) == "kafka: is required and missing. Add a section [kafka] with brokers, group"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = \n", "is not valid TOML: Invalid value (at line 1, column 8). Mend the TOML there"),
        ("a = 1\na = 2\n", "is not valid TOML: Cannot overwrite a value (at line 2, column 6)"),
        ("# " + "x" * 1_100_000, "is larger than 1048576 bytes. Check that it is the right file"),
    ],
)
def test_a_file_that_is_no_toml(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(written(tmp_path, text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory). Name the file with -c FILE" in refused(tmp_path / "none.toml")
    assert "cannot be read (Is a directory)" in refused(tmp_path)
    path = tmp_path / "latin.toml"
    path.write_bytes(b'name = "\xe9"')
    assert "is not UTF-8 (byte 8). Save the file as UTF-8" in refused(path)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        (
            "kafka.session_timeout_ms",
            "45s",
            '"45s": must be a whole number (milliseconds). Write it without quotes: session_timeout_ms = 45000',
        ),
        (
            "kafka.session_timeout_ms",
            4.5,
            "4.5: must be a whole number (milliseconds). Write session_timeout_ms = 45000",
        ),
        ("clickhouse.insert_threads", True, "true: must be a whole number. Write insert_threads = 2"),
        (
            "batch.bytes_max",
            "64MB",
            '"64MB": must be a whole number (bytes). Write it without quotes: bytes_max = 67108864',
        ),
        ("http.enabled", 1, "1: must be true or false. Write enabled = true"),
        ("http.enabled", "no", '"no": must be true or false. Write it without quotes: enabled = true'),
        ("dead_letters.ratio_max", "5%", '"5%": must be a number. Write it without quotes: ratio_max = 0.5'),
        (
            "clickhouse.urls",
            "http://a",
            '"http://a": must be a list of texts. Write a list, also for a single one: urls = ["http://a"]',
        ),
        ("clickhouse.settings", 1, "1: must be a table of key = value. Write it under a line [clickhouse.settings]"),
        ("log.level", "warn", '"warn": must be one of "debug", "info", "warning", "error". Did you mean "warning"?'),
        ("log.level", "all", '"all": must be one of "debug", "info", "warning", "error". Choose one'),
        ("kafka", "x", '"x": must be a table (a section of its own). Write its keys under a line [kafka]'),
        ("routes", {"topic": "a"}, '{"topic":"a"}: must be a list of tables. Begin each one with a line [[routes]]'),
        ("kafka.librdkafka", {"a.b": [1]}, '{"a.b":[1]}: must be a table of key = value.'),
    ],
)
def test_a_value_of_the_wrong_type(key: str, value: Any, line: str) -> None:
    found = [str(problem) for problem in problems({key: value}) if problem.key == key]
    assert found[0].startswith(f"{key} = {line}"), found


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("kafka.groupp", "Did you mean kafka.group?"),
        ("batchh", "Did you mean batch?"),
        ("brokers", "Did you mean kafka.brokers? Move it under [kafka]"),
        ("kafka.rows_max", "Did you mean batch.rows_max? Move it under [batch]"),
        ("kafka.sasl.pasword", "Did you mean kafka.sasl.password_file? Secrets come from files or the environment"),
        ("log.zzz", "Known keys of log: level, format"),
        ("zzz", "Known keys of the top level: name, kafka, clickhouse, routes, dedup, batch"),
    ],
)
def test_an_unknown_key(key: str, line: str) -> None:
    (problem,) = problems({key: SECRET if "pas" in key else 1})
    assert problem.key == key
    assert problem.rule == "is not a key this version knows"
    assert problem.fix.startswith(line)
    assert SECRET not in str(problem)


def test_toml_times_are_taken_for_the_start(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL.replace("[clickhouse]", "start = 2026-01-31T06:00:00Z\n[clickhouse]"))
    start = configuration.load(path, {}).kafka.start
    expected = datetime.datetime(2026, 1, 31, 6, tzinfo=datetime.UTC)
    assert configuration.parse_start(start) == expected.timestamp() * 1000


def test_start() -> None:
    assert configuration.parse_start("earliest") == "earliest"
    assert configuration.parse_start("latest") == "latest"
    assert configuration.parse_start("1970-01-01T01:00:01.5+01:00") == 1500
    with pytest.raises(ValueError, match="without a zone"):
        configuration.parse_start("2026-01-31")


# The environment


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("kafka.group", "g2", "g2"),
        ("kafka.group", "7", "7"),
        ("kafka.group_protocol", "consumer", "consumer"),
        ("kafka.tls.enabled", "TRUE", True),
        ("http.enabled", "false", False),
        ("batch.rows_max", "1000", 1000),
        ("batch.rows_max", " 1_000 ", 1000),
        ("dead_letters.ratio_max", "0.25", 0.25),
        ("dead_letters.ratio_max", "1", 1.0),
        ("clickhouse.urls", '["http://a", "http://b"]', ["http://a", "http://b"]),
        ("clickhouse.settings", '{"insert_quorum": 2}', {"insert_quorum": 2}),
        ("kafka.librdkafka", '{"client.rack": "a"}', {"client.rack": "a"}),
        ("dedup.key", "[]", []),
    ],
)
def test_a_variable_sets_a_key_with_its_type(key: str, text: str, value: Any) -> None:
    config = from_data(GOOD, {variable(key): text}).config
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_routes_are_set_as_json() -> None:
    config = from_data(GOOD, {"PENSTOCK__ROUTES": '[{"topic": "a", "table": "b"}]'}).config
    assert [(route.topic, route.table) for route in config.routes] == [("a", "b")]


def test_a_variable_can_bring_a_required_key_and_a_section_of_its_own() -> None:
    data = changed({"kafka": ...})
    config = from_data(data, {"PENSTOCK__KAFKA__GROUP": "g", "PENSTOCK__KAFKA__BROKERS": "b:1"}).config
    assert (config.kafka.group, config.kafka.brokers) == ("g", "b:1")
    assert "kafka" not in data


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        (
            "PENSTOCK__KAFKA__SESSION_TIMEOUT_MS",
            "45s",
            'kafka.session_timeout_ms = "45s" (from the environment variable PENSTOCK__KAFKA__SESSION_TIMEOUT_MS): must be a '
            "whole number (milliseconds). Set a whole number without a unit: PENSTOCK__KAFKA__SESSION_TIMEOUT_MS=45000",
        ),
        (
            "PENSTOCK__BATCH__ROWS_MAX",
            "0",
            "batch.rows_max = 0 (from the environment variable PENSTOCK__BATCH__ROWS_MAX): must be from 1 to 500000",
        ),
        ("PENSTOCK__HTTP__ENABLED", "yes", "Set PENSTOCK__HTTP__ENABLED=true or PENSTOCK__HTTP__ENABLED=false"),
        (
            "PENSTOCK__DEAD_LETTERS__RATIO_MAX",
            "5%",
            "must be a number. Set a number: PENSTOCK__DEAD_LETTERS__RATIO_MAX=0.5",
        ),
        ("PENSTOCK__LOG__LEVEL", "warn", 'must be one of "debug", "info", "warning", "error". Did you mean "warning"?'),
        (
            "PENSTOCK__CLICKHOUSE__URLS",
            "http://a",
            """Write a JSON list: PENSTOCK__CLICKHOUSE__URLS='["one", "two"]'""",
        ),
        (
            "PENSTOCK__CLICKHOUSE__URLS",
            "[1]",
            "clickhouse.urls = [1] (from the environment variable PENSTOCK__CLICKHOUSE__URLS)",
        ),
        (
            "PENSTOCK__KAFKA__LIBRDKAFKA",
            "a=b",
            """Write a JSON object: PENSTOCK__KAFKA__LIBRDKAFKA='{"key": "value"}'""",
        ),
        ("PENSTOCK__ROUTES", "orders", """PENSTOCK__ROUTES='[{"topic": "orders", "table": "orders"}]'"""),
        ("PENSTOCK__KAFKA__GROP", "g", "names no key. Did you mean PENSTOCK__KAFKA__GROUP?"),
        ("PENSTOCK__KAFKA", "g", "It is a section; set one of its keys, such as PENSTOCK__KAFKA__BROKERS"),
        ("PENSTOCK__ROUTES__0__TABLE", "t", "Set PENSTOCK__ROUTES as a whole, as JSON"),
        ("PENSTOCK__ZZZ", "t", "Unset it, or name a key of the configuration, such as PENSTOCK__KAFKA__GROUP"),
    ],
)
def test_a_variable_that_cannot_be_used(name: str, text: str, line: str) -> None:
    (problem,) = problems({}, {name: text})
    assert line in str(problem)


def test_a_refused_variable_is_one_problem_although_the_key_is_required() -> None:
    (problem,) = problems({"routes": ...}, {"PENSTOCK__ROUTES": "orders"})
    assert problem.key == "routes"


def test_variables_of_an_orchestrator_are_left_alone() -> None:
    environ = {
        "PENSTOCK_SERVICE_HOST": "10.0.0.1",
        "PENSTOCK_PORT": "tcp://10.0.0.1:1",
        "PENSTOCK_HTTP_PORT": "tcp://10.0.0.1:1",
    }
    assert warnings({}, environ) == []


def test_a_forgotten_underscore_is_a_warning() -> None:
    (told,) = warnings({}, {"PENSTOCK_KAFKA_GROUP": "g"})
    assert (
        str(told)
        == "PENSTOCK_KAFKA_GROUP: is an environment variable that sets nothing. Did you mean PENSTOCK__KAFKA__GROUP?"
    )


def test_every_key_has_a_variable() -> None:
    assert {variable(key)[len("PENSTOCK__") :].lower().replace("__", ".") for key in leaf_keys()} == set(leaf_keys())


# Secrets

CREDENTIALS = {"kafka.sasl.mechanism": "SCRAM-SHA-512", "kafka.sasl.username": "u", "kafka.tls.enabled": True}


@pytest.mark.parametrize("key", ["kafka.sasl.password", "clickhouse.password"])
def test_a_secret_in_the_file_is_refused(key: str) -> None:
    found = [str(problem) for problem in problems({key: SECRET}) if problem.key == key]
    assert found == [
        f"{key} = ***: is a secret, and secrets do not belong in the file. "
        f"Put it into a file and name that with {key}_file, or set {variable(key)}"
    ]


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(SECRET + "\n")
    config = from_data(changed({"clickhouse.password_file": str(tmp_path / "password")}), {}).config
    assert config.clickhouse.password == SECRET


def test_a_secret_comes_from_the_environment() -> None:
    config = from_data(changed(CREDENTIALS), {"PENSTOCK__KAFKA__SASL__PASSWORD": SECRET}).config
    assert config.kafka.sasl.password == SECRET


def test_the_file_of_a_secret_can_come_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(SECRET)
    environ = {"PENSTOCK__CLICKHOUSE__PASSWORD_FILE": str(tmp_path / "password")}
    assert from_data(GOOD, environ).config.clickhouse.password == SECRET


def test_files_of_secrets_that_cannot_be_used(tmp_path: Path) -> None:
    def says(path: Path, environ: dict[str, str] | None = None) -> str:
        (problem,) = problems({"clickhouse.password_file": str(path)}, environ)
        assert SECRET not in str(problem)
        return str(problem)

    assert "cannot be read (No such file or directory). Check the path, that the secret is mounted" in says(
        tmp_path / "none"
    )
    (tmp_path / "empty").write_text("\n")
    assert "is empty or far too large. Put the secret alone into it" in says(tmp_path / "empty")
    (tmp_path / "large").write_text(SECRET * 20_000)
    assert "is empty or far too large" in says(tmp_path / "large")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "cannot be read (not UTF-8)" in says(tmp_path / "binary")
    (tmp_path / "good").write_text(SECRET)
    both = says(tmp_path / "good", {"PENSTOCK__CLICKHOUSE__PASSWORD": SECRET})
    assert "is set, and so is PENSTOCK__CLICKHOUSE__PASSWORD. Keep one of the two" in both


def test_secrets_are_not_shown() -> None:
    environ = {
        "PENSTOCK__CLICKHOUSE__PASSWORD": SECRET,
        "PENSTOCK__KAFKA__SASL__PASSWORD": SECRET,
        "PENSTOCK__KAFKA__LIBRDKAFKA": json.dumps({"sasl.oauthbearer.client.secret": SECRET, "client.rack": "a"}),
    }
    config = from_data(changed(CREDENTIALS), environ).config
    assert config.clickhouse.password == config.kafka.sasl.password == SECRET
    for text in (
        repr(config),
        str(config),
        f"{config.kafka!r}",
        repr(config.clickhouse),
        str(configuration.redacted(config)),
    ):
        assert SECRET not in text
        assert "***" in text
    assert "rack" in repr(config)
    assert repr(from_data(GOOD, {}).config).count("***") == 0


@pytest.mark.parametrize(
    "environ",
    [
        {"PENSTOCK__CLICKHOUSE__URLS": f'["http://u:{SECRET}@a:8123"]'},
        {"PENSTOCK__CLICKHOUSE__URLS": f"http://u:{SECRET}@a:8123"},
        {"PENSTOCK__CLICKHOUSE__URLS": f'["http://u:{SECRET}@a:8123", "http://u:{SECRET}@a:8123"]'},
        {"PENSTOCK__CLICKHOUSE__URLS": f'["tcp://u:{SECRET}@a:999999"]'},
        {"PENSTOCK__CLICKHOUSE__PASSWRD": SECRET},
        {"PENSTOCK__KAFKA__PASSWORD": SECRET},
        {"PENSTOCK__KAFKA__BROKERS": f"u:{SECRET}@a:9092"},
        {"PENSTOCK__KAFKA__BROKERS": f"SASL_SSL://u:{SECRET}@a:9092"},
        {"PENSTOCK__KAFKA__LIBRDKAFKA": f'{{"sasl.password": "{SECRET}"}}'},
        {"PENSTOCK__KAFKA__LIBRDKAFKA": f'{{"ssl.key.pem": ["{SECRET}"]}}'},
        {"PENSTOCK__KAFKA__LIBRDKAFKA": f"sasl.password={SECRET}"},
        {"PENSTOCK__CLICKHOUSE__SETTINGS": f'{{"a.password": "{SECRET}"}}'},
    ],
)
def test_error_texts_hold_no_secret(environ: dict[str, str]) -> None:
    found = problems({}, environ)
    assert found
    assert SECRET not in str(ConfigurationError(found))


def test_secrets_of_the_file_are_not_in_error_texts() -> None:
    for changes in (
        {"clickhouse.urls": [f"http://u:{SECRET}@a:8123"]},
        {"kafka.librdkafka": {"sasl.oauthbearer.client.secret": SECRET}},
        {"kafka.librdkafka": {"ssl.key.pem": {"x": SECRET}}},
        {"kafka.sasl": {"pasword": SECRET, "mechanism": 1}},
        {"clickhouse.password": [SECRET]},
        {"password": SECRET},
    ):
        found = problems(changes)
        assert found
        assert SECRET not in str(ConfigurationError(found)), changes


def test_what_counts_as_a_secret_name() -> None:
    for name in (
        "password",
        "sasl.password",
        "ssl.key.pem",
        "sasl.oauthbearer.client.secret",
        "ssl.keystore.password",
        "api_token",
    ):
        assert is_secret_name(name)
    for name in (
        "password_file",
        "ssl.ca.pem",
        "ssl.key.location",
        "dedup.key",
        "group",
        "sasl.oauthbearer.token.endpoint.url",
        "update_insert_deduplication_token_in_dependent_materialized_views",
    ):
        assert not is_secret_name(name)


def test_shown() -> None:
    assert shown("a" * 200) == '"' + "a" * 76 + "..."
    assert shown({"password": SECRET, "a": [1]}) == '{"password":"***","a":[1]}'
    assert without_user_info("cannot open http://u:p@host:1/x") == "cannot open http://***@host:1/x"
    assert without_user_info("mail a@b.c") == "mail a@b.c"


# What it is good for


def test_a_tree_made_in_python_is_checked_by_the_same_rules() -> None:
    config = msgspec.convert(GOOD, Config)
    assert configuration.validate(config).config is config
    bad = msgspec.structs.replace(config, batch=msgspec.structs.replace(config.batch, rows_max=0))
    with pytest.raises(ConfigurationError, match=r"batch\.rows_max = 0"):
        configuration.validate(bad)


def test_memory_plan_names_every_limit_and_their_sum() -> None:
    config = from_data(GOOD, {}).config
    *lines, total = configuration.memory_plan(config)
    assert total.name == "sum"
    assert total.nbytes == sum(line.nbytes for line in lines)
    by_name = {line.name: line.nbytes for line in lines}
    assert by_name["blocks_in_flight"] == config.limits.bytes_in_flight_max
    assert by_name["claims"] > 32 * config.dedup.ids_max
    without = from_data(changed({"dedup.key": [], "dead_letters.topic": ""}), {}).config
    assert {line.name: line.nbytes for line in configuration.memory_plan(without)}["claims"] == 0


def test_the_default_values_satisfy_the_rules() -> None:
    data = tomllib.loads(MINIMAL)
    (told,) = from_data(data, {}).warnings
    assert told.key == "dead_letters.topic"
