"""The sink against a ClickHouse made of lists: tokens, retries, bisection, and random schedules with faults and crashes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from pipeline.classify import ErrorClass, classify
from pipeline.clickhouse import ClickHouseError, TableFacts
from pipeline.clock import ManualClock, SystemClock
from pipeline.config.schema import ClickHouse as ClickHouseConfig
from pipeline.errors import RejectLimitExceeded, SinkError
from pipeline.intent import Identity, token
from pipeline.patience import BEAT_S, FIRST_WAIT_S, Patience, Stopping, beating
from pipeline.sink import RowOrigins, Sink, Write, stored_sql
from pipeline.types import Partition, RejectCode, Span, Stage

IDENTITY = Identity("orders", "cluster", {"t": "id-t", "u": "id-u"})
PLAIN = TableFacts("MergeTree", False, 100, None, "", "id", (), True)
CONFIG = ClickHouseConfig(urls=["http://localhost:8123"], retry_wait_ms_max=1)
Record = tuple[Partition, int]


class Row(NamedTuple):
    partition: Partition
    offset: int


class FakeBlock:
    """A block whose Native form is the list of its rows."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = list(rows)
        self.rows = len(self._rows)

    def lineage(self) -> tuple[list[str], list[int], list[int], list[int]]:
        topics = sorted({row.partition.topic for row in self._rows})
        return (
            topics,
            [topics.index(row.partition.topic) for row in self._rows],
            [row.partition.number for row in self._rows],
            [row.offset for row in self._rows],
        )

    def native(self, rows: Sequence[int] | None = None) -> Any:
        return list(self._rows) if rows is None else [self._rows[row] for row in rows]

    def framed(self, prefix: bytes, rows: Sequence[int] | None = None) -> Any:
        raise NotImplementedError


def failure(code: int, **more: Any) -> ClickHouseError:
    return ClickHouseError(f"code {code}", code=code, error_class=classify(code), reason="test", **more)


class FakeClickHouse:
    """Keeps rows and tokens of one table. `faults` decides about each insert: "" (works), "down", "lost" (answer), "late",
    "killed" (the server, between the token of the second part and its rows)."""

    def __init__(self, refused: set[Record] | None = None, facts: TableFacts = PLAIN) -> None:
        self.rows: list[Row] = []
        self.tokens: set[tuple[str, int]] = set()
        self.refused = refused or set()
        self.view_refuses = True
        self.facts = facts
        self.faults: list[str] = []
        self.late: list[tuple[list[Row], str]] = []
        self.attempts: list[tuple[str, list[Row]]] = []
        self.errors: dict[str, ClickHouseError] = {}

    def table_facts(self, table: str) -> TableFacts:
        return self.facts

    def encode(self, table: str, columns: Sequence[str], block: Any, rows: Sequence[int] | None = None) -> Any:
        return block.native(rows)

    def insert(self, rows: list[Row], token: str) -> None:
        self.attempts.append((token, rows))
        fault = self.faults.pop() if self.faults else ""
        if token in self.errors:
            raise self.errors[token]
        if fault == "down":
            raise failure(210)
        if fault == "late":
            self.late.append((rows, token))
            raise failure(209)
        self.apply(rows, token, killed=fault == "killed")
        if fault in ("lost", "killed"):
            raise failure(210)

    def apply(self, rows: list[Row], token: str, *, killed: bool = False) -> None:
        """What the engine does with a block: one part for each table partition, each with the token."""
        parts = sorted({self.part_of(row) for row in rows})
        for part in parts:
            mine = [row for row in rows if self.part_of(row) == part]
            if self.refused & {(row.partition, row.offset) for row in (mine if self.facts.partition_key else rows)}:
                raise failure(469)
            if (token, part) not in self.tokens:
                self.tokens.add((token, part))
                if killed and part == parts[:2][-1]:
                    return
                self.rows += mine
        if self.facts.views and self.view_refuses:
            raise failure(153, in_view=True)

    def part_of(self, row: Row) -> int:
        return row.offset % 3 if self.facts.partition_key else 0

    def land(self) -> None:
        """A late insert arrives; nobody hears what became of it."""
        rows, token = self.late.pop(0)
        if not self.refused & {(row.partition, row.offset) for row in rows}:
            self.apply(rows, token)


