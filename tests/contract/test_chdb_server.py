"""The embedded ClickHouse server keeps the HTTP contract: through clickhouse-connect's ordinary client and raw HTTP."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
import lz4.frame
import psutil
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from pipeline.clickhouse import QUERY_SETTINGS
from pipeline.embedded import codec
from pipeline.embedded.chdb_http import WATCH_S
from pipeline.embedded.chdb_server import ChdbServer
from tests.conftest import Database
from tests.integration.harness import wait_until

ONE_BLOCK = {
    "async_insert": 0,
    "max_insert_threads": 1,
    "max_insert_block_size": 2_000_000,
    "min_insert_block_size_rows": 2_000_000,
    "min_insert_block_size_bytes": 512 * 1024 * 1024,
}


class Answer:
    """A whole HTTP answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()


class Http:
    """Raw requests over one kept-alive connection, in one database."""

    def __init__(self, server: ChdbServer, database: str = "default") -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.database = database

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(
        self,
        body: Any = None,
        *,
        method: str = "POST",
        path: str = "/",
        headers: dict[str, str] | None = None,
        **url: Any,
    ) -> Answer:
        query = urlencode({"database": self.database, **url})
        self.connection.request(method, f"{path}?{query}", body, headers or {})
        return Answer(self.connection.getresponse())

    def ok(self, body: Any = None, **arguments: Any) -> bytes:
        answer = self.send(body, **arguments)
        assert answer.status == 200, answer.body
        return answer.body


@pytest.fixture
def http_client(chdb_server: Database) -> Iterator[Http]:
    client = Http(chdb_server.server, chdb_server.database)
    yield client
    client.connection.close()


@pytest.fixture
def client(chdb_server: Database) -> Iterator[Any]:
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=chdb_server.server.port, database=chdb_server.database, compress=True
    )
    yield client
    client.close()


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def native(http_client: Http, select: str) -> bytes:
    """One Native block with the rows of a SELECT."""
    return http_client.ok(f"{select} FORMAT Native", max_block_size=2_000_000, max_threads=1, wait_end_of_query=1)


def error_of(answer: Answer) -> tuple[int, int]:
    """HTTP status and ClickHouse code; the body must be ClickHouse's text."""
    code = int(answer.headers["X-ClickHouse-Exception-Code"])
    assert answer.body.startswith(f"Code: {code}. DB::Exception: ".encode()), answer.body
    assert b"(version " in answer.body
    return answer.status, code


# clickhouse-connect, unchanged


def test_client_command_query_insert_and_streams(client: Any) -> None:
    assert client.server_version.split(".")[0].isdigit()
    client.command("CREATE TABLE t (id UUID, n UInt64, name String, tags Array(String)) ENGINE = MergeTree ORDER BY n")
    rows = [[uuid.UUID(int=n), n, f"name {n}", ["a", str(n)]] for n in range(5_000)]
    summary = client.insert("t", rows, column_names=["id", "n", "name", "tags"])
    assert summary.written_rows == 5_000
    assert client.command("SELECT count() FROM t") == 5_000
    assert client.query("SELECT * FROM t ORDER BY n").result_rows == [tuple(row) for row in rows]
    with client.query_row_block_stream("SELECT n FROM t ORDER BY n") as stream:
        assert sum(len(block) for block in stream) == 5_000
    assert client.raw_query("SELECT n FROM t ORDER BY n LIMIT 2", fmt="JSONEachRow") == b'{"n":0}\n{"n":1}\n'
    with client.raw_stream("SELECT n FROM t ORDER BY n", fmt="TabSeparated") as raw:
        assert raw.read().split() == [str(n).encode() for n in range(5_000)]
    assert client.query("SELECT n FROM t LIMIT 0").column_names == ("n",)


def test_client_binds_parameters_and_settings(client: Any) -> None:
    parameters = {"text": "it's a 'quote'\t\\ and \n", "numbers": [1, 2], "when": 5}
    found = client.query(
        "SELECT {text:String}, {numbers:Array(UInt8)}, {when:UInt32}, getSetting('max_threads')",
        parameters=parameters,
        settings={"max_threads": 3},
    )
    assert found.result_rows == [("it's a 'quote'\t\\ and \n", [1, 2], 5, 3)]
    # The setting went with that one query.
    assert client.command("SELECT getSetting('max_threads') != 3") == 1


