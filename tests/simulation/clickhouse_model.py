"""A model of ClickHouse tables: parts by table partition, a window of insert tokens, constraints, lineage.

It speaks the interface of `pipeline.clickhouse.ClickHouse` and takes Native blocks and the three questions that this
project asks. `tests/contract/test_models.py` holds it against the real engine.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline import classify
from pipeline.clickhouse import ClickHouseError, Encoded, NativeBlock, TableFacts
from tests.simulation.faults import Fault, Faults
from tests.simulation.loop import Loop, Process

NETWORK_S = 0.006
INSERT_TIMEOUT_S = 3.0
NETWORK_ERROR = 210
SAME_QUERY = 216
UNKNOWN_TABLE = 60
OUT_OF_MEMORY = 241
_ARRAYS = {"UInt64": "Q", "Int64": "q", "Int32": "i", "UInt8": "B", "DateTime64(3)": "q"}
_FROM = re.compile(r"FROM `(\w+)`")
_SPANS = re.compile(r"_topic = '([^']*)'|_partition = (\d+) AND _offset >= (\d+) AND _offset < (\d+)")
_ONE = re.compile(r"_topic = '([^']*)' AND _partition = (\d+)(?: AND _offset = (\d+))?")
_WINDOW = re.compile(r"toIntervalSecond\((\d+)\)")
_BELOW = re.compile(r"_offset < (\d+)")
_BEFORE = re.compile(r"_partition = (\d+) AND _offset < (\d+)")
_FROM_ON = re.compile(r"_partition = (\d+) AND _offset >= (\d+)\)")
_STORED = re.compile(
    r"_partition = (\d+) AND _offset >= (\d+) AND \(_offset < (\d+) OR \(.*? > (\d+) AND .*? <= (\d+)\)\)"
)
_LIMIT = re.compile(r"LIMIT (\d+)")

Row = Mapping[str, Any]


class Table:
    """One MergeTree table."""

    def __init__(
        self,
        columns: Mapping[str, str],
        *,
        partition_by: str = "",
        window_blocks: int = 100,
        window_s: int | None = None,
        refuses: Callable[[Row], int] = lambda row: 0,
        view: Table | None = None,
    ) -> None:
        self.columns = dict(columns)
        self.partition_by = partition_by
        self.window_blocks = window_blocks
        self.window_s = window_s
        self.refuses = refuses
        self.view = view
        """What a materialized view makes of each block, under a window of its own."""
        self.rows: list[Row] = []
        self._tokens: OrderedDict[tuple[Any, str], float] = OrderedDict()
        self._places: dict[tuple[str, int], dict[int, Row]] = {}

    @property
    def lineage(self) -> bool:
        return {"_topic", "_partition", "_offset"} <= self.columns.keys()

    def insert(
        self, rows: Sequence[Row], token: str, now_s: float, *, parts_max: int | None = None, token_first: bool = False
    ) -> list[Row]:
        """One insert of one block; returns the rows that were new. `parts_max`: the server dies after so many parts.

        A block becomes a part in each table partition, each remembered by itself. `token_first`: it dies when the next part
        is remembered and not yet kept; with Keeper that is one step. Raises ValueError with the code of a violated
        constraint, before anything is written.
        """
        for row in rows:
            if code := self.refuses(row):
                raise ValueError(code)
        parts: dict[Any, list[Row]] = {}
        for row in rows:
            parts.setdefault(row[self.partition_by] if self.partition_by else "", []).append(row)
        new: list[Row] = []
        for number, key in enumerate(parts):
            if number == parts_max:
                if token_first and self.window_s is None:
                    self._seen((key, token), now_s)
                break
            if not self._seen((key, token), now_s):
                new += parts[key]
        self.rows += new
        for row in new if self.lineage else ():
            self._places.setdefault((row["_topic"], row["_partition"]), {})[row["_offset"]] = row
        return new

    def _seen(self, block: tuple[Any, str], now_s: float) -> bool:
        """Whether the block is in the window; it is afterwards."""
        if not self.window_blocks:
            return False
        if self.window_s is not None:
            while self._tokens and next(iter(self._tokens.values())) < now_s - self.window_s:
                self._tokens.popitem(last=False)
        if block in self._tokens:
            return True
        self._tokens[block] = now_s
        while len(self._tokens) > self.window_blocks:
            self._tokens.popitem(last=False)
        return False

    def remember(self, token: str, now_s: float) -> None:
        """An insert of somebody else, of which only the token matters."""
        self._seen(("", token), now_s)

    def truncate(self) -> None:
        """Removes the rows, and the tokens with them; not those of a view."""
        self.rows.clear()
        self._tokens.clear()
        self._places.clear()

    def offsets(self, topic: str, partition: int, first: int, next_offset: int) -> list[int]:
        """The offsets of a span that have rows, ascending."""
        return sorted(o for o in self._places.get((topic, partition), ()) if first <= o < next_offset)

    def of(self, topic: str, partition: int) -> list[Row]:
        return list(self._places.get((topic, partition), {}).values())


def read_native(block: bytes) -> list[Row]:
    """The rows of one Native block of the types in use."""
    columns, at = _varint(block, 0)
    count, at = _varint(block, at)
    found: dict[str, Sequence[Any]] = {}
    for _ in range(columns):
        name, kind, at = _header(block, at)
        if kind in _ARRAYS:
            values = array(_ARRAYS[kind])
            end = at + count * values.itemsize
            values.frombytes(block[at:end])
            found[name], at = values, end
        elif kind == "String":
            found[name], at = _texts(block, at, count)
        else:
            assert kind == "LowCardinality(String)", kind
            found[name], at = _low_cardinality(block, at, count)
    names = list(found)
    return [dict(zip(names, row, strict=True)) for row in zip(*found.values(), strict=True)]


def _header(data: bytes, at: int) -> tuple[str, str, int]:
    """Name and type of a column. Both are short, so that each has one byte of length."""
    middle = at + 1 + data[at]
    end = middle + 1 + data[middle]
    assert data[at] < 0x80 > data[middle]
    return data[at + 1 : middle].decode(), data[middle + 1 : end].decode(), end


def _texts(data: bytes, at: int, count: int) -> tuple[list[str], int]:
    texts = []
    for _ in range(count):
        text, at = _text(data, at)
        texts.append(text)
    return texts, at


def _low_cardinality(data: bytes, at: int, count: int) -> tuple[list[str], int]:
    """UInt64 version, UInt64 flags (lowest byte: type of the indexes), UInt64 + dictionary, UInt64 + indexes."""
    _, flags, size = struct.unpack_from("<QQQ", data, at)
    dictionary, at = _texts(data, at + 24, size)
    indexes = array("BHIQ"[flags & 0xFF])
    at += 8
    end = at + count * indexes.itemsize
    indexes.frombytes(data[at:end])
    return [dictionary[index] for index in indexes], end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _text(data: bytes, at: int) -> tuple[str, int]:
    length, at = _varint(data, at)
    return data[at : at + length].decode(), at + length


class Server:
    """The tables, and the inserts that are still at work."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.tables: dict[str, Table] = {}
        self.running: dict[str, int] = {}
        """Query id -> attempts at work. A server refuses a second query of the same id."""
        self.one_server = True
        """False: behind the URL are several replicas, which do not know each other's query ids."""
        self.on_rows: Callable[[str, Sequence[Row], Any], None] = lambda table, rows, source: None
        self.on_view_rows: Callable[[Sequence[Row]], None] = lambda rows: None
        self.tokens_count = True
        """False: the test-only switch that takes tokens away."""

    def apply(
        self,
        table: str,
        body: bytes,
        token: str,
        source: Any,
        parts_max: int | None = None,
        *,
        token_first: bool = False,
        view_fails: bool = False,
    ) -> int:
        """Carries out an insert; 0 or the code of the error."""
        if table not in self.tables:
            return UNKNOWN_TABLE
        used = token if self.tokens_count else f"{token}-{self.loop.steps}"
        rows, now_s = read_native(body), self.loop.now_s
        view = self.tables[table].view
        try:
            new = self.tables[table].insert(rows, used, now_s, parts_max=parts_max, token_first=token_first)
        except ValueError as error:
            return int(error.args[0])
        self.on_rows(table, new, source)
        if view is not None and parts_max is None:
            if view_fails:
                return OUT_OF_MEMORY
            # The view gets the block also when the table has it already.
            self.on_view_rows(view.insert(rows, used, now_s))
        return 0

    def answer(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of one of the project's questions."""
        found = _FROM.search(sql)
        assert found is not None, sql
        table = self.tables[found[1]]
        if "row_number()" in sql:
            return _stored(table, sql)
        if "max(_offset)) + 1" in sql:
            return _extents(table, sql)
        if "argMinIf(_timestamp, _offset, " in sql:
            return _later(table, sql)
        if "max(_timestamp)" in sql:
            return [(_latest_ms(table, sql),)]
        place = _ONE.search(sql)
        assert place is not None, sql
        topic, partition = place[1], int(place[2])
        if place[3] is not None:
            return [(row["_timestamp"],) for row in table.of(topic, partition) if row["_offset"] == int(place[3])]
        raise AssertionError(f"the model does not know this question: {sql}")

    def recent_ids(self, sql: str) -> bytes:
        """(key, partition, offset) of recent rows, or of those of some spans, as RowBinary."""
        if "ORDER BY _offset LIMIT" in sql:
            return self._stored_ids(sql)
        table, place, window, limit = (pattern.findall(sql)[0] for pattern in (_FROM, _ONE, _WINDOW, _LIMIT))
        end, begin = map(int, _BELOW.findall(sql))
        rows = self.tables[table].of(place[0], int(place[1]))
        latest_ms = max((row["_timestamp"] for row in rows if row["_offset"] < begin), default=0)
        since_ms = latest_ms - int(window) * 1000
        recent = [row for row in rows if row["_offset"] < end and row["_timestamp"] >= since_ms]
        recent.sort(key=lambda row: (row["_timestamp"], row["_offset"]))
        return _row_binary(recent[-int(limit) :])

    def _stored_ids(self, sql: str) -> bytes:
        table, limit = (pattern.findall(sql)[0] for pattern in (_FROM, _LIMIT))
        topic = _SPANS.findall(sql)[0][0]
        found = [
            row
            for partition, first, end, after_ms, until_ms in (map(int, span) for span in _STORED.findall(sql))
            for row in self.tables[table].of(topic, partition)
            if row["_offset"] >= first and (row["_offset"] < end or after_ms < row["_timestamp"] <= until_ms)
        ]
        found.sort(key=lambda row: row["_offset"])
        return _row_binary(found[: int(limit)])


def _row_binary(rows: Sequence[Row]) -> bytes:
    return b"".join(struct.pack("<Qiq", row["id"], row["_partition"], row["_offset"]) for row in rows)


def _spans(sql: str) -> Iterator[tuple[str, int, int, int]]:
    """(topic, partition, first, next) of each span that a question names."""
    topic = ""
    for name, partition, first, next_offset in _SPANS.findall(sql):
        if name:
            topic = name
        else:
            yield topic, int(partition), int(first), int(next_offset)


def _extents(table: Table, sql: str) -> list[tuple[Any, ...]]:
    found = []
    for topic, partition, first, next_offset in _spans(sql):
        if offsets := list(table.offsets(topic, partition, first, next_offset)):
            found.append((topic, partition, min(offsets), max(offsets) + 1))
    return sorted(found)


def _later(table: Table, sql: str) -> list[tuple[Any, ...]]:
    behind, inside = (dict(_FROM_ON.findall(part)) for part in sql.split(" FROM "))
    topic = _SPANS.findall(sql)[0][0]
    found = []
    for partition, first in inside.items():
        if rows := [row for row in table.of(topic, int(partition)) if row["_offset"] >= int(first)]:
            later = [row for row in rows if row["_offset"] >= int(behind[partition])]
            first_ms = min(later, key=lambda row: row["_offset"])["_timestamp"] if later else 0
            found.append((int(partition), first_ms, max(row["_timestamp"] for row in rows)))
    return sorted(found)


def _latest_ms(table: Table, sql: str) -> int:
    topic = _SPANS.findall(sql)[0][0]
    ends = ((int(partition), int(end)) for partition, end in _BEFORE.findall(sql))
    times = (row["_timestamp"] for p, end in ends for row in table.of(topic, p) if row["_offset"] < end)
    return max(times, default=0)


def _stored(table: Table, sql: str) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for topic, partition, first, next_offset in _spans(sql):
        start = last = -2
        for offset in table.offsets(topic, partition, first, next_offset):
            if offset != last + 1:
                if start >= 0:
                    found.append((topic, partition, start, last + 1))
                start = offset
            last = offset
        if start >= 0:
            found.append((topic, partition, start, last + 1))
    return sorted(found)


class _Sent(Encoded):
    """An insert that remembers who made it, and which partitions it held when it made the batch ready to go."""

    source: Any = None


class SimClickHouse:
    """`pipeline.clickhouse.ClickHouse` of one process."""

    def __init__(
        self,
        server: Server,
        process: Process,
        faults: Faults,
        trace: Callable[..., None],
        held: Callable[[], Any] = lambda: None,
    ) -> None:
        """`held` is asked in the thread that inserts."""
        self._held = held
        self._server = server
        self._process = process
        self._faults = faults
        self._trace = trace

    def encode(
        self, table: str, columns: Sequence[str], block: NativeBlock, rows: Sequence[int] | None = None
    ) -> Encoded:
        encoded = _Sent(table, tuple(columns), block.native(rows), "")
        encoded.source = self._process, self._held()
        return encoded

    def insert(self, encoded: Encoded, token: str) -> None:
        self._process.touch()
        server, loop = self._server, self._server.loop
        fault = self._faults.next("insert") or Fault("insert", 0, "none")
        self._meet_outage()
        if server.one_server and server.running.get(token):
            loop.sleep(loop.jitter(NETWORK_S))
            raise error(SAME_QUERY)
        way_s = loop.jitter(NETWORK_S)
        if fault.what == "error":
            loop.sleep(way_s)
            raise error(fault.code)
        arrives_s = fault.seconds if fault.what == "late" else way_s
        answer = self._send(encoded, token, arrives_s, fault)
        if fault.what == "late":
            loop.sleep(min(INSERT_TIMEOUT_S, fault.seconds / 2))
            raise error(NETWORK_ERROR)
        loop.sleep(way_s + loop.jitter(NETWORK_S) + 0.0001)
        self._process.touch()
        if fault.what in ("reply_lost", "partial", "killed"):
            raise error(NETWORK_ERROR)
        if answer[0]:
            raise error(answer[0])

    def _send(self, encoded: Encoded, token: str, arrives_s: float, fault: Fault) -> list[int]:
        """The insert is on its way, whatever becomes of the process; gives where its answer will be."""
        server, answer = self._server, []
        parts_max = {"partial": 1, "killed": fault.code}.get(fault.what)
        server.running[token] = server.running.get(token, 0) + 1

        def arrive() -> None:
            server.running[token] -= 1
            source = getattr(encoded, "source", None)
            how = {"token_first": fault.what == "killed", "view_fails": fault.what == "view_fails"}
            answer.append(server.apply(encoded.table, encoded.body, token, source, parts_max, **how))
            self._trace("clickhouse", f"insert {token[:6]} of {self._process.name}", answer[0] or "applied", fault.what)

        server.loop.call_later(arrives_s, arrive)
        return answer

    def _ask(self) -> None:
        """The way of a question there; the caller reads the tables then."""
        self._process.touch()
        loop = self._server.loop
        fault = self._faults.next("query")
        self._meet_outage()
        loop.sleep(loop.jitter(NETWORK_S))
        if fault is not None:
            raise error(fault.code)
        self._process.touch()

    def query_rows(
        self, sql: str, parameters: Any = None, doing: str = "", settings: Any = None
    ) -> list[tuple[Any, ...]]:
        self._ask()
        found = self._server.answer(sql)
        self._server.loop.sleep(self._server.loop.jitter(NETWORK_S))
        self._process.touch()
        return found

    def query_bytes(self, sql: str, fmt: str, parameters: Any = None, doing: str = "") -> Iterator[bytes]:
        self._ask()
        yield self._server.recent_ids(sql)

    def table_facts(self, table: str) -> TableFacts:
        self._ask()
        one = self._server.tables.get(table)
        if one is None:
            raise error(UNKNOWN_TABLE)
        replicated = one.window_s is not None
        engine = "ReplicatedMergeTree" if replicated else "MergeTree"
        views = ("default.view",) if one.view is not None else ()
        return TableFacts(engine, replicated, one.window_blocks, one.window_s, one.partition_by, "", views, one.lineage)

    def _meet_outage(self) -> None:
        loop = self._server.loop
        if self._faults.outage_s("clickhouse", loop.now_s):
            loop.sleep(loop.jitter(NETWORK_S))
            raise error(NETWORK_ERROR)

    def close(self) -> None:
        pass


def error(code: int) -> ClickHouseError:
    return ClickHouseError(f"code {code}", code=code, error_class=classify.classify(code), reason=classify.reason(code))
