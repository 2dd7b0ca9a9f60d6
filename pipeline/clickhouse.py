"""ClickHouse as the pipeline sees it: one attempt at an insert or a question, over several servers, with errors as codes.

It owns connections, fail-over, the settings of an insert and what is known of a table. It never retries an insert (that
is `sink`), never shows the text of a server's error (it echoes row data) and never prints user info of a URL.

How an insert travels over HTTP: `POST /?database=..&query_id=..&insert_deduplication_token=..&<settings>`, with
`Content-Encoding: lz4` and as body one LZ4 frame of

    "INSERT INTO `table` (`a`, `b`) FORMAT Native\\n"  one Native block

The statement is in the body because wide tables would make addresses longer than proxies take. The query id is made of
the token: a server that is still at work on an attempt we gave up on answers 216 to the next one, so attempts never pile
up, and the wait ends when the first attempt has ended (then the token makes the resent block a duplicate of it). That is
why no `max_execution_time` is sent: an insert that is always a little too slow would be cancelled every time, and never
land; left alone, it lands on the first attempt and is recognised on the second.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from pipeline import classify
from pipeline.classify import ErrorClass
from pipeline.config.schema import ClickHouse as ClickHouseConfig
from pipeline.errors import ConfigurationError, Problem, SinkError

if TYPE_CHECKING:
    from pipeline.contract import TableColumn

T = TypeVar("T")
Setting = str | int | float | bool

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10
STREAM_CHUNK_BYTES = 1024 * 1024
BLOCK_ROWS_MAX = 4_194_304
BLOCK_BYTES_MAX = 1024 * 1024 * 1024
"""Above every batch: the server must neither split a block nor wait for a second one."""

INSERT_SETTINGS: Mapping[str, Setting] = {
    # One insert is one block is one identity: not collected with others, not parsed in pieces, not cut.
    "async_insert": 0,
    "input_format_parallel_parsing": 0,
    "max_insert_threads": 1,
    "max_insert_block_size": BLOCK_ROWS_MAX,
    "max_insert_block_size_bytes": 0,
    "min_insert_block_size_rows": BLOCK_ROWS_MAX,
    "min_insert_block_size_bytes": BLOCK_BYTES_MAX,
    "use_strict_insert_block_limits": 0,
    # The token counts. Without the last, a retry doubles the rows of every dependent view.
    "insert_deduplicate": 1,
    "deduplicate_insert": "enable",
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    # A LowCardinality(T) column is sent as T.
    "input_format_native_allow_types_conversion": 1,
}
"""Sent on every insert, as far as the server knows them."""

OWNED_SETTINGS = frozenset(INSERT_SETTINGS) | {"insert_deduplication_token", "query_id", "database", "session_id"}
"""Settings that `clickhouse.settings` may not name."""

_HTTP_STATUS = re.compile(r"^HTTP driver received HTTP status (\d{3})")
_WINDOW = re.compile(r"\b(\w*replicated_deduplication_window(?:_seconds)?) = (\d+)")


class ClickHouseError(SinkError):
    """One attempt failed. `code` is ClickHouse's (0: none), `error_class` what to do, `reason` the label of a retry."""

    def __init__(self, message: str, *, code: int, error_class: ErrorClass, reason: str, in_view: bool = False) -> None:
        super().__init__(message, code=code, retriable=error_class is ErrorClass.RETRIABLE)
        self.error_class = error_class
        self.reason = reason
        self.in_view = in_view
        """The server says that a materialized view failed, not the table itself."""


class Endpoint(NamedTuple):
    """One entry of `clickhouse.urls`, taken apart. `name` is what may be shown."""

    name: str
    interface: str
    """`http`, `https` or `chdb`."""
    host: str
    port: int
    path: str
    """The engine's directory, or the path of a proxy."""
    username: str
    password: str


class TableFacts(NamedTuple):
    """What decides whether inserts into a table are written exactly once."""

    engine: str
    replicated: bool
    """Blocks are remembered in Keeper, for all servers (Replicated and Shared engines)."""
    window_blocks: int
    """How many blocks are remembered; 0: tokens have no effect."""
    window_s: int | None
    """How long they are remembered; None: only their number counts."""
    partition_key: str
    sorting_key: str
    views: tuple[str, ...]
    """Materialized views that an insert into the table feeds."""
    lineage: bool
    """`_topic`, `_partition` and `_offset` are there: stored rows can be found by the record they came from."""


class Encoded(NamedTuple):
    """An insert ready to be sent any number of times: always the same bytes."""

    table: str
    columns: tuple[str, ...]
    body: bytes
    compression: str


