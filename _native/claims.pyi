from array import array
from collections.abc import Mapping, Sequence

class ClaimTable:
    """Event id -> the record that owns it. Bounded by `ids_max`; used by one thread at a time."""

    ids_max: int
    def __init__(self, ids_max: int, *, secret: bytes, generations: int = 16) -> None: ...
    def open_slot(self, identity: int) -> int:
        """Begins one uninterrupted reading of the partition `identity` names; the handle goes into `Run.slot`."""
    def freeze_slot(self, slot: int, valid_below: int) -> None:
        """Ends a reading: its claims at offsets from `valid_below` on are void. A slot claims nothing afterwards."""
    def rotate(self) -> None:
        """Begins a new generation; when all are in use the oldest is dropped with every id it holds."""
    def drop(self) -> None:
        """Drops the oldest generation that has ended, with every id it holds; nothing when none has."""
    def claim_many(self, ids: bytes, slot: int, offsets: array[int]) -> bytearray:
        """Claims `ids` (16 bytes each) for the records at `offsets`: 1 for each that owns its id, 2 for a duplicate."""
    def restore(self, rows: bytes, key_layout: Sequence[str], slots: Mapping[int, int], domain: bytes = b"") -> int:
        """Claims from RowBinary rows (key columns, Int32 partition, Int64 offset), oldest first; the rows claimed.

        `key_layout` are the ClickHouse types of the key columns. Rows of partitions that `slots` does not name, and rows
        with a NULL in the key, are passed over. What is stored takes the claim over from whoever has it.
        """
    def event_id(self, key: bytes) -> bytes:
        """The 16-byte id of an explicit key (record key or header): hashed as a RowBinary String."""
    def find(self, id: bytes) -> tuple[int, int, bool] | None:
        """The owner of a 16-byte id: (identity, offset, whether the claim is void)."""
    def bucket(self, id: bytes) -> int:
        """The home bucket of an id in the index as it is now, to build collisions in tests."""
    @property
    def ids(self) -> int:
        """Ids held."""
    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
    @property
    def nbytes_max(self) -> int:
        """An upper bound of `nbytes`, also while the index is being rebuilt (slots left out: 32 bytes each)."""
    @property
    def generations(self) -> list[int]:
        """Ids in each live generation, the newest first."""
    @property
    def generations_max(self) -> int:
        """Generations there are at most; a rotation with all of them live drops the oldest."""
    @property
    def rotations(self) -> int:
        """Generations ended so far."""
    @property
    def ended(self) -> int:
        """Generations that have ended and are held."""
    @property
    def early_drops(self) -> int:
        """Generations dropped because a chain of buckets was full; not 0 only for ids chosen to collide."""
    @property
    def ids_dropped(self) -> int:
        """Ids that left with their generation."""
    @property
    def slots(self) -> int:
        """Slots in use: open, or frozen and possibly still named by a claim."""

def middle_and_high(timestamps: array[int]) -> tuple[int, int]:
    """The median and the ninth decile of a run's timestamps, of which some in even distances are looked at.

    ValueError when there are none.
    """
