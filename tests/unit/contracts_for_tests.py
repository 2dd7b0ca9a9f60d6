"""Contracts that the tests name as `module:Struct`. Not a test."""

from __future__ import annotations

import decimal
import uuid
from typing import Annotated, Literal

import msgspec

from pipeline.contract import ch, column, epoch, ignored

NOT_A_STRUCT = 5


class Event(msgspec.Struct):
    id: uuid.UUID
    user_id: Annotated[int, ch("UInt32")]
    sent_at: Annotated[int, ch("DateTime64(3)"), epoch("ms")]
    country: Literal["DE", "FR"]
    amount: Annotated[decimal.Decimal, ch("Decimal(18, 2)")] | None = None
    debug: Annotated[dict[str, str], ignored] = {}
    text: Annotated[str, column("body")] = ""


class OrderPaid(msgspec.Struct, tag="OrderPaid", tag_field="kind"):
    id: uuid.UUID
    amount: int


class OrderShipped(msgspec.Struct, tag="OrderShipped", tag_field="kind"):
    id: uuid.UUID
    carrier: str


Orders = OrderPaid | OrderShipped
Mixed = OrderPaid | int


class Untagged(msgspec.Struct):
    x: int


Ambiguous = OrderPaid | Untagged


class Checked(msgspec.Struct):
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError(f"secret {self.x}")
        if self.x == 1000:
            raise KeyError("a bug in the contract's own code")
