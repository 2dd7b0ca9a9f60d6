"""The pure parts of the embedded servers: statements taken apart, encodings piece by piece, faults, child processes."""

from __future__ import annotations

import gzip
import random
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import lz4.frame
import psutil
import pytest

from pipeline.embedded import codec
from pipeline.embedded import ports as ports_module
from pipeline.embedded.apache_kafka import causes
from pipeline.embedded.child import Child, StartFailed
from pipeline.embedded.faults import Fault, Faults
from pipeline.embedded.ports import free_ports
from pipeline.embedded.sql import Kind, SqlError, is_insert, is_select, split
from tests.integration.harness import wait_until


@pytest.mark.parametrize(
    ("text", "kind", "named"),
    [
        ("", Kind.EMPTY, ""),
        ("  -- nothing\n /* at all */ ", Kind.EMPTY, ""),
        ("SELECT 1", Kind.READ, ""),
        ("(SELECT 1) UNION ALL (SELECT 2) FORMAT CSV", Kind.READ, "CSV"),
        ("with 1 as x select x format JSON;", Kind.READ, "JSON"),
        ("SELECT 1 FORMAT JSON SETTINGS max_threads = 1", Kind.READ, "JSON"),
        ("SELECT * FROM (SELECT 1 FORMAT Inner) -- FORMAT Comment", Kind.READ, ""),
        ("SELECT 'FORMAT CSV', `FORMAT`, \"x FORMAT y\"", Kind.READ, ""),
        ("SELECT format FROM t", Kind.READ, ""),
        ("SELECT format FROM t FORMAT TSV", Kind.READ, "TSV"),
        ("SELECT ';' ; -- end", Kind.READ, ""),
        ("EXPLAIN SELECT 1", Kind.READ, ""),
        ("CREATE TABLE t (a UInt8) ENGINE = Memory", Kind.COMMAND, ""),
        ("SET a = 1", Kind.SESSION, ""),
        ("use d", Kind.SESSION, ""),
        ("INSERT INTO t SELECT 1 FORMAT CSV", Kind.COMMAND, ""),
        ("INSERT INTO t (SELECT 1)", Kind.COMMAND, ""),
        ("INSERT INTO t FROM INFILE 'f' FORMAT CSV", Kind.COMMAND, ""),
        ("KILL MUTATION WHERE 1", Kind.COMMAND, "TabSeparated"),
    ],
)
def test_kind_and_format_of_a_statement(text: str, kind: Kind, named: str) -> None:
    statement = split(text.encode())
    assert (statement.kind, statement.format) == (kind, named)
    assert statement.sql == text.encode()


@pytest.mark.parametrize(
    ("text", "sql", "named", "data"),
    [
        (b"INSERT INTO t FORMAT Native\n\x00\n", b"INSERT INTO t ", "Native", b"\x00\n"),
        (b"INSERT INTO t FORMAT CSV \t\r\n1\n", b"INSERT INTO t ", "CSV", b"1\n"),
        (b"INSERT INTO t FORMAT CSV\n\n1\n", b"INSERT INTO t ", "CSV", b"\n1\n"),
        (b"INSERT INTO t FORMAT CSV", b"INSERT INTO t ", "CSV", b""),
        (b"insert into db.values (a, `FORMAT`) values (1)", b"insert into db.values (a, `FORMAT`) ", "Values", b" (1)"),
        (
            b"INSERT INTO TABLE FUNCTION null('x Int') VALUES(1)",
            b"INSERT INTO TABLE FUNCTION null('x Int') ",
            "Values",
            b"(1)",
        ),
        (b"INSERT t SETTINGS a = 'VALUES' FORMAT TSV 1;2", b"INSERT t SETTINGS a = 'VALUES' ", "TSV", b"1;2"),
        (b"INSERT INTO t (* EXCEPT(a)) FORMAT TSV\n", b"INSERT INTO t (* EXCEPT(a)) ", "TSV", b""),
        (b"INSERT INTO t FORMAT RowBinary '\x27\xff", b"INSERT INTO t ", "RowBinary", b"'\x27\xff"),
    ],
)
def test_data_of_an_insert_begin_where_clickhouse_says(text: bytes, sql: bytes, named: str, data: bytes) -> None:
    statement = split(text)
    assert statement[:4] == (Kind.INSERT, sql, named, len(text) - len(data))
    assert text[statement.data_at :] == data


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (b"INSERT INTO t (a) FORMAT CSV", b""),
        (b"INSERT INTO t (a) SETTINGS x = 1, y = 'SETTINGS' FORMAT CSV", b"SETTINGS x = 1, y = 'SETTINGS' "),
        (b"INSERT INTO settings (a) VALUES", b""),
    ],
)
def test_from_infile_belongs_before_the_settings(text: bytes, rest: bytes) -> None:
    statement = split(text)
    assert statement.sql[statement.infile_at :] == rest


