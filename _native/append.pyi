from collections.abc import Mapping

from _native.block import BlockBuilder
from _native.claims import ClaimTable
from _native.vocabulary import Refusal, Run

def append(
    builders: Mapping[type, BlockBuilder],
    rows: list[object],
    run: Run,
    claims: ClaimTable | None,
    keys: list[bytes | None] | None,
    status: bytearray,
) -> list[Refusal]:
    """Appends `rows`, all of one run, to the builders of their exact types (a dict), and returns the refusals.

    A row is a Struct or None, which is passed over. `status[i]` becomes SKIPPED, APPENDED, DUPLICATE or REFUSED. A row
    that is refused or a duplicate leaves nothing behind in any column, and only an appended row holds a claim. `keys`
    are explicit event keys instead of key columns. The key is looked at first, then the columns in order; the first
    thing wrong is the refusal. An exception (MemoryError, a type without a builder) leaves the rows before it appended.
    """
