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
import statistics
from array import array
from collections.abc import Sequence

from pipeline.config.schema import Dedup as DedupConfig
from pipeline.native import ClaimTable
from pipeline.types import Partition, Records

GENERATIONS = 8
"""The window is dropped in this many parts; it holds between (GENERATIONS - 1) / GENERATIONS and all of the window."""
KEY = "@key"
HEADER = "@header:"


class Dedup:
    """The claims of one worker. Used by the data-plane thread only."""

    def __init__(self, config: DedupConfig) -> None:
        self._config = config
        self._identities: dict[Partition, int] = {}
        self._slots: dict[Partition, int] = {}
        self._period_ms = max(1, config.window_s * 1000 // (GENERATIONS - 1))
        self._period_ends_ms = 0
        self._ahead = False
        self.claims: ClaimTable | None = None
        if config.key:
            self.claims = ClaimTable(config.ids_max, secret=secrets.token_bytes(16), generations=GENERATIONS)

    @property
    def enabled(self) -> bool:
        return self.claims is not None

    @property
    def key_is_column(self) -> bool:
        """The event id is made of columns of the table, so it can be read back from there."""
        return self.enabled and not self._config.key[0].startswith("@")

    # Slots

    def open(self, partition: Partition) -> None:
        """A new reading of the partition begins; the claims of an earlier one must have been frozen."""
        if self.claims is not None:
            identity = self._identities.setdefault(partition, len(self._identities))
            self._slots[partition] = self.claims.open_slot(identity)

    def freeze(self, partition: Partition, void_from: int) -> None:
        """The reading ended: claims at `void_from` and beyond are void."""
        if self.claims is not None and (slot := self._slots.pop(partition, None)) is not None:
            self.claims.freeze_slot(slot, void_from)

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
        if not self.enabled or self.key_is_column:
            return None
        source = self._config.key[0]
        if source == KEY:
            return [records.key(index) for index in range(first, cut)]
        name = source.removeprefix(HEADER)
        return [dict(records.headers(index)).get(name) for index in range(first, cut)]

    def pass_time(self, timestamps: array[int]) -> None:
        """Moves the window on with the records' own time.

        By the median of a run, so that a few records of a producer with a wrong clock do not empty the window.
        """
        if self.claims is None or not timestamps:
            return
        sample = timestamps[:: max(1, len(timestamps) // 64)]
        now_ms = int(statistics.median_low(sample))
        if now_ms <= 0:
            return
        if self._period_ends_ms == 0:
            self._period_ends_ms = now_ms + self._period_ms
        if now_ms >= self._period_ends_ms:
            passed = (now_ms - self._period_ends_ms) // self._period_ms + 1
            # After a silence the first new records may have been claimed in a run that was old for the most part. Then the
            # newest generation stays, though it holds older claims too.
            for _ in range(min(passed, GENERATIONS - self._ahead)):
                self.claims.rotate()
            self._period_ends_ms = now_ms + self._period_ms
            self._ahead = False
        self._ahead = self._ahead or max(sample[-1], timestamps[-1]) >= self._period_ends_ms

    def restore(self, rows: bytes, key_types: Sequence[str], partition: Partition, domain: bytes) -> int:
        """Claims ids read back from a table, as RowBinary rows of (key columns, Int32 partition, Int64 offset), oldest first.

        Returns how many were claimed.
        """
        if self.claims is None:
            return 0
        return self.claims.restore(rows, key_types, {partition.number: self._slots[partition]}, domain)


def domain(topic: str, table: str) -> bytes:
    """The scope of event ids: equal keys of two topics, or of two tables a union goes to, are two events."""
    return f"{topic}\n{table}".encode()
