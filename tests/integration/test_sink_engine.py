"""The sink against the real engine, through the embedded server with ordered faults: every row once, whatever happens."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pipeline.clickhouse import ClickHouse, ClickHouseError
from pipeline.clock import SystemClock
from pipeline.config.schema import ClickHouse as ClickHouseConfig
from pipeline.errors import SinkError
from pipeline.intent import Identity, token
from pipeline.metrics import Metrics
from pipeline.native import Block, BlockBuilder, Column, Run, append
from pipeline.sink import Sink, Write
from pipeline.types import Partition, Span
from tests.integration.harness import wait_until

if TYPE_CHECKING:
    from tests.conftest import Database

LINEAGE = "_topic LowCardinality(String), _partition Int32, _offset Int64, _timestamp DateTime64(3)"
COLUMNS = (
    Column("id", "UInt64", "id"),
    Column("name", "String", "name"),
    Column("_topic", "LowCardinality(String)", "@topic"),
    Column("_partition", "Int32", "@partition"),
    Column("_offset", "Int64", "@offset"),
    Column("_timestamp", "DateTime64(3)", "@timestamp"),
)
NAMES = tuple(column.name for column in COLUMNS)
IDENTITY = Identity("pipe", "cluster", {"t": "1"})


class Event(msgspec.Struct):
    id: int
    name: str


def block_of(spans: Sequence[Span], *, leave_out: Callable[[Partition, int], bool] = lambda *_: False) -> Block:
    """A row for every offset; its id is 1000 * partition + offset."""
    builder = BlockBuilder(COLUMNS, encode_json=msgspec.json.encode)
    for partition, first, next_offset in spans:
        offsets = array("q", [offset for offset in range(first, next_offset) if not leave_out(partition, offset)])
        rows = [Event(1_000 * partition.number + offset, f"name {offset}") for offset in offsets]
        run = Run(partition.topic, partition.number, 0, offsets, array("q", [1_700_000_000_000] * len(offsets)))
        assert append({Event: builder}, rows, run, None, None, bytearray(len(rows))) == []
    return builder.finish()


def write_of(spans: tuple[Span, ...], block: Block | None = None, *, salt: str = "") -> Write:
    def token_of(path: str, look: int) -> str:
        return token(IDENTITY, "events", spans, path=path, salt=salt, look=look)

    return Write("events", NAMES, block or block_of(spans), spans, token_of)


def span(first: int, next_offset: int, number: int = 0) -> Span:
    return Span(Partition("t", number), first, next_offset)


SPANS = (span(0, 40), span(100, 150, 1), span(7, 8, 2))


class Bench:
    """A table on the shared server, and what a worker has to write into it."""

    def __init__(self, database: Database, **more: Any) -> None:
        self.server = database.server
        config: dict[str, Any] = {"urls": [database.url], "database": database.database, "retry_wait_ms_max": 50} | more
        self.config = ClickHouseConfig(**config)
        self.clickhouse = ClickHouse(self.config)
        self.metrics = Metrics()
        self.stopping = threading.Event()
        self.sink = self.new_sink()

    def new_sink(self, clickhouse: Any = None) -> Sink:
        parts = (clickhouse or self.clickhouse, self.config, SystemClock(), self.stopping, self.metrics)
        return Sink(*parts, random.Random(5))

    def create(
        self, more: str = "", *, partition_by: str = "tuple()", lineage: bool = True, window: int = 1_000
    ) -> None:
        columns = f"id UInt64, name String{', ' + LINEAGE if lineage else ''}{', ' + more if more else ''}"
        settings = f"SETTINGS non_replicated_deduplication_window = {window}"
        self.clickhouse.command(
            f"CREATE TABLE events ({columns}) ENGINE = MergeTree ORDER BY id PARTITION BY {partition_by} {settings}"
        )

    def ids(self, table: str = "events") -> list[int]:
        return [row[0] for row in self.clickhouse.query_rows(f"SELECT id FROM {table} ORDER BY id")]

    def retries(self) -> dict[str, float]:
        found = {}
        for family in self.metrics.registry.collect():
            for sample in family.samples:
                if family.name.startswith("penstock_retries") and sample.name.endswith("_total") and sample.value:
                    found[next(iter(sample.labels.values()))] = sample.value
        return found


@pytest.fixture
def bench(chdb_server: Database) -> Iterator[Bench]:
    made = Bench(chdb_server)
    yield made
    made.clickhouse.close()


def ids_of(spans: Sequence[Span]) -> list[int]:
    return [1_000 * partition.number + offset for partition, first, cut in spans for offset in range(first, cut)]


def test_a_block_arrives_as_it_was_built(bench: Bench) -> None:
    bench.create()
    assert bench.sink.insert(write_of(SPANS)) == []
    rows = bench.clickhouse.query_rows(
        "SELECT id, name, _topic, _partition, _offset, toUnixTimestamp64Milli(_timestamp) FROM events ORDER BY id"
    )
    expected = [
        (1_000 * partition.number + offset, f"name {offset}", "t", partition.number, offset, 1_700_000_000_000)
        for partition, first, cut in SPANS
        for offset in range(first, cut)
    ]
    assert rows == expected
    assert bench.retries() == {}


@pytest.mark.parametrize("compression", ["lz4", "none"])
def test_the_same_token_is_one_copy_also_from_many_threads(chdb_server: Database, compression: str) -> None:
    bench = Bench(chdb_server, compression=compression)
    bench.create()
    encoded = bench.clickhouse.encode("events", NAMES, block_of(SPANS))
    threads = [threading.Thread(target=bench.clickhouse.insert, args=(encoded, "token")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bench.clickhouse.insert(encoded, "token")
    assert bench.ids() == ids_of(SPANS)
    bench.clickhouse.insert(encoded, "another token")
    assert len(bench.ids()) == 2 * len(ids_of(SPANS))
    bench.clickhouse.close()


@pytest.mark.parametrize("count", [9, 10, 12, 13, 32])
def test_a_block_that_begins_with_a_blank_byte(bench: Bench, count: int) -> None:
    """A block begins with its number of columns: a tab, a newline, a form feed, a carriage return or a space."""
    names = [f"c{number}" for number in range(count)]
    row_type = msgspec.defstruct("Wide", [(name, int) for name in names])
    builder = BlockBuilder([Column(name, "UInt8", name) for name in names], encode_json=msgspec.json.encode)
    run = Run("t", 0, 0, array("q", [0]), array("q", [0]))
    append({row_type: builder}, [row_type(*range(count))], run, None, None, bytearray(1))
    bench.clickhouse.command(f"CREATE TABLE wide ({', '.join(f'{name} UInt8' for name in names)}) ENGINE = Memory")
    bench.clickhouse.insert(bench.clickhouse.encode("wide", names, builder.finish()), "token")
    assert bench.clickhouse.query_rows("SELECT * FROM wide") == [tuple(range(count))]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"action": "drop"}, "network"),
        ({"action": "drop_after"}, "network"),
        ({"action": "fail", "code": 252, "message": "Too many parts (3000)"}, "overload"),
        ({"action": "fail", "code": 241}, "memory"),
        ({"action": "fail", "code": 242}, "read_only"),
        ({"action": "fail_after", "code": 159}, "timeout"),
        ({"action": "fail_after", "code": 999}, "keeper"),
    ],
)
def test_a_fault_that_passes_leaves_one_copy(bench: Bench, fault: dict[str, Any], reason: str) -> None:
    bench.create()
    bench.server.fault(**fault, times=3, match="events")
    assert bench.sink.insert(write_of(SPANS)) == []
    assert bench.ids() == ids_of(SPANS)
    # A request that broke off is repeated once by the client library itself.
    assert bench.retries()[reason] >= 1
    assert bench.server.faults_left() == 0


def test_a_server_slower_than_our_patience_stores_one_copy(chdb_server: Database) -> None:
    """The first attempt times out here while it goes on there; the second must be its duplicate."""
    bench = Bench(chdb_server, insert_timeout_ms=1_000)
    bench.create()
    bench.server.fault("delay", delay_ms=2_500, times=1, match="events")
    assert bench.sink.insert(write_of(SPANS)) == []
    time.sleep(2.5)
    assert bench.ids() == ids_of(SPANS)
    assert sum(bench.retries().values()) >= 1
    bench.clickhouse.close()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            {"code": 252, "message": "Too many partitions for single INSERT block (more than 100)"},
            "more partitions of the",
        ),
        ({"code": 497, "message": "secret row data"}, "penstock check --privileges"),
        ({"code": 164, "message": "secret row data"}, "may only read"),
        ({"code": 49, "message": "secret row data"}, "Look the code up"),
        ({"code": 4242, "message": "secret row data"}, "Look the code up"),
    ],
)
def test_what_stops_says_what_to_do_and_never_what_the_server_said(
    bench: Bench, fault: dict[str, Any], words: str
) -> None:
    bench.create()
    bench.server.fault("fail", **fault, match="events")
    with pytest.raises(SinkError, match=words) as caught:
        bench.sink.insert(write_of(SPANS))
    assert caught.value.code == fault["code"]
    assert f"code {fault['code']}" in str(caught.value)
    assert "inserting into events" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert bench.ids() == []


def test_rows_that_break_a_constraint_are_refused_and_the_others_stored_once(bench: Bench) -> None:
    bench.create("CONSTRAINT c CHECK NOT has([0, 17, 18, 1149, 2007], id)")
    refused = bench.sink.insert(write_of(SPANS))
    assert [(str(partition), offset) for partition, offset, _ in refused] == [
        ("t/0", 0),
        ("t/0", 17),
        ("t/0", 18),
        ("t/1", 149),
        ("t/2", 7),
    ]
    assert {reject.detail for *_, reject in refused} == {"ClickHouse code 469 VIOLATED_CONSTRAINT"}
    assert bench.ids() == [id for id in ids_of(SPANS) if id not in (0, 17, 18, 1149, 2007)]


@pytest.mark.parametrize("partition_by", ["id % 3", "intDiv(id, 1000)"])
def test_a_refused_block_for_several_table_partitions(bench: Bench, partition_by: str) -> None:
    bench.create("CONSTRAINT c CHECK NOT has([0, 17, 1149], id)", partition_by=partition_by)
    refused = bench.sink.insert(write_of(SPANS))
    assert [offset for _, offset, _ in refused] == [0, 17, 149]
    assert bench.ids() == [id for id in ids_of(SPANS) if id not in (0, 17, 1149)]


class Mortal:
    """Dies after a number of inserts, just before or just after the last one."""

    def __init__(self, clickhouse: ClickHouse, inserts: int, *, after: bool) -> None:
        self._clickhouse = clickhouse
        self._left = inserts
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clickhouse, name)

    def insert(self, encoded: Any, token: str) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise KeyboardInterrupt
        self._clickhouse.insert(encoded, token)
        if self._left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [False, True])
def test_a_worker_that_dies_in_a_bisection_is_recovered_exactly(bench: Bench, after: bool) -> None:
    """Whatever the moment: the next worker leaves out what lineage finds, and uses the same tokens for the rest."""
    bad = (3, 17, 1149)
    bench.create(f"CONSTRAINT c CHECK NOT has({list(bad)}, id)")
    expected = [id for id in ids_of(SPANS) if id not in bad]
    for deaths in range(1, 40, 6):
        bench.clickhouse.command("TRUNCATE TABLE events")
        try:
            bench.new_sink(Mortal(bench.clickhouse, deaths, after=after)).insert(write_of(SPANS, salt=str(deaths)))
            finished = True
        except KeyboardInterrupt:
            finished = False
        stored = bench.sink.stored("events", SPANS)
        rest = block_of(SPANS, leave_out=lambda partition, offset: _inside(stored, partition, offset))  # noqa: B023
        refused = bench.sink.insert(write_of(SPANS, rest, salt=str(deaths)))
        assert [1_000 * partition.number + offset for partition, offset, _ in refused] == list(bad)
        assert bench.ids() == expected, deaths
    assert finished


def test_two_workers_recover_the_same_batch_at_once(bench: Bench) -> None:
    """Both looked before either wrote: only the tokens keep the rows single."""
    bad = (3, 17, 1149)
    bench.create(f"CONSTRAINT c CHECK NOT has({list(bad)}, id)")
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(bench.new_sink().insert(write_of(SPANS)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(found == results[0] for found in results)
    assert bench.ids() == [id for id in ids_of(SPANS) if id not in bad]


def _inside(stored: dict[Partition, list[tuple[int, int]]], partition: Partition, offset: int) -> bool:
    return any(first <= offset < cut for first, cut in stored.get(partition, []))


def test_stored_rows_come_as_ranges(bench: Bench) -> None:
    bench.create()
    bench.sink.insert(write_of((span(0, 10), span(20, 30), span(5, 6, 1))))
    bench.sink.insert(write_of((span(10, 12), span(3, 4, 7))))
    bench.sink.insert(write_of((span(4, 12),)))  # stored twice: still one range
    assert bench.sink.has_lineage("events")
    wanted = [span(0, 2**63 - 1), span(0, 100, 1), span(0, 100, 2)]
    assert bench.sink.stored("events", wanted) == {Partition("t", 0): [(0, 12), (20, 30)], Partition("t", 1): [(5, 6)]}
    assert bench.sink.stored("events", [span(3, 5), span(11, 21)]) == {Partition("t", 0): [(3, 5), (11, 12), (20, 21)]}
    assert bench.sink.stored("events", [Span(Partition("other", 0), 0, 100)]) == {}
    assert bench.sink.stored("events", []) == {}
    many = [span(0, 2**40, number) for number in range(64)]
    assert set(bench.sink.stored("events", many)) == {Partition("t", number) for number in (0, 1, 7)}


def test_a_table_without_lineage_says_so(bench: Bench) -> None:
    bench.create(lineage=False)
    assert not bench.sink.has_lineage("events")


def test_views_get_every_row_once(bench: Bench) -> None:
    """With a lost answer in between; the view's own table has a window, too."""
    bench.create()
    bench.clickhouse.command(
        "CREATE TABLE copies (id UInt64) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100"
    )
    bench.clickhouse.command("CREATE MATERIALIZED VIEW copy TO copies AS SELECT id FROM events")
    bench.server.fault("fail_after", code=999, times=3, match="events")
    bench.sink.insert(write_of(SPANS))
    assert bench.ids() == bench.ids("copies") == ids_of(SPANS)


