"""Rounds of work leave nothing behind: no Python object, no reference, no byte of C memory. Also when rows are refused."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from array import array
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from native_cases import LINEAGE, SECRET, TYPES, Colour, run_of

from _native.append import append
from _native.block import BlockBuilder
from _native.claims import ClaimTable
from _native.pool import pool_nbytes
from _native.vocabulary import Column


class MallocInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    ]


def c_bytes() -> int:
    """Bytes handed out by malloc and in use, those mapped included."""
    info = ctypes.CDLL(None).mallinfo2
    info.restype = MallocInfo
    found = info()
    return int(found.uordblks + found.hblkhd) - pool_nbytes()


class Row(msgspec.Struct):
    id: Any
    value: Any
    text: Any


VALUES: list[Any] = [
    1,
    2**70,
    "plain",
    "ünïcödé",
    "\ud800",
    b"bytes",
    1.5,
    None,
    msgspec.UNSET,
    Decimal("1.25"),
    datetime(2024, 1, 2, 3, 4, 5, 678),
    UUID(int=5),
    Colour.RED,
    ["a", ["b"], {"c": 1}],
    {"k": [1, 2, 3], "x": 5},
    {"k": object()},
    {"bad": "\ud800"},
    (1, "two", None),
    {1, 2},
    "2024-01-02T03:04:05Z",
    "::1",
    msgspec.Raw(b"[1]"),
]


def every_type() -> None:
    """A builder of each type, fed with every value: most rows are refused, some after half of them is written."""
    rows = [Row(number, value, "kept") for number, value in enumerate(VALUES)]
    for text in TYPES:
        columns = [Column("id", "UInt32", "id"), Column("v", text, "value"), Column("t", "String", "text"), *LINEAGE]
        builder = BlockBuilder(columns, key=["id", "t"], encode_json=msgspec.json.encode)
        claims = ClaimTable(64, secret=SECRET)
        status = bytearray(len(rows))
        for first in (0, 100):
            append({Row: builder}, rows, run_of(len(rows), claims.open_slot(1), first), claims, None, status)
        block = builder.finish()
        block.native()
        block.native(range(0, block.rows, 2))
        block.lineage()
        append({Row: builder}, rows, run_of(len(rows)), None, None, status)


def raising() -> None:
    """Calls that end in an exception."""
    builder = BlockBuilder([Column("t", "Array(String)", "text")], encode_json=str)  # type: ignore[arg-type]
    rows = [Row(1, 2, ["a", "b"]), Row(1, 2, ["a", {}])]
    with pytest.raises(TypeError):
        append({Row: builder}, rows, run_of(2), None, None, bytearray(2))
    with pytest.raises(TypeError):
        append({}, rows, run_of(2), None, None, bytearray(2))
    with pytest.raises(ValueError, match="cannot be built"):
        BlockBuilder([Column("a", "Int8", "a"), Column("b", "Nope", "b")], encode_json=str)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ascend"):
        builder.finish().native([1])


def claiming() -> None:
    """A table grown, rotated, restored and dropped."""
    claims = ClaimTable(20_000, secret=SECRET)
    slot = claims.open_slot(1)
    for turn in range(3):
        ids = b"".join((turn * 20_000 + number).to_bytes(16, "big") for number in range(20_000))
        claims.claim_many(ids, slot, array("q", range(20_000)))
    claims.freeze_slot(slot, 5)
    with pytest.raises(ValueError, match="inside a row"):
        claims.restore(b"\x01a\0\0\0\0", ["String"], {0: claims.open_slot(2)})
    for _ in range(20):
        claims.rotate()


@pytest.mark.parametrize("work", [every_type, raising, claiming])
def test_rounds_leave_nothing_behind(work: Callable[[], None]) -> None:
    for _ in range(2):
        work()
    gc.collect()
    owned = [value for value in VALUES if sys.getrefcount(value) < 1000]  # not the small ints and None everybody uses
    objects, references = len(gc.get_objects()), [sys.getrefcount(value) for value in owned]
    for _ in range(3):
        work()
    gc.collect()
    assert [sys.getrefcount(value) for value in owned] == references
    assert len(gc.get_objects()) <= objects + 5


@pytest.mark.skipif(
    "LD_PRELOAD" in os.environ or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc's malloc"
)
@pytest.mark.parametrize("work", [every_type, raising, claiming])
def test_rounds_leave_no_c_memory(work: Callable[[], None]) -> None:
    for _ in range(3):
        work()
    gc.collect()
    before = c_bytes()
    for _ in range(10):
        work()
    gc.collect()
    assert c_bytes() - before < 20_000
