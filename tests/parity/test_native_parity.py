"""The block builder against its oracle: same bytes, same refusals, for every type, any value, and sizes at thresholds."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_cases import LINEAGE, TYPES, Row, Twins, anything, odd_texts, parity, run_of

from _native.append import append
from _native.block import BlockBuilder
from _native.claims import ClaimTable
from _native.vocabulary import APPENDED, Column

BUFFER_BYTES = [64, 128, 4096]
"""Sizes a growing buffer passes through."""


@pytest.mark.parametrize("text", TYPES)
@parity
@given(data=st.data())
def test_valid_values_are_appended(text: str, data: st.DataObject) -> None:
    rows = [Row(value) for value in data.draw(st.lists(TYPES[text], max_size=12))]
    twins = Twins([Column("value", text, "value"), *LINEAGE])
    status, refusals = twins.append(rows)
    assert not refusals
    assert status == bytes([APPENDED] * len(rows))
    twins.finish()


@pytest.mark.parametrize("text", TYPES)
@parity
@given(data=st.data(), null_as_default=st.booleans(), unit=st.sampled_from(["s", "ms", "us", "ns"]))
def test_any_value_is_taken_or_refused_alike(text: str, data: st.DataObject, null_as_default: bool, unit: str) -> None:
    values = data.draw(st.lists(st.one_of(anything, odd_texts, TYPES[text]), max_size=8))
    twins = Twins([Column("value", text, "value", null_as_default, unit), *LINEAGE])
    twins.append([Row(value) for value in values])
    twins.finish()


class Wide(msgspec.Struct):
    a: Any = 1
    b: Any = "b"
    c: Any = ()
    d: Any = msgspec.UNSET
    e: Any = None


WIDE = [
    Column("a", "UInt8", "a"),
    Column("b", "Array(String)", "b"),
    Column("c", "Map(String, Array(Int8))", "c"),
    Column("d", "Nullable(Decimal(9, 2))", "d"),
    *LINEAGE,
    Column("e", "Tuple(Int8, Nullable(String))", "e"),
]


@parity
@given(
    rows=st.lists(
        st.one_of(
            st.none(),
            st.builds(
                Wide,
                st.one_of(st.integers(-1, 256), st.none()),
                st.one_of(st.lists(odd_texts, max_size=3), anything),
                st.one_of(
                    st.dictionaries(odd_texts, st.lists(st.integers(-129, 128), max_size=3), max_size=3), anything
                ),
                st.one_of(st.none(), st.decimals(-(10**8), 10**8, places=3)),
                st.one_of(st.tuples(st.integers(-129, 128), odd_texts), anything),
            ),
        ),
        max_size=40,
    )
)
def test_a_refused_row_leaves_nothing_behind(rows: list[Wide | None]) -> None:
    twins = Twins(WIDE, Wide)
    twins.append(rows)
    twins.append([Wide(1, ["x"], {"k": [1]}, 1, (1, "y"))], run_of(1, first=90, partition=4, topic="other"))
    twins.append(rows, run_of(len(rows), first=100))
    twins.finish()
    twins.append(rows)
    twins.finish()


@pytest.mark.parametrize("nbytes", [size + more for size in BUFFER_BYTES for more in (-11, -10, -9, -2, -1, 0, 1, 2)])
def test_sizes_around_buffer_growth(nbytes: int) -> None:
    twins = Twins([Column("value", "String", "value"), Column("list", "Array(UInt8)", "other")], Sized)
    twins.append([Sized("x" * nbytes, [1] * nbytes), Sized("", []), Sized("y" * (nbytes * 2), [2])])
    twins.append([Sized("z", [300])] + [Sized("", [index]) for index in range(70)])
    twins.finish()


class Sized(msgspec.Struct):
    value: str
    other: list[int]


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 16383, 16384, 16385, 2097151, 2097152])
def test_string_lengths_around_each_byte_of_the_prefix(length: int) -> None:
    twins = Twins([Column("value", "String", "value")])
    twins.append([Row("x" * length), Row(b"y"), Row("")])
    twins.finish()


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 63, 64, 65, 1000])
def test_row_counts_around_the_lookahead(count: int) -> None:
    columns = [Column("id", "UInt32", "value"), *LINEAGE]
    twins = Twins(columns, key=("id",), ids_max=4000)
    slot = twins.open_slot(1)
    rows = [None if number % 7 == 3 else Row("bad" if number % 5 == 2 else number // 2) for number in range(count)]
    twins.append(rows, run_of(count, slot))
    twins.append(rows, run_of(count, slot, first=count))
    twins.finish()


KEYS = {
    ("UUID",): st.uuids(),
    ("String",): odd_texts,
    ("LowCardinality(Nullable(String))",): st.one_of(st.none(), odd_texts),
    ("Nullable(UUID)",): st.one_of(st.none(), st.uuids()),
    ("Int64",): st.integers(-(2**64), 2**64),
    ("FixedString(5)", "Nullable(DateTime64(3))"): st.tuples(
        st.binary(max_size=6), st.one_of(st.none(), st.integers())
    ),
    ("String", "String"): st.tuples(st.sampled_from(["", "a", "ab"]), st.sampled_from(["", "b", "ab"])),
    ("UUID", "Int8"): st.tuples(st.uuids(), st.integers(-1, 1)),
}


class Keyed(msgspec.Struct):
    k0: Any
    k1: Any = msgspec.UNSET
    value: Any = 0


@pytest.mark.parametrize("types", KEYS)
@parity
@given(data=st.data())
def test_claims_by_key_columns(types: tuple[str, ...], data: st.DataObject) -> None:
    columns = [Column(f"key{place}", text, f"k{place}") for place, text in enumerate(types)]
    domain = data.draw(st.sampled_from([b"", b"topic\ntable"]))
    names = tuple(column.name for column in columns)
    twins = Twins([*columns, Column("value", "UInt8", "value")], Keyed, names, ids_max=64, domain=domain)
    pool = data.draw(st.lists(KEYS[types], min_size=1, max_size=10))
    identity = 0
    for _ in range(data.draw(st.integers(1, 4))):
        identity += data.draw(st.integers(0, 1))
        slot = twins.open_slot(identity)
        keys = data.draw(st.lists(st.sampled_from(pool), max_size=40))
        values = data.draw(st.lists(st.sampled_from([0, 1, 300]), min_size=len(keys), max_size=len(keys)))
        rows = [
            Keyed(*(key if len(types) > 1 else (key,)), value=value) for key, value in zip(keys, values, strict=True)
        ]
        twins.append(rows, run_of(len(rows), slot, first=data.draw(st.integers(0, 3))))
    twins.finish()


@parity
@given(keys=st.lists(st.one_of(st.none(), st.binary(max_size=200)), max_size=80), repeats=st.integers(1, 3))
def test_claims_by_explicit_keys(keys: list[bytes | None], repeats: int) -> None:
    twins = Twins([Column("value", "UInt8", "value")], ids_max=64)
    slot = twins.open_slot(7)
    for number in range(repeats):
        rows = [Row(index * 9) for index in range(len(keys))]
        twins.append(rows, run_of(len(rows), slot, first=number * 50), keys)
    twins.finish()


LINEAGE_TYPES = {
    "@topic": ["String", "LowCardinality(String)"],
    "@partition": ["Int32", "UInt32", "Int64", "UInt64"],
    "@offset": ["Int64", "UInt64"],
    "@timestamp": ["Int64", "DateTime", *(f"DateTime64({scale})" for scale in range(10))],
}


@parity
@given(stamps=st.lists(st.integers(-1, 2**63 - 1), min_size=1, max_size=5))
def test_every_lineage_column(stamps: list[int]) -> None:
    columns = [
        Column(f"{source}{place}", kind, source)
        for source, kinds in LINEAGE_TYPES.items()
        for place, kind in enumerate(kinds)
    ]
    twins = Twins([*columns, Column("value", "Bool", "value")])
    run = run_of(len(stamps), first=2**40)
    for number, stamp in enumerate(stamps):
        run.timestamps[number] = stamp
    twins.append([Row(True)] * len(stamps), run)
    twins.append([Row(False)] * 3, run_of(3, topic="täglich", partition=0))
    twins.finish()


def test_equal_keys_of_two_domains_are_two_ids() -> None:
    table = ClaimTable(100, secret=bytes(16))
    slot = table.open_slot(1)
    rows = [Row(uuid.UUID(int=number)) for number in range(10)]
    for domain, expected in ((b"orders\nt", 1), (b"refunds\nt", 1), (b"orders\nt", 2)):
        builder = BlockBuilder(
            [Column("id", "UUID", "value")], key=("id",), domain=domain, encode_json=msgspec.json.encode
        )
        status = bytearray(10)
        # Other offsets each time: the same record read again would be its own owner.
        append({Row: builder}, rows, run_of(10, slot, first=len(domain) * 100 + expected * 1000), table, None, status)
        assert status == bytes([expected] * 10)