class Counts:
    """Metrics that only count."""

    def __init__(self) -> None:
        self.rows = 0
        self.retries: list[str] = []

    def inserted(self, table: str, rows: int) -> None:
        self.rows += rows

    def insert_seconds(self, table: str, seconds: float) -> None:
        assert seconds >= 0

    def retried(self, error_class: str) -> None:
        self.retries.append(error_class)


class SinkOnLists(Sink):
    """The real sink; only the lookup of stored rows asks the lists instead of sending SQL."""

    def stored(self, table: str, spans: Sequence[Span]) -> dict[Partition, list[tuple[int, int]]]:
        found: dict[Partition, list[tuple[int, int]]] = {}
        for partition, offset in sorted({(row.partition, row.offset) for row in self._clickhouse.rows}):  # type: ignore[attr-defined]
            if any(span.partition == partition and span.first <= offset < span.next for span in spans):
                found.setdefault(partition, []).append((offset, offset + 1))
        return found


def sink_of(clickhouse: FakeClickHouse, *, stopping: threading.Event | None = None, **more: Any) -> SinkOnLists:
    stopping = stopping or threading.Event()
    clock = more.pop("clock", SystemClock())
    config = more.pop("config", CONFIG)
    metrics = more.pop("metrics", Counts())
    return SinkOnLists(clickhouse, config, clock, stopping, metrics, random.Random(7), **more)  # type: ignore[arg-type]


def write_of(rows: Sequence[Row], spans: tuple[Span, ...], looks: int = 0) -> Write:
    def token_of(path: str, look: int) -> str:
        return token(IDENTITY, "events", spans, path=path, look=looks + look)

    return Write("events", ("id",), FakeBlock(rows), spans, token_of)


def span(first: int, next_offset: int, number: int = 0, topic: str = "t") -> Span:
    return Span(Partition(topic, number), first, next_offset)


def rows_of(*spans: Span) -> list[Row]:
    return [Row(one.partition, offset) for one in spans for offset in range(one.first, one.next)]


def test_a_block_is_one_insert_under_the_token_of_the_whole() -> None:
    clickhouse, metrics = FakeClickHouse(), Counts()
    write = write_of(rows_of(span(0, 10)), (span(0, 10),))
    assert sink_of(clickhouse, metrics=metrics).insert(write) == []
    assert clickhouse.attempts == [(write.token("", 0), rows_of(span(0, 10)))]
    assert metrics.rows == 10


def test_an_empty_block_is_no_insert() -> None:
    clickhouse = FakeClickHouse()
    assert sink_of(clickhouse).insert(write_of([], (span(0, 10),))) == []
    assert clickhouse.attempts == []


@pytest.mark.parametrize("fault", ["down", "lost"])
def test_a_retry_sends_the_same_object_under_the_same_token(fault: str) -> None:
    clickhouse, metrics = FakeClickHouse(), Counts()
    clickhouse.faults = [fault] * 5
    rows = rows_of(span(0, 10))
    assert sink_of(clickhouse, metrics=metrics).insert(write_of(rows, (span(0, 10),))) == []
    assert len(clickhouse.attempts) == 6
    assert len({id(body) for _, body in clickhouse.attempts}) == 1
    assert len({token for token, _ in clickhouse.attempts}) == 1
    assert clickhouse.rows == rows
    assert metrics.retries == ["test"] * 5


class Forgetful(FakeClickHouse):
    """Each lost answer is noticed `pause_s` later, and by then no token is known any more."""

    def __init__(self, facts: TableFacts, pause_s: float) -> None:
        super().__init__(facts=facts)
        self.clock = ManualClock()
        self._pause_s = pause_s

    def insert(self, rows: list[Row], token: str) -> None:
        try:
            super().insert(rows, token)
        except ClickHouseError:
            self.clock.advance(self._pause_s)
            self.tokens.clear()
            raise


