"""Writes blocks into ClickHouse: every row once, or refused by ClickHouse as bad data, or not at all and loudly.

It owns retries, the bisection of a refused block, and the question which records a table has already. It never builds a
block, never makes a token, and never touches Kafka.

An attempt that timed out, or whose answer was lost, may have been applied or may still be running. The same bytes are
then sent again under the same token: ClickHouse takes a block with a token it has seen for the one it has, whichever of
the two lands first (`clickhouse` says what keeps attempts from piling up). When answers stay away for so long that the
table may have forgotten the token, the rows are looked up first and only those that are missing are sent again.

A token is not yet a row. A MergeTree writes the token of a part into its log before it keeps the part; a server that is
killed between the two takes the repeated insert for done. So the rows of an insert that was not acknowledged at once are
looked up when it is, and those that are missing are sent under another token. (A replicated table keeps part and token in
one step, and its replicas may lag: it is not asked.)

Bisection. A refused block is cut by its *spans*, not by its row numbers: rows follow their (topic, partition, offset),
and each half is inserted under the token of its own path ("0", "1", "00", ...). Another worker that recovers the same
batch may find other rows stored and so build another block, but it cuts the same spans at the same places and uses the
same tokens, so that whatever both of them send is written once.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from pipeline.classify import ErrorClass, name
from pipeline.clickhouse import ClickHouse, ClickHouseError, TableFacts, literal, quote_table
from pipeline.clock import Clock
from pipeline.config.schema import ClickHouse as ClickHouseConfig
from pipeline.errors import RejectLimitExceeded, SinkError
from pipeline.intent import halves
from pipeline.patience import Patience
from pipeline.types import Partition, Reject, RejectCode, Span, Stage

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

INSERTS_PER_S_MAX = 100
"""Into one table, by the whole fleet: what ClickHouse's merges stand for a while, and more than any plan should make."""
HOW_TO_GO_ON = (
    'docs/runbook.md says how to go on ("An insert without an answer"); with lineage columns it does not happen'
)
REFUSED_ROWS_MAX = 1_000
"""A block of which ClickHouse refuses more rows than this stops the pipeline: finding one costs some ten inserts, and a
table that refuses so many does not fit the contract."""


class Block(Protocol):
    """What the sink needs of a Native block."""

    rows: int

    def lineage(self) -> tuple[Sequence[str], Sequence[int], Sequence[int], Sequence[int]]:
        """Topics, and for every row the index of its topic, its partition and its offset."""

    def native(self, rows: Sequence[int] | None = None) -> bytes:
        """One Native block of these rows (ascending), or of all."""

    def framed(self, prefix: bytes, rows: Sequence[int] | None = None) -> Buffer:
        """The same after a prefix, as one LZ4 frame."""


class Metrics(Protocol):
    """What the sink counts."""

    def inserted(self, table: str, rows: int) -> None: ...

    def insert_seconds(self, table: str, seconds: float) -> None: ...

    def retried(self, error_class: str) -> None: ...


class Write(NamedTuple):
    """One table's share of a batch. `token(path, look)` names the insert of a part of it: the whole has the path "", and
    `look` is how often rows of it were looked up after an acknowledgement and sent again."""

    table: str
    columns: tuple[str, ...]
    block: Block
    spans: tuple[Span, ...]
    token: Callable[[str, int], str]


class _Refused(NamedTuple):
    """A part of a block with a row in it that ClickHouse does not take."""

    path: str
    spans: tuple[Span, ...]
    rows: list[int]
    error: ClickHouseError


class _TokenForgotten(Exception):
    """So much time has passed since the first attempt that the table may not know its token any more."""