def test_several_statements_are_refused() -> None:
    with pytest.raises(SqlError, match="Multi-statements"):
        split(b"SELECT 1; SELECT 2")


def test_only_a_select_is_streamed() -> None:
    for text in (b"SELECT 1", b"(SELECT 1)", b"WITH 1 AS a SELECT a", b"/* x */ from t select 1"):
        assert is_select(text)
    for text in (b"SHOW GRANTS", b"CHECK GRANT SELECT ON t", b"DESCRIBE t", b"EXPLAIN SELECT 1", b""):
        assert not is_select(text)


def test_is_insert_needs_only_the_beginning() -> None:
    assert is_insert(b"/* x */ insert INTO t FORMAT Native \x00'")
    assert not is_insert(b"SELECT 'INSERT")
    assert not is_insert(b"")


@pytest.mark.parametrize("encoding", ["", "identity", "gzip", "deflate", "lz4", "zstd"])
def test_encodings_survive_any_cut_and_several_frames(encoding: str, seed: int) -> None:
    random_ = random.Random(seed)
    data = b"".join(random_.randbytes(1_000) + b"x" * 9_000 for _ in range(20))
    name = "" if encoding == "identity" else encoding
    packed = b"".join(
        b"".join(codec.encoded([data[start : start + 70_000]], name)) for start in range(0, len(data), 70_000)
    )
    cuts = sorted(random_.sample(range(1, len(packed)), 12))
    pieces = [packed[start:end] for start, end in zip([0, *cuts], [*cuts, len(packed)], strict=True)]
    assert b"".join(codec.decoded(pieces, encoding)) == data