HOUR = PLAIN._replace(replicated=True, window_blocks=10_000, window_s=3_600)


@pytest.mark.parametrize(("facts", "pause_s"), [(HOUR, 2_000.0), (HOUR, 120.0), (PLAIN, 2.0)])
@pytest.mark.parametrize("faults", [["lost"], ["lost", "down", "lost"], ["down", "down"]])
def test_rows_are_looked_up_once_the_table_may_have_forgotten_the_token(
    facts: TableFacts, pause_s: float, faults: list[str]
) -> None:
    """The insert was applied, the answer lost, and ClickHouse away for longer than it remembers tokens."""
    clickhouse = Forgetful(facts, pause_s)
    clickhouse.faults = list(faults)
    rows = rows_of(span(0, 10))
    assert sink_of(clickhouse, clock=clickhouse.clock).insert(write_of(rows, (span(0, 10),))) == []
    assert clickhouse.rows == rows


def test_only_the_rows_that_are_missing_are_sent_again() -> None:
    clickhouse = Forgetful(HOUR, 2_000.0)
    rows = rows_of(span(0, 10))
    clickhouse.rows = rows[:4]
    clickhouse.faults = ["down"]
    write = write_of(rows, (span(0, 10),))
    assert sink_of(clickhouse, clock=clickhouse.clock).insert(write) == []
    assert clickhouse.attempts == [(write.token("", 0), rows), (write.token("", 0), rows[4:])]


@pytest.mark.parametrize("partition_key", ["", "offset % 3"])
def test_rows_of_which_a_killed_server_kept_the_token_only_are_sent_under_another(partition_key: str) -> None:
    """Found by a server killed again and again under load: it writes a part's token before it keeps the part."""
    clickhouse, metrics = FakeClickHouse(facts=PLAIN._replace(partition_key=partition_key)), Counts()
    clickhouse.faults = ["down", "killed"]
    rows = rows_of(span(0, 10))
    write = write_of(rows, (span(0, 10),))
    assert sink_of(clickhouse, metrics=metrics).insert(write) == []
    assert sorted(clickhouse.rows) == rows
    lost = [row for row in rows if not partition_key or row.offset % 3 == 1]
    assert clickhouse.attempts == [*[(write.token("", 0), rows)] * 3, (write.token("", 1), lost)]
    assert metrics.rows == 10


def test_a_server_killed_at_the_second_token_too() -> None:
    clickhouse = FakeClickHouse(facts=PLAIN._replace(partition_key="offset % 3"))
    clickhouse.faults = ["", "killed", "", "killed"]
    rows = rows_of(span(0, 10))
    write = write_of(rows, (span(0, 10),))
    assert sink_of(clickhouse).insert(write) == []
    assert sorted(clickhouse.rows) == rows
    assert [token for token, _ in clickhouse.attempts] == [write.token("", look) for look in (0, 0, 1, 1, 2)]


@pytest.mark.parametrize("facts", [PLAIN._replace(lineage=False), PLAIN._replace(replicated=True)])
def test_nothing_is_looked_up_where_that_says_nothing(facts: TableFacts) -> None:
    """Without lineage there is nothing to ask for; a replica that lags would show rows to be missing that are not."""
    clickhouse = FakeClickHouse(facts=facts)
    clickhouse.faults = ["lost"]
    rows = rows_of(span(0, 10))
    write = write_of(rows, (span(0, 10),))
    sink = sink_of(clickhouse)
    sink.stored = None  # type: ignore[assignment]
    assert sink.insert(write) == []
    assert clickhouse.attempts == [(write.token("", 0), rows)] * 2


def test_without_lineage_an_insert_older_than_half_the_window_stops() -> None:
    clickhouse = Forgetful(HOUR._replace(lineage=False), 2_000.0)
    clickhouse.faults = ["lost"]
    with pytest.raises(SinkError, match="no lineage columns") as caught:
        sink_of(clickhouse, clock=clickhouse.clock).insert(write_of(rows_of(span(0, 4)), (span(0, 4),)))
    assert not caught.value.retriable
    assert len(clickhouse.attempts) == 1


