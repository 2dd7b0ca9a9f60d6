from _native.block import BlockBuilder
from _native.vocabulary import RowPlan

class Recipe:
    """How records become rows of `row_type` in `builder`. Raises MemoryError only; what it cannot do is in `problems`."""

    row_type: type
    problems: list[str]
    """What is left to msgspec, and why."""
    usable: bool
    """False when every record would be."""

    def __init__(self, builder: BlockBuilder, row_type: type, plan: RowPlan) -> None: ...