@pytest.mark.parametrize("lineage", [True, False])
def test_a_view_that_refuses_a_row_stops_without_doubling_the_table(bench: Bench, lineage: bool) -> None:
    bench.create(lineage=lineage)
    bench.clickhouse.command(
        "CREATE TABLE copies (id UInt64) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100"
    )
    bench.clickhouse.command("CREATE MATERIALIZED VIEW copy TO copies AS SELECT intDiv(id, id - 17) AS id FROM events")
    columns = COLUMNS if lineage else COLUMNS[:2]
    write = write_of(SPANS)._replace(columns=tuple(column.name for column in columns))
    if not lineage:
        write = write._replace(block=_without_lineage(SPANS))
    with pytest.raises(SinkError, match="materialized view on events refuses") as caught:
        bench.sink.insert(write)
    assert caught.value.code == 153
    assert bench.ids() == ids_of(SPANS)
    # Once the view takes the rows, the whole block under the same token completes it and leaves the table alone.
    bench.clickhouse.command("DROP VIEW copy")
    bench.clickhouse.command("CREATE MATERIALIZED VIEW copy TO copies AS SELECT id FROM events")
    assert bench.sink.insert(write) == []
    assert bench.ids() == bench.ids("copies") == ids_of(SPANS)


def _without_lineage(spans: Sequence[Span]) -> Block:
    builder = BlockBuilder(COLUMNS[:2], encode_json=msgspec.json.encode)
    for partition, first, cut in spans:
        offsets = array("q", range(first, cut))
        rows = [Event(1_000 * partition.number + offset, "") for offset in offsets]
        run = Run(partition.topic, partition.number, 0, offsets, array("q", [0] * len(offsets)))
        append({Event: builder}, rows, run, None, None, bytearray(len(rows)))
    return builder.finish()


