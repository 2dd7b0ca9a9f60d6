"""LowCardinality columns as dictionaries: against the oracle around every threshold, and through ClickHouse's engine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import clickhouse_connect
import msgspec
import pytest
from native_cases import LINEAGE, run_of

from _native import oracle_block
from _native.append import append
from _native.block import Block, BlockBuilder
from _native.vocabulary import Column

COLUMNS = [Column("few", "LowCardinality(String)", "few"), *LINEAGE]
MARK = (1).to_bytes(8, "little")


class Row(msgspec.Struct):
    few: str


def blocks_of(texts: list[str]) -> tuple[Block, oracle_block.Block]:
    """The block of these values, and the oracle's."""
    run, rows = run_of(len(texts)), [Row(text) for text in texts]
    builder = BlockBuilder(COLUMNS, encode_json=msgspec.json.encode)
    twin = oracle_block.BlockBuilder(COLUMNS, encode_json=msgspec.json.encode)
    append({Row: builder}, rows, run, None, None, bytearray(len(rows)))
    oracle_block.append({Row: twin}, list(rows), run, None, None, bytearray(len(rows)))
    return builder.finish(), twin.finish()


def is_dictionary(block: bytes) -> bool:
    return b"\x03few\x16LowCardinality(String)" + MARK in block


def columns_of(values: int, rows: int, nbytes: int) -> list[str]:
    """So many rows of so many values, each at least once; the last is met last."""
    numbers = [number % values if number % values < values - 1 or number > rows - 2 else 0 for number in range(rows)]
    numbers[-1] = values - 1
    return [f"{number:0{nbytes}}" for number in numbers]


@pytest.mark.parametrize(
    ("values", "rows", "nbytes", "pays"),
    [
        (1, 1, 8, False), (1, 40, 8, True), (1, 40, 3, False), (2, 5_000, 4, False), (2, 5_000, 5, True),
        (2, 8, 8, False), (2, 13, 8, True), (2, 12, 8, False),
        (256, 2_000, 10, True), (257, 2_000, 10, True),
        (512, 2_000, 20, True), (513, 2_000, 20, True), (514, 2_000, 20, False),
        (1_024, 1_024, 20, False), (300, 1_024, 200, True),
        (4_096, 60_000, 20, False), (100, 100_000, 130, True), (3, 3_000, 20_000, True),
    ],
)  # fmt: skip
def test_against_the_oracle(values: int, rows: int, nbytes: int, pays: bool) -> None:
    texts = columns_of(values, rows, nbytes)
    native, oracle = blocks_of(texts)
    whole = native.native()
    assert whole == oracle.native()
    assert is_dictionary(whole) == pays
    chosen = sorted(random.Random(rows).sample(range(rows), rows // 2))
    assert native.native(chosen) == oracle.native(chosen)
    assert native.native([]) == oracle.native([])


@pytest.mark.parametrize("values", [4_095, 4_096, 4_097])
def test_many_values_after_a_trial_of_few(values: int) -> None:
    texts = ["a long text that comes first"] * 2_000
    texts += [f"a long text that comes later {number}" for number in range(values - 1)] * 2
    native, oracle = blocks_of(texts)
    assert native.native() == oracle.native()
    assert is_dictionary(native.native()) == (values < 4_096)


def test_texts_that_differ_in_one_byte_or_in_their_length_alone() -> None:
    texts = [
        "",
        "\0",
        "\0\0",
        "a",
        "b",
        *("x" * n for n in range(1, 40)),
        *("x" * n + "y" + "x" * (39 - n) for n in range(40)),
    ]
    native, oracle = blocks_of(texts * 50)
    assert native.native() == oracle.native()
    assert is_dictionary(native.native())


def test_the_next_block_has_a_dictionary_of_its_own() -> None:
    builder = BlockBuilder(COLUMNS, encode_json=msgspec.json.encode)
    for texts, dictionary in (
        (["abcdefgh"] * 100, True),
        ([f"{n}" for n in range(100)], False),
        (["ijklmnop"] * 100, True),
    ):
        append({Row: builder}, [Row(text) for text in texts], run_of(100), None, None, bytearray(100))
        block = builder.finish().native()
        assert is_dictionary(block) == dictionary
        assert block == blocks_of(texts)[0].native()


@pytest.fixture
def client(clickhouse_url: str, clickhouse_database: str) -> Iterator[Any]:
    client = clickhouse_connect.get_client(dsn=clickhouse_url, database=clickhouse_database)
    client.command("CREATE TABLE few (few LowCardinality(String), _offset Int64) ENGINE = MergeTree ORDER BY _offset")
    yield client
    client.close()


@pytest.mark.parametrize(
    ("values", "rows"), [(1, 100), (2, 1_000), (256, 5_000), (257, 5_000), (500, 20_000), (5_000, 20_000)]
)
def test_into_clickhouse_and_back(client: Any, values: int, rows: int) -> None:
    columns = [Column("few", "LowCardinality(String)", "few"), Column("_offset", "Int64", "@offset")]
    texts = [f"value {number}" for number in columns_of(values, rows, 6)]
    builder = BlockBuilder(columns, encode_json=msgspec.json.encode)
    append({Row: builder}, [Row(text) for text in texts], run_of(rows), None, None, bytearray(rows))
    block = builder.finish()
    chosen = list(range(0, rows, 3))
    for part in (chosen, [number for number in range(rows) if number % 3]):
        client.raw_insert(
            "few", ["few", "_offset"], insert_block=block.native(part), fmt="Native", settings={"async_insert": 0}
        )
    assert [text for (text,) in client.query("SELECT few FROM few ORDER BY _offset").result_rows] == texts
    client.command("TRUNCATE TABLE few")
    client.raw_insert(
        "few", ["few", "_offset"], insert_block=block.native(), fmt="Native", settings={"async_insert": 0}
    )
    assert [text for (text,) in client.query("SELECT few FROM few ORDER BY _offset").result_rows] == texts
