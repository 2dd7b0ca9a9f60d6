"""Fixtures every test may use: a seed that is printed, the mock Kafka, the embedded ClickHouse, a real Kafka, any ClickHouse.

Every server binds to a free port of 127.0.0.1 and stops with the test or the session, also when it fails.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.order import Groups, rank

if TYPE_CHECKING:
    from pipeline.embedded.apache_kafka import ApacheKafka
    from pipeline.embedded.chdb_server import ChdbServer
    from pipeline.embedded.mock_kafka import MockKafka


class Database(NamedTuple):
    """A database of its own for one test, on a server that tests share."""

    server: ChdbServer
    url: str
    database: str


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first. And `-m "not kafka"` leaves out every test that needs a real Kafka."""
    for item in items:
        if {"apache_kafka", "needs_apache_kafka"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)
    items.sort(key=lambda item: rank(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    return Groups(config, log)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Says what a test has measured in a line at the end of the output, whichever process runs it."""
    return lambda text: request.node.user_properties.append(("told", text))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for some in terminalreporter.stats.values() for report in some]
    calls = [report for report in reports if getattr(report, "when", "") == "call"]
    told = [text for report in calls for name, text in report.user_properties if name == "told"]
    if told:
        terminalreporter.section("what the tests measured")
        terminalreporter.write("".join(f"{text}\n" for text in sorted(told)))


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command that a test runs in this process sets the levels and the handlers for good: not for the next test."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handlers = list(root.handlers)
    levels = {name: logging.getLogger(name).level for name in ("", "pipeline", "penstock")}
    yield
    root.handlers[:] = handlers
    logging.disable(disabled)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def seed() -> int:
    """The seed of a randomised test: PENSTOCK_TEST_SEED, or a new one. Printed, so that a failure can be repeated."""
    value = int(os.environ.get("PENSTOCK_TEST_SEED") or secrets.randbits(32))
    print(f"PENSTOCK_TEST_SEED={value}")
    return value


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture(params=["classic", "consumer"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Both group protocols."""
    return str(request.param)


@pytest.fixture
def mock_kafka() -> Iterator[MockKafka]:
    """librdkafka's mock cluster with one broker and no topics yet (`create_topic`)."""
    from pipeline.embedded.mock_kafka import MockKafka

    with MockKafka() as kafka:
        yield kafka


@pytest.fixture
def mock_kafka_3() -> Iterator[MockKafka]:
    """The same with three brokers, for leader and coordinator moves."""
    from pipeline.embedded.mock_kafka import MockKafka

    with MockKafka(brokers=3) as kafka:
        yield kafka


@pytest.fixture(scope="session")
def shared_chdb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChdbServer]:
    """One server for the session, with faults. Tests use `chdb_server`, which gives each a database of its own."""
    from pipeline.embedded.chdb_server import ChdbServer

    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("chDB cannot be loaded beside a sanitizer (it asks for RTLD_DEEPBIND)")
    with ChdbServer(tmp_path_factory.mktemp("chdb"), faults=True) as server:
        yield server


@pytest.fixture
def chdb_server(shared_chdb_server: ChdbServer) -> Iterator[Database]:
    """The session's server and a fresh database on it. A test that kills the server starts one of its own."""
    name = f"test_{secrets.token_hex(6)}"
    _run(shared_chdb_server.url, f"CREATE DATABASE {name}")
    try:
        yield Database(shared_chdb_server, shared_chdb_server.url, name)
    finally:
        shared_chdb_server.clear_faults()
        _run(shared_chdb_server.url, f"DROP DATABASE IF EXISTS {name} SYNC")


@pytest.fixture(scope="session")
def needs_apache_kafka() -> None:
    """Skips when a real Kafka cannot be started here."""
    from pipeline.embedded.apache_kafka import unavailable_reason

    reason = unavailable_reason()
    if reason is not None:
        pytest.skip(f"no Apache Kafka: {reason}")


@pytest.fixture(scope="session")
def apache_kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """One real broker for the session, with SASL user `reader` (password `reader-secret`) at `sasl_bootstrap`.

    Without Java or Maven the test is skipped, and without a registry too, unless CI=true. A test that kills a broker
    starts a cluster of its own, after `needs_apache_kafka`.
    """
    from pipeline.embedded.apache_kafka import ApacheKafka

    request.getfixturevalue("needs_apache_kafka")
    with ApacheKafka(tmp_path_factory.mktemp("kafka"), users={"reader": "reader-secret"}) as kafka:
        yield kafka


@pytest.fixture(scope="session")
def clickhouse_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """CLICKHOUSE_URL; else a `clickhouse` binary started on loopback; else the embedded server."""
    from pipeline.embedded.clickhouse_binary import ClickHouseBinary, find_binary

    given = os.environ.get("CLICKHOUSE_URL")
    binary = find_binary()
    if given:
        yield given
    elif binary:
        with ClickHouseBinary(binary, tmp_path_factory.mktemp("clickhouse")) as server:
            yield server.url
    else:
        yield request.getfixturevalue("shared_chdb_server").url


@pytest.fixture
def clickhouse_database(clickhouse_url: str) -> Iterator[str]:
    """A fresh database at `clickhouse_url`."""
    name = f"test_{secrets.token_hex(6)}"
    _run(clickhouse_url, f"CREATE DATABASE {name}")
    try:
        yield name
    finally:
        _run(clickhouse_url, f"DROP DATABASE IF EXISTS {name} SYNC")


@pytest.fixture
def data_directory(tmp_path: Path) -> Path:
    """Where a test keeps a server's data."""
    return tmp_path / "data"


def _run(url: str, statement: str) -> None:
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(url, data=statement.encode()), timeout=60) as answer:
        answer.read()
