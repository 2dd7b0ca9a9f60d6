"""The public JSON conformance cases through both lanes: the same verdicts, the same values."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from json_cases import EITHER, INVALID, VALID

from pipeline.contract import ch, ignored
from tests.fuzz.draw import load
from tests.fuzz.lanes import Lanes

FIELDS: dict[str, Any] = {
    "raw": Annotated[msgspec.Raw, ch("String")],
    "anything": Annotated[Any, ch("String")],
    "left out": Annotated[Any, ignored],
    "numbers": Annotated[list[float], ch("Array(Float64)")],
    "whole numbers": Annotated[list[int], ch("Array(Int64)")],
    "texts": Annotated[list[str], ch("Array(String)")],
    "pairs": Annotated[dict[str, str], ch("Map(String, String)")],
    "number": Annotated[float, ch("Float64")],
    "text": Annotated[str, ch("String")],
    "truth": Annotated[bool, ch("Bool")],
}


def lanes_of(name: str) -> Lanes:
    return Lanes(load(msgspec.defstruct("One", [("after", int, 0), ("value", FIELDS[name], None)])), ())


def in_a_field(case: bytes) -> bytes:
    return b'{"value":%b,"after":1}' % case


def taken(lanes: Lanes, record: bytes, *, fast: bool) -> bool:
    return lanes.outcome([record], fast=fast).counts[1] == 1


@pytest.mark.parametrize("name", FIELDS)
def test_both_lanes_say_the_same(name: str) -> None:
    lanes = lanes_of(name)
    for case in (*VALID, *INVALID, *EITHER):
        for record in (in_a_field(case), case):
            assert lanes.difference([record]) == "", record[:200]


@pytest.mark.parametrize("fast", [True, False], ids=["native", "msgspec"])
@pytest.mark.parametrize("name", ["raw", "left out"])
def test_what_is_valid_is_taken_and_what_is_not_refused(name: str, fast: bool) -> None:
    lanes = lanes_of(name)
    assert [case for case in VALID if not taken(lanes, in_a_field(case), fast=fast)] == []
    assert [case[:99] for case in INVALID if taken(lanes, in_a_field(case), fast=fast)] == []
    assert [case[:99] for case in INVALID if taken(lanes, case, fast=fast)] == []
