"""Memory that is used again: what a block has let go of the next one gets, within a limit."""

from __future__ import annotations

import threading
from array import array

import msgspec
import pytest

from _native.append import append
from _native.block import Block, BlockBuilder
from _native.pool import pool_nbytes, pool_trim
from _native.vocabulary import Column, Run

KEPT_BYTES_MAX = 64 * 1024 * 1024


class Row(msgspec.Struct):
    text: str


@pytest.fixture(autouse=True)
def empty_pool() -> None:
    pool_trim()
    block_of(64 * 1024)
    if not pool_nbytes():
        pytest.skip("this build keeps no memory, so that the sanitizer sees where its use ends")
    assert pool_trim()
    assert pool_nbytes() == 0


def block_of(nbytes: int, letter: str = "x") -> Block:
    builder = BlockBuilder([Column("text", "String", "text")], encode_json=msgspec.json.encode)
    run = Run("topic", 0, 0, array("q", [1]), array("q", [1]))
    append({Row: builder}, [Row(letter * nbytes)], run, None, None, bytearray(1))
    return builder.finish()


def test_small_pieces_are_not_kept() -> None:
    block_of(15_000)
    assert pool_nbytes() == 0


@pytest.mark.parametrize("nbytes", [33_000, 40_960, 65_535, 65_536, 65_537, 1_000_003, 20_000_000])
def test_what_is_let_go_of_is_taken_again(nbytes: int) -> None:
    block = block_of(nbytes)
    held = pool_nbytes()
    del block
    kept = pool_nbytes()
    assert held + nbytes <= kept
    again = block_of(nbytes)
    assert pool_nbytes() <= kept - nbytes
    assert again.native().endswith(b"x" * nbytes)


def test_a_smaller_piece_may_get_a_larger_chunk_but_not_one_of_twice_its_size() -> None:
    block_of(1_000_000)
    kept = pool_nbytes()
    small = block_of(100_000)
    assert pool_nbytes() >= kept - 500_000
    smaller = block_of(800_000)
    assert pool_nbytes() < kept
    del small, smaller


def test_what_was_in_use_at_once_is_kept() -> None:
    blocks = [block_of(10_000_000) for _ in range(10)]
    del blocks
    kept = pool_nbytes()
    assert kept >= 100_000_000
    blocks = [block_of(10_000_000) for _ in range(10)]
    assert pool_nbytes() <= kept - 100_000_000
    del blocks
    assert pool_nbytes() == kept


def test_no_more_is_kept_than_was_in_use_at_once_or_the_limit() -> None:
    # Each is too large for what the ones before it have let go of. A builder has room for its next block as well.
    for nbytes in (5_000_000, 11_000_000, 24_000_000, 50_000_000, 110_000_000, 230_000_000):
        block_of(nbytes)
        assert pool_nbytes() <= max(KEPT_BYTES_MAX, nbytes * 5 // 2)


def test_threads_take_and_give_at_the_same_time() -> None:
    wrong: list[str] = []

    def work(letter: str) -> None:
        blocks: list[tuple[int, Block]] = []
        for number in range(120):
            nbytes = 33_000 + 7_919 * (number % 11)
            blocks.append((nbytes, block_of(nbytes, letter)))
            if len(blocks) > 5:
                size, block = blocks.pop(0)
                if not block.native().endswith(letter.encode() * size) or not block.framed(b""):
                    wrong.append(letter)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
