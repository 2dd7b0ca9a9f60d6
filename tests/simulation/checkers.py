"""What must hold after every step, and at the end. Kept up to date by what happens, so that a step costs little."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.kafka_model import Place
from tests.simulation.loop import Loop

AT_ONCE_S = 3.0


@dataclass
class Produced:
    """One record as it was produced, and what became of it."""

    serial: int
    place: Place
    offset: int
    id: int
    timestamp_ms: int
    tombstone: bool
    event: list[int]
    """Id, `n` and shard; a copy has the same."""
    removed: bool = False
    """Kafka has it no more, and that is nobody's fault: compaction, or an operator who knows."""
    expired: bool = False
    """Retention took it; a worker must not pass over it by itself."""
    rows: int = 0
    view_rows: int = 0
    letters: int = 0
    settled: bool = False
    """Its letter can be found by whoever reads it again."""
    lettered_by: list[Any] = field(default_factory=list)
    row_s: float = 0.0
    letter_s: float = 0.0
    writer: Any = None
    held: dict[Place, int] = field(default_factory=dict)
    """The writer's assignments when it made the insert the row came with."""

    @property
    def name(self) -> str:
        return f"{self.place[0]}/{self.place[1]} offset {self.offset} (id {self.id})"


class Ledger:
    """Every record and its fate; `findings` is what contradicts the promises."""

    def __init__(self, dedup_window_ms: int, dedup: bool, loop: Loop) -> None:
        self._loop = loop
        self._window_ms = dedup_window_ms
        self._dedup = dedup
        self.by_serial: dict[int, Produced] = {}
        self.by_id: dict[int, list[Produced]] = {}
        self.by_place: dict[Place, list[Produced]] = {}
        self.committed: dict[Place, int] = {}
        self.findings: list[str] = []
        self._latest_ms = 0
        self.passed: Counter[str] = Counter()
        self.look_at_commits = True

    def find(self, text: str) -> None:
        self.findings.append(text)
        self._loop.end()

    def produced(self, record: Produced) -> None:
        self._latest_ms = max(self._latest_ms, record.timestamp_ms)
        self.by_serial[record.serial] = record
        self.by_place.setdefault(record.place, []).append(record)
        if not record.tombstone:
            self.by_id.setdefault(record.id, []).append(record)

    def at(self, place: Place, offset: int) -> Produced | None:
        records = self.by_place.get(place, [])
        index = bisect_left(records, offset, key=lambda record: record.offset)
        return records[index] if index < len(records) and records[index].offset == offset else None

    # What happens

    def rows_came(self, table: str, rows: Iterable[Mapping[str, Any]], source: Any) -> None:
        for row in rows:
            record = self.by_serial[row["serial"]]
            record.rows += 1
            record.writer, record.held = source
            if record.rows > 1:
                self.find(f"doubled: {record.name} has {record.rows} rows")
            if record.letters:
                self._row_and_letter(record)
            record.row_s = self._loop.now_s
            if self._dedup and record.rows == 1:
                self._look_for_copies(record)

    def view_rows_came(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            record = self.by_serial[row["serial"]]
            record.view_rows += 1
            if record.view_rows > 1:
                self.find(f"doubled in the view: {record.name} has {record.view_rows} rows there")

    def truncated(self) -> None:
        """An operator has emptied the table: what was in it is gone, and nobody's fault."""
        for record in self.by_serial.values():
            record.removed = record.removed or record.rows > 0
            record.rows = 0

    def offsets_lost(self) -> None:
        """Everything is read again. Letters are looked for as long as there are stored rows ahead."""
        self.committed.clear()
        for records in self.by_place.values():
            last = max((record.offset for record in records if record.rows), default=-1)
            for record in records:
                record.settled = record.letters > 0 and record.offset < last

    def _look_for_copies(self, record: Produced) -> None:
        for other in self.by_id[record.id]:
            if other is record or not other.rows:
                continue
            if any(one.removed or one.expired for one in (other, record)):
                self.passed["copy of a record that Kafka has removed"] += 1
            elif self._latest_ms - min(other.timestamp_ms, record.timestamp_ms) > self._window_ms // 2:
                self.passed["copy beyond the window"] += 1
            elif other.place == record.place or self._in_one_scope(other, record):
                self.find(f"doubled: {record.name} is a copy of {other.name}, and both have a row")
            else:
                self.passed["copy in another worker's scope"] += 1

    def _in_one_scope(self, other: Produced, record: Produced) -> bool:
        """The worker that made both inserts held both partitions at either time, under the same assignments."""
        if other.writer is not record.writer:
            return False
        both = (other.place, record.place)
        return all(record.held.get(place) is not None and record.held[place] == other.held.get(place) for place in both)

    def letter_came(self, place: Place, offset: int, writer: Any) -> None:
        record = self.at(place, offset)
        if record is None:
            self.find(f"a letter for {place} offset {offset}, which has no record")
            return
        record.letters += 1
        record.lettered_by.append(writer)
        if record.settled:
            self.find(f"letter repeated after offsets were lost: {record.name}")
        if record.letters > 1:
            known = [writer for writer in record.lettered_by if writer[1] is not None]
            if len(set(known)) < len(known):
                self.find(f"letter repeated under one assignment: {record.name}")
            self.passed["letter repeated"] += 1
        if record.rows:
            self._row_and_letter(record)
        record.letter_s = self._loop.now_s

    def _row_and_letter(self, record: Produced) -> None:
        """Two workers that recover a batch at once under two contracts look for the other's work before it is there."""
        versions = {record.writer.version, *(writer.version for writer, *_ in record.lettered_by)}
        if len(versions) > 1 and self._loop.now_s - max(record.row_s, record.letter_s) < AT_ONCE_S:
            self.passed["row and letter by two contracts at once"] += 1
        else:
            self.find(f"row and letter: {record.name}")

    def offsets_stored(self, entries: Mapping[Place, tuple[int, str]]) -> None:
        """Everything before a committed offset is durable, or a copy of something that is or will be."""
        for place, (offset, _) in entries.items():
            before = self.committed.get(place, 0)
            if offset < before:
                self.find(f"{place} went back from offset {before} to {offset}")
            records = self.by_place.get(place, [])
            first = bisect_left(records, before, key=lambda record: record.offset)
            for record in records[first:]:
                if record.offset >= offset:
                    break
                if self.look_at_commits and not self._accounted(record):
                    self.find(f"committed past what is not durable: {record.name}")
            self.committed[place] = max(before, offset)

    def _accounted(self, record: Produced) -> bool:
        if record.rows or record.letters or record.tombstone or record.removed:
            return True
        return any(
            other.rows or other.letters or other.removed or other.offset >= self.committed.get(other.place, 0)
            for other in self.by_id[record.id]
            if other is not record
        )

    # At the end

    def close(self, *, view: bool) -> None:
        """Every record that is still in the log ended as exactly one of the things it may end as."""
        if view:
            for record in self.by_serial.values():
                if record.rows and not record.view_rows and not record.removed:
                    self.find(f"lost in the view: {record.name}")
        for record in self.by_serial.values():
            if record.rows or record.letters or record.tombstone or record.removed:
                continue
            copies = [other for other in self.by_id[record.id] if other is not record]
            if not any(other.rows or other.letters or other.removed for other in copies):
                self.find(f"lost: {record.name}")
            elif not self._dedup:
                self.find(f"lost without deduplication: {record.name}")
            else:
                self.passed["duplicates dropped"] += 1