@pytest.mark.parametrize("compression", [None, "lz4", "zstd", "gzip"])
def test_client_raw_insert_in_every_encoding(client: Any, http_client: Http, compression: str | None) -> None:
    client.command("CREATE TABLE t (n UInt64, s String) ENGINE = MergeTree ORDER BY n")
    block = native(http_client, "SELECT number AS n, unhex('00FF0A0D27') || toString(number) AS s FROM numbers(100000)")
    data = b"".join(codec.encoded([block], compression or ""))
    summary = client.raw_insert("t", ["n", "s"], data, fmt="Native", compression=compression, settings=ONE_BLOCK)
    assert summary.written_rows == 100_000
    expected = "SELECT sum(cityHash64(number, unhex('00FF0A0D27') || toString(number))) FROM numbers(100000)"
    assert client.command("SELECT sum(cityHash64(n, s)) FROM t") == client.command(expected)
    # One block became one part: nothing on the way split it.
    assert client.command("SELECT count() FROM system.parts WHERE table = 't' AND active") == 1


def test_client_errors_carry_code_and_name(client: Any) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.query("SELECT nothing_of_that_name")
    assert (caught.value.code, caught.value.name) == (47, "UNKNOWN_IDENTIFIER")
    with pytest.raises(DatabaseError) as caught:
        client.raw_insert("no_such_table", ["n"], b"", fmt="Native")
    assert caught.value.code == 60


def test_error_in_the_middle_of_a_stream_reaches_the_client(client: Any) -> None:
    with (
        pytest.raises(Exception, match="FUNCTION_THROW_IF"),
        client.query_row_block_stream(
            "SELECT throwIf(number = 900000) FROM numbers(1000000)",
            settings={"max_block_size": 10_000, "max_threads": 1},
        ) as stream,
    ):
        for _ in stream:
            pass


# Raw HTTP


def test_ping_and_other_paths(http_client: Http) -> None:
    assert http_client.ok(method="GET", path="/ping") == b"Ok.\n"
    assert http_client.ok(method="GET", path="/replicas_status") == b"Ok.\n"
    assert http_client.ok(method="GET") == b"Ok.\n"
    assert http_client.send(method="GET", path="/nowhere").status == 404


def test_statement_in_url_in_body_and_in_both(http_client: Http) -> None:
    assert http_client.ok(method="GET", query="SELECT 1") == b"1\n"
    assert http_client.ok("SELECT 2") == b"2\n"
    assert http_client.ok("+ 1", query="SELECT 2") == b"3\n"
    assert http_client.ok("SELECT 1 AS a", default_format="JSONEachRow") == b'{"a":1}\n'
    assert http_client.ok("SELECT 1 AS a FORMAT CSVWithNames", default_format="JSONEachRow") == b'"a"\n1\n'
    assert json.loads(http_client.ok("SELECT 1 AS a", default_format="JSON"))["data"] == [{"a": 1}]


def test_statements_that_are_read_but_not_streamed(http_client: Http) -> None:
    assert http_client.ok("CHECK GRANT SELECT ON system.one") == b"1\n"
    assert b"GRANT " in http_client.ok("SHOW GRANTS")
    assert http_client.ok("EXISTS TABLE system.one") == b"1\n"


def test_merges_leave_the_cores_to_inserts(http_client: Http) -> None:
    question = "SELECT value FROM system.server_settings WHERE name = 'os_threads_nice_value_merge_mutate'"
    assert http_client.ok(question) == b"10\n"


