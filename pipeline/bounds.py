"""What makes a reading a bounded one: where it begins and ends, how fast it goes, and what it must leave alone.

The seam between the flow and a deliberate replay. The flow, the recovery and the delivery ask; they decide nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pipeline.batch import TableBlock
from pipeline.types import Partition, Span


class Bounds(Protocol):
    """A bounded reading. Without one a worker reads on for ever."""

    salt: str
    """Part of the tokens of the batches that this process declares: what was inserted before shall not stand for them."""

    @property
    def topics(self) -> list[str]: ...

    def first(self, partition: Partition) -> int:
        """Where a partition is read from when nothing is committed for it."""

    def end(self, partition: Partition) -> int:
        """The offset that is not read any more."""

    def turn(self, positions: Mapping[Partition, int]) -> dict[Partition, int]:
        """Of these positions the one whose turn it is; empty when every partition has been read to its end.

        One partition at a time, so that its records pass the window of event ids in the order of their times.
        """

    def allowance(self) -> int:
        """How many records may be read now."""

    def spend(self, records: int) -> None:
        """So many records were read."""

    def settled(self, partition: Partition, first: int, next_offset: int) -> list[tuple[int, int]]:
        """Ranges of offsets whose records have a dead letter: they are left out, whatever they would be today."""

    def screen(self, block: TableBlock, spans: tuple[Span, ...]) -> TableBlock:
        """The block without rows that are stored, by their lineage or, of another record, by their event id.

        Called in the thread that inserts, right before it does. Retries for as long as ClickHouse is away.
        """
