"""Looks for a batch that the lanes treat differently, and for the smallest part of it that still shows the difference."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from pipeline.lane import LeftOut, Ranges
from tests.fuzz import packed, records
from tests.fuzz.draw import JSON_TEXT, SCALARS, Drawn, Kind, draw, of_one
from tests.fuzz.lanes import FIRST_OFFSET, Lanes
from tests.fuzz.values import Dice

BATCH_RECORDS = 400
BATCHES = 3
"""Batches a contract: a good part of the time goes into making contracts."""
PLAIN_SHARE = 0.9
"""How many contracts have only kinds of fields that the native lane takes: of the others it takes few records whole."""


class Found(NamedTuple):
    """A difference. The contract is made again from its seed."""

    seed: str
    contract: list[str]
    values: list[bytes | None]
    difference: str


@dataclass
class Totals:
    """What was looked at, by format."""

    contracts: int = 0
    seconds: float = 0.0
    records: Counter[str] = field(default_factory=Counter)
    offered: Counter[str] = field(default_factory=Counter)
    """Records of contracts that have a native lane."""
    handed_over: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        total = self.records.total()
        shares = [f"{name} {self.taken(name):.1%} of {self.offered[name]:,}" for name in sorted(self.offered)]
        return (
            f"{total:,} records of {self.contracts:,} contracts in {self.seconds:.0f} s "
            f"({total / max(self.seconds, 1e-9):,.0f} records/s); taken by the native lane: {', '.join(shares)} offered"
        )

    def taken(self, name: str) -> float:
        """The share of the records offered to the native lane that it took."""
        return 1 - self.handed_over[name] / max(1, self.offered[name])


def contract_seed(seed: int, number: int) -> str:
    return f"{seed}:{number}"


def drawn_of(seed: str) -> tuple[Drawn, Lanes]:
    """The contract of a seed."""
    rng = Dice(f"contract {seed}")
    pack = rng.random() < 0.5
    plain = rng.random() < PLAIN_SHARE
    kinds, compound = (taken(kinds, pack) if plain else kinds for kinds in (SCALARS, JSON_TEXT))
    drawn = draw(rng, kinds, compound, packed=pack)
    return drawn, Lanes(drawn.contract, drawn.key)


@cache
def taken(kinds: Sequence[Kind], pack: bool) -> tuple[Kind, ...]:
    """The kinds of which the native lane takes an ordinary record."""
    return tuple(kind for kind in kinds if _takes(kind, pack))


def _takes(kind: Kind, pack: bool) -> bool:
    lanes = Lanes(of_one(kind, packed=pack), ())
    rng = Dice(f"a field {pack}")
    rng.odd, rng.packed = 0.0, pack
    texts = [kind.make(rng) for _ in range(20)]
    lanes.outcome(
        [packed.record(rng, [("value", one)]) if pack else f'{{"value":{one}}}'.encode() for one in texts], fast=True
    )
    return lanes.native and lanes.handed_over <= len(texts) // 4


def search(
    seed: int, seconds: float, tell: Callable[[Totals], None], contracts_min: int = 0
) -> tuple[Totals, Found | None]:
    """Draws contracts and batches until the time is up, but so many at least, or a difference is found."""
    started_s, told_s = time.monotonic(), time.monotonic()
    total = Totals()
    while total.seconds < seconds or total.contracts < contracts_min:
        name = contract_seed(seed, total.contracts)
        drawn, lanes = drawn_of(name)
        found = _look(name, drawn, lanes, total)
        total.contracts += 1
        total.seconds = time.monotonic() - started_s
        if found is not None:
            return total, found
        if time.monotonic() - told_s > 30:
            told_s = time.monotonic()
            tell(total)
    return total, None


def _look(name: str, drawn: Drawn, lanes: Lanes, total: Totals) -> Found | None:
    """A few batches of one contract."""
    rng = Dice(f"records {name}")
    form = drawn.contract.format
    for _ in range(BATCHES):
        values = records.batch(rng, drawn, BATCH_RECORDS)
        stored = LeftOut(Ranges([(FIRST_OFFSET + 7, FIRST_OFFSET + 40)])) if rng.random() < 0.1 else None
        difference = lanes.difference(values, stored)
        total.records[form] += len(values)
        total.offered[form] += len(values) if lanes.native else 0
        if difference:
            return _smallest(name, drawn, lanes, values)
    total.handed_over[form] += lanes.handed_over
    return None


def _smallest(seed: str, drawn: Drawn, lanes: Lanes, values: list[bytes | None]) -> Found:
    """Leaves out records, then bytes, as long as the lanes still differ."""
    alone = [[value] for value in values if lanes.difference([value])]
    kept = alone[0] if alone else _fewer(lanes, values)
    for index, value in enumerate(kept):
        if value is not None:
            kept[index] = _shorter(lanes, kept, index)
    described = [
        f"{row.__name__}: {target.columns} key {target.key_columns}" for row, target in drawn.contract.tables.items()
    ]
    described.insert(0, drawn.contract.format)
    described += [str(one) for row in drawn.contract.tables for one in row.__annotations__.items()]
    return Found(seed, described, kept, lanes.difference(kept))


def _fewer(lanes: Lanes, values: list[bytes | None]) -> list[bytes | None]:
    """Leaves out ever smaller parts that the difference does not need."""
    step = max(1, len(values) // 2)
    while True:
        index = 0
        while index < len(values):
            less = values[:index] + values[index + step :]
            if lanes.difference(less):
                values = less
            else:
                index += step
        if step == 1:
            return values
        step //= 2


def _shorter(lanes: Lanes, values: list[bytes | None], index: int) -> bytes:
    value = values[index] or b""
    for step in (64, 16, 4, 1):
        at = 0
        while at < len(value):
            less = value[:at] + value[at + step :]
            if lanes.difference([*values[:index], less, *values[index + 1 :]]):
                value = less
            else:
                at += step
    return value
