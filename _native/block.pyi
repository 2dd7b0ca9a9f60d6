from array import array
from collections.abc import Callable, Sequence
from typing import Any

from _native.frame import Body
from _native.vocabulary import Column

class BlockBuilder:
    """Rows of one table in the making, filled by `append`. Used by one thread at a time."""

    rows: int
    """Rows appended since the last finish."""

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        key: Sequence[str] = (),
        domain: bytes = b"",
        encode_json: Callable[[Any], bytes],
    ) -> None:
        """ValueError names a column or type that cannot be built. `key`: the columns that make the event id, in order.

        Equal keys of two domains are two ids.
        """
    @property
    def nbytes(self) -> int:
        """Bytes buffered, lineage included (24 a row)."""
    @property
    def slots_read(self) -> dict[type, tuple[int, int]]:
        """For each row type seen: how many of its columns are read at their slot, and how many through getattr."""
    def finish(self) -> Block:
        """Hands the rows over as a Block and leaves the builder empty."""
    def discard(self) -> None:
        """Forgets every row."""

class Block:
    """Rows of one table, finished: it never changes and may be written by any thread."""

    rows: int
    @property
    def nbytes(self) -> int:
        """Bytes held, lineage included (24 a row)."""
    @property
    def partitions(self) -> array[int]:
        """array('i'): the partition of each row."""
    def lineage(self) -> tuple[list[str], array[int], array[int], array[int]]:
        """(topic names, array('i') of positions in them, array('i') of partitions, array('q') of offsets), a row each."""
    def native(self, rows: Sequence[int] | None = None) -> bytes:
        """One Native block: of all rows, or of the rows with these indexes, which must ascend."""
    def framed(self, prefix: bytes, rows: Sequence[int] | None = None) -> Body:
        """The prefix and what `native` gives, as one LZ4 frame. ImportError when the package `lz4` is unusable."""
