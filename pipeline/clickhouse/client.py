"""ClickHouse as the rest of the pipeline sees it: one attempt at an insert or a question, over several servers.

It owns fail-over between servers, the bytes of an insert and the questions about a table. It never retries an insert (that
is `sink`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from pipeline import classify
from pipeline.classify import ErrorClass
from pipeline.clickhouse.connection import ClickHouseError, Connection, Server, Setting, endpoints
from pipeline.config.schema import ClickHouse as ClickHouseConfig

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pipeline.contract import TableColumn

T = TypeVar("T")
STREAM_CHUNK_BYTES = 1024 * 1024
TOTALS = ("Summing", "Aggregating", "Collapsing", "Coalescing", "Graphite")
"""In the names of engines that make one row of several."""
SYNTAX_ERROR = 62
_WINDOW = re.compile(r"\b(\w*replicated_deduplication_window(?:_seconds)?) = (\d+)")


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
    """`_topic`, `_partition` and `_offset` are there, and rows stay what they are: each can be found by its record."""

    @property
    def totals(self) -> bool:
        """Merges make one row of several."""
        return any(part in self.engine for part in TOTALS)


class NativeBlock(Protocol):
    """What is inserted: see `pipeline.native.Block`. `rows`: the indexes of the rows that are meant, None for all."""

    def native(self, rows: Sequence[int] | None = None) -> bytes: ...

    def framed(self, prefix: bytes, rows: Sequence[int] | None = None) -> Buffer: ...


class Encoded(NamedTuple):
    """An insert ready to be sent any number of times: always the same bytes."""

    table: str
    columns: tuple[str, ...]
    body: Buffer
    compression: str


def quote(name: str) -> str:
    """An identifier for SQL."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def quote_table(table: str) -> str:
    """`table` or `database.table` for SQL."""
    return ".".join(quote(part) for part in table.split(".", 1))


def literal(text: str) -> str:
    """A string literal for SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class ClickHouse:
    """Thread-safe. Every method makes one attempt and raises ClickHouseError; a retriable error makes the next one go to
    the next URL. All URLs must lead to the same (replicated) tables: an insert may be resent to another one.
    """

    def __init__(self, config: ClickHouseConfig) -> None:
        self._config = config
        self._servers = [Server(endpoint, config) for endpoint in endpoints(config)]
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
    def _connection(self, doing: str) -> Iterator[Connection]:
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

    def _ask(self, doing: str, question: Callable[[Connection], T]) -> T:
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

    def granted(self, privilege: str, where: str) -> bool | None:
        """Whether the user has a privilege (`CHECK GRANT privilege ON where`); None: the server is older than the question."""

        def question(connection: Connection) -> bool:
            return str(connection.client.command(f"CHECK GRANT {privilege} ON {where}")).strip() == "1"

        try:
            return self._ask("asking for the user's rights", question)
        except ClickHouseError as error:
            if error.code != SYNTAX_ERROR:
                raise
            return None

    def query_rows(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        doing: str = "running a query",
        settings: Mapping[str, Setting] | None = None,
    ) -> list[tuple[Any, ...]]:
        def question(connection: Connection) -> list[tuple[Any, ...]]:
            asked = connection.query_settings | dict(settings or {})
            result = connection.client.query(sql, parameters=dict(parameters or {}), settings=asked)
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
            settings = connection.query_settings | {"wait_end_of_query": 1}
            stream = connection.client.raw_stream(sql, settings=settings, **arguments)
            try:
                while piece := stream.read(STREAM_CHUNK_BYTES):
                    yield piece
            finally:
                stream.close()

    def columns(self, table: str) -> list[TableColumn]:
        """The table's columns in order. Raises ClickHouseError with code 60 when there is no such table."""
        from pipeline.contract import TableColumn

        database, name = self.split(table)
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
        database, name = self.split(table)
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
        facts = TableFacts(engine, replicated, blocks, seconds, partition_key, sorting_key, views, lineage == 3)
        return facts._replace(lineage=facts.lineage and not facts.totals)

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

    def split(self, table: str) -> tuple[str, str]:
        """Database and name of a table as the configuration names it."""
        database, dot, name = table.partition(".")
        return (database, name) if dot else (self._config.database, table)

    def _missing(self, table: str) -> ClickHouseError:
        message = f"there is no table {table}. {classify.next_step(60)}"
        return ClickHouseError(message, code=60, error_class=ErrorClass.STOP, reason="")

    def encode(
        self, table: str, columns: Sequence[str], block: NativeBlock, rows: Sequence[int] | None = None
    ) -> Encoded:
        """Makes the bytes of an insert of these rows, or of all, once for all attempts."""
        if self.embedded:
            return Encoded(table, tuple(columns), block.native(rows), "")
        names = ", ".join(quote(column) for column in columns)
        statement = f"INSERT INTO {quote_table(table)} ({names}) FORMAT Native\n".encode()
        if self._config.compression == "none":
            return Encoded(table, tuple(columns), statement + block.native(rows), "")
        return Encoded(table, tuple(columns), block.framed(statement, rows), "lz4")

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
            # The client library sends `bytes` a second time by itself when the connection breaks, uncounted; a view not.
            connection.client.raw_insert(
                insert_block=memoryview(encoded.body), settings=settings, compression=encoded.compression or None
            )