def test_decoded_pieces_are_bounded() -> None:
    zeros = bytes(50 * 1024 * 1024)
    for encoding, packed in (
        ("gzip", gzip.compress(zeros)),
        ("deflate", zlib.compress(zeros)),
        ("lz4", lz4.frame.compress(zeros)),
        ("zstd", b"".join(codec.encoded([zeros], "zstd"))),
    ):
        sizes = [len(piece) for piece in codec.decoded([packed], encoding)]
        assert sum(sizes) == len(zeros)
        assert max(sizes) <= codec.PIECE_BYTES_MAX


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "lz4", "zstd"])
def test_broken_bodies_are_told(encoding: str) -> None:
    packed = b"".join(codec.encoded([b"some data" * 1_000], encoding))
    for broken in (packed[:-1], packed[: len(packed) // 2], b"\x00" + packed, b"neither"):
        with pytest.raises(codec.EncodingError):
            list(codec.decoded([broken], encoding))
    assert list(codec.decoded([], encoding)) == []


def test_unknown_encoding_is_refused() -> None:
    with pytest.raises(codec.EncodingError, match="snappy"):
        list(codec.decoded([b"x"], "snappy"))


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", ""),
        ("identity", ""),
        ("gzip, deflate", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0.5, lz4;q=1.0", "lz4"),
        ("zstd;q=0, gzip", "gzip"),
        ("lz4,br,gzip,zstd", "zstd"),
    ],
)
def test_negotiation(accepted: str, chosen: str) -> None:
    assert codec.negotiate(accepted) == chosen


def test_faults_are_used_up_in_order_by_what_they_match() -> None:
    faults = Faults()
    faults.add(Fault(action="fail", code=252, times=2, match="INTO a"))
    faults.add(Fault(action="delay", delay_ms=1, inserts_only=False))
    assert faults.left() == 3
    assert faults.take("SELECT INTO a", insert=False).action == "delay"  # type: ignore[union-attr]
    assert faults.take("INSERT INTO b", insert=True) is None
    assert [faults.take("INSERT INTO a", insert=True).code for _ in range(2)] == [252, 252]  # type: ignore[union-attr]
    assert faults.take("INSERT INTO a", insert=True) is None
    faults.add(Fault(action="drop"))
    faults.clear()
    assert faults.left() == 0


def python(program: str, log: Path, **options: bool) -> Child:
    return Child([sys.executable, "-c", program], log, **options)


def test_a_child_that_fails_or_is_silent_tells_its_log(tmp_path: Path) -> None:
    failing = python("import sys; sys.exit('no such option')", tmp_path / "a.log")
    with pytest.raises(StartFailed, match="no such option"):
        failing.first_line(30)
    silent = python("import time; time.sleep(60)", tmp_path / "b.log")
    with pytest.raises(StartFailed, match="said nothing within 0 s"):
        silent.first_line(0.3)
    assert not silent.running


@pytest.mark.parametrize("guarded", [False, True])
def test_a_child_stops_on_request_or_is_killed(tmp_path: Path, guarded: bool) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    child = python(stubborn, tmp_path / "log", guarded=guarded)
    assert child.first_line(30) == "up"
    assert child.cpu_seconds() > 0
    assert child.stop(0.2) == -9
    polite = python("import time; print('up', flush=True); time.sleep(60)", tmp_path / "log", guarded=guarded)
    polite.first_line(30)
    assert polite.stop(30) == -15
    assert polite.stop(30) == -15


@pytest.mark.parametrize("died", ["before it is guarded", "while it is guarded"])
def test_a_child_ends_with_an_owner_that_is_killed(tmp_path: Path, died: str) -> None:
    """Killed before the guard was there, a demo left a worker behind (seen once, on a loaded machine)."""
    dies = "child._guard = lambda pid: (print(pid, flush=True), os.kill(os.getpid(), 9))"
    owner = f"""
import os, pathlib
from pipeline.embedded import child
{dies if died == "before it is guarded" else ""}
it = child.Child(["sleep", "60"], pathlib.Path({str(tmp_path / "log")!r}), guarded=True)
print(it.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    found = subprocess.run([sys.executable, "-c", owner], capture_output=True, check=False, timeout=60)
    assert found.returncode == -9, found.stderr
    wait_until(lambda: not psutil.pid_exists(int(found.stdout)), 20, "the child ends")


def test_ports_of_servers_are_none_that_a_connection_may_be_given() -> None:
    """A server that was down could not come back: a client of somebody else had its port (seen in the fault suite)."""
    ports = free_ports(50)
    assert len(set(ports)) == 50
    with socket.create_server(("127.0.0.1", 0)) as given:
        outgoing = given.getsockname()[1]
    assert max(ports) < outgoing


def test_a_port_that_somebody_listens_on_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports_module, "_LOWEST", 20_000)
    monkeypatch.setattr(ports_module, "_outgoing_first", lambda: 21_000)
    taken = free_ports(1)[0]
    with socket.create_server(("127.0.0.1", taken)):
        # Nearly all there are, so that the taken one would be among them.
        assert taken not in free_ports(900)


def test_without_room_below_any_free_port_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports_module, "_outgoing_first", lambda: 1_024)
    assert len(set(free_ports(3))) == 3


def test_what_a_broker_ended_of_is_told_however_much_it_logged_afterwards() -> None:
    bind = "Caused by: java.net.BindException: Address already in use"
    log = "\n".join(
        ["ERROR Fatal error during broker startup", bind, "\tat sun.nio.ch.Net.bind", bind, *["INFO going"] * 1_000]
    )
    assert causes(log) == ["java.net.BindException: Address already in use"]
    assert causes("INFO started") == []
