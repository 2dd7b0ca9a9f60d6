"""What a classic member was given, read from the bytes that its coordinator keeps."""

from __future__ import annotations

import struct

import pytest

from pipeline.kafka.assignment import assigned_to
from pipeline.types import Partition

TWO_TOPICS = bytes.fromhex("0001 00000002 0001 61 00000002 00000000 00000007 0002 c3a9 00000001 00000003 ffffffff")


def test_partitions_of_several_topics() -> None:
    assert list(assigned_to(TWO_TOPICS)) == [Partition("a", 0), Partition("a", 7), Partition("\u00e9", 3)]


def test_a_member_without_partitions() -> None:
    assert list(assigned_to(b"")) == []
    assert list(assigned_to(bytes.fromhex("0001 00000000 ffffffff"))) == []


@pytest.mark.parametrize("length", range(2, len(TWO_TOPICS) - 4))
def test_what_is_cut_short_is_an_error(length: int) -> None:
    with pytest.raises((struct.error, UnicodeDecodeError)):
        list(assigned_to(TWO_TOPICS[:length]))
