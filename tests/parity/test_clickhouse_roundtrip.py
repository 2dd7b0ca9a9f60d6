"""Every supported column type through the block builder into ClickHouse and back: equal, byte for byte and in meaning.

What comes back is asked for twice. As RowBinary it must be the bytes the oracle says the value has; as text, which
ClickHouse writes by its own idea of the type, it must be the text of the value that went in.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from ipaddress import IPv4Address, ip_address
from typing import Any
from uuid import UUID

import clickhouse_connect
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import LINEAGE, SCALARS, SECRET, TYPES, parity, run_of

from _native.append import append
from _native.block import BlockBuilder
from _native.chtypes import TypeSpec, parse
from _native.claims import ClaimTable
from _native.oracle import varint
from _native.oracle_values import Rules, convert
from _native.siphash import siphash128
from _native.vocabulary import APPENDED, Column

COLUMNS = [*(Column(f"c{place}", text, f"c{place}") for place, text in enumerate(TYPES)), *LINEAGE]
Wide: Any = msgspec.defstruct("Wide", [(f"c{place}", Any) for place in range(len(TYPES))])
SETTINGS = {"async_insert": 0, "allow_experimental_json_type": 1, "enable_json_type": 1}


@pytest.fixture
def client(clickhouse_url: str, clickhouse_database: str) -> Iterator[Any]:
    client = clickhouse_connect.get_client(dsn=clickhouse_url, database=clickhouse_database)
    yield client
    client.close()


def create(client: Any, table: str, columns: list[Column]) -> None:
    types = ", ".join(f"`{column.name}` {column.type}" for column in columns)
    client.command(f"CREATE TABLE {table} ({types}) ENGINE = MergeTree ORDER BY tuple()", settings=SETTINGS)


def insert(client: Any, table: str, columns: list[Column], block: bytes) -> None:
    names = [column.name for column in columns]
    client.raw_insert(table, names, insert_block=block, fmt="Native", settings={"async_insert": 0})


@pytest.fixture
def wide(client: Any) -> Any:
    create(client, "wide", COLUMNS)
    return client


@settings(parity, max_examples=8)
@given(data=st.data())
def test_every_type_byte_for_byte(wide: Any, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    drawn = [data.draw(st.lists(values, min_size=count, max_size=count)) for values in TYPES.values()]
    rows = [Wide(*values) for values in zip(*drawn, strict=True)]
    builder = BlockBuilder(COLUMNS, encode_json=msgspec.json.encode)
    status = bytearray(count)
    assert append({Wide: builder}, rows, run_of(count), None, None, status) == []
    assert status == bytes([APPENDED] * count)
    wide.command("TRUNCATE TABLE wide")
    insert(wide, "wide", COLUMNS, builder.finish().native())
    names = ", ".join(f"toString({c.name})" if c.type == "JSON" else c.name for c in COLUMNS[: len(TYPES)])
    stored = wide.raw_query(f"SELECT {names} FROM wide ORDER BY _offset", fmt="RowBinary")
    position = 0
    for row in rows:
        for place, text in enumerate(TYPES):
            value = getattr(row, f"c{place}")
            if text == "JSON":
                position, stored_json = take_string(stored, position)
                assert json.loads(stored_json) == value
                continue
            spec = parse(text)
            expected = row_binary(spec, convert(spec, value, Rules(False, "s", msgspec.json.encode)))
            assert stored[position : position + len(expected)] == expected, (text, value)
            position += len(expected)
    assert position == len(stored)
    origin = "SELECT _topic, _partition, _offset, toUnixTimestamp64Milli(_timestamp) FROM wide ORDER BY _offset"
    stamps = run_of(count).timestamps
    assert wide.query(origin).result_rows == [("topic", 3, at, max(stamps[at], 0)) for at in range(count)]


def take_string(data: bytes, position: int) -> tuple[int, bytes]:
    size = shift = 0
    while True:
        byte = data[position]
        size |= (byte & 0x7F) << shift
        shift += 7
        position += 1
        if byte < 0x80:
            return position + size, data[position : position + size]


def row_binary(spec: TypeSpec, normal: Any) -> bytes:
    """A normal form of the oracle's as RowBinary has it."""
    if spec.kind == "nullable":
        return b"\1" if normal is None else b"\0" + row_binary(spec.children[0], normal)
    if spec.kind == "array":
        return varint(len(normal)) + b"".join(row_binary(spec.children[0], item) for item in normal)
    if spec.kind == "map":
        key, value = spec.children
        return varint(len(normal)) + b"".join(row_binary(key, k) + row_binary(value, v) for k, v in normal)
    if spec.kind == "tuple":
        return b"".join(row_binary(child, item) for child, item in zip(spec.children, normal, strict=True))
    assert isinstance(normal, bytes)
    return normal


