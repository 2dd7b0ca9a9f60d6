"""One chDB engine for many requests: leases of connections, settings and sessions, results, inserts. Knows nothing of HTTP.

chDB hosts one engine path in a process, with any number of connections to it; each carries its own settings and current
database. Queries and inserts on different connections run at the same time, also inserts into one table: nothing is
serialised here. A connection serves one statement at a time.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import chdb

from pipeline.embedded.sql import Statement

STREAM_SAFE = frozenset(("Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow"))
"""chDB streams a result as blocks, each a complete document of the format: only for these is their concatenation the same."""

INSERT_BYTES_MAX = 1024 * 1024 * 1024

SERVER_SETTINGS = {
    # The cores are shared with whoever inserts, who should not wait for merges. Without CAP_SYS_NICE it has no effect.
    "os_threads_nice_value_merge_mutate": 10,
}

BAD_ARGUMENTS = 36
QUERY_IS_TOO_LARGE = 229
SESSION_NOT_FOUND = 372
SESSION_IS_LOCKED = 373
TOO_MANY_SIMULTANEOUS_QUERIES = 202
UNKNOWN_EXCEPTION = 1002

_NAME = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)
_CODE = re.compile(r"Code: (\d+)\. DB::")
_NESTED = re.compile(r"Code: \d+\. DB::Exception: (?=Code: \d+\. DB::Exception: )")
_TRAILER = re.compile(r"(?:\s*(?:\((?P<name>[A-Z][A-Z0-9_]+)\)|\(version [^()]*\)))+\s*\Z")


class EngineError(Exception):
    """ClickHouse refused: `code` is its error code, the message its text in the form `Code: N. DB::Exception: ... (NAME)`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Result(NamedTuple):
    """A whole result and its statistics."""

    data: bytes
    read_rows: int
    read_bytes: int
    written_rows: int
    written_bytes: int


class Spool(NamedTuple):
    """Where the data of inserts wait for the engine, and how many bytes one insert may bring, without their encoding."""

    directory: Path
    insert_bytes_max: int


class Connection:
    """One chDB connection. `tainted` means that its state can no longer be told, so that it must not be used again."""

    def __init__(self, path: str, spool: Spool) -> None:
        self._spool = spool
        self._inner: Any = chdb.connect(path)  # type: ignore[no-untyped-call]
        self._settings: dict[str, str] = {}
        self._database = "default"
        self.tainted = False

    def prepare(self, database: str, settings: Mapping[str, str]) -> None:
        """Makes the current database and the settings exactly these; only a difference to the last request costs one."""
        if database != self._database:
            self._execute(f"USE {_identifier(database)}")
            self._database = database
        if settings == self._settings:
            return
        wanted = {name: _literal(value) for name, value in settings.items() if self._settings.get(name) != value}
        for name in self._settings.keys() - settings.keys():
            wanted[name] = "DEFAULT"
        for name in wanted:
            if not _NAME.match(name):
                raise EngineError(115, f"Code: 115. DB::Exception: Unknown setting '{name}'. (UNKNOWN_SETTING)")
        self._execute("SET " + ", ".join(f"{name} = {value}" for name, value in wanted.items()))
        self._settings = dict(settings)

    @property
    def readonly(self) -> str:
        return self._settings.get("readonly", "")

    def query(self, sql: bytes, output_format: str, parameters: Mapping[str, str]) -> Result:
        """Runs a statement and gives its whole result."""
        try:
            found = self._inner.query(_text(sql), output_format, params=dict(parameters))
        except Exception as error:
            raise engine_error(error) from error
        # A statement without a result, such as CREATE, may come back as an empty object without statistics.
        return Result(
            found.bytes() or b"", found.rows_read(), found.bytes_read(), found.rows_written(), found.bytes_written()
        )

    def stream(self, sql: bytes, output_format: str, parameters: Mapping[str, str]) -> Iterator[bytes]:
        """Runs a SELECT and gives the result block by block; the format must be in `STREAM_SAFE`."""
        try:
            blocks = self._inner.send_query(_text(sql), output_format, params=dict(parameters))
        except Exception as error:
            raise engine_error(error) from error
        try:
            for block in blocks:
                yield block.bytes()
        except Exception as error:
            raise engine_error(error) from error
        finally:
            blocks.close()

    def insert(self, statement: Statement, parameters: Mapping[str, str], pieces: Iterable[bytes]) -> Result:
        """Runs an INSERT over data that come in pieces, through a file of the spool. If `pieces` raises, nothing is done.

        Not chDB's streaming insert, which swallows what the insert pipeline raises (a violated constraint, a failing view)
        and answers that the rows were written; and not data in the text, which chDB cuts off at two newlines in a row.
        """
        head, tail = statement.sql[: statement.infile_at], statement.sql[statement.infile_at :]
        with tempfile.NamedTemporaryFile(dir=self._spool.directory) as file:
            left = self._spool.insert_bytes_max
            for piece in pieces:
                left -= len(piece)
                if left < 0:
                    text = f"The data of an INSERT are larger than {self._spool.insert_bytes_max} bytes"
                    raise refusal(QUERY_IS_TOO_LARGE, text, "QUERY_IS_TOO_LARGE")
                file.write(piece)
            file.flush()
            sql = f"{_text(head).rstrip()} FROM INFILE {_literal(file.name)} {_text(tail)} FORMAT {statement.format}"
            try:
                done = self._inner.query(sql, "TabSeparated", params=dict(parameters))
            except Exception as error:
                raise engine_error(error) from error
        return Result(b"", 0, 0, done.rows_written(), done.bytes_written())

    def close(self) -> None:
        self._inner.close()

    def _execute(self, sql: str) -> None:
        try:
            self._inner.query(sql, "TabSeparated")
        except Exception as error:
            raise engine_error(error) from error