def test_what_a_table_is(bench: Bench) -> None:
    bench.create(partition_by="id % 2", window=123)
    facts = bench.clickhouse.table_facts("events")
    assert facts.engine == "MergeTree"
    assert not facts.replicated
    assert (facts.window_blocks, facts.window_s) == (123, None)
    assert (facts.partition_key, facts.sorting_key) == ("id % 2", "id")
    assert facts.lineage
    assert facts.views == ()
    bench.clickhouse.command("CREATE TABLE plain (a Int8) ENGINE = ReplacingMergeTree ORDER BY a")
    assert bench.clickhouse.table_facts("plain").window_blocks == 0
    assert bench.sink.token_life_ms("plain") == 0
    assert bench.sink.token_life_ms("events") is None
    bench.clickhouse.command("CREATE TABLE memory (a Int8) ENGINE = Memory")
    assert bench.clickhouse.table_facts("memory").window_blocks == 0


def test_rows_of_an_engine_that_replaces_are_all_there_and_those_of_one_that_sums_cannot_be_found(bench: Bench) -> None:
    columns = f"(id UInt64, name String, {LINEAGE})"
    bench.clickhouse.command(f"CREATE TABLE events {columns} ENGINE = ReplacingMergeTree ORDER BY tuple()")
    assert bench.clickhouse.table_facts("events").lineage
    assert bench.sink.insert(write_of(SPANS)) == []
    assert bench.ids() == sorted(ids_of(SPANS))
    bench.clickhouse.command(f"CREATE TABLE totals {columns} ENGINE = SummingMergeTree ORDER BY id")
    assert not bench.clickhouse.table_facts("totals").lineage