class Sink:
    """Thread-safe; each call blocks its thread until ClickHouse has answered.

    Raises SinkError for everything an operator must look at, and Stopping when the worker stops while it waits.
    """

    def __init__(
        self,
        clickhouse: ClickHouse,
        config: ClickHouseConfig,
        clock: Clock,
        stopping: threading.Event,
        metrics: Metrics,
        random: Random,
        *,
        refused_rows_max: int = REFUSED_ROWS_MAX,
    ) -> None:
        self._clickhouse = clickhouse
        self._clock = clock
        self._metrics = metrics
        self._refused_rows_max = refused_rows_max
        self._patience = Patience(clock, stopping, random, metrics, wait_ms_max=config.retry_wait_ms_max)
        self._facts: dict[str, TableFacts] = {}

    @property
    def waiting(self) -> str:
        """What has waited longest for ClickHouse, why and for how long; empty when nothing waits."""
        return self._patience.described

    def patiently(self, what: str, question: Callable[[], T]) -> T:
        """Calls `question`, which uses ClickHouse, until it answers. Errors that waiting does not cure pass through."""
        return self._patience.until_done(what, question, _worth_waiting)

    def facts(self, table: str) -> TableFacts:
        """What the table is, as it was when first asked."""
        if table not in self._facts:
            self._facts[table] = self._fresh_facts(table)
        return self._facts[table]

    def has_lineage(self, table: str) -> bool:
        """Whether `stored` can answer for this table: it has `_topic`, `_partition` and `_offset`."""
        return self.facts(table).lineage

    def token_life_ms(self, table: str) -> int | None:
        """How long the table remembers a token at least; None when only a number of blocks bounds it, 0 when it never does."""
        facts = self.facts(table)
        if not facts.window_blocks:
            return 0
        return None if facts.window_s is None else facts.window_s * 1000

    def remembers_token(self, table: str, age_ms: int) -> bool:
        """Whether the table certainly still knows the token of an insert of that age.

        Where only a number of blocks bounds the memory, a fleet is taken to make INSERTS_PER_S_MAX inserts a second.
        """
        facts = self.facts(table)
        if age_ms / 1000 * INSERTS_PER_S_MAX > facts.window_blocks:
            return False
        return facts.window_s is None or age_ms < facts.window_s * 1000 / 2

    def stored(self, table: str, spans: Sequence[Span]) -> dict[Partition, list[tuple[int, int]]]:
        """The offsets inside the spans that the table has rows of, as sorted half-open ranges; only for `has_lineage`.

        ClickHouse joins neighbouring offsets into ranges, so that the answer is short unless rows and gaps alternate.
        """
        if not spans:
            return {}
        rows = self.patiently(
            f"looking up stored rows in {table}",
            lambda: self._clickhouse.query_rows(stored_sql(table, spans), doing=f"looking up stored rows in {table}"),
        )
        found: dict[Partition, list[tuple[int, int]]] = {}
        for topic, partition, first, next_offset in rows:
            found.setdefault(Partition(topic, partition), []).append((first, next_offset))
        return found

    def extents(self, table: str, spans: Sequence[Span]) -> dict[Partition, tuple[int, int]]:
        """Of each span with rows in the table the first offset that has one, and the offset after the last.

        A span may be without end: the answer has a row for each partition, whatever is stored.
        """
        if not spans:
            return {}
        doing = f"looking for stored rows in {table}"
        rows = self.patiently(doing, lambda: self._clickhouse.query_rows(extents_sql(table, spans), doing=doing))
        return {Partition(topic, partition): (first, end) for topic, partition, first, end in rows}

    def insert(self, write: Write) -> list[tuple[Partition, int, Reject]]:
        """Returns when every row of the block is in the table or refused as data, and which ones were refused."""
        if not write.block.rows:
            return []
        error = self._put(write, "", None)
        return [] if error is None else self._bisect(write, error)

    def _put(self, write: Write, path: str, rows: list[int] | None) -> ClickHouseError | None:
        """Inserts a part of the block, trying until it is acknowledged. Returns the error when it is refused as data."""
        missing, look, at_once = rows, 0, True
        while missing is None or missing:
            try:
                at_once &= self._put_remembered(write, write.token(path, look), missing)
                if at_once or not self._keeps_tokens_first(write.table):
                    break
                # Only the rows tell. What is missing goes under a token that stands for nothing yet.
                look, at_once = look + 1, True
            except _TokenForgotten:
                at_once = False
            except ClickHouseError as error:
                if error.error_class is ErrorClass.DATA:
                    return error
                raise
            rows_left = range(write.block.rows) if missing is None else missing
            missing = self._not_stored(write.table, write.spans, rows_left, RowOrigins(write.block))
        self._metrics.inserted(write.table, write.block.rows if rows is None else len(rows))
        return None

    def _put_remembered(self, write: Write, token: str, rows: list[int] | None) -> bool:
        """Tries until it is acknowledged, or until the table may have forgotten the token of the first attempt.

        Returns whether the first attempt was acknowledged.
        """
        encoded = self._clickhouse.encode(write.table, write.columns, write.block, rows)
        first_s: float | None = None
        attempts = 0

        def attempt() -> None:
            nonlocal first_s, attempts
            attempts += 1
            started_s = self._clock.monotonic_s()
            if first_s is None:
                first_s = started_s
            elif not self._still_one(write.table, int((started_s - first_s) * 1000)):
                raise _TokenForgotten
            try:
                self._clickhouse.insert(encoded, token)
            finally:
                self._metrics.insert_seconds(write.table, self._clock.monotonic_s() - started_s)

        self.patiently(f"inserting into {write.table}", attempt)
        return attempts == 1

    def _keeps_tokens_first(self, table: str) -> bool:
        """Whether a token may be known without its rows, and the rows can be asked for."""
        facts = self.facts(table)
        return facts.lineage and not facts.replicated

    def _still_one(self, table: str, age_ms: int) -> bool:
        """Whether another attempt and one of that age are surely one insert. Raises SinkError when nothing can tell."""
        if self.has_lineage(table):
            return self.remembers_token(table, age_ms)
        if (life_ms := self.token_life_ms(table)) and age_ms > life_ms / 2:
            raise _too_old(table, age_ms)
        return True

    def _not_stored(self, table: str, spans: Sequence[Span], rows: Iterable[int], origins: RowOrigins) -> list[int]:
        """Those of the rows, all from inside the spans, that the table has not; only for `has_lineage`."""
        stored = self.stored(table, spans)
        return [row for row in rows if not _contains(stored, *origins.of(row))]

    def _bisect(self, write: Write, error: ClickHouseError) -> list[tuple[Partition, int, Reject]]:
        """Writes a refused block but for the rows that ClickHouse refuses one by one."""
        origins = RowOrigins(write.block)
        rows = self._unstored(write, write.spans, list(range(write.block.rows)), error, origins)
        todo = [_Refused("", write.spans, rows, error)]
        found: list[tuple[Partition, int, Reject]] = []
        while todo:
            part = todo.pop()
            if len(part.rows) > 1:
                todo += self._halve(write, part, origins)
                self._patience.check()
            elif part.rows:
                found.append((*origins.of(part.rows[0]), _reject(part.error)))
                if len(found) > self._refused_rows_max:
                    raise RejectLimitExceeded(_too_many(write.table, self._refused_rows_max, part.error))
        return sorted(found, key=lambda one: one[:2])

    def _halve(self, write: Write, part: _Refused, origins: RowOrigins) -> Iterator[_Refused]:
        """Inserts the two halves of a refused part and gives those that are refused again."""
        rows_of = frozenset(part.rows)
        for digit, spans in zip("01", halves(part.spans), strict=True):
            path = part.path + digit
            rows = [row for row in origins.within(spans) if row in rows_of]
            if len(rows) == len(part.rows):
                # The other half is empty: these very rows were refused a moment ago.
                yield _Refused(path, spans, rows, part.error)
            elif rows:
                # Much may have happened since the rows were looked up: the half before this one may have waited long.
                if self.has_lineage(write.table):
                    rows = self._not_stored(write.table, spans, rows, origins)
                error = self._put(write, path, rows)
                if error is not None:
                    yield _Refused(path, spans, self._unstored(write, spans, rows, error, origins), error)

    def _unstored(
        self, write: Write, spans: tuple[Span, ...], rows: list[int], error: ClickHouseError, origins: RowOrigins
    ) -> list[int]:
        """The rows of a refused insert that are not in the table all the same.

        A block for several table partitions becomes several parts, and a materialized view comes after the table: rows may
        be stored although the insert was refused. And another worker may have recovered the batch without the refused row,
        which is a copy of one in a partition of its own. To insert rows again under the token of a half would double them.
        """
        facts = self._fresh_facts(write.table)
        if not facts.lineage:
            if facts.views and error.in_view:
                raise _view_refuses(write.table, facts, error)
            return rows
        left = self._not_stored(write.table, spans, rows, origins)
        # A row that the table itself refuses is never in it.
        if facts.views and len(left) < len(rows) and (error.in_view or not left):
            raise _view_refuses(write.table, facts, error)
        return left

    def _fresh_facts(self, table: str) -> TableFacts:
        return self.patiently(f"reading what {table} is", lambda: self._clickhouse.table_facts(table))