def test_headers_of_an_answer(http_client: Http) -> None:
    answer = http_client.send("SELECT number FROM numbers(3)", query_id="my-query", wait_end_of_query=1)
    assert answer.headers["X-ClickHouse-Query-Id"] == "my-query"
    assert answer.headers["X-ClickHouse-Format"] == "TabSeparated"
    assert answer.headers["X-ClickHouse-Timezone"]
    assert answer.headers["X-ClickHouse-Server-Display-Name"]
    assert answer.headers["Content-Type"].startswith("text/tab-separated-values")
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["read_rows"] == "3"
    answer = http_client.send("CREATE TABLE t (a UInt8) ENGINE = Memory")
    assert "X-ClickHouse-Format" not in answer.headers
    answer = http_client.send("INSERT INTO t VALUES (1), (2)")
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["written_rows"] == "2"


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("INSERT INTO t (a, s) FORMAT JSONEachRow", b'{"a":1,"s":"x"}\n{"a":2,"s":"y"}\n'),
        ("", b'INSERT INTO t (a, s) FORMAT JSONEachRow\n{"a":1,"s":"x"}\n{"a":2,"s":"y"}\n'),
        ("", b'INSERT INTO t (a, s) FORMAT JSONEachRow {"a":1,"s":"x"}\n{"a":2,"s":"y"}\n'),
        ("INSERT INTO t (a, s) VALUES", b"(1, 'x'), (2, 'y')"),
        ("", b"INSERT INTO t (a, s) VALUES (1, 'x'), (2, 'y')"),
        ("", b'insert /* FORMAT CSV */ into t (a, s) settings max_threads = 1 format CSV\r\n1,x\n2,"y"\n'),
        ("INSERT INTO t (a, s) VALUES (1, 'x'), (2, 'y')", b""),
        ("INSERT INTO t FORMAT TabSeparated", b"1\tx\n2\ty\n"),
        ("INSERT INTO t (a, s) SELECT 1, 'x' UNION ALL SELECT 2, 'y'", b""),
        ("", b"INSERT INTO t (a, s) SELECT number + 1, ['x', 'y'][number + 1] FROM numbers(2)"),
        ("INSERT INTO t (a, s)", b"FORMAT CSV\n1,x\n2,y\n"),
    ],
)
def test_inserts_in_any_form(http_client: Http, query: str, body: bytes) -> None:
    http_client.ok("CREATE TABLE t (a UInt8, s String) ENGINE = MergeTree ORDER BY a")
    http_client.ok(body, **({"query": query} if query else {}))
    assert http_client.ok("SELECT * FROM t ORDER BY a") == b"1\tx\n2\ty\n"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "lz4", "zstd"])
def test_content_encodings_both_ways(http_client: Http, encoding: str) -> None:
    http_client.ok("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a")
    lines = b"".join(b"%d\n" % n for n in range(200_000))
    packed = b"".join(codec.encoded([lines], encoding))
    http_client.ok(packed, query="INSERT INTO t FORMAT TSV", headers={"Content-Encoding": encoding})
    answer = http_client.send(
        "SELECT a FROM t ORDER BY a", enable_http_compression=1, headers={"Accept-Encoding": f"br;q=0, {encoding}"}
    )
    assert answer.headers["Content-Encoding"] == encoding
    assert b"".join(codec.decoded([answer.body], encoding)) == lines
    if encoding == "gzip":
        assert gzip.decompress(answer.body) == lines
    elif encoding == "deflate":
        assert zlib.decompress(answer.body) == lines
    elif encoding == "lz4":
        assert lz4.frame.decompress(answer.body) == lines


def test_body_that_is_not_its_encoding_changes_nothing(http_client: Http) -> None:
    http_client.ok("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a")
    whole = lz4.frame.compress(b"1\n" * 10_000)
    for body in (b"not lz4 at all", whole[:-10]):
        answer = http_client.send(body, query="INSERT INTO t FORMAT TSV", headers={"Content-Encoding": "lz4"})
        assert error_of(answer) == (500, 271)
    assert http_client.ok("SELECT count() FROM t") == b"0\n"