def test_columns_come_in_order_with_their_defaults(bench: Bench) -> None:
    bench.create("twice UInt64 MATERIALIZED id * 2, kind String DEFAULT 'x'")
    columns = bench.clickhouse.columns("events")
    assert [column.name for column in columns] == [*NAMES, "twice", "kind"]
    assert (columns[0].type, columns[0].default_kind) == ("UInt64", "")
    assert (columns[-2].default_kind, columns[-2].default_expression) == ("MATERIALIZED", "id * 2")
    assert bench.clickhouse.columns(f"{bench.config.database}.events") == columns


@pytest.mark.parametrize("ask", [ClickHouse.columns, ClickHouse.table_facts])
def test_a_missing_table_is_code_60(bench: Bench, ask: Callable[[ClickHouse, str], object]) -> None:
    with pytest.raises(ClickHouseError, match="penstock ddl") as caught:
        ask(bench.clickhouse, "nothing")
    assert caught.value.code == 60
    assert not caught.value.retriable
    with pytest.raises(SinkError, match=r"code 60 UNKNOWN_TABLE.*penstock ddl"):
        bench.sink.insert(write_of(SPANS))


def test_a_missing_database_stops(chdb_server: Database) -> None:
    clickhouse = ClickHouse(ClickHouseConfig(urls=[chdb_server.url], database="nowhere"))
    with pytest.raises(SinkError, match="code 81 UNKNOWN_DATABASE"):
        clickhouse.columns("events")


