"""Makes the native lane of a topic: the contract's plan and the builders put together. Says what stays with msgspec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.batch import Target
from pipeline.contract import Contract
from pipeline.contract.plan import Unplanned, plans_of
from pipeline.native import Recipe, RecordLane


class Planned(NamedTuple):
    """The native lane, or None when every record is left to msgspec; and what is left to it, with the reason."""

    lane: RecordLane | None
    left: tuple[str, ...]


def native_lane(contract: Contract, targets: Sequence[tuple[type, Target]]) -> Planned:
    """The lane for the builders of `targets`, which it fills."""
    try:
        plans = plans_of(contract)
    except Unplanned as reason:
        return Planned(None, (f"all records: {reason}",))
    recipes = [Recipe(target.builder, row_type, plans[row_type]) for row_type, target in targets]
    left = tuple(
        f"{recipe.row_type.__name__} {problem}" if len(recipes) > 1 else problem
        for recipe in recipes
        for problem in recipe.problems
    )
    if not any(recipe.usable for recipe in recipes):
        return Planned(None, left)
    return Planned(RecordLane(recipes, next(iter(plans.values())).tag_field), left)