def endpoints(config: ClickHouseConfig) -> list[Endpoint]:
    """The configured URLs, in order. Raises ConfigurationError for one that cannot be used."""
    found, problems = [], []
    for url in config.urls:
        try:
            found.append(_endpoint(url, config))
        except ValueError as error:
            problems.append(Problem("clickhouse.urls", _without_user_info(url), str(error), "Use http(s)://host:port"))
    if not config.urls:
        problems.append(Problem("clickhouse.urls", "", "there is no URL", "Name at least one http(s)://host:port"))
    if problems:
        raise ConfigurationError(problems)
    return found


def _endpoint(url: str, config: ClickHouseConfig) -> Endpoint:
    if url.startswith("chdb://"):
        path = url.removeprefix("chdb://")
        if not path:
            raise ValueError("a chdb URL names a directory: chdb:///var/lib/penstock")
        return Endpoint(url, "chdb", "", 0, path, "", "")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the scheme is http, https or chdb, and a host follows")
    port = parts.port or (8443 if parts.scheme == "https" else 8123)
    username = unquote(parts.username) if parts.username else config.username
    password = unquote(parts.password or "") if parts.username else config.password
    name = f"{parts.scheme}://{parts.hostname}:{port}{parts.path.rstrip('/')}"
    return Endpoint(name, parts.scheme, parts.hostname, port, parts.path.strip("/"), username, password)


def _without_user_info(url: str) -> str:
    return re.sub(r"//[^/]*@", "//***@", url)


def quote(name: str) -> str:
    """An identifier for SQL."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def quote_table(table: str) -> str:
    """`table` or `database.table` for SQL."""
    return ".".join(quote(part) for part in table.split(".", 1))


def literal(text: str) -> str:
    """A string literal for SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class _Connection(NamedTuple):
    client: Any
    insert_settings: dict[str, Setting]
    version: tuple[int, ...]


class _Server:
    """One endpoint and its idle connections. A connection is used by one thread at a time, whatever thread that is."""

    def __init__(self, endpoint: Endpoint, config: ClickHouseConfig) -> None:
        self.endpoint = endpoint
        self._config = config
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._closed = False

    @contextmanager
    def connection(self, doing: str) -> Iterator[_Connection]:
        """Lends a connection; every error inside the block leaves it as a ClickHouseError that says what was `doing`."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        errors = _client_errors()
        try:
            if connection is None:
                connection = self._connect()
            yield connection
        except errors as error:
            failure = _failure(error, self.endpoint, doing)
            if connection is not None and failure.code == 0:
                # The server may come back as another version: ask it again what it knows.
                connection.client.close()
                connection = None
            raise failure from None
        finally:
            self._give_back(connection)

    def _give_back(self, connection: _Connection | None) -> None:
        if connection is None:
            return
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.client.close()

    def _connect(self) -> _Connection:
        client = _open(self.endpoint, self._config)
        rows = client.query("SELECT name FROM system.settings").result_rows
        settings = insert_settings(self._config.settings, {row[0] for row in rows})
        version = tuple(int(part) for part in re.findall(r"\d+", str(client.server_version))[:4])
        return _Connection(client, settings, version)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.client.close()


def insert_settings(configured: Mapping[str, Setting], known: set[str]) -> dict[str, Setting]:
    """The settings of every insert on a server that knows `known`: ours as far as it knows them, the configured ones all."""
    ours = {key: value for key, value in INSERT_SETTINGS.items() if key in known}
    merged = {key: value for key, value in configured.items() if key not in OWNED_SETTINGS} | ours
    return {key: int(value) if isinstance(value, bool) else value for key, value in merged.items()}


def _client_errors() -> tuple[type[Exception], ...]:
    from clickhouse_connect.driver.exceptions import ClickHouseError as ClientError
    from urllib3.exceptions import HTTPError

    return ClientError, HTTPError, OSError


def _open(endpoint: Endpoint, config: ClickHouseConfig) -> Any:
    import clickhouse_connect

    if endpoint.interface == "chdb":
        try:
            return clickhouse_connect.get_client(interface="chdb", path=endpoint.path, database=config.database)
        except ImportError as error:
            fix = "Install the embedded engine: pip install 'penstock[embedded]'"
            raise ConfigurationError(
                [Problem("clickhouse.urls", endpoint.name, "chdb is not installed", fix)]
            ) from error
    return clickhouse_connect.get_client(
        interface=endpoint.interface,
        host=endpoint.host,
        port=endpoint.port,
        proxy_path=endpoint.path,
        username=endpoint.username,
        password=endpoint.password,
        database=config.database,
        connect_timeout=CONNECT_TIMEOUT_S,
        # How long the server may be silent. While it works, it sends progress headers that keep proxies content.
        send_receive_timeout=max(1, config.insert_timeout_ms // 1000),
        compress=False,
        query_retries=0,
        autogenerate_session_id=False,
        client_name="penstock",
    )


def _failure(error: Exception, endpoint: Endpoint, doing: str) -> ClickHouseError:
    """The client's exception as ours. Its text is used to tell apart, and never shown: it may hold row data."""
    text = str(error)
    code = int(getattr(error, "code", 0) or 0)
    status_found = _HTTP_STATUS.match(text)
    status = int(status_found.group(1)) if status_found else None
    error_class = classify.classify(code, text, status)
    unexplained = not code and status is None
    if unexplained and (_is_misuse(error) or (endpoint.interface == "chdb" and not isinstance(error, OSError))):
        error_class = ErrorClass.UNKNOWN
    said = f"HTTP status {status}" if status else _transport(error)
    what = f"code {code} {classify.name(code)}".rstrip() if code else said
    step = classify.next_step(code, text, status)
    message = f"{endpoint.name}: {doing}: {what}" + (f". {step}" if step else "")
    return ClickHouseError(
        message,
        code=code,
        error_class=error_class,
        reason=classify.reason(code, status),
        in_view="while pushing to view" in text,
    )