class SessionKey(NamedTuple):
    """A session as a request names it, and how long it is kept when idle."""

    id: str
    timeout_s: float = 60.0
    must_exist: bool = False


class _Session:
    """A connection that a client named, with the time it was last given back."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.busy = True
        self.expires_at = float("inf")


class Engine:
    """The engine over the directory `path`. At most `queries_max` statements run at once and `sessions_max` sessions are kept;
    a further one waits up to `wait_s`, then is refused with ClickHouse's code 202. Thread-safe.

    An insert takes up to `insert_bytes_max` on disk while it runs and, when its format has no blocks of its own, about
    twice its size in memory.
    """

    def __init__(
        self,
        path: str,
        *,
        queries_max: int = 32,
        sessions_max: int = 256,
        wait_s: float = 60.0,
        insert_bytes_max: int = INSERT_BYTES_MAX,
    ) -> None:
        self._path = f"{path}?config-file={quote(str(_config_file(Path(path))))}"
        self._wait_s = wait_s
        self._sessions_max = sessions_max
        self._slots = threading.BoundedSemaphore(queries_max)
        self._lock = threading.Lock()
        self._idle: dict[str, list[Connection]] = {}
        """By their `readonly`, which a connection does not get rid of."""
        self._sessions: dict[str, _Session] = {}
        # Keeps the engine open while no request holds a connection.
        self._root: Any = chdb.connect(self._path)  # type: ignore[no-untyped-call]
        directory = Path(path) / "spool"
        # The engine is ours now: what a killed process left behind is no one's.
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self._spool = Spool(directory.resolve(), insert_bytes_max)
        version, timezone = self._root.query("SELECT version(), timezone()", "TabSeparated").bytes().decode().split()
        self.version: str = version
        self.timezone: str = timezone

    @contextmanager
    def lease(self, database: str, settings: Mapping[str, str], session: SessionKey | None) -> Iterator[Connection]:
        """A connection for one statement, prepared: the session's own one, or any."""
        if not self._slots.acquire(timeout=self._wait_s):
            raise refusal(
                TOO_MANY_SIMULTANEOUS_QUERIES, "Too many simultaneous queries", "TOO_MANY_SIMULTANEOUS_QUERIES"
            )
        try:
            with self._pooled(database, settings) if session is None else self._of_session(session) as connection:
                if session is not None:
                    connection.prepare(database, settings)
                yield connection
        finally:
            self._slots.release()

    @contextmanager
    def _pooled(self, database: str, settings: Mapping[str, str]) -> Iterator[Connection]:
        connection = self._prepared(database, settings)
        try:
            yield connection
        except BaseException:
            # After an error the engine may still be winding the statement down: cheaper to part than to find out.
            connection.tainted = True
            raise
        finally:
            if connection.tainted:
                connection.close()
            else:
                with self._lock:
                    self._idle.setdefault(connection.readonly, []).append(connection)

    def _prepared(self, database: str, settings: Mapping[str, str]) -> Connection:
        """An idle connection; or a fresh one, when there is none or its last settings (`readonly = 1`) cannot be taken back."""
        with self._lock:
            alike = self._idle.get(settings.get("readonly", ""))
            idle = alike.pop() if alike else None
        if idle is not None:
            try:
                idle.prepare(database, settings)
                return idle
            except EngineError:
                idle.close()
        fresh = Connection(self._path, self._spool)
        try:
            fresh.prepare(database, settings)
        except BaseException:
            fresh.close()
            raise
        return fresh

    @contextmanager
    def _of_session(self, key: SessionKey) -> Iterator[Connection]:
        session = self._open_session(key.id, key.must_exist)
        try:
            yield session.connection
        finally:
            session.expires_at = time.monotonic() + key.timeout_s
            session.busy = False

    def _open_session(self, session_id: str, must_exist: bool) -> _Session:
        with self._lock:
            expired = self._expired()
            session = self._sessions.get(session_id)
            if session is not None and session.busy:
                raise refusal(
                    SESSION_IS_LOCKED, f"Session {session_id} is locked by a concurrent client", "SESSION_IS_LOCKED"
                )
            if session is None:
                if must_exist:
                    raise refusal(SESSION_NOT_FOUND, f"Session {session_id} not found", "SESSION_NOT_FOUND")
                if len(self._sessions) >= self._sessions_max:
                    raise refusal(TOO_MANY_SIMULTANEOUS_QUERIES, "Too many sessions", "TOO_MANY_SIMULTANEOUS_QUERIES")
                session = self._sessions[session_id] = _Session(Connection(self._path, self._spool))
            session.busy = True
        for old in expired:
            old.connection.close()
        return session

    def _expired(self) -> list[_Session]:
        """Takes out the sessions that are over and, when there are too many, the one that has been idle longest."""
        now = time.monotonic()
        idle = sorted(
            (name for name, one in self._sessions.items() if not one.busy),
            key=lambda name: self._sessions[name].expires_at,
        )
        over = [name for name in idle if self._sessions[name].expires_at <= now]
        if not over and len(self._sessions) >= self._sessions_max:
            over = idle[:1]
        return [self._sessions.pop(name) for name in over]

    def kill(self, beginning: str) -> None:
        """Ends the statements whose text begins so."""
        killer = Connection(self._path, self._spool)
        try:
            text = f"KILL QUERY WHERE startsWith(query, {_literal(beginning)}) ASYNC"
            killer.query(text.encode(), "TabSeparated", {})
        finally:
            killer.close()

    def close(self) -> None:
        """Closes every connection that no request holds, and with the last one the engine."""
        with self._lock:
            connections = [one for alike in self._idle.values() for one in alike]
            connections += [session.connection for session in self._sessions.values() if not session.busy]
            self._idle, self._sessions = {}, {}
        for connection in connections:
            connection.close()
        self._root.close()


