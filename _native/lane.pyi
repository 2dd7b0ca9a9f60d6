from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from _native.claims import ClaimTable
from _native.recipe import Recipe
from _native.vocabulary import Run

class Values(Protocol):
    @property
    def values(self) -> Sequence[bytes | None]: ...

class Part:
    """Records of one run, which are to be taken, and what became of them. A base for what the caller notes of them."""

    def __init__(
        self, run: Run, records: Values, first: int, keys: list[bytes | None] | None, flags: bytes | None
    ) -> None:
        """The records of `run`, whose payloads are those of `records` from `first` on. `keys` and `flags` are as long as the
        run: explicit event ids; not 0 where the record is left out. `records` that were read natively are not copied."""

    @property
    def run(self) -> Run: ...
    records: Any
    """None once they are taken."""
    @property
    def first(self) -> int: ...
    @property
    def keys(self) -> list[bytes | None] | None: ...
    @property
    def flags(self) -> bytes | None: ...
    @property
    def statuses(self) -> bytearray:
        """As long as the run, all zeros before it is taken. Its length must stay what it is."""
    @property
    def unexplained(self) -> int:
        """How many records are."""

_P = TypeVar("_P", bound=Part)

class RecordLane:
    """Takes the JSON records of one topic into the builders of their recipes. Used by one thread at a time."""

    def __init__(self, recipes: list[Recipe], tag_field: str) -> None:
        """`tag_field` tells the row types of a union apart; it is empty when there is one recipe."""

    def take_all(
        self,
        parts: list[_P],
        claims: ClaimTable | None,
        nbytes_max: int,
        hand_over: Callable[[_P, int], None],
        keep: Callable[[_P], None],
    ) -> None:
        """Decodes, claims and appends the records of each part, in order, and lets go of them part by part.

        Each of a part's `statuses` becomes SKIPPED, APPENDED, DUPLICATE, or UNEXPLAINED where the record is surely refused:
        the caller asks msgspec why. A record that is flagged is skipped. Records longer than `nbytes_max`, without value, or
        in any way not surely read as msgspec reads them are left to `hand_over(part, index)`, which is called at the
        record's place in the order and must see to its row and its status. `keep(part)` is called before the records of a
        part are let go of of which one was handed over or is unexplained. An exception leaves the records before it taken.
        """
