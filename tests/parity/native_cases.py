"""Types, values and comparisons shared by the parity tests."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import _native
from _native import append, block, claims, oracle, oracle_block
from _native.chtypes import TypeSpec, parse
from _native.vocabulary import Column, Refusal, Run

SECRET = bytes(range(16))
SMALL_ENUM = "Enum8('a' = -128, 'it''s' = 0, 'ü' = 127)"
LARGE_ENUM = "Enum16('low' = -32768, 'b' = 5, 'high' = 32767)"
LINEAGE = [
    Column("_topic", "LowCardinality(String)", "@topic"),
    Column("_partition", "Int32", "@partition"),
    Column("_offset", "Int64", "@offset"),
    Column("_timestamp", "DateTime64(3)", "@timestamp"),
]

parity = settings(
    deadline=None,
    print_blob=True,
    max_examples=int(os.environ.get("PENSTOCK_EXAMPLES", "25")),
    suppress_health_check=list(HealthCheck),
)

built_in = Path(_native.__file__).parent
if "PENSTOCK_NATIVE_BUILD" in os.environ:  # `make debug` and `make sanitize` must not test the ordinary build
    assert os.environ["PENSTOCK_NATIVE_BUILD"] in str(built_in), f"_native was imported from {built_in}"


class Row(msgspec.Struct):
    value: Any


class Point(msgspec.Struct):
    x: int
    y: Any = msgspec.UNSET


class Colour(Enum):
    RED = "a"
    NUMBER = 5
    NOTHING = None


class Level(IntEnum):
    LOW = 0
    HIGH = 300


class Word(StrEnum):
    A = "a"
    DAY = "2024-02-29"


def integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return st.one_of(st.integers(low, high), st.sampled_from([low, low + 1, high - 1, high, 0, 1]))


def decimals(precision: int, scale: int) -> st.SearchStrategy[Any]:
    bound = 10**precision - 1
    exact = st.integers(-bound, bound).map(lambda number: Decimal(f"{number}e-{scale}"))
    whole = st.integers(-(10 ** (precision - scale)) + 1, 10 ** (precision - scale) - 1)
    return st.one_of(exact, exact.map(str), whole)


offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
texts = st.one_of(st.text(max_size=20), st.text(st.characters(codec="ascii"), max_size=200))
instants = st.datetimes(
    datetime(1900, 1, 2), datetime(2262, 4, 10), timezones=st.one_of(st.none(), st.just(UTC), offsets)
)
seconds32 = st.datetimes(datetime(1970, 1, 2), datetime(2106, 2, 6), timezones=st.one_of(st.none(), offsets))
addresses4 = st.ip_addresses(v=4)
addresses6 = st.ip_addresses(v=6)

SCALARS: dict[str, st.SearchStrategy[Any]] = {
    **{f"Int{bits}": integers(bits, True) for bits in (8, 16, 32, 64, 128, 256)},
    **{f"UInt{bits}": integers(bits, False) for bits in (8, 16, 32, 64, 128, 256)},
    "Float32": st.one_of(st.floats(width=32, allow_nan=False), st.integers(-(2**24), 2**24)),
    "Float64": st.one_of(st.floats(allow_nan=False), st.integers(-(2**53), 2**53)),
    "BFloat16": st.one_of(st.floats(width=16, allow_nan=False), st.integers(-256, 256)),
    "Bool": st.booleans(),
    "String": texts,
    "FixedString(5)": st.one_of(st.binary(max_size=5), st.text(st.characters(codec="ascii"), max_size=5)),
    "UUID": st.one_of(st.uuids(), st.uuids().map(str), st.uuids().map(lambda value: value.hex)),
    "Date": st.one_of(st.dates(date(1970, 1, 1), date(2149, 6, 6)), seconds32),
    "Date32": st.one_of(st.dates(date(1900, 1, 1), date(2299, 12, 31)), instants),
    "DateTime": st.one_of(seconds32, st.integers(0, 2**32 - 1), seconds32.map(datetime.isoformat)),
    "DateTime('Europe/Berlin')": st.one_of(seconds32, st.integers(0, 2**32 - 1)),
    "DateTime64(0)": instants,
    "DateTime64(3)": st.one_of(instants, instants.map(datetime.isoformat), st.integers(-(2**31), 2**33)),
    "DateTime64(6, 'UTC')": instants,
    "DateTime64(9)": st.one_of(instants, st.floats(-2.2e9, 9.2e9)),
    SMALL_ENUM: st.sampled_from(["a", "it's", "ü", -128, 0, 127]),
    LARGE_ENUM: st.sampled_from(["low", "b", "high", -32768, 5, 32767]),
    "Decimal(9, 2)": st.one_of(decimals(9, 2), st.floats(-1e6, 1e6)),
    "Decimal(18, 18)": decimals(18, 18),
    "Decimal(38, 10)": decimals(38, 10),
    "Decimal(76, 38)": decimals(76, 38),
    "Decimal32(4)": decimals(9, 4),
    "Decimal(1)": decimals(1, 0),
    "IPv4": st.one_of(addresses4, addresses4.map(str)),
    "IPv6": st.one_of(addresses6, addresses6.map(str), addresses4, addresses4.map(str)),
    "JSON": st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(-5, 5), max_size=3),
}
"""Every scalar type with values it takes."""


def nested() -> dict[str, st.SearchStrategy[Any]]:
    """Compound types with values they take."""
    cases: dict[str, st.SearchStrategy[Any]] = {}
    for inner in ("Int8", "UInt64", "String", "UUID", "DateTime64(3)", "Decimal(38, 10)", "FixedString(5)", "IPv6"):
        values = SCALARS[inner]
        cases[f"Nullable({inner})"] = st.one_of(st.none(), values)
        cases[f"Array({inner})"] = st.lists(values, max_size=4)
    cases["LowCardinality(String)"] = texts
    cases["LowCardinality(Nullable(String))"] = st.one_of(st.none(), texts)
    cases["SimpleAggregateFunction(max, Int32)"] = SCALARS["Int32"]
    cases["Array(Nullable(String))"] = st.lists(st.one_of(st.none(), texts), max_size=4)
    cases["Array(LowCardinality(String))"] = st.lists(texts, max_size=4)
    cases["Array(Array(Int16))"] = st.lists(st.lists(SCALARS["Int16"], max_size=3), max_size=3)
    cases["Array(Tuple(Int8, String))"] = st.lists(st.tuples(SCALARS["Int8"], texts), max_size=3)
    cases["Map(String, String)"] = st.dictionaries(texts, texts, max_size=4)
    cases["Map(LowCardinality(String), UInt8)"] = st.dictionaries(texts, SCALARS["UInt8"], max_size=4)
    cases["Map(UInt32, Array(String))"] = st.dictionaries(SCALARS["UInt32"], st.lists(texts, max_size=3), max_size=3)
    cases["Map(String, Map(String, Nullable(Float64)))"] = st.dictionaries(
        texts, st.dictionaries(texts, st.one_of(st.none(), SCALARS["Float64"]), max_size=2), max_size=2
    )
    cases["Tuple(Int8, String, Nullable(Date32))"] = st.tuples(
        SCALARS["Int8"], texts, st.one_of(st.none(), st.dates(date(1900, 1, 1), date(2299, 12, 31)))
    )
    cases["Tuple(x Int64, `y z` String)"] = st.one_of(
        st.fixed_dictionaries({"x": SCALARS["Int64"]}, optional={"y z": texts}), st.tuples(SCALARS["Int64"], texts)
    )
    return cases


TYPES = SCALARS | nested()
"""Every type the builder is tested with, and values it takes."""

odd_texts = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=8),
    st.text("0123456789-+.:eETZ /", max_size=12),
    instants.map(lambda value: value.isoformat(sep=" ")),
    instants.map(datetime.isoformat).flatmap(lambda text: st.sampled_from([text + "Z", text + "+0530", text[:16]])),
    st.sampled_from(["", "0000-01-01", "2024-02-30", "1e5", "-.5", "1.", "NaN", "1.2.3.4\0", "::", "2024-01-01T24:00"]),
)
anything: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.just(msgspec.UNSET),
        st.booleans(),
        st.integers(),
        st.integers(-(2**300), 2**300),
        st.floats(),
        odd_texts,
        st.binary(max_size=8),
        st.binary(max_size=8).map(bytearray),
        st.decimals(),
        st.decimals(allow_nan=False, allow_infinity=False).map(str),
        st.datetimes(timezones=st.one_of(st.none(), offsets)),
        st.dates(),
        st.uuids(),
        addresses4,
        addresses6,
        st.sampled_from([*Colour, *Level, *Word, Point(1), Point(2, "z"), msgspec.Raw(b'{"a":1}')]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(st.integers(0, 9), max_size=3),
        st.dictionaries(odd_texts, inner, max_size=3),
        st.dictionaries(st.sampled_from(["x", "y z"]), inner),
    ),
    max_leaves=4,
)
"""Values of every kind the builder could meet, most of them wrong for most types."""


def run_of(count: int, slot: int = 0, first: int = 0, partition: int = 3, topic: str = "topic") -> Run:
    stamps = [1_700_000_000_123 + number if number % 3 else -1 for number in range(count)]
    return Run(topic, partition, slot, array("q", range(first, first + count)), array("q", stamps))


@dataclass
class Twins:
    """A builder and its oracle, with claim tables, given the same calls."""

    columns: Sequence[Column]
    row_type: type = Row
    key: tuple[str, ...] = ()
    ids_max: int = 0
    domain: bytes = b""

    def __post_init__(self) -> None:
        encode = msgspec.json.encode
        self.native = block.BlockBuilder(self.columns, key=self.key, domain=self.domain, encode_json=encode)
        self.twin = oracle_block.BlockBuilder(self.columns, key=self.key, domain=self.domain, encode_json=encode)
        self.claims = claims.ClaimTable(self.ids_max, secret=SECRET) if self.ids_max else None
        self.twin_claims = oracle.ClaimTable(self.ids_max, secret=SECRET) if self.ids_max else None

    def open_slot(self, identity: int) -> int:
        assert self.claims is not None
        assert self.twin_claims is not None
        slot = self.claims.open_slot(identity)
        assert slot == self.twin_claims.open_slot(identity)
        return slot

    def append(
        self, rows: list[Any], run: Run | None = None, keys: list[bytes | None] | None = None
    ) -> tuple[bytearray, list[Refusal]]:
        """Appends to both; what they say must be equal."""
        run = run or run_of(len(rows))
        status, twin_status = bytearray(b"\xff" * len(rows)), bytearray(b"\xff" * len(rows))
        refusals = append.append({self.row_type: self.native}, rows, run, self.claims, keys, status)
        twin_refusals = oracle_block.append({self.row_type: self.twin}, rows, run, self.twin_claims, keys, twin_status)
        assert refusals == twin_refusals
        assert status == twin_status
        return status, refusals

    def finish(self) -> bytes:
        """The block of all rows, equal in both, and equal as well for a choice of rows."""
        made, twin = self.native.finish(), self.twin.finish()
        assert made.rows == twin.rows
        assert made.lineage() == twin.lineage()
        assert made.native() == twin.native()
        chosen = list(range(0, made.rows, 2))
        assert made.native(chosen) == twin.native(chosen)
        assert made.native([]) == twin.native([])
        return made.native()


def spec_of(text: str) -> TypeSpec:
    return parse(text)


ADDRESSES = (IPv4Address, IPv6Address)
