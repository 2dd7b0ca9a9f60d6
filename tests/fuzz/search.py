"""Looks for a batch that the lanes treat differently, and for the smallest part of it that still shows the difference."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from pipeline.lane import LeftOut, Ranges
from tests.fuzz import records
from tests.fuzz.draw import Drawn, draw
from tests.fuzz.lanes import FIRST_OFFSET, Lanes
from tests.fuzz.values import Dice

BATCH_RECORDS = 400
BATCHES = 3
"""Batches a contract: a good part of the time goes into making contracts."""


class Found(NamedTuple):
    """A difference. The contract is made again from its seed."""

    seed: str
    contract: list[str]
    values: list[bytes | None]
    difference: str


class Totals(NamedTuple):
    records: int
    contracts: int
    native_records: int
    handed_over: int
    seconds: float

    def __str__(self) -> str:
        taken = (self.native_records - self.handed_over) / max(1, self.native_records)
        return (
            f"{self.records:,} records of {self.contracts:,} contracts in {self.seconds:.0f} s "
            f"({self.records / max(self.seconds, 1e-9):,.0f} records/s); the native lane took {taken:.1%} of the "
            f"{self.native_records / max(1, self.records):.1%} that it was offered"
        )


def contract_seed(seed: int, number: int) -> str:
    return f"{seed}:{number}"


def drawn_of(seed: str) -> tuple[Drawn, Lanes]:
    """The contract of a seed."""
    drawn = draw(Dice(f"contract {seed}"))
    return drawn, Lanes(drawn.contract, drawn.key)


def search(seed: int, seconds: float, tell: Callable[[Totals], None]) -> tuple[Totals, Found | None]:
    """Draws contracts and batches until the time is up or a difference is found."""
    started_s, told_s = time.monotonic(), time.monotonic()
    total = Totals(0, 0, 0, 0, 0.0)
    number = 0
    while time.monotonic() - started_s < seconds:
        name = contract_seed(seed, number)
        number += 1
        drawn, lanes = drawn_of(name)
        rng = Dice(f"records {name}")
        for _ in range(BATCHES):
            values = records.batch(rng, drawn, BATCH_RECORDS)
            stored = LeftOut(Ranges([(FIRST_OFFSET + 7, FIRST_OFFSET + 40)])) if rng.random() < 0.1 else None
            difference = lanes.difference(values, stored)
            offered = len(values) if lanes.native else 0
            total = Totals(
                total.records + len(values),
                number,
                total.native_records + offered,
                total.handed_over,
                time.monotonic() - started_s,
            )
            if difference:
                return total, _smallest(name, drawn, lanes, values)
        total = total._replace(handed_over=total.handed_over + lanes.handed_over)
        if time.monotonic() - told_s > 30:
            told_s = time.monotonic()
            tell(total)
    return total, None


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