def test_chunked_body_and_body_that_ends_early(http_client: Http, chdb_server: Database) -> None:
    http_client.ok("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    block = native(http_client, "SELECT number AS n FROM numbers(300000)")
    pieces = [block[start : start + 100_000] for start in range(0, len(block), 100_000)]
    http_client.ok(iter(pieces), query="INSERT INTO t FORMAT Native")
    assert http_client.ok("SELECT count() FROM t") == b"300000\n"
    with socket.create_connection(("127.0.0.1", chdb_server.server.port)) as cut_off:
        query = urlencode({"query": "INSERT INTO t FORMAT Native", "database": chdb_server.database})
        cut_off.sendall(f"POST /?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(block)}\r\n\r\n".encode())
        cut_off.sendall(block[: len(block) // 2])
    time.sleep(0.2)
    assert http_client.ok("SELECT count() FROM t") == b"300000\n"


@pytest.mark.parametrize(
    ("url", "body", "expected"),
    [
        ({}, "SELEC 1", (400, 62)),
        ({}, "SELECT 1; SELECT 2", (400, 62)),
        ({}, "", (400, 62)),
        ({}, "SELECT * FROM nowhere", (404, 60)),
        ({"no_such_setting": 1}, "SELECT 1", (404, 115)),
        ({"max_threads": "many"}, "SELECT 1", (400, 27)),
        ({"database": "no_such_database"}, "SELECT 1", (404, 81)),
        ({}, "SELECT {x:UInt8}", (404, 456)),
        ({"max_memory_usage": 1_000_000}, "SELECT groupArray(number) FROM numbers(10000000)", (500, 241)),
        ({"query": "INSERT INTO nowhere FORMAT Native"}, b"\x00" * 3_000_000, (404, 60)),
        ({"query": "INSERT INTO t (zz) FORMAT Native"}, b"\x00", (500, 16)),
        ({"query": "INSERT INTO t FORMAT JSONEachRow"}, b'{"a":"x"}', (400, 27)),
        ({"query": "INSERT INTO t FORMAT NoFormat"}, b"1", (404, 73)),
        ({"compress": 1}, "SELECT 1", (501, 48)),
        ({"readonly": 1}, "CREATE TABLE z (a UInt8) ENGINE = Memory", (500, 164)),
    ],
)
def test_errors_are_clickhouse_s_own(
    http_client: Http, url: dict[str, Any], body: Any, expected: tuple[int, int]
) -> None:
    http_client.ok("CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
    status, code = error_of(http_client.send(body, **url))
    assert code == expected[1]
    assert status == expected[0] or code == 456
    # The connection lives on, and nothing of the failed request stays behind.
    assert http_client.ok("SELECT 1") == b"1\n"


def test_settings_that_cannot_be_taken_back_do_not_stay(http_client: Http) -> None:
    for _ in range(3):
        assert http_client.ok("SELECT 1", readonly=1) == b"1\n"
        http_client.ok("CREATE OR REPLACE TABLE z (a UInt8) ENGINE = Memory")


SLOW = "SELECT count() FROM numbers(600) WHERE sleepEachRow(0.1) = 0 SETTINGS max_block_size = 1"


@pytest.mark.parametrize("whole", [0, 1])
@pytest.mark.parametrize(("settings", "goes_on"), [(QUERY_SETTINGS, False), ({"readonly": 2}, True), ({}, True)])
def test_a_question_ends_with_its_client_where_it_says_so(
    http_client: Http, chdb_server: Database, settings: dict[str, Any], goes_on: bool, whole: int
) -> None:
    mark = uuid.uuid4().hex
    running = (
        f"SELECT count() FROM system.processes WHERE query LIKE '%SLEEPER {mark}%' AND query NOT LIKE '%processes%'"
    )
    with socket.create_connection(("127.0.0.1", chdb_server.server.port)) as client:
        query = urlencode({"query": f"{SLOW} /* SLEEPER {mark} */", "wait_end_of_query": whole, **settings})
        client.sendall(f"POST /?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        wait_until(lambda: http_client.ok(running) == b"1\n", 10, "the question to run")
        time.sleep(2 * WATCH_S)
        assert http_client.ok(running) == b"1\n"
    if goes_on:
        time.sleep(1.0)
        assert http_client.ok(running) == b"1\n"
        http_client.ok(f"KILL QUERY WHERE query LIKE '%SLEEPER {mark}%' AND query NOT LIKE '%processes%' SYNC")
    else:
        wait_until(lambda: http_client.ok(running) == b"0\n", 10, "the question to end")


def test_an_insert_the_engine_gives_up_on_is_an_error(http_client: Http) -> None:
    """What fails behind the parser, in constraints, views or the storage, must not be acknowledged."""
    http_client.ok("CREATE TABLE t (a UInt8, CONSTRAINT small CHECK a < 10) ENGINE = MergeTree ORDER BY a")
    assert error_of(http_client.send("INSERT INTO t FORMAT TSV\n1\n20\n"))[1] == 469
    assert http_client.ok("SELECT count() FROM t") == b"0\n"
    http_client.ok("CREATE TABLE s (a UInt8) ENGINE = MergeTree ORDER BY a SETTINGS parts_to_throw_insert = 1")
    http_client.ok("SYSTEM STOP MERGES s")
    http_client.ok("INSERT INTO s FORMAT TSV\n1\n")
    assert error_of(http_client.send("INSERT INTO s FORMAT TSV\n2\n")) == (500, 252)
    http_client.ok("CREATE TABLE source (a UInt8) ENGINE = MergeTree ORDER BY a")
    http_client.ok("CREATE MATERIALIZED VIEW v ENGINE = Null AS SELECT throwIf(a = 7) AS b FROM source")
    assert error_of(http_client.send("INSERT INTO source FORMAT TSV\n7\n"))[1] == 395
    http_client.ok("CREATE TABLE p (a UInt32) ENGINE = MergeTree ORDER BY a PARTITION BY a")
    many = "".join(f"{n}\n" for n in range(200))
    assert error_of(http_client.send(f"INSERT INTO p FORMAT TSV\n{many}"))[1] == 252
    block = native(http_client, "SELECT 1 AS a FROM numbers(1000000)")
    answer = http_client.send(
        block, query="INSERT INTO source FORMAT Native", max_memory_usage=500_000, max_untracked_memory=1
    )
    assert error_of(answer) == (500, 241)
    # The one row is of the insert before: a failing view does not take back what its source has stored.
    assert http_client.ok("SELECT a FROM source") == b"7\n"


def test_get_only_reads(http_client: Http) -> None:
    answer = http_client.send(method="GET", query="CREATE TABLE t (a UInt8) ENGINE = Memory")
    assert error_of(answer) == (500, 164)


def test_sessions_keep_what_single_requests_forget(http_client: Http, chdb_server: Database) -> None:
    http_client.ok("SET max_threads = 7")
    assert http_client.ok("SELECT getSetting('max_threads') = 7") == b"0\n"
    session = {"session_id": uuid.uuid4().hex}
    http_client.ok("SET max_threads = 7", **session)
    http_client.ok("CREATE TEMPORARY TABLE kept (a UInt8)", **session)
    http_client.ok("INSERT INTO kept VALUES (1)", **session)
    assert http_client.ok("SELECT getSetting('max_threads'), a FROM kept", **session) == b"7\t1\n"
    assert error_of(http_client.send("SELECT 1", session_id="unknown", session_check=1))[1] == 372
    other = Http(chdb_server.server, chdb_server.database)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(http_client.ok, "SELECT sleep(0.5)", wait_end_of_query=1, **session)
        time.sleep(0.2)
        assert error_of(other.send("SELECT 1", **session))[1] == 373
        slow.result()
    other.connection.close()


def test_form_fields_carry_parameters(http_client: Http) -> None:
    boundary = "penstock"
    parts = {"query": "SELECT {x:String}", "param_x": "a b"}
    body = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in parts.items()
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    assert http_client.ok(f"{body}--{boundary}--\r\n".encode(), headers=headers) == b"a b\n"


def test_credentials(tmp_path: Path) -> None:
    with ChdbServer(tmp_path / "data", user="writer", password="secret") as server:
        client = Http(server)
        basic = base64.b64encode(b"writer:secret").decode()
        good = [
            {"headers": {"Authorization": f"Basic {basic}"}},
            {"headers": {"X-ClickHouse-User": "writer", "X-ClickHouse-Key": "secret"}},
            {"user": "writer", "password": "secret"},
        ]
        bad = [
            {},
            {"user": "writer"},
            {"user": "other", "password": "secret"},
            {"user": "writer", "password": "Secret"},
        ]
        for credentials in good:
            assert client.ok("SELECT 1", **credentials) == b"1\n"
        for credentials in bad:
            assert error_of(client.send("SELECT 1", **credentials)) == (403, 516)
        assert client.ok(method="GET", path="/ping") == b"Ok.\n"
        with pytest.raises(DatabaseError) as caught:
            clickhouse_connect.get_client(host="127.0.0.1", port=server.port, username="writer", password="wrong")
        assert caught.value.code == 516
        client.connection.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(chdb_server: Database, tmp_path: Path) -> None:
    url = f"{chdb_server.url}/?database={chdb_server.database}"

    def curl(*arguments: str) -> bytes:
        return subprocess.run(["curl", "-sS", "--fail-with-body", *arguments], capture_output=True, check=True).stdout

    curl(url, "--data-binary", "CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a")
    lines = tmp_path / "lines"
    # Above a megabyte curl asks first (Expect: 100-continue).
    lines.write_bytes(b"".join(b"%d\n" % n for n in range(300_000)))
    curl(f"{url}&query=INSERT+INTO+t+FORMAT+TSV", "--data-binary", f"@{lines}")
    assert curl(url, "--data-binary", "SELECT count(), sum(a) FROM t") == b"300000\t44999850000\n"
    assert curl(f"{url}&query=SELECT+1") == b"1\n"


# Deduplication by token


def make_table(http_client: Http, window: int = 1_000) -> None:
    http_client.ok(
        "CREATE TABLE t (n UInt64, s String) ENGINE = MergeTree ORDER BY n "
        f"SETTINGS non_replicated_deduplication_window = {window}"
    )


def insert(client: Http, block: bytes, token: str) -> Answer:
    settings = ONE_BLOCK | {"insert_deduplication_token": token}
    return client.send(
        lz4.frame.compress(block),
        query="INSERT INTO t (n, s) FORMAT Native",
        headers={"Content-Encoding": "lz4"},
        **settings,
    )


def rows(client: Http) -> int:
    return int(client.ok("SELECT count() FROM t"))


def test_same_token_is_one_copy_whatever_the_data(http_client: Http) -> None:
    make_table(http_client)
    first = native(http_client, "SELECT number AS n, toString(number) AS s FROM numbers(50000)")
    other = native(http_client, "SELECT number + 1000000 AS n, 'other' AS s FROM numbers(10)")
    for block in (first, first, other):
        assert insert(http_client, block, "token-a").status == 200
    assert rows(http_client) == 50_000
    assert http_client.ok("SELECT countIf(s = 'other') FROM t") == b"0\n"
    assert insert(http_client, first, "token-b").status == 200
    assert rows(http_client) == 100_000


def test_eight_threads_with_one_token_are_one_copy_and_with_eight_are_eight(
    http_client: Http, chdb_server: Database
) -> None:
    make_table(http_client)
    block = native(http_client, "SELECT number AS n, toString(number) AS s FROM numbers(20000)")

    def send(token: str) -> int:
        with Http(chdb_server.server, chdb_server.database) as mine:
            return insert(mine, block, token).status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, ["same"] * 8)) == {200}
        assert rows(http_client) == 20_000
        assert set(pool.map(send, [f"token-{n}" for n in range(8)])) == {200}
    assert rows(http_client) == 9 * 20_000


# Life and death


def test_killed_in_the_middle_of_inserts_it_keeps_what_it_acknowledged(tmp_path: Path, seed: int) -> None:
    """kill -9 during inserts of four threads; every acknowledged row is there afterwards, once, also when it is sent again.

    A MergeTree writes a block's token down before it commits the part. Killed in between, it takes the repeated insert
    for done and stores nothing; so what was not acknowledged is looked up afterwards and sent under another token, as
    the sink does.
    """
    server = ChdbServer(tmp_path / "data").start()
    port = server.port
    acknowledged: list[int] = []
    attempted: list[int] = []

    def block_of(client: Http, number: int) -> bytes:
        return native(client, f"SELECT {number * 20_000} + number AS n, repeat('x', 100) AS s FROM numbers(20000)")

    def stored(client: Http, number: int) -> int:
        return int(client.ok(f"SELECT count() FROM t WHERE intDiv(n, 20000) = {number}"))

    def work(thread: int) -> None:
        with Http(server) as mine:
            for number in range(thread, 40_000, 4):
                try:
                    block = block_of(mine, number)
                    attempted.append(number)
                    if insert(mine, block, f"token-{number}").status != 200:
                        return
                except (OSError, http.client.HTTPException):
                    return
                acknowledged.append(number)

    with Http(server) as client:
        make_table(client)
    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + 30
    while len(acknowledged) < 12 + seed % 8 and time.monotonic() < deadline_s:
        time.sleep(0.005)
    server.kill()
    for thread in threads:
        thread.join()
    assert len(acknowledged) >= 12
    with server, Http(server) as client:
        assert server.port == port
        assert [stored(client, number) for number in acknowledged] == [20_000] * len(acknowledged)
        for number in attempted:
            block = block_of(client, number)
            assert insert(client, block, f"token-{number}").status == 200
            if number not in acknowledged and stored(client, number) == 0:
                assert insert(client, block, f"token-{number}-sent-again").status == 200
        assert [stored(client, number) for number in attempted] == [20_000] * len(attempted)
        assert int(client.ok("SELECT uniqExact(n) FROM t")) == rows(client) == len(attempted) * 20_000


def test_stops_gracefully_and_frees_the_port(tmp_path: Path) -> None:
    server = ChdbServer(tmp_path / "data").start()
    with Http(server) as client, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.ok, "SELECT sleep(1)", wait_end_of_query=1)
        time.sleep(0.3)
        assert server.cpu_seconds() > 0
        server.stop()
        # The running request was answered first.
        assert slow.result() == b"0\n"
    with socket.create_server(("127.0.0.1", server.port)):
        pass


def test_stops_when_its_owner_dies(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pipeline.embedded.chdb_server import ChdbServer\n"
        "server = ChdbServer(sys.argv[1]).start()\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    deadline_s = time.monotonic() + 20
    while not gone(pid) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert gone(pid)


def test_an_insert_over_the_bound_is_refused_and_not_held(tmp_path: Path) -> None:
    """Half a gigabyte that comes as half a megabyte of gzip."""
    with ChdbServer(tmp_path / "data", insert_bytes_max=64 * 1024 * 1024) as server, Http(server) as client:
        client.ok("CREATE TABLE t (s String) ENGINE = Null")
        packed = gzip.compress(b"x" * 1_000_000) * 500
        before = server.resident_bytes()
        answer = client.send(packed, query="INSERT INTO t FORMAT LineAsString", headers={"Content-Encoding": "gzip"})
        assert error_of(answer) == (413, 229)
        assert server.resident_bytes() - before < 64 * 1024 * 1024
        assert not list((tmp_path / "data" / "spool").iterdir())
        assert client.ok("SELECT 1") == b"1\n"


def test_in_process_serves_the_same(tmp_path: Path) -> None:
    """One engine path per process: so in a process of its own here, whose engine may be another test's."""
    program = (
        "import sys, urllib.request\n"
        "from pipeline.embedded.chdb_server import ChdbServer\n"
        "with ChdbServer(sys.argv[1], in_process=True) as server:\n"
        "    answer = urllib.request.urlopen(server.url + '/?query=SELECT+41%2B1').read()\n"
        "    print(answer.decode(), server.cpu_seconds() > 0)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data")]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == "42\n True\n"


# Faults


def test_faults_meet_the_next_inserts(http_client: Http, chdb_server: Database) -> None:
    server = chdb_server.server
    make_table(http_client)
    block = native(http_client, "SELECT number AS n, '' AS s FROM numbers(10)")
    server.fault("fail", code=252, name="TOO_MANY_PARTS", message="Too many parts (3000)", times=2)
    assert error_of(insert(http_client, block, "a")) == (500, 252)
    assert error_of(insert(http_client, block, "a")) == (500, 252)
    assert rows(http_client) == 0
    assert insert(http_client, block, "a").status == 200
    server.fault("fail_after", code=159, name="TIMEOUT_EXCEEDED")
    assert error_of(insert(http_client, block, "b")) == (408, 159)
    assert rows(http_client) == 20
    for action, stored in (("drop", 20), ("drop_after", 30)):
        server.fault(action, match="INTO t")
        with pytest.raises((http.client.HTTPException, OSError)):
            insert(http_client, block, "c")
        http_client.connection.close()
        assert rows(http_client) == stored
    server.fault("delay", delay_ms=300)
    started_s = time.monotonic()
    assert insert(http_client, block, "d").status == 200
    assert time.monotonic() - started_s >= 0.3
    assert server.faults_left() == 0
