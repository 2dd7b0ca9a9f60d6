"""The simulation's ClickHouse against the real engine: what both must do alike, through the client the project uses."""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest

from pipeline import contract as contracts
from pipeline.beyond import Beyond
from pipeline.classify import ErrorClass
from pipeline.clickhouse import ClickHouse, ClickHouseError
from pipeline.config.schema import ClickHouse as ClickHouseConfig
from pipeline.config.schema import Dedup
from pipeline.lane import Ranges
from pipeline.native import BlockBuilder, Run, append
from pipeline.sink import extents_sql, stored_sql
from pipeline.types import Partition, Span
from pipeline.window import Window, last_offset, later_rows_sql, latest_row_sql, recent_ids_sql, stored_ids_sql
from tests.simulation.clickhouse_model import Server, SimClickHouse, Table
from tests.simulation.contracts import REFUSED, TABLE, TOPIC, First, columns, load
from tests.simulation.faults import Faults
from tests.simulation.loop import Loop, Process

TARGET = next(iter(load(0, True, ("id",)).tables.values()))
NAMES = tuple(column.name for column in TARGET.columns)
START_MS = 1_700_000_000_000
Row = tuple[int, int, int]
"""Offset, `n` and shard."""


class Model:
    """The model of the simulation."""

    def __init__(self) -> None:
        rng = random.Random(1)
        self.loop = Loop(rng.random)
        self.server = Server(self.loop)
        self.client: Any = SimClickHouse(self.server, Process(self.loop, "test"), Faults(()), lambda *words: None)

    def create(self, window: int, partition_by: str) -> None:
        refuses = lambda row: 469 if row["n"] in REFUSED else 0  # noqa: E731
        self.server.tables[TABLE] = Table(
            columns(True), partition_by=partition_by, window_blocks=window, refuses=refuses
        )

    def count(self) -> int:
        return len(self.server.tables[TABLE].rows)

    def truncate(self) -> None:
        self.server.tables[TABLE].truncate()


class Engine:
    """The real one, behind its HTTP interface."""

    def __init__(self, url: str, database: str) -> None:
        self.client: Any = ClickHouse(ClickHouseConfig(urls=[url], database=database))

    def create(self, window: int, partition_by: str) -> None:
        kinds = ", ".join(f"{name} {kind}" for name, kind in columns(True).items())
        partition = f"PARTITION BY {partition_by}" if partition_by else ""
        self.client.command(
            f"CREATE TABLE {TABLE} ({kinds}, CONSTRAINT small CHECK n < {REFUSED.start} OR n >= {REFUSED.stop}) "
            f"ENGINE = MergeTree {partition} ORDER BY id SETTINGS non_replicated_deduplication_window = {window}"
        )

    def count(self) -> int:
        return int(self.client.query_rows(f"SELECT count() FROM {TABLE}")[0][0])

    def truncate(self) -> None:
        self.client.command(f"TRUNCATE TABLE {TABLE}")


