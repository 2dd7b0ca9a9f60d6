"""The ClickHouse facade without a ClickHouse: addresses, settings, what is sent, what errors become."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import lz4.frame
import pytest

from pipeline.classify import ErrorClass
from pipeline.clickhouse import (
    INSERT_SETTINGS,
    OWNED_SETTINGS,
    ClickHouse,
    ClickHouseError,
    Encoded,
    endpoints,
    insert_settings,
    literal,
    query_settings,
    quote,
    quote_table,
)
from pipeline.clickhouse import connection as connections
from pipeline.config.schema import ClickHouse as ClickHouseConfig
from pipeline.errors import ConfigurationError

CANCEL = "cancel_http_readonly_queries_on_client_close"


def config(*urls: str, **more: Any) -> ClickHouseConfig:
    return ClickHouseConfig(urls=list(urls), **more)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host", ("http://host:8123", "http", "host", 8123, "", "default", "")),
        ("https://host", ("https://host:8443", "https", "host", 8443, "", "default", "")),
        ("https://host:1/a/b/", ("https://host:1/a/b", "https", "host", 1, "a/b", "default", "")),
        ("http://u%40x:p%2Fw@host:9", ("http://host:9", "http", "host", 9, "", "u@x", "p/w")),
        ("http://u@host:9", ("http://host:9", "http", "host", 9, "", "u", "")),
        ("http://[::1]:9", ("http://::1:9", "http", "::1", 9, "", "default", "")),
        ("chdb:///var/lib/x", ("chdb:///var/lib/x", "chdb", "", 0, "/var/lib/x", "", "")),
        ("chdb://data/x", ("chdb://data/x", "chdb", "", 0, "data/x", "", "")),
    ],
)
def test_an_address_taken_apart(url: str, expected: tuple[Any, ...]) -> None:
    assert tuple(endpoints(config(url))[0]) == expected


def test_credentials_of_the_configuration_serve_addresses_without() -> None:
    found = endpoints(config("http://a", "http://u:p@b", username="name", password="word"))
    assert [(one.username, one.password) for one in found] == [("name", "word"), ("u", "p")]


@pytest.mark.parametrize(
    "url", ["host:8123", "tcp://secret:secret@host:9000", "http://", "chdb://", "http://host:port"]
)
def test_an_address_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        endpoints(config("http://fine", url))
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].key == "clickhouse.urls"
    assert "secret" not in str(caught.value)


def test_no_address() -> None:
    with pytest.raises(ConfigurationError, match="there is no URL"):
        ClickHouse(config())


def test_only_settings_that_the_server_knows_are_sent_and_ours_win() -> None:
    configured = {"max_memory_usage": 5, "async_insert": 1, "insert_deduplication_token": "x", "insert_quorum": True}
    sent = insert_settings(configured, {"async_insert", "insert_deduplicate", "max_memory_usage"})
    assert sent == {"max_memory_usage": 5, "insert_quorum": 1, "async_insert": 0, "insert_deduplicate": 1}
    assert insert_settings({}, set(INSERT_SETTINGS)) == INSERT_SETTINGS
    assert insert_settings(dict.fromkeys(OWNED_SETTINGS, 7), set()) == {}


@pytest.mark.parametrize(
    ("found", "sent"),
    [
        ([("readonly", "0", 0), (CANCEL, "0", 0), ("max_threads", "8", 0)], {"readonly": 2, CANCEL: 1}),
        ([("readonly", "0", 0), ("max_threads", "8", 0)], {}),
        ([("readonly", "1", 1), (CANCEL, "0", 1)], {}),
        ([("readonly", "2", 0), (CANCEL, "0", 0)], {}),
        ([("readonly", "0", 1), (CANCEL, "0", 0)], {}),
    ],
    ids=["yes", "an old server", "a user who only reads", "a user who may not write", "a profile that fixes it"],
)
def test_questions_end_with_the_connection_where_the_user_may_ask_for_it(found: Any, sent: dict[str, int]) -> None:
    assert query_settings(found) == sent


def test_names_and_texts_in_sql() -> None:
    assert quote("a`b\\") == "`a\\`b\\\\`"
    assert quote_table("db.ta.ble") == "`db`.`ta.ble`"
    assert literal("a'b\\") == "'a\\'b\\\\'"


class Client:
    """Stands for a client of clickhouse-connect: keeps what it was asked, raises what it is told."""

    def __init__(self, known: set[str], failures: list[Exception] | None = None) -> None:
        self.server_version = "25.3.1.1234"
        self.known = known
        self.failures = failures or []
        self.inserts: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.closed = False

    def query(self, sql: str, **_: Any) -> Any:
        assert "system.settings" in sql
        return SimpleNamespace(result_rows=[(name, "0", 0) for name in self.known])

    def raw_insert(self, *arguments: Any, **more: Any) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.inserts.append((arguments, more))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Client]]:
    """Clients opened so far, by the name of their endpoint."""
    opened: dict[str, list[Client]] = {}

    def fake_open(endpoint: Any, _: Any) -> Client:
        client = Client({"async_insert"})
        opened.setdefault(endpoint.name, []).append(client)
        return client

    monkeypatch.setattr(connections, "open_client", fake_open)
    return opened


class StandInBlock:
    def native(self, rows: object = None) -> bytes:
        assert rows is None
        return b"block" * 1_000

    def framed(self, prefix: bytes, rows: object = None) -> bytes:
        framed: bytes = lz4.frame.compress(prefix + self.native(rows))
        return framed


@pytest.mark.parametrize("compression", ["lz4", "none"])
def test_an_insert_is_its_statement_and_one_block(clients: dict[str, list[Client]], compression: Any) -> None:
    db = ClickHouse(config("http://a", compression=compression, settings={"insert_quorum": 2}))
    encoded = db.encode("d.t", ["x", "y`"], StandInBlock())
    assert encoded == db.encode("d.t", ["x", "y`"], StandInBlock())
    db.insert(encoded, "t0k3n")
    ((arguments, sent),) = clients["http://a:8123"][0].inserts
    assert arguments == ()
    body = lz4.frame.decompress(sent["insert_block"]) if compression == "lz4" else sent["insert_block"]
    assert body == b"INSERT INTO `d`.`t` (`x`, `y\\``) FORMAT Native\n" + b"block" * 1_000
    assert sent["compression"] == ("lz4" if compression == "lz4" else None)
    assert sent["settings"] == {
        "async_insert": 0,
        "insert_quorum": 2,
        "insert_deduplication_token": "t0k3n",
        "query_id": "penstock-t0k3n",
    }


def test_the_embedded_engine_gets_the_bare_block(clients: dict[str, list[Client]]) -> None:
    db = ClickHouse(config("chdb://x"))
    db.insert(db.encode("t", ["x"], StandInBlock()), "token")
    ((arguments, sent),) = clients["chdb://x"][0].inserts
    assert arguments == ("`t`", ("x",), b"block" * 1_000)
    assert sent == {"settings": {"async_insert": 0, "insert_deduplication_token": "token"}, "fmt": "Native"}


def test_connections_are_used_again_and_never_by_two_at_once(clients: dict[str, list[Client]]) -> None:
    db = ClickHouse(config("http://a"))
    for _ in range(5):
        assert db.version() == (25, 3, 1, 1234)
    assert len(clients["http://a:8123"]) == 1
    with db._connection("x") as first, db._connection("x") as second:
        assert first.client is not second.client
    assert len(clients["http://a:8123"]) == 2
    db.close()
    assert all(client.closed for client in clients["http://a:8123"])


def test_a_lost_connection_moves_on_and_asks_the_settings_anew(clients: dict[str, list[Client]]) -> None:
    from clickhouse_connect.driver.exceptions import OperationalError

    db = ClickHouse(config("http://a", "http://b"))
    encoded = Encoded("t", ("x",), b"", "")
    db.insert(encoded, "1")
    clients["http://a:8123"][0].failures = [OperationalError("gone")]
    with pytest.raises(ClickHouseError) as caught:
        db.insert(encoded, "2")
    assert caught.value.retriable
    assert clients["http://a:8123"][0].closed
    db.insert(encoded, "2")
    assert [more["settings"]["insert_deduplication_token"] for _, more in clients["http://b:8123"][0].inserts] == ["2"]
    clients["http://b:8123"][0].failures = [OperationalError("busy", code=202)]
    with pytest.raises(ClickHouseError):
        db.insert(encoded, "3")
    db.insert(encoded, "3")
    assert len(clients["http://a:8123"]) == 2
    assert not clients["http://b:8123"][0].closed


def test_what_stops_stays_with_its_server(clients: dict[str, list[Client]]) -> None:
    from clickhouse_connect.driver.exceptions import DatabaseError

    db = ClickHouse(config("http://a", "http://b"))
    db.version()
    clients["http://a:8123"][0].failures = [DatabaseError("no such table", code=60)]
    with pytest.raises(ClickHouseError):
        db.insert(Encoded("t", ("x",), b"", ""), "1")
    db.version()
    assert "http://b:8123" not in clients


def test_a_refusal_of_the_client_library_is_not_an_outage(clients: dict[str, list[Client]]) -> None:
    from clickhouse_connect.driver.exceptions import ProgrammingError

    db = ClickHouse(config("http://a"))
    db.version()
    clients["http://a:8123"][0].failures = [ProgrammingError("Setting async_insert is unknown or readonly")]
    with pytest.raises(ClickHouseError, match="unknown or readonly") as caught:
        db.insert(Encoded("t", ("x",), b"", ""), "1")
    assert caught.value.error_class is ErrorClass.UNKNOWN


def test_errors_hold_code_and_name_but_no_row_data(clients: dict[str, list[Client]]) -> None:
    from clickhouse_connect.driver.exceptions import DatabaseError

    db = ClickHouse(config("http://user:pass@a"))
    db.version()
    text = "Code: 469. DB::Exception: Constraint `c` is violated: secret = 'pass': while pushing to view d.v. (SECRET)"
    clients["http://a:8123"][0].failures = [DatabaseError(text, code=469, name="SECRET")]
    with pytest.raises(ClickHouseError) as caught:
        db.insert(Encoded("t", ("x",), b"", ""), "1")
    assert str(caught.value) == "http://a:8123: inserting into t: code 469 VIOLATED_CONSTRAINT"
    assert caught.value.in_view
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer(self)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "expected", "words"),
    [
        (503, ErrorClass.RETRIABLE, "HTTP status 503"),
        (502, ErrorClass.RETRIABLE, "HTTP status 502"),
        (429, ErrorClass.RETRIABLE, "HTTP status 429"),
        (401, ErrorClass.STOP, "username"),
        (404, ErrorClass.STOP, "clickhouse.urls"),
        (413, ErrorClass.STOP, "batch.bytes_max"),
        (418, ErrorClass.UNKNOWN, "HTTP status 418"),
    ],
)
def test_a_proxy_in_between_answers_without_a_code(status: int, expected: ErrorClass, words: str) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", "6")
        request.end_headers()
        request.wfile.write(b"secret")

    with answering(answer) as url, pytest.raises(ClickHouseError) as caught:
        ClickHouse(config(url)).ping()
    assert caught.value.error_class is expected
    assert caught.value.code == 0
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_that_says_nothing_times_out() -> None:
    silent = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        silent.wait(10)
        request.close_connection = True

    with answering(answer) as url:
        try:
            with pytest.raises(ClickHouseError, match="no answer within the time allowed") as caught:
                ClickHouse(config(url, insert_timeout_ms=1_000)).ping()
        finally:
            silent.set()
    assert caught.value.retriable


def test_something_that_is_not_clickhouse_is_not_taken_for_it() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "13")
        request.end_headers()
        request.wfile.write(b"<html></html>")

    with answering(answer) as url, pytest.raises(ClickHouseError):
        ClickHouse(config(url)).ping()


def test_a_name_that_does_not_resolve_is_waited_for() -> None:
    with pytest.raises(ClickHouseError) as caught:
        ClickHouse(config("http://no-such-host.invalid:8123")).ping()
    assert caught.value.retriable
