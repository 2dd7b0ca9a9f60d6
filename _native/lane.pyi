from collections.abc import Callable, Sequence

from _native.claims import ClaimTable
from _native.reader import Run as MessageRun
from _native.recipe import Recipe
from _native.vocabulary import Run

class RecordLane:
    """Takes the JSON records of one topic into the builders of their recipes. Used by one thread at a time."""

    def __init__(self, recipes: list[Recipe], tag_field: str) -> None:
        """`tag_field` tells the row types of a union apart; it is empty when there is one recipe."""

    def take(
        self,
        values: MessageRun | Sequence[bytes | None],
        first: int,
        run: Run,
        claims: ClaimTable | None,
        keys: list[bytes | None] | None,
        status: bytearray,
        left_out: bytes | bytearray | None,
        nbytes_max: int,
        hand_over: Callable[[int], None],
    ) -> int:
        """Decodes, claims and appends the records of `run`, whose payloads are `values` from `first` on, in order.

        `status`, as long as the run and all zeros, becomes SKIPPED, APPENDED, DUPLICATE, or UNEXPLAINED where the record is
        surely refused; how many those are is returned, and the caller asks msgspec why. Where `left_out` is not 0 the
        record is skipped. Records longer than `nbytes_max`, without value, or in any way not surely read as msgspec reads
        them are left to `hand_over(index)`, which is called at the record's place in the order and must see to its row
        and its status. An exception leaves the records before it taken.
        """