def test_an_unknown_configured_setting_stops_with_its_cure(chdb_server: Database) -> None:
    bench = Bench(chdb_server, settings={"no_such_setting": 1})
    bench.create()
    with pytest.raises(SinkError, match=r"code 115 UNKNOWN_SETTING.*clickhouse\.settings"):
        bench.sink.insert(write_of(SPANS))
    bench.clickhouse.close()


def test_rows_are_streamed_whole_or_not_at_all(bench: Bench) -> None:
    """An error in the middle must not look like the end of the data."""
    sql = "SELECT toUInt64(number) FROM numbers(1000000)"
    assert b"".join(bench.clickhouse.query_bytes(sql, "RowBinary")) == array("Q", range(1_000_000)).tobytes()
    broken = "SELECT throwIf(number = 900000) FROM numbers(1000000) SETTINGS max_block_size = 1000"
    with pytest.raises(ClickHouseError) as caught:
        list(bench.clickhouse.query_bytes(broken, "RowBinary"))
    assert caught.value.code == 395
    # A reader that loses interest leaves nothing behind.
    next(iter(bench.clickhouse.query_bytes(sql, "RowBinary")))
    bench.clickhouse.ping()


def test_a_question_that_took_too_long_does_not_go_on(chdb_server: Database) -> None:
    """Each attempt went on beside those after it, until the server answered none of them (found by the fault suite)."""
    bench = Bench(chdb_server, insert_timeout_ms=1_000)
    slow = "SELECT count() FROM numbers(600) WHERE sleepEachRow(0.1) = 0 SETTINGS max_block_size = 1"
    for _ in range(3):
        with pytest.raises(ClickHouseError, match="no answer within the time allowed"):
            bench.clickhouse.query_rows(slow)
        with pytest.raises(ClickHouseError, match="no answer within the time allowed"):
            list(bench.clickhouse.query_bytes(slow, "RowBinary"))
    running = "SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow%' AND query NOT LIKE '%processes%'"
    wait_until(lambda: bench.clickhouse.query_rows(running) == [(0,)], 10, "no attempt to be running")
    bench.clickhouse.close()


def test_another_server_is_asked_when_the_first_is_down(chdb_server: Database) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
        bench = Bench(chdb_server, urls=[closed, chdb_server.url])
        bench.create()
        assert bench.sink.insert(write_of(SPANS)) == []
        assert bench.ids() == ids_of(SPANS)
        only = ClickHouse(ClickHouseConfig(urls=[closed]))
        with pytest.raises(ClickHouseError, match="Connection refused") as caught:
            only.ping()
    assert caught.value.retriable
    assert (caught.value.code, caught.value.reason) == (0, "network")
    bench.clickhouse.close()