@pytest.mark.parametrize("code", [60, 497, 516, 164, 49, 12345])
def test_what_waiting_does_not_cure_stops_at_once(code: int) -> None:
    clickhouse = FakeClickHouse()
    write = write_of(rows_of(span(0, 4)), (span(0, 4),))
    clickhouse.errors[write.token("", 0)] = failure(code)
    with pytest.raises(SinkError) as caught:
        sink_of(clickhouse).insert(write)
    assert caught.value.code == code
    assert not caught.value.retriable
    assert len(clickhouse.attempts) == 1


def test_waiting_ends_at_once_when_the_worker_stops() -> None:
    clickhouse, stopping = FakeClickHouse(), threading.Event()
    clickhouse.faults = ["down"] * 1_000
    config = ClickHouseConfig(urls=CONFIG.urls, retry_wait_ms_max=600_000)
    sink = sink_of(clickhouse, stopping=stopping, config=config)
    raised: list[Exception] = []

    def run() -> None:
        try:
            sink.insert(write_of(rows_of(span(0, 4)), (span(0, 4),)))
        except Stopping as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while "inserting into events" not in sink.waiting:
        time.sleep(0.005)
    began_s = time.monotonic()
    stopping.set()
    thread.join(10)
    assert len(raised) == 1
    assert time.monotonic() - began_s < 5
    assert sink.waiting == ""


def test_refused_rows_are_found_and_the_others_stored_once() -> None:
    spans = (span(0, 50), span(100, 150, number=1), span(7, 9, topic="u"))
    rows = rows_of(*spans)
    random.Random(3).shuffle(rows)
    bad = {(Partition("t", 0), 0), (Partition("t", 0), 49), (Partition("t", 1), 120), (Partition("u", 0), 8)}
    clickhouse = FakeClickHouse(bad)
    refused = sink_of(clickhouse).insert(write_of(rows, spans))
    assert [(partition, offset) for partition, offset, _ in refused] == sorted(bad)
    assert {reject.stage for *_, reject in refused} == {Stage.INSERT}
    assert {reject.code for *_, reject in refused} == {RejectCode.REFUSED}
    assert {reject.detail for *_, reject in refused} == {"ClickHouse code 469 VIOLATED_CONSTRAINT"}
    assert sorted(clickhouse.rows) == sorted(row for row in rows if tuple(row) not in bad)


def test_a_part_that_is_known_to_be_refused_is_not_sent_again() -> None:
    """One bad row among two at the ends of a span of a million: what is cut away in between is empty."""
    spans = (span(0, 1_000_000),)
    clickhouse = FakeClickHouse({(Partition("t", 0), 999_999)})
    rows = [Row(Partition("t", 0), 999_998), Row(Partition("t", 0), 999_999)]
    assert len(sink_of(clickhouse).insert(write_of(rows, spans))) == 1
    assert len(clickhouse.attempts) <= 3
    assert clickhouse.rows == rows[:1]


def test_a_table_that_refuses_too_many_rows_stops() -> None:
    spans = (span(0, 100),)
    clickhouse = FakeClickHouse({(Partition("t", 0), offset) for offset in range(100)})
    with pytest.raises(RejectLimitExceeded, match="more than 9 rows"):
        sink_of(clickhouse, refused_rows_max=9).insert(write_of(rows_of(*spans), spans))
    assert clickhouse.rows == []


def test_rows_stored_by_a_refused_insert_are_not_inserted_again() -> None:
    """A block for three table partitions: the first part is stored before the second is refused."""
    spans = (span(0, 30),)
    clickhouse = FakeClickHouse({(Partition("t", 0), 4)}, PLAIN._replace(partition_key="offset % 3"))
    refused = sink_of(clickhouse).insert(write_of(rows_of(*spans), spans))
    assert [offset for _, offset, _ in refused] == [4]
    assert sorted(row.offset for row in clickhouse.rows) == [offset for offset in range(30) if offset != 4]


