"""What of a partition is stored beyond the position it is read from: after its offsets were set back, or lost.

That may be every row of the table: more than fits into memory, and more than ClickHouse can tell in one answer in time. So
it is asked for page by page, as the reading comes there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

from pipeline.lane import LeftOut, Ranges
from pipeline.types import Partition, Span

PAGE_OFFSETS = 200_000
"""Offsets of one question; a batch has as many rows at the most, by default."""


class Ahead(NamedTuple):
    """How far the ids of the rows behind a page are claimed, whatever their offsets: record times need not be in order."""

    until_ms: int = 0
    """Those of records up to this time are."""
    enough_until: int = 0
    """Pages that end at this offset or before need no more than that."""


class Beyond:
    """Of one partition. Used by the data-plane thread only.

    `ask` gives the offsets inside a span that have rows. `claim` claims their ids and those of the rows for a window after it,
    but for the ones after it that are claimed already, up to a record time.
    """

    page_offsets = PAGE_OFFSETS

    def __init__(
        self,
        partition: Partition,
        end: int,
        letters: frozenset[int],
        ask: Callable[[Span], Ranges],
        claim: Callable[[Span, int], Ahead],
    ) -> None:
        self.end = end
        """The offset after the last row or letter there."""
        self._letters = sorted(letters)
        self._ask = ask
        self._claim = claim
        self._ahead = Ahead()
        self._page = Span(partition, 0, 0)
        self._stored = Ranges(())

    def left_out(self, first: int, next_offset: int) -> LeftOut | None:
        """What of the records `[first, next_offset)` must not be written again; None when nothing from there on is stored."""
        if first >= self.end:
            return None
        if first < self._page.first or min(next_offset, self.end) > self._page.next:
            page = Span(self._page.partition, first, max(next_offset, first + self.page_offsets))
            if page.next > self._ahead.enough_until:
                self._ahead = self._claim(page, self._ahead.until_ms)
            self._stored = self._ask(page)
            self._page = page
        letters = frozenset(self._letters[bisect_left(self._letters, first) : bisect_left(self._letters, next_offset)])
        return LeftOut(self._stored, letters, letters)