def _config_file(directory: Path) -> Path:
    """Writes the server's configuration to where its data are."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory.resolve() / "config.xml"
    lines = "".join(f"<{name}>{value}</{name}>" for name, value in SERVER_SETTINGS.items())
    file.write_text(f"<clickhouse>{lines}</clickhouse>\n")
    return file


def refusal(code: int, text: str, name: str) -> EngineError:
    """An error in ClickHouse's own words that the interface raises itself."""
    return EngineError(code, f"Code: {code}. DB::Exception: {text}. ({name})")


def engine_error(error: Exception) -> EngineError:
    """Puts a chDB error into the form a server has: code first, one name at the end, no version."""
    text = str(error)
    start = text.find("Code: ")
    text = _NESTED.sub("", text[start:] if start >= 0 else text)
    trailer = _TRAILER.search(text)
    if trailer:
        name = trailer.group("name")
        text = text[: trailer.start()] + (f" ({name})" if name else "")
    code = _CODE.match(text)
    if code is None:
        return EngineError(UNKNOWN_EXCEPTION, f"Code: {UNKNOWN_EXCEPTION}. DB::Exception: {text} (UNKNOWN_EXCEPTION)")
    return EngineError(int(code.group(1)), text)


def _text(sql: bytes) -> str:
    try:
        return sql.decode()
    except UnicodeDecodeError as error:
        raise refusal(BAD_ARGUMENTS, "The statement is not UTF-8", "BAD_ARGUMENTS") from error


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