@pytest.mark.parametrize("views", [(), ("default.per_hour",)])
def test_rows_that_another_worker_stored_are_not_inserted_again_beside_a_refused_one(views: tuple[str, ...]) -> None:
    """It recovered the batch without the refused row, so the whole block was taken, under the token of this one. The row is
    refused by the table, and not by a view behind it (found by the simulation: the worker stopped)."""
    spans = (span(0, 30),)
    clickhouse = FakeClickHouse({(Partition("t", 0), 4)}, PLAIN._replace(views=views))
    clickhouse.view_refuses = False
    others = [row for row in rows_of(*spans) if row.offset != 4]
    sink_of(clickhouse).insert(write_of(others, spans))
    refused = sink_of(clickhouse).insert(write_of(rows_of(*spans), spans))
    assert [offset for _, offset, _ in refused] == [4]
    assert sorted(row.offset for row in clickhouse.rows) == [row.offset for row in others]


class Overtaken(FakeClickHouse):
    """Another worker stores every row but the refused one while the first half of the block is on its way."""

    def insert(self, rows: list[Row], token: str) -> None:
        if len(self.attempts) == 1:
            others = [row for row in self.attempts[0][1] if (row.partition, row.offset) not in self.refused]
            self.rows += others
        super().insert(rows, token)


def test_rows_that_another_worker_stored_meanwhile_are_not_inserted_with_the_next_half() -> None:
    """Found by the simulation: a worker that stood still between the halves of a refused block (seed 1474345537)."""
    spans = (span(0, 30),)
    clickhouse = Overtaken({(Partition("t", 0), 4)})
    refused = sink_of(clickhouse).insert(write_of(rows_of(*spans), spans))
    assert [offset for _, offset, _ in refused] == [4]
    assert sorted(row.offset for row in clickhouse.rows) == [offset for offset in range(30) if offset != 4]


@pytest.mark.parametrize("lineage", [True, False])
def test_a_view_that_refuses_stored_rows_stops(lineage: bool) -> None:
    """The table has the rows; to bisect would double them."""
    spans = (span(0, 30),)
    clickhouse = FakeClickHouse(facts=PLAIN._replace(views=("default.per_hour",), lineage=lineage))
    with pytest.raises(SinkError, match="materialized view on events refuses") as caught:
        sink_of(clickhouse).insert(write_of(rows_of(*spans), spans))
    assert "default.per_hour" in str(caught.value)
    assert not caught.value.retriable
    assert len(clickhouse.rows) == 30