class RowOrigins:
    """Which record each row of a block came from, and which rows came from given spans."""

    def __init__(self, block: Block) -> None:
        topics, topic_of, partition_of, offset_of = block.lineage()
        self._rows = [
            (Partition(topics[topic], partition), offset)
            for topic, partition, offset in zip(topic_of, partition_of, offset_of, strict=True)
        ]
        self._offsets: dict[Partition, list[int]] = {}
        self._at: dict[Partition, list[int]] = {}
        for row in sorted(range(len(self._rows)), key=self._rows.__getitem__):
            partition, offset = self._rows[row]
            self._offsets.setdefault(partition, []).append(offset)
            self._at.setdefault(partition, []).append(row)

    def of(self, row: int) -> tuple[Partition, int]:
        return self._rows[row]

    def within(self, spans: Sequence[Span]) -> list[int]:
        """The rows of records inside the spans, ascending."""
        found: list[int] = []
        for partition, first, next_offset in spans:
            offsets = self._offsets.get(partition, [])
            found += self._at.get(partition, [])[bisect_left(offsets, first) : bisect_left(offsets, next_offset)]
        return sorted(found)


def stored_sql(table: str, spans: Sequence[Span]) -> str:
    """Which offsets of the spans have rows, as (topic, partition, first, next) of each run without a gap.

    Offsets that follow one another have the same difference to their position in the order, so that this groups them.
    """
    return (
        "SELECT t, p, min(o), max(o) + 1 FROM ("
        "SELECT t, p, o, o - toInt64(row_number() OVER (PARTITION BY t, p ORDER BY o)) AS run FROM ("
        "SELECT DISTINCT toString(_topic) AS t, toInt32(_partition) AS p, toInt64(_offset) AS o "
        f"FROM {quote_table(table)} WHERE {_inside(spans)})) "
        "GROUP BY t, p, run ORDER BY t, p, min(o)"
    )