@pytest.fixture(params=["model", "engine"])
def place(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "model":
        yield Model()
        return
    database = request.getfixturevalue("chdb_server")
    engine = Engine(database.url, database.database)
    yield engine
    engine.client.close()


def put(place: Any, rows: Sequence[Row], token: str, partition: int = 0, second_of: Callable[[int], int] = int) -> None:
    """Inserts events as one Native block of the project's own builder; their records are a second apart by default."""
    builder = BlockBuilder(TARGET.columns, key=TARGET.key_columns, encode_json=contracts.encode_json)
    events = [First(offset, offset, n, shard) for offset, n, shard in rows]
    offsets = array("q", [offset for offset, _, _ in rows])
    times = array("q", [START_MS + second_of(offset) * 1_000 for offset in offsets])
    statuses = bytearray(len(rows))
    append({First: builder}, list(events), Run(TOPIC, partition, 0, offsets, times), None, None, statuses)
    place.client.insert(place.client.encode(TABLE, NAMES, builder.finish()), token)


def test_a_token_is_one_insert_whatever_the_data(place: Any) -> None:
    place.create(100, "")
    put(place, [(0, 1, 0), (1, 1, 0)], "a")
    put(place, [(0, 1, 0), (1, 1, 0)], "a")
    put(place, [(7, 1, 0)], "a")
    assert place.count() == 2
    put(place, [(0, 1, 0)], "b")
    assert place.count() == 3


def test_without_a_window_a_token_has_no_effect(place: Any) -> None:
    place.create(0, "")
    put(place, [(0, 1, 0)], "a")
    put(place, [(0, 1, 0)], "a")
    assert place.count() == 2


def test_a_token_counts_in_each_table_partition_by_itself(place: Any) -> None:
    place.create(100, "shard")
    put(place, [(0, 1, 0)], "a")
    put(place, [(0, 1, 0), (1, 1, 1)], "a")
    assert place.count() == 2


@pytest.mark.parametrize(("others", "rows"), [(2, 3), (3, 5)])
def test_a_token_is_forgotten_after_as_many_blocks_as_the_window_has(place: Any, others: int, rows: int) -> None:
    place.create(3, "")
    put(place, [(0, 1, 0)], "a")
    for number in range(others):
        put(place, [(1 + number, 1, 0)], f"other {number}")
    put(place, [(0, 1, 0)], "a")
    assert place.count() == rows


def test_an_insert_of_more_partitions_than_the_window_is_never_recognised(place: Any) -> None:
    place.create(2, "shard")
    rows = [(shard, 1, shard) for shard in range(3)]
    put(place, rows, "a")
    put(place, rows, "a")
    assert place.count() == 6


def test_truncate_forgets_tokens(place: Any) -> None:
    place.create(100, "")
    put(place, [(0, 1, 0)], "a")
    place.truncate()
    assert place.count() == 0
    put(place, [(0, 1, 0)], "a")
    assert place.count() == 1


def test_a_refused_row_is_an_error_of_data_and_refuses_the_block(place: Any) -> None:
    place.create(100, "")
    with pytest.raises(ClickHouseError) as caught:
        put(place, [(0, 1, 0), (1, REFUSED.start, 0)], "a")
    assert (caught.value.code, caught.value.error_class) == (469, ErrorClass.DATA)
    assert place.count() == 0
    put(place, [(0, 1, 0)], "a")
    assert place.count() == 1, "a refused insert leaves no token"


def test_a_constraint_is_checked_before_the_token(place: Any) -> None:
    place.create(100, "")
    put(place, [(0, 1, 0)], "a")
    with pytest.raises(ClickHouseError) as caught:
        put(place, [(0, 1, 0), (1, REFUSED.start, 0)], "a")
    assert caught.value.code == 469


def test_a_missing_table_stops(place: Any) -> None:
    for question in (lambda: put(place, [(0, 1, 0)], "a"), lambda: place.client.table_facts(TABLE)):
        with pytest.raises(ClickHouseError) as caught:
            question()
        assert (caught.value.code, caught.value.error_class) == (60, ErrorClass.STOP)


def test_facts(place: Any) -> None:
    place.create(7, "shard")
    facts = place.client.table_facts(TABLE)
    assert (facts.engine, facts.replicated, facts.window_blocks, facts.window_s) == ("MergeTree", False, 7, None)
    assert (facts.partition_key, facts.views, facts.lineage) == ("shard", (), True)


def test_stored_offsets_are_found_as_ranges(place: Any) -> None:
    place.create(100, "")
    put(place, [(offset, 1, 0) for offset in (3, 4, 5, 8, 20)], "a")
    put(place, [(offset, 1, 0) for offset in (4, 6)], "b", partition=1)
    here, there, none = (Partition(TOPIC, number) for number in range(3))
    spans = [Span(here, 4, 20), Span(there, 0, 2**63 - 1), Span(none, 0, 9)]
    found = [tuple(row) for row in place.client.query_rows(stored_sql(TABLE, spans))]
    assert found == [(TOPIC, 0, 4, 6), (TOPIC, 0, 8, 9), (TOPIC, 1, 4, 5), (TOPIC, 1, 6, 7)]
    found = [tuple(row) for row in place.client.query_rows(extents_sql(TABLE, spans))]
    assert found == [(TOPIC, 0, 4, 9), (TOPIC, 1, 4, 7)]


@pytest.mark.parametrize(("window_s", "ids_max"), [(3_600, 100), (5, 100), (3_600, 2)])
def test_recent_ids_are_those_of_the_window_oldest_first(place: Any, window_s: int, ids_max: int) -> None:
    place.create(100, "")
    put(place, [(offset, 1, 0) for offset in (9, 3, 4)], "a")
    put(place, [(100, 1, 0)], "b", partition=1)
    config = Dedup(key=["id"], window_s=window_s, ids_max=ids_max)
    sql = recent_ids_sql(TABLE, ("id",), Span(Partition(TOPIC, 0), 10, 10), config)
    data = b"".join(place.client.query_bytes(sql, "RowBinary"))
    offsets = [offset for offset in (3, 4, 9) if offset >= 9 - window_s][-ids_max:]
    expected = [o.to_bytes(8, "little") + bytes(4) + o.to_bytes(8, "little") for o in offsets]
    assert data == b"".join(expected)


def test_ids_inside_spans_and_for_a_time_after_them(place: Any) -> None:
    place.create(100, "")
    put(place, [(offset, 1, 0) for offset in (9, 3, 4, 6, 30)], "a")
    put(place, [(5, 1, 0), (7, 1, 0)], "b", partition=1)
    here, there, none = (Partition(TOPIC, number) for number in range(3))
    spans = [Span(here, 4, 5), Span(there, 6, 8), Span(none, 0, 50)]
    later = sorted(tuple(row) for row in place.client.query_rows(later_rows_sql(TABLE, spans)))
    assert later == [(0, START_MS + 6_000, START_MS + 30_000), (1, 0, START_MS + 7_000)]
    everything = dict.fromkeys(range(3), 2**63 - 1)
    for after_s, until_ms, ids_max, expected in (
        (0, everything | {0: START_MS + 9_000}, 100, [(0, 4), (0, 6), (1, 7), (0, 9)]),
        (0, everything | {0: START_MS + 9_000}, 2, [(0, 4), (0, 6)]),
        (6, everything | {0: START_MS + 9_000}, 100, [(0, 4), (1, 7), (0, 9)]),
        (6, everything, 100, [(0, 4), (1, 7), (0, 9), (0, 30)]),
        (9, everything | {0: START_MS + 6_000}, 100, [(0, 4), (1, 7)]),
    ):
        sql = stored_ids_sql(TABLE, ("id",), spans, START_MS + after_s * 1_000, until_ms, ids_max)
        data = b"".join(place.client.query_bytes(sql, "RowBinary"))
        assert [(p, o) for _, p, o in struct.iter_unpack("<Qiq", data)] == expected
        assert last_offset(data) == expected[-1][1]
    assert last_offset(b"") == -1


def test_the_latest_row_of_several_partitions(place: Any) -> None:
    place.create(100, "")
    put(place, [(offset, 1, 0) for offset in (9, 3, 4)], "a")
    put(place, [(7, 1, 0), (100, 1, 0)], "b", partition=1)
    here, there, none = (Partition(TOPIC, number) for number in range(3))
    for ends, latest in (((9, 0), 4), ((10, 7), 9), ((5, 101), 100)):
        reaches = [Span(here, 0, ends[0]), Span(there, 0, ends[1]), Span(none, 0, 50)]
        assert place.client.query_rows(latest_row_sql(TABLE, reaches))[0][0] == START_MS + latest * 1_000
    assert place.client.query_rows(latest_row_sql(TABLE, [Span(none, 0, 50)]))[0][0] <= 0


class Noted:
    """In the place of the claims: the offsets of the rows that are claimed."""

    def __init__(self) -> None:
        self.offsets: list[int] = []

    def held_until(self, time_ms: int) -> None:
        pass

    def restore_stored(self, rows: bytes, key_types: Any, partitions: Any, domain: bytes) -> int:
        claimed = [offset for _, _, offset in struct.iter_unpack("<Qiq", rows)]
        self.offsets += claimed
        return len(claimed)


class Patient:
    """In the place of the sink."""

    def patiently(self, doing: str, question: Callable[[], Any]) -> Any:
        return question()


def window_of(place: Any, noted: Noted, config: Dedup) -> Window:
    nothing: Any = None
    contracts_ = {TOPIC: load(0, True, ("id",))}
    dedup, sink = cast("Any", noted), cast("Any", Patient())
    return Window(config, dedup, contracts_, {}, place.client, sink, nothing, nothing, nothing, lambda: None)


def test_rows_are_claimed_a_window_ahead_though_their_times_are_not_in_order(place: Any) -> None:
    """A window has several pages, and is looked for page by page. What lies near the edge of one look, a bit too late for it,
    is before the edge of the next one; it must not be passed over for having a lower offset than what was claimed already.
    """
    place.create(100, "")
    rng = random.Random(1)
    seconds = [30 + offset + rng.randint(-20, 20) for offset in range(300)]
    put(place, [(offset, 1, 0) for offset in range(300)], "a", second_of=seconds.__getitem__)
    noted = Noted()
    window = window_of(place, noted, Dedup(key=["id"], window_s=60))
    claim = lambda span, after_ms: window.claim_stored(TOPIC, [span], after_ms)  # noqa: E731
    beyond = Beyond(Partition(TOPIC, 0), 300, frozenset(), lambda span: Ranges(()), claim)
    beyond.page_offsets = 20
    for page in range(0, 280, 20):
        beyond.left_out(page, page + 10)
        until = seconds[page + 20] + 60
        missed = {o for o in range(300) if o < page + 20 or seconds[o] <= until} - set(noted.offsets)
        assert not missed, f"page {page}"
    assert len(noted.offsets) < 2 * 300, "ahead once, and once in its page"