def test_random_schedules_write_every_row_once() -> None:
    """Faults, inserts that land late, workers that die in the middle and others that recover the same batch."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed = {seed}")
    chance = random.Random(seed)
    for _ in range(400):
        _one_schedule(chance)


def _one_schedule(chance: random.Random) -> None:
    spans = tuple(span(100 * n, 100 * n + chance.randrange(1, 20), number=n) for n in range(chance.randrange(1, 4)))
    rows = [row for row in rows_of(*spans) if chance.random() < 0.8]
    chance.shuffle(rows)
    bad = {tuple(row) for row in rows if chance.random() < chance.choice([0.0, 0.05, 0.3])}
    clickhouse = FakeClickHouse(bad, PLAIN._replace(partition_key=chance.choice(["", "offset % 3"])))  # type: ignore[arg-type]
    refused: set[Record] = set()
    done, looks = False, 0
    while not done:
        clickhouse.faults = chance.choices(
            ["", "down", "lost", "late", "killed"], [6, 1, 1, 1, 1], k=chance.randrange(40)
        )
        deaths = chance.randrange(1, 30)
        # Recovery leaves out what the lineage shows; a late insert may land right after the look.
        stored = set(clickhouse.rows)
        missing = [row for row in rows if row not in stored]
        write = write_of(missing, spans, looks)
        if clickhouse.late and chance.random() < 0.5:
            clickhouse.land()
        try:
            found = sink_of(_Mortal(clickhouse, deaths, chance)).insert(write)  # type: ignore[arg-type]
        except _Death:
            looks = 0
            continue
        # And it looks again: an insert that was acknowledged at once may have met a token without rows.
        refused = {(partition, offset) for partition, offset, _ in found}
        done = set(missing) <= {*clickhouse.rows, *(Row(*record) for record in refused)}
        looks += 1
    while clickhouse.late:
        clickhouse.land()
    assert sorted(clickhouse.rows) == sorted(row for row in rows if tuple(row) not in bad)
    assert refused == bad


class _Death(Exception):
    pass


class _Mortal:
    """A connection that dies after some inserts, before or after the last one was applied."""

    def __init__(self, clickhouse: FakeClickHouse, inserts: int, chance: random.Random) -> None:
        self._clickhouse = clickhouse
        self._left = inserts
        self._chance = chance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clickhouse, name)

    def insert(self, rows: list[Row], token: str) -> None:
        self._left -= 1
        if not self._left:
            if self._chance.random() < 0.5:
                self._clickhouse.late.append((rows, token))
            raise _Death
        if self._clickhouse.late and self._chance.random() < 0.3:
            self._clickhouse.land()
        self._clickhouse.insert(rows, token)


def test_origins_find_rows_by_span() -> None:
    rows = [Row(Partition("t", 1), 5), Row(Partition("t", 0), 3), Row(Partition("t", 1), 4), Row(Partition("u", 1), 4)]
    origins = RowOrigins(FakeBlock(rows))
    assert [origins.of(row) for row in range(4)] == [tuple(row) for row in rows]
    assert origins.within([span(0, 5, number=1)]) == [2]
    assert origins.within([span(4, 6, number=1), span(0, 9)]) == [0, 1, 2]
    assert origins.within([span(4, 5, number=1, topic="u"), span(0, 9, number=7)]) == [3]
    assert origins.within([]) == []


def test_the_lookup_escapes_names() -> None:
    sql = stored_sql("db.ta`ble", [span(1, 2, number=3, topic="a'b\\")])
    assert "`db`.`ta\\`ble`" in sql
    assert "_topic = 'a\\'b\\\\'" in sql


def test_token_life() -> None:
    for window, seconds, expected in [(0, None, 0), (100, None, None), (100, 60, 60_000), (0, 60, 0)]:
        facts = PLAIN._replace(window_blocks=window, window_s=seconds)
        assert sink_of(FakeClickHouse(facts=facts)).token_life_ms("events") == expected


def test_waits_grow_up_to_the_bound_and_differ() -> None:
    waits: list[float] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            assert timeout <= BEAT_S
            waits[-1] += timeout
            return False

    patience = Patience(ManualClock(), Event(), random.Random(1), Counts(), wait_ms_max=5_000)
    for attempt in range(1, 200):
        waits.append(0.0)
        patience.pause(attempt, "x")
    assert all(0 <= wait <= min(5.0, FIRST_WAIT_S * 2 ** min(n, 40)) for n, wait in enumerate(waits))
    assert max(waits[10:]) > 4.0
    assert len(set(waits)) > 190


def test_who_waits_says_that_it_lives_in_its_own_thread_only() -> None:
    beats: list[int] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return False

    patience = Patience(ManualClock(), Event(), random.Random(1), Counts(), wait_ms_max=60_000)
    with beating(lambda: beats.append(1)):
        other = threading.Thread(target=patience.pause, args=(20, "x"))
        other.start()
        other.join()
        assert beats == []
        patience.check()
        assert len(beats) == 1
        patience.pause(20, "x")
        assert len(beats) > 2
    beats.clear()
    patience.pause(20, "x")
    patience.check()
    assert beats == []


def test_the_longest_wait_is_shown() -> None:
    clock = ManualClock()
    patience = Patience(clock, threading.Event(), random.Random(1), Counts(), wait_ms_max=1)
    assert patience.described == ""
    with patience.visibly("first") as first, patience.visibly("second") as second:
        second("overload", 1)
        clock.advance(7)
        first("network", 1)
        clock.advance(3)
        second("memory", 2)
        assert patience.described == "second: memory (2 attempts in 10 s)"
    assert patience.described == ""


def test_errors_of_data_are_not_retriable() -> None:
    assert failure(469).error_class is ErrorClass.DATA
    assert not failure(469).retriable
    assert failure(241).retriable
