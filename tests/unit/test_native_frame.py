"""The LZ4 frame of an insert against the package `lz4`, at the sizes where pieces are joined, cut and sent as they are."""

from __future__ import annotations

from array import array
from random import Random

import lz4.frame
import msgspec
import pytest

from _native.append import append
from _native.block import Block, BlockBuilder
from _native.vocabulary import Column, Run

JOINED = 16 * 1024
BLOCK = 256 * 1024
PREFIX = b"INSERT INTO t FORMAT Native\n"


class Row(msgspec.Struct):
    text: str
    number: int


COLUMNS = [
    Column("text", "String", "text"),
    Column("number", "UInt64", "number"),
    Column("_topic", "LowCardinality(String)", "@topic"),
    Column("_partition", "Int32", "@partition"),
    Column("_offset", "Int64", "@offset"),
    Column("_timestamp", "DateTime64(3)", "@timestamp"),
]


def block_of(texts: list[str], times: list[int] | None = None) -> Block:
    random = Random(1)
    builder = BlockBuilder(COLUMNS, encode_json=msgspec.json.encode)
    count = len(texts)
    offsets = array("q", range(count))
    run = Run("topic", 3, 0, offsets, array("q", times or [1_700_000_000_000] * count))
    rows = [Row(text, random.getrandbits(64)) for text in texts]
    append({Row: builder}, list(rows), run, None, None, bytearray(count))
    return builder.finish()


def opened(body: object) -> bytes:
    content: bytes = lz4.frame.decompress(bytes(memoryview(body)))  # type: ignore[arg-type]
    return content


@pytest.mark.parametrize("size", [0, 1, JOINED - 3, JOINED - 2, JOINED, BLOCK - 4, BLOCK - 3, BLOCK, 3 * BLOCK + 1])
@pytest.mark.parametrize("dull", [True, False], ids=["shrinks", "does not shrink"])
def test_a_frame_holds_prefix_and_block(size: int, dull: bool) -> None:
    random = Random(size)
    text = "x" * size if dull else "".join(chr(random.randrange(32, 127)) for _ in range(size))
    block = block_of([text, "", text[:10]])
    assert opened(block.framed(PREFIX)) == PREFIX + block.native()


@pytest.mark.parametrize("count", [0, 1, 2_047, 2_048, 2_049, 40_000])
def test_rows_enough_for_blocks_of_their_own(count: int) -> None:
    block = block_of([f"row {number % 7}" for number in range(count)])
    assert opened(block.framed(b"")) == block.native()
    some = list(range(0, count, 3))
    assert opened(block.framed(PREFIX, some)) == PREFIX + block.native(some)


@pytest.mark.parametrize("count", [129, 2_048, 33_000])
@pytest.mark.parametrize("odd_share", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("step_max", [1, 7, 300, 70_000])
def test_numbers_that_rise(count: int, odd_share: float, step_max: int, seed: int) -> None:
    """With steps of every size in between, back, over every byte, and to the same number again."""
    random = Random(seed)
    numbers = [random.getrandbits(random.randrange(1, 64))]
    while len(numbers) < count:
        step = random.randint(1, step_max)
        if random.random() < odd_share:
            step = random.choice([0, -step, 1 << random.randrange(63), -(1 << random.randrange(63))])
        numbers.append((numbers[-1] + step) % 2**63)
    block = block_of(["x"] * count, numbers)
    assert opened(block.framed(PREFIX)) == PREFIX + block.native()


def test_numbers_that_rise_are_as_small_as_lz4_makes_them() -> None:
    count = 3 * BLOCK // 8
    ours = len(block_of([""] * count, [1_700_000_000_000 + 10 * number for number in range(count)]).framed(b""))
    flat = len(block_of([""] * count, [1_700_000_000_000] * count).framed(b""))
    times = array("q", [1_700_000_000_000 + 10 * number for number in range(count)]).tobytes()
    assert ours - flat < 1.03 * len(lz4.frame.compress(times))


@pytest.mark.parametrize("times", [[5, -1, 7], [5, 2**62, 7], [5, 6, 7]])
def test_timestamps_outside_of_the_columns_range(times: list[int]) -> None:
    """Kept within the range, which is why the column is not always what is kept anyway."""
    block = block_of(["a", "b", "c"], times)
    assert opened(block.framed(b"")) == block.native() == block.native([0, 1, 2])


def test_a_changed_byte_is_noticed() -> None:
    framed = bytearray(memoryview(block_of([f"row {number % 7}" for number in range(3_000)]).framed(b"")))
    for at in range(20, len(framed) - 8, len(framed) // 50):
        framed[at] ^= 1
        with pytest.raises(RuntimeError):
            lz4.frame.decompress(bytes(framed))
        framed[at] ^= 1
    assert lz4.frame.decompress(bytes(framed))


def test_a_body_outlives_its_block_and_its_view_the_body() -> None:
    view = memoryview(block_of(["x" * 1_000]).framed(PREFIX))
    assert view.readonly
    assert lz4.frame.decompress(bytes(view)).startswith(PREFIX)
