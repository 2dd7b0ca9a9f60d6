"""Claims: which record owns an event id, within a window bounded by record time and by ids.

Owns the claim table, the slot of each partition, the passing of the window and the event keys that are no columns. It
never decides what becomes of a record; it hands the table to the lane, which claims and appends in one pass.

A slot is one uninterrupted reading of a partition. When a partition is taken away, or read again from an earlier offset,
its slot is frozen at the first offset whose record may yet be written by someone else: claims from there on are void, and
whoever brings the same id takes them over. So a copy is dropped only for the sake of a record that is stored, or that this
very worker is about to store.
"""

from __future__ import annotations

import secrets
from array import array
from collections import deque
from collections.abc import Sequence

from pipeline.config.schema import Dedup as DedupConfig
from pipeline.native import ClaimTable, middle_and_high
from pipeline.types import Partition, Records

GENERATIONS = 8
"""The window is dropped in this many parts; a part goes when its last record is older than the window. The table has twice
as many, so that those that end because they are full take no place from these."""
OUTAGE_MS = 120_000
"""Claims are kept for so long beyond the window: a partition at its end, for which the window does not wait, may fall behind
the others while its leader is away."""
OFFSET_MAX = 2**63 - 1
KEY = "@key"
HEADER = "@header:"


class Dedup:
    """The claims of one worker. Used by the data-plane thread only."""

    def __init__(self, config: DedupConfig) -> None:
        self._config = config
        self._identities: dict[Partition, int] = {}
        self._slots: dict[Partition, int] = {}
        self._settled: dict[Partition, int] = {}
        """Of each partition that was prepared: everything before this offset is durable."""
        self._period_ms = max(1, config.window_s * 1000 // (GENERATIONS - 1))
        self._reached_ms: dict[Partition, int] = {}
        """Of each partition that is being read and not at its end: the record time of the run taken last."""
        self._coming_ms: dict[Partition, int] = {}
        """The record times of runs that are about to be taken."""
        self._latest_ms = 0
        self._begun_ms = 0
        self._ends_ms: deque[int] = deque()
        """The latest record time in each generation that has ended and is still held, the oldest first."""
        self._rotations = 0
        self._ids_passed = 0
        """Ids that were dropped because the window has passed them."""
        self._ids_cut = 0
        self._awaited: dict[Partition, bool] = {}
        """Partitions whose reading has begun and of which no record has come yet, and whether claims of theirs were read back.
        Where they are in time is not known, so nothing is dropped."""
        self.key_is_column = bool(config.key) and not config.key[0].startswith("@")
        """The event id is made of columns of the table, so it can be read back from there."""
        self.claims: ClaimTable | None = None
        if config.key:
            self.claims = ClaimTable(config.ids_max, secret=secrets.token_bytes(16), generations=2 * GENERATIONS)

    @property
    def enabled(self) -> bool:
        return self.claims is not None

    # Slots

    def open(self, partition: Partition) -> None:
        """A new reading of the partition begins; the claims of an earlier one must have been frozen."""
        if self.claims is not None:
            identity = self._identities.setdefault(partition, len(self._identities))
            self._slots[partition] = self.claims.open_slot(identity)
            self._awaited[partition] = False
            self._settled[partition] = 0

    def settle(self, partition: Partition, position: int) -> None:
        """Everything before `position` is durable: no later end of this reading makes claims before it void."""
        if partition in self._slots:
            self._settled[partition] = position

    def freeze(self, partition: Partition, void_from: int) -> None:
        """The reading ended: claims at `void_from` and beyond are void, but for those of what is settled."""
        self.rest(partition)
        if self.claims is not None and (slot := self._slots.pop(partition, None)) is not None:
            self.claims.freeze_slot(slot, max(void_from, self._settled.pop(partition)))

    def reopen(self, partition: Partition, position: int) -> None:
        """The partition is read again from `position`."""
        self.freeze(partition, position)
        self.open(partition)

    def reads(self, partition: Partition) -> bool:
        """Whether a reading of the partition is open."""
        return partition in self._slots

    def slot(self, partition: Partition) -> int:
        return self._slots.get(partition, 0)

    # Keys and time

    def keys(self, records: Records, first: int, cut: int) -> list[bytes | None] | None:
        """The event keys when they are no columns: record keys or one header; None when the builder takes columns."""
        if self.key_is_column or self.claims is None:
            return None
        source = self._config.key[0]
        if source == KEY:
            return [records.key(index) for index in range(first, cut)]
        name = source.removeprefix(HEADER)
        return [dict(records.headers(index)).get(name) for index in range(first, cut)]

    def pass_time(self, partition: Partition, timestamps: array[int]) -> None:
        """As `come` for a run that is taken at once, before another one comes."""
        self.come(partition, timestamps)
        self.took()

    def took(self) -> None:
        """Every run that came has been taken."""
        self._reached_ms |= self._coming_ms
        self._coming_ms.clear()

    def come(self, partition: Partition, timestamps: array[int]) -> None:
        """Moves the window on before a run of a partition is taken, to the records' own time and never past what waits.

        The time is that of the partition that is furthest behind, where its run before this one was: a partition may lag
        behind others, and a run of a backlog may span more than the window. Of each run the median counts, so that a few
        records of a producer with a wrong clock do not empty the window.
        """
        if self.claims is None or not timestamps:
            return
        median_ms, high_ms = middle_and_high(timestamps)
        if median_ms <= 0:
            return
        self._note_generations()
        latest_ms = max(self._latest_ms, high_ms)
        self._has_come(partition, latest_ms)
        if not self._latest_ms:
            self._pass_for(latest_ms)
        reached_ms = self._reached_ms.setdefault(partition, median_ms)
        # The furthest behind is looked for only where even this partition's own time would drop something.
        if not self._awaited and self._oldest_end_ms() <= self._expired_ms(reached_ms):
            self._drop_until(min(self._reached_ms.values()))
        self._coming_ms[partition] = median_ms
        self._begun_ms = self._begun_ms or median_ms
        self._latest_ms = latest_ms
        if self._latest_ms - self._begun_ms >= self._period_ms and len(self._ends_ms) < GENERATIONS - 1:
            self._rotate()

    def rest(self, partition: Partition) -> None:
        """The partition has no record left for now, or cannot be read: the window does not wait for it."""
        self._reached_ms.pop(partition, None)
        self._coming_ms.pop(partition, None)
        self._has_come(partition, self._latest_ms)

    def held_until(self, time_ms: int) -> None:
        """Claims read back are of records up to that time. The first record that is read may be much older: of another
        partition, which is far behind."""
        if not self._latest_ms and time_ms > 0:
            self._pass_for(time_ms)
        self._latest_ms = max(self._latest_ms, time_ms)

    def held_of(self, timestamps: array[int]) -> None:
        """Claims of these records are held, which were not read in their turn."""
        if timestamps:
            self.held_until(middle_and_high(timestamps)[1])

    def _has_come(self, partition: Partition, time_ms: int) -> None:
        """Of claims read back the latest time is known at most; they pass for as old as the first record that follows them."""
        if self._awaited.pop(partition, False):
            self._pass_for(time_ms)

    def _pass_for(self, time_ms: int) -> None:
        """No claim that is held is of an earlier time."""
        self._latest_ms = time_ms
        self._ends_ms = deque(max(end_ms, time_ms) for end_ms in self._ends_ms)

    def _drop_until(self, now_ms: int) -> None:
        """Drops the generations whose latest record is a window or more before `now_ms`."""
        assert self.claims is not None
        expired_ms, dropped = self._expired_ms(now_ms), self.claims.ids_dropped
        if 0 < self._latest_ms <= expired_ms:
            self._rotate()
        while self._ends_ms and self._ends_ms[0] <= expired_ms:
            self.claims.drop()
            self._ends_ms.popleft()
        self._ids_passed += self.claims.ids_dropped - dropped

    def _expired_ms(self, now_ms: int) -> int:
        """A generation whose latest record is not after this has left the window."""
        return now_ms - self._config.window_s * 1000 - OUTAGE_MS

    def _oldest_end_ms(self) -> int:
        """The earliest latest record of a generation that is held; the one that is being filled comes last."""
        return self._ends_ms[0] if self._ends_ms else self._latest_ms

    def _rotate(self) -> None:
        assert self.claims is not None
        self.claims.rotate()
        self._note_generations()

    def _note_generations(self) -> None:
        """Also those that ended, or were dropped, because they or the table were full."""
        assert self.claims is not None
        for _ in range(self.claims.rotations - self._rotations):
            self._ends_ms.append(self._latest_ms)
            self._begun_ms = self._latest_ms
        self._rotations = self.claims.rotations
        while len(self._ends_ms) > self.claims.ended:
            self._ends_ms.popleft()

    def ids_cut(self) -> int:
        """How many ids were dropped before the window had passed them, since this was asked last: the table was full."""
        if self.claims is None:
            return 0
        before, self._ids_cut = self._ids_cut, self.claims.ids_dropped - self._ids_passed
        return self._ids_cut - before

    def restart_time(self) -> None:
        """The records that follow may be older than those before: of another partition, read after it."""
        self._reached_ms.clear()
        self._coming_ms.clear()
        self._ends_ms = deque(0 for _ in self._ends_ms)
        self._latest_ms = self._begun_ms = 0

    def restore(self, rows: bytes, key_types: Sequence[str], partition: Partition, domain: bytes) -> int:
        """Claims ids read back from a table, as RowBinary rows of (key columns, Int32 partition, Int64 offset), oldest first.

        Returns how many were claimed.
        """
        if self.claims is None:
            return 0
        if partition in self._awaited:
            self._awaited[partition] = True
        return self.claims.restore(rows, key_types, {partition.number: self._slots[partition]}, domain)

    def restore_stored(
        self, rows: bytes, key_types: Sequence[str], partitions: Sequence[Partition], domain: bytes
    ) -> int:
        """The same for rows that may be beyond the positions. They are stored, so no end of a reading makes them void."""
        if self.claims is None:
            return 0
        slots = {}
        for partition in partitions:
            identity = self._identities.setdefault(partition, len(self._identities))
            slots[partition.number] = self.claims.open_slot(identity)
        restored = self.claims.restore(rows, key_types, slots, domain)
        for slot in slots.values():
            self.claims.freeze_slot(slot, OFFSET_MAX)
        return restored


def domain(topic: str, table: str) -> bytes:
    """The scope of event ids: equal keys of two topics, or of two tables a union goes to, are two events."""
    return f"{topic}\n{table}".encode()
