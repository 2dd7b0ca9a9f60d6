"""Connections to ClickHouse servers: addresses, the settings of an insert, and errors as codes.

It owns clients of clickhouse-connect and lends each to one thread at a time. It asks and inserts nothing by itself, never
shows the text of a server's error (it echoes row data) and never prints user info of a URL.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from pipeline import classify
from pipeline.classify import ErrorClass
from pipeline.config.schema import ClickHouse as ClickHouseConfig
from pipeline.errors import ConfigurationError, Problem, SinkError

Setting = str | int | float | bool

CONNECT_TIMEOUT_S = 10
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
    # Nor make one row of several (ReplacingMergeTree): what is missing could not be told from what was replaced.
    "optimize_on_insert": 0,
    # The token counts. Without the last, a retry doubles the rows of every dependent view.
    "insert_deduplicate": 1,
    "deduplicate_insert": "enable",
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    # A LowCardinality(T) column is sent as T.
    "input_format_native_allow_types_conversion": 1,
}
"""Sent on every insert, as far as the server knows them."""

QUERY_SETTINGS: Mapping[str, Setting] = {"readonly": 2, "cancel_http_readonly_queries_on_client_close": 1}
"""Sent with every question, where the user may set them: the server gives up a question whose asker has hung up. Otherwise what
timed out goes on beside the attempts that follow, and a server too busy to answer in time gets ever more to do."""

OWNED_SETTINGS = frozenset(INSERT_SETTINGS) | {"insert_deduplication_token", "query_id", "database", "session_id"}
"""Settings that `clickhouse.settings` may not name."""

_HTTP_STATUS = re.compile(r"^HTTP driver received HTTP status (\d{3})")


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


class Connection(NamedTuple):
    client: Any
    insert_settings: dict[str, Setting]
    query_settings: dict[str, Setting]
    version: tuple[int, ...]


class Server:
    """One endpoint and its idle connections. A connection is used by one thread at a time, whatever thread that is."""

    def __init__(self, endpoint: Endpoint, config: ClickHouseConfig) -> None:
        self.endpoint = endpoint
        self._config = config
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def connection(self, doing: str) -> Iterator[Connection]:
        """Lends a connection; every error inside the block leaves it as a ClickHouseError that says what was `doing`."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        errors = _client_errors()
        try:
            if connection is None:
                connection = self._connect()
            yield connection
        except errors as error:
            failure = failure_of(error, self.endpoint, doing)
            if connection is not None and failure.code == 0:
                # The server may come back as another version: ask it again what it knows.
                connection.client.close()
                connection = None
            raise failure from None
        finally:
            self._give_back(connection)

    def _give_back(self, connection: Connection | None) -> None:
        if connection is None:
            return
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.client.close()

    def _connect(self) -> Connection:
        client = open_client(self.endpoint, self._config)
        rows = client.query("SELECT name, value, readonly FROM system.settings").result_rows
        inserts = insert_settings(self._config.settings, {row[0] for row in rows})
        queries = {} if self.endpoint.interface == "chdb" else query_settings(rows)
        version = tuple(int(part) for part in re.findall(r"\d+", str(client.server_version))[:4])
        return Connection(client, inserts, queries, version)

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


def query_settings(found: Iterable[tuple[str, str, int]]) -> dict[str, Setting]:
    """The settings of every question to a server with these (name, value, fixed); none for a user who may not set them."""
    free = {name: value for name, value, fixed in found if not fixed}
    return dict(QUERY_SETTINGS) if QUERY_SETTINGS.keys() <= free.keys() and free["readonly"] == "0" else {}


def _client_errors() -> tuple[type[Exception], ...]:
    from clickhouse_connect.driver.exceptions import ClickHouseError as ClientError
    from urllib3.exceptions import HTTPError

    return ClientError, HTTPError, OSError


def open_client(endpoint: Endpoint, config: ClickHouseConfig) -> Any:
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


def failure_of(error: Exception, endpoint: Endpoint, doing: str) -> ClickHouseError:
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
