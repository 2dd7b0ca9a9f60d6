"""The account of a long stretch holds no more than that of a short one: measured, and counted structure by structure."""

from __future__ import annotations

import gc
import tracemalloc
from array import array
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest

from pipeline.config.schema import ClickHouse, Config, Dedup, Kafka, Route
from pipeline.contract import Contract, load
from pipeline.types import Headers, Partition, Records, Span
from pipeline.verify import Reach, Report, account, candidates
from pipeline.verify import letters as dead_letters
from pipeline.verify.account import Accountant
from pipeline.verify.stored import Stored

P = Partition("t", 0)
RUN = 500
EVERY = 5
"""Of five records in a row three are rows, one is a dead letter, and one is a copy."""


class Event(msgspec.Struct):
    id: int


class Run:
    """Records made as they are read."""

    def __init__(self, first: int, next_: int) -> None:
        self.partition = P
        self.offsets = array("q", range(first, next_))
        self.timestamps = array("q", [1_700_000_000_000]) * len(self.offsets)
        self.values: list[bytes | None] = [b'{"id": %d}' % (offset - offset % EVERY) for offset in self.offsets]
        self.next_offset = next_
        self.nbytes = self.largest_bytes = 100
        self.oldest_ms = 1_700_000_000_000

    def __len__(self) -> int:
        return len(self.offsets)

    def value(self, index: int) -> bytes | None:
        return self.values[index]

    def key(self, index: int) -> bytes | None:
        return b"%d" % (self.offsets[index] - self.offsets[index] % EVERY)

    def headers(self, index: int) -> Headers:
        return ()


def runs(first: int, next_: int) -> Iterator[Run]:
    for start in range(first, next_, RUN):
        yield Run(start, min(next_, start + RUN))


class Endless:
    """Kafka and the tables of a pipeline that did everything right, for as many records as are asked for."""

    def __init__(self, records: int) -> None:
        self.records = records
        self.asked: list[int] = []
        self.looked_up: list[int] = []
        self.copies = 0

    def read(self, _: Any, spans: list[Span], heartbeat: Any) -> Iterator[tuple[Records, int, int]]:
        for _, first, next_ in spans:
            for run in runs(first, next_):
                yield cast("Records", run), 0, len(run)

    def letters(self) -> Iterator[tuple[Partition, int]]:
        return ((P, offset) for offset in range(EVERY - 1, self.records, EVERY))

    def stored(self, partition: Partition, first: int, next_: int) -> Stored:
        self.asked.append(next_ - first)
        return Stored(frozenset(offset for offset in range(first, next_) if offset % EVERY < 3), {})

    def bounds(self, partition: Partition) -> None:
        return None

    def owned(self, topic: str, target: Any, block: bytes) -> set[tuple[int, int]]:
        """The candidates are the copies, in order; a Native block says at its start how many columns and rows it has."""
        rows = _varint(block, 1)
        copies = {(0, EVERY * index + 3) for index in range(self.copies, self.copies + rows)}
        self.copies += rows
        self.looked_up.append(rows)
        return copies

    def topic_partitions(self, topic: str) -> int:
        return 1

    def watermarks(self, partitions: Any) -> dict[Partition, tuple[int, int]]:
        return {P: (0, self.records)}

    def committed(self, partitions: Any) -> dict[Partition, tuple[int, str]]:
        return {P: (self.records, "")}

    def is_mock(self) -> bool:
        return True


def config_of(key: str) -> Config:
    return Config(
        name="p",
        kafka=Kafka(brokers="b", group="g"),
        clickhouse=ClickHouse(urls=["http://c"]),
        routes=[Route(topic="t", table="e", contract=f"{__name__}:Event")],
        dedup=Dedup(key=[key]),
    )


def _varint(data: bytes, at: int) -> int:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        if data[at] < 0x80:
            return value
        at, shift = at + 1, shift + 7


def verified(key: str, records: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Report, Endless, int, int]:
    """The report, what was asked, the most letters or keys held, and the peak of allocated bytes."""
    endless = Endless(records)
    config = config_of(key)
    contract: Contract = load(config.routes[0], config.dedup, {})
    letters = dead_letters.Letters(endless.letters)
    monkeypatch.setattr(account.span_reader, "read", endless.read)
    held = 0

    def progress(_: int) -> None:
        nonlocal held
        held = max(held, letters.held, accountant._candidates["t"]._keys_held)

    places: Any = endless
    accountant = Accountant(config, places, places, letters, {"t": contract}, cast("Any", None), progress=progress)
    gc.collect()
    tracemalloc.start()
    try:
        report = accountant.run([Reach(P, 0, 0, records, records)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return report, endless, held, peak


@pytest.mark.parametrize(("key", "sizes"), [("id", (6_000, 60_000)), ("@key", (6_000, 24_000))])
def test_many_times_the_records_take_the_same_memory(
    key: str, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The windows are made small, so that a short stretch fills each of them and a long one many times over."""
    monkeypatch.setattr(account, "WINDOW_OFFSETS", 2_000)
    monkeypatch.setattr(candidates, "CANDIDATES_MAX", 1_000)
    monkeypatch.setattr(candidates, "KEYS_MAX", 1_000)
    monkeypatch.setattr(dead_letters, "LETTERS_MAX", 1_000)
    peaks = []
    for records in sizes:
        report, endless, held, peak = verified(key, records, monkeypatch)
        assert report.ok, report.lines()
        parts = (report.rows, report.dead_letters, report.duplicates)
        assert parts == (records // EVERY * 3, records // EVERY, records // EVERY)
        assert held <= 1_000
        assert max(endless.asked) <= 2_000
        assert max(endless.looked_up, default=0) <= 1_000 + RUN // EVERY
        assert (len(endless.looked_up) > records // 7_000) == (key == "id")
        peaks.append(peak)
    assert peaks[1] < 1.5 * peaks[0], peaks