def extents_sql(table: str, spans: Sequence[Span]) -> str:
    """The first and the last offset of the spans that have rows, as (topic, partition, first, last + 1)."""
    return (
        "SELECT toString(_topic) AS t, toInt32(_partition) AS p, toInt64(min(_offset)), toInt64(max(_offset)) + 1 "
        f"FROM {quote_table(table)} WHERE {_inside(spans)} GROUP BY t, p ORDER BY t, p"
    )


def _inside(spans: Sequence[Span]) -> str:
    """The condition for a row to be of a record inside the spans."""
    by_topic: dict[str, list[str]] = {}
    for (topic, partition), first, next_offset in spans:
        condition = f"(_partition = {partition} AND _offset >= {first} AND _offset < {next_offset})"
        by_topic.setdefault(topic, []).append(condition)
    return " OR ".join(
        f"(_topic = {literal(topic)} AND ({' OR '.join(conditions)}))" for topic, conditions in by_topic.items()
    )


def _worth_waiting(error: Exception) -> tuple[str, str] | None:
    return (error.reason, str(error)) if isinstance(error, ClickHouseError) and error.retriable else None


def _contains(stored: dict[Partition, list[tuple[int, int]]], partition: Partition, offset: int) -> bool:
    ranges = stored.get(partition, [])
    at = bisect_left(ranges, (offset + 1,)) - 1
    return at >= 0 and offset < ranges[at][1]


def _reject(error: ClickHouseError) -> Reject:
    return Reject(Stage.INSERT, RejectCode.REFUSED, f"ClickHouse code {error.code} {name(error.code)}")


def _view_refuses(table: str, facts: TableFacts, error: ClickHouseError) -> SinkError:
    return SinkError(
        f"a materialized view on {table} refuses rows that the table itself has stored (code {error.code} "
        f"{name(error.code)}; the views are {', '.join(facts.views)}). Correct the view so that it takes every row of the "
        "table, fill what it misses from the table, and start again",
        code=error.code,
        retriable=False,
    )


def _too_old(table: str, age_ms: int) -> SinkError:
    return SinkError(
        f"an insert into {table} has had no answer for {age_ms // 1000} s, more than half the deduplication window, and the "
        f"table has no lineage columns to look its rows up by. {HOW_TO_GO_ON}",
        code=0,
        retriable=False,
    )


def _too_many(table: str, rows_max: int, error: ClickHouseError) -> str:
    return (
        f"ClickHouse refuses more than {rows_max} rows of one block for {table}, the last with code {error.code} "
        f"{name(error.code)}. The table does not fit the contract any more: compare them with `penstock check`; "
        "nothing of the batch is lost, it goes on from here"
    )