def test_wrong_credentials_stop_and_are_not_shown(data_directory: Path) -> None:
    from pipeline.embedded.chdb_server import ChdbServer

    with ChdbServer(data_directory, user="writer", password="right") as server:
        address = server.url.removeprefix("http://")
        for config in (
            ClickHouseConfig(urls=[server.url], username="writer", password="wr0ng"),
            ClickHouseConfig(urls=[f"http://writer:wr0ng@{address}"]),
        ):
            with pytest.raises(ClickHouseError, match=r"AUTHENTICATION_FAILED.*Check clickhouse\.username") as caught:
                ClickHouse(config).ping()
            assert caught.value.code == 516
            assert not caught.value.retriable
            assert "wr0ng" not in str(caught.value)
        ClickHouse(ClickHouseConfig(urls=[f"http://writer:right@{address}"], password="wr0ng")).ping()


def test_clickhouse_down_at_first_killed_in_between_and_up_again(data_directory: Path) -> None:
    from pipeline.embedded.chdb_server import ChdbServer

    server = ChdbServer(data_directory, faults=True).start()
    try:
        config = ClickHouseConfig(urls=[server.url], retry_wait_ms_max=100)
        clickhouse, stopping, metrics = ClickHouse(config), threading.Event(), Metrics()
        sink = Sink(clickhouse, config, SystemClock(), stopping, metrics, random.Random(1))
        clickhouse.command(
            f"CREATE TABLE events (id UInt64, name String, {LINEAGE}) ENGINE = MergeTree ORDER BY id "
            "SETTINGS non_replicated_deduplication_window = 100"
        )
        server.kill()
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(sink.insert(write_of(SPANS))))
        thread.start()
        deadline_s = time.monotonic() + 30
        while "inserting into events" not in sink.waiting and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert "Connection refused" in sink.waiting
        server.start()
        thread.join(60)
        assert results == [[]]
        assert sink.waiting == ""
        # Killed after the insert was acknowledged: rows and token are still there.
        server.kill()
        server.start()
        assert sink.insert(write_of(SPANS)) == []
        assert clickhouse.query_rows("SELECT count(), uniqExact(id) FROM events") == [(91, 91)]
        clickhouse.close()
    finally:
        server.stop()


IN_PROCESS = """
import random, sys, threading
from pipeline.clickhouse import ClickHouse
from pipeline.clock import SystemClock
from pipeline.config.schema import ClickHouse as Config
from pipeline.errors import PenstockError
from pipeline.metrics import Metrics
from pipeline.sink import Sink
from tests.integration.test_sink_engine import LINEAGE, SPANS, ids_of, write_of
config = Config(urls=["chdb://" + sys.argv[1]])
clickhouse = ClickHouse(config)
clickhouse.command(
    f"CREATE TABLE events (id UInt64, name String, {LINEAGE}, CONSTRAINT c CHECK id != 17) ENGINE = MergeTree ORDER BY id "
    "SETTINGS non_replicated_deduplication_window = 100"
)
sink = Sink(clickhouse, config, SystemClock(), threading.Event(), Metrics(), random.Random(1))
threads = [threading.Thread(target=sink.insert, args=(write_of(SPANS),)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert [offset for _, offset, _ in sink.insert(write_of(SPANS))] == [17]
ids = [row[0] for row in clickhouse.query_rows("SELECT id FROM events ORDER BY id")]
assert ids == [id for id in ids_of(SPANS) if id != 17], ids
assert len(b"".join(clickhouse.query_bytes("SELECT id FROM events", "RowBinary"))) == 8 * len(ids)
assert sink.has_lineage("events") and clickhouse.version() > (25,)
try:
    ClickHouse(Config(urls=["chdb://" + sys.argv[1] + "-other"])).ping()
except PenstockError as error:
    assert not error.retriable, error
    print(error)
clickhouse.close()
print("done")
"""


def test_the_engine_in_this_process(data_directory: Path) -> None:
    """In a process of its own, because an engine path stays with its process."""
    command = [sys.executable, "-c", IN_PROCESS, str(data_directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.endswith("done\n"), done.stdout + done.stderr
    assert "connecting" in done.stdout