def _is_misuse(error: BaseException) -> bool:
    """The client library refused before anything was sent (a read-only setting, a second engine path in the process)."""
    from clickhouse_connect.driver.exceptions import NotSupportedError, ProgrammingError

    return isinstance(error, (ProgrammingError, NotSupportedError))


def _transport(error: BaseException) -> str:
    """The innermost cause of a failed connection, without addresses and parameters."""
    seen: BaseException = error
    while True:
        inner = getattr(seen, "reason", None)
        inner = inner if isinstance(inner, BaseException) else seen.__cause__ or seen.__context__
        if inner is None:
            break
        seen = inner
    said = seen.strerror if isinstance(seen, OSError) and seen.strerror else ""
    if isinstance(seen, TimeoutError) or "Timeout" in type(seen).__name__:
        return "no answer within the time allowed"
    if _is_misuse(seen):
        return str(seen)
    return f"{type(seen).__name__}: {said}" if said else type(seen).__name__


class ClickHouse:
    """Thread-safe. Every method makes one attempt and raises ClickHouseError; a retriable error makes the next one go to
    the next URL. All URLs must lead to the same (replicated) tables: an insert may be resent to another one.
    """

    def __init__(self, config: ClickHouseConfig) -> None:
        self._config = config
        self._servers = [_Server(endpoint, config) for endpoint in endpoints(config)]
        self._lock = threading.Lock()
        self._current = 0

    @property
    def several(self) -> bool:
        return len(self._servers) > 1

    @property
    def embedded(self) -> bool:
        return self._servers[0].endpoint.interface == "chdb"

    def close(self) -> None:
        for server in self._servers:
            server.close()

    @contextmanager
    def _connection(self, doing: str) -> Iterator[_Connection]:
        with self._lock:
            index = self._current
        try:
            with self._servers[index].connection(doing) as connection:
                yield connection
        except ClickHouseError as error:
            if error.retriable and self.several:
                with self._lock:
                    if self._current == index:
                        self._current = (index + 1) % len(self._servers)
            raise

    def _ask(self, doing: str, question: Callable[[_Connection], T]) -> T:
        """A question goes round all servers once before it fails: asking twice does no harm."""
        for left in reversed(range(len(self._servers))):
            try:
                with self._connection(doing) as connection:
                    return question(connection)
            except ClickHouseError as error:
                if not error.retriable or not left:
                    raise
        raise AssertionError("there is at least one server")

    def ping(self) -> None:
        """Connects, authenticates, and runs a query."""
        self._ask("connecting", lambda connection: connection.client.command("SELECT 1"))

    def version(self) -> tuple[int, ...]:
        return self._ask("reading the version", lambda connection: connection.version)

    def command(self, sql: str, doing: str = "running a statement") -> None:
        self._ask(doing, lambda connection: connection.client.command(sql))

    def query_rows(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        doing: str = "running a query",
        settings: Mapping[str, Setting] | None = None,
    ) -> list[tuple[Any, ...]]:
        def question(connection: _Connection) -> list[tuple[Any, ...]]:
            result = connection.client.query(sql, parameters=dict(parameters or {}), settings=dict(settings or {}))
            return [tuple(row) for row in result.result_rows]

        return self._ask(doing, question)

    def query_bytes(
        self, sql: str, fmt: str, parameters: Mapping[str, Any] | None = None, doing: str = "reading rows"
    ) -> Iterator[bytes]:
        """The result in `fmt`, in pieces; for results that must not be in memory whole.

        The server finishes the query before it answers (`wait_end_of_query`): an error in the middle would otherwise
        look like the end of the data.
        """
        with self._connection(doing) as connection:
            arguments: dict[str, Any] = {"parameters": dict(parameters or {}), "fmt": fmt}
            stream = connection.client.raw_stream(sql, settings={"wait_end_of_query": 1}, **arguments)
            try:
                while piece := stream.read(STREAM_CHUNK_BYTES):
                    yield piece
            finally:
                stream.close()

    def columns(self, table: str) -> list[TableColumn]:
        """The table's columns in order. Raises ClickHouseError with code 60 when there is no such table."""
        from pipeline.contract import TableColumn

        database, name = self._split(table)
        rows = self.query_rows(
            "SELECT name, type, default_kind, default_expression FROM system.columns "
            f"WHERE database = {literal(database)} AND table = {literal(name)} ORDER BY position",
            doing=f"reading the columns of {table}",
        )
        if not rows:
            raise self._missing(table)
        return [TableColumn(*row) for row in rows]

    def table_facts(self, table: str) -> TableFacts:
        """Raises ClickHouseError with code 60 when there is no such table."""
        database, name = self._split(table)
        rows = self.query_rows(
            "SELECT engine, engine_full, partition_key, sorting_key, dependencies_database, dependencies_table, "
            "(SELECT count() FROM system.columns WHERE database = {db:String} AND table = {name:String} "
            "AND name IN ('_topic', '_partition', '_offset')) "
            "FROM system.tables WHERE database = {db:String} AND name = {name:String}",
            {"db": database, "name": name},
            doing=f"reading what {table} is",
        )
        if not rows:
            raise self._missing(table)
        engine, full, partition_key, sorting_key, view_databases, view_names, lineage = rows[0]
        replicated = engine.startswith(("Replicated", "Shared"))
        blocks, seconds = self._window(full, replicated) if engine.endswith("MergeTree") else (0, None)
        views = tuple(f"{database}.{view}" for database, view in zip(view_databases, view_names, strict=True))
        return TableFacts(engine, replicated, blocks, seconds, partition_key, sorting_key, views, lineage == 3)

    def _window(self, engine_full: str, replicated: bool) -> tuple[int, int | None]:
        """The deduplication window that holds: the table's own setting, or else the server's default."""
        own = {key: int(value) for key, value in _WINDOW.findall(engine_full.rpartition(" SETTINGS ")[2])}
        prefix = "replicated" if replicated else "non_replicated"
        system = "replicated_merge_tree_settings" if replicated else "merge_tree_settings"
        rows = self.query_rows(
            f"SELECT name, toInt64(value) FROM system.{system} WHERE name LIKE '%replicated_deduplication_window%'",
            doing="reading the default deduplication window",
        )
        value = dict(rows) | own
        seconds = value.get("replicated_deduplication_window_seconds") if replicated else None
        return value.get(f"{prefix}_deduplication_window", 0), seconds

    def _split(self, table: str) -> tuple[str, str]:
        database, dot, name = table.partition(".")
        return (database, name) if dot else (self._config.database, table)

    def _missing(self, table: str) -> ClickHouseError:
        message = f"there is no table {table}. {classify.next_step(60)}"
        return ClickHouseError(message, code=60, error_class=ErrorClass.STOP, reason="")

    def encode(self, table: str, columns: Sequence[str], block: bytes) -> Encoded:
        """Makes the bytes of an insert, once for all attempts."""
        if self.embedded:
            return Encoded(table, tuple(columns), block, "")
        names = ", ".join(quote(column) for column in columns)
        statement = f"INSERT INTO {quote_table(table)} ({names}) FORMAT Native\n".encode()
        if self._config.compression == "none":
            return Encoded(table, tuple(columns), statement + block, "")
        return Encoded(table, tuple(columns), _lz4(statement, block), "lz4")

    def insert(self, encoded: Encoded, token: str) -> None:
        """One attempt. Returning means acknowledged; any error leaves open whether the block is stored."""
        with self._connection(f"inserting into {encoded.table}") as connection:
            settings = connection.insert_settings | {"insert_deduplication_token": token}
            if self.embedded:
                connection.client.raw_insert(
                    quote_table(encoded.table), encoded.columns, encoded.body, settings=settings, fmt="Native"
                )
                return
            settings["query_id"] = f"penstock-{token}"
            connection.client.raw_insert(
                insert_block=encoded.body, settings=settings, compression=encoded.compression or None
            )


def _lz4(*parts: bytes) -> bytes:
    """One LZ4 frame of all parts, without joining them first. The checksum catches what TCP's does not."""
    import lz4.frame

    compressor = lz4.frame.LZ4FrameCompressor(
        block_size=lz4.frame.BLOCKSIZE_MAX1MB, block_linked=False, content_checksum=True
    )
    pieces = [compressor.begin(sum(map(len, parts)))]
    pieces += [compressor.compress(part) for part in parts]
    pieces.append(compressor.flush())
    return b"".join(pieces)