# ---- in meaning


def utc(value: Any, digits: int) -> str:
    """The text ClickHouse writes for an instant, digits after the point cut off."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, int):
        value = datetime.fromtimestamp(value, UTC)
    value = value.replace(tzinfo=UTC) if value.utcoffset() is None else value.astimezone(UTC)
    fraction = f".{value.microsecond * 1000:09d}"[: digits + 1] if digits else ""
    return f"{value:%Y-%m-%d %H:%M:%S}".rjust(19, "0") + fraction


def day(value: Any) -> str:
    if isinstance(value, datetime):
        return utc(value, 0)[:10]
    return value.isoformat()


def decimal(scale: int) -> Callable[[Any], Decimal]:
    unit = Decimal(f"1e-{scale}")

    def rounded(value: Any) -> Decimal:
        exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        return exact.quantize(unit, ROUND_HALF_EVEN) if isinstance(value, float) else exact

    return rounded


def ipv6(value: Any) -> Any:
    address = ip_address(value) if isinstance(value, str) else value
    return ip_address(f"::ffff:{address}") if isinstance(address, IPv4Address) else address


MEANINGS: dict[str, tuple[Callable[[Any], Any], Callable[[str], Any]]] = {
    **{text: (int, int) for text in SCALARS if text.startswith(("Int", "UInt"))},
    "Float64": (float, float),
    "Float32": (lambda value: struct.pack("<f", value), lambda text: struct.pack("<f", float(text))),
    "Bool": (bool, lambda text: text == "true"),
    "String": (str, str),
    "UUID": (lambda value: UUID(str(value)), UUID),
    "Date": (day, str),
    "Date32": (day, str),
    "DateTime": (lambda value: utc(value, 0), str),
    "DateTime('Europe/Berlin')": (lambda value: utc(value, 0), str),
    "DateTime64(0)": (lambda value: utc(value, 0), str),
    "DateTime64(3)": (lambda value: utc(value, 3), str),
    "DateTime64(6, 'UTC')": (lambda value: utc(value, 6), str),
    "IPv4": (lambda value: ip_address(str(value)), ip_address),
    "IPv6": (ipv6, ipv6),
    "Decimal(9, 2)": (decimal(2), Decimal),
    "Decimal(18, 18)": (decimal(18), Decimal),
    "Decimal(38, 10)": (decimal(10), Decimal),
    "Decimal(76, 38)": (decimal(38), Decimal),
}


@settings(parity, max_examples=8)
@given(data=st.data())
def test_every_scalar_in_meaning(wide: Any, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    columns = [Column(f"c{place}", text, f"c{place}") for place, text in enumerate(MEANINGS)] + LINEAGE
    row_type: Any = msgspec.defstruct("Meant", [(f"c{place}", Any) for place in range(len(MEANINGS))])
    drawn = [data.draw(st.lists(SCALARS[text], min_size=count, max_size=count)) for text in MEANINGS]
    rows = [row_type(*values) for values in zip(*drawn, strict=True)]
    builder = BlockBuilder(columns, encode_json=msgspec.json.encode)
    assert append({row_type: builder}, rows, run_of(count), None, None, bytearray(count)) == []
    wide.command("DROP TABLE IF EXISTS meant")
    create(wide, "meant", columns)
    insert(wide, "meant", columns, builder.finish().native())
    shown = ", ".join(
        f"toString(c{place}, 'UTC')" if text.startswith("DateTime") else f"toString(c{place})"
        for place, text in enumerate(MEANINGS)
    )
    stored = wide.query(f"SELECT {shown} FROM meant ORDER BY _offset").result_rows
    for row, texts in zip(rows, stored, strict=True):
        for place, (text, (expected, read)) in enumerate(MEANINGS.items()):
            value = getattr(row, f"c{place}")
            assert read(texts[place]) == expected(value), (text, value)


def test_zero_values_are_what_clickhouse_takes_for_missing(wide: Any) -> None:
    """UNSET becomes exactly what ClickHouse stores for a column that an insert leaves out."""
    builder = BlockBuilder(COLUMNS, encode_json=msgspec.json.encode)
    rows = [Wide(*[msgspec.UNSET] * len(TYPES))]
    assert append({Wide: builder}, rows, run_of(1), None, None, bytearray(1)) == []
    insert(wide, "wide", COLUMNS, builder.finish().native())
    wide.command("INSERT INTO wide (_offset) SETTINGS async_insert = 0 VALUES (1)")
    names = ", ".join(column.name for column in COLUMNS[: len(TYPES)])
    first, second = wide.query(f"SELECT {names} FROM wide ORDER BY _offset").result_rows
    assert first == second
    typed = ", ".join(f"toString({name})" for name in names.split(", "))
    first, second = wide.query(f"SELECT {typed} FROM wide ORDER BY _offset").result_rows
    assert first == second


def test_a_choice_of_rows_is_a_block_too(wide: Any, rng: random.Random) -> None:
    """The same rows, chosen in two halves, fill the table as the whole block does."""
    builder = BlockBuilder(COLUMNS, encode_json=msgspec.json.encode)
    zero = Wide(*[msgspec.UNSET] * len(TYPES))
    rows = []
    for number in range(200):
        row = msgspec.structs.replace(zero)
        place = list(TYPES).index("Map(UInt32, Array(String))")
        setattr(row, f"c{place}", {key: [f"{number}" * key] * key for key in range(number % 4)})
        setattr(row, f"c{list(TYPES).index('String')}", "x" * rng.randrange(300))
        rows.append(row)
    append({Wide: builder}, rows, run_of(200), None, None, bytearray(200))
    block = builder.finish()
    chosen = sorted(rng.sample(range(200), 120))
    insert(wide, "wide", COLUMNS, block.native(chosen))
    insert(wide, "wide", COLUMNS, block.native(sorted(set(range(200)) - set(chosen))))
    digest = "SELECT count(), sum(cityHash64(*)) FROM wide"
    halves = wide.query(digest).result_rows
    wide.command("TRUNCATE TABLE wide")
    insert(wide, "wide", COLUMNS, block.native())
    assert wide.query(digest).result_rows == halves


# ---- event ids


KEYS = {
    "UUID": lambda rng: UUID(int=rng.getrandbits(128)),
    "String": lambda rng: "k" * rng.randrange(300) + str(rng.random()),
    "LowCardinality(Nullable(String))": lambda rng: str(rng.random()),
    "DateTime64(6)": lambda rng: datetime.fromtimestamp(rng.randrange(2**31), UTC),
    "Decimal(38, 10)": lambda rng: rng.randrange(10**9),
    "Enum8('a' = 1, 'b' = -2)": lambda rng: rng.choice("ab"),
    "IPv6": lambda rng: str(ip_address(rng.getrandbits(128))),
    "Nullable(Date)": lambda rng: date.fromordinal(719_163 + rng.randrange(20_000)),
    "FixedString(4)": lambda rng: rng.randbytes(rng.randrange(5)),
    "Int256": lambda rng: -rng.getrandbits(200),
}


class Keyed(msgspec.Struct):
    a: Any
    b: Any


@pytest.mark.parametrize("types", [("UUID",), ("Int256",), ("String", "IPv6"), *((text, "UUID") for text in KEYS)])
def test_ids_read_back_are_the_ids_that_were_made(client: Any, types: tuple[str, ...], rng: random.Random) -> None:
    """A table restored from ClickHouse knows every stored row as a duplicate, whatever the key."""
    columns = [Column("a", types[0], "a"), Column("b", types[-1], "b"), *LINEAGE]
    key = ["a", "b"][: len(types)]
    create(client, "keyed", columns)
    rows = [Keyed(KEYS[types[0]](rng), KEYS[types[-1]](rng)) for _ in range(50)]
    scope = b"topic\ntable"
    builder = BlockBuilder(columns, key=key, domain=scope, encode_json=msgspec.json.encode)
    before, after = ClaimTable(1000, secret=SECRET), ClaimTable(1000, secret=SECRET)
    assert append({Keyed: builder}, rows, run_of(50, before.open_slot(1)), before, None, bytearray(50)) == []
    block = builder.finish()
    insert(client, "keyed", columns, block.native())
    sql = f"SELECT {', '.join(key)}, _partition, _offset FROM keyed ORDER BY _offset"
    slots = {3: after.open_slot(1)}
    assert after.restore(client.raw_query(sql, fmt="RowBinary"), types, slots, scope) == block.rows
    assert after.ids == before.ids == block.rows
    again, other = bytearray(50), bytearray(50)
    append({Keyed: builder}, rows, run_of(50, slots[3]), after, None, again)
    append({Keyed: builder}, rows, run_of(50, after.open_slot(2), partition=4), after, None, other)
    assert again.count(1) == block.rows  # its own records, read again
    assert other == bytes([2]) * 50


def test_the_hash_is_the_one_clickhouse_calls_reference(client: Any, rng: random.Random) -> None:
    for length in (0, 1, 15, 16, 17, 100):
        text, secret = rng.randbytes(length), rng.randbytes(16)
        low, high = struct.unpack("<QQ", secret)
        key = f"(toUInt64({low}), toUInt64({high}))"
        sql = f"SELECT hex(sipHash128ReferenceKeyed({key}, unhex('{text.hex()}')))"
        assert client.query(sql).result_rows == [(siphash128(text, secret).hex().upper(),)]
