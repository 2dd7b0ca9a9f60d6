"""What a member of a classic consumer group was given, as the group's coordinator keeps it.

The layout is Kafka's ConsumerProtocolAssignment, all numbers big-endian: version int16, count of topics int32; for each its
name (length int16, UTF-8), count of partitions int32, the numbers int32; then the assignor's own bytes, which are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from

from pipeline.types import Partition


def assigned_to(assignment: bytes) -> Iterator[Partition]:
    """The partitions in the bytes of one member; none when they are empty. Cut short, they raise an error."""
    if not assignment:
        return
    (topics,) = unpack_from(">i", assignment, 2)
    at = 6
    for _ in range(topics):
        (length,) = unpack_from(">h", assignment, at)
        topic = assignment[at + 2 : at + 2 + length].decode()
        at += 2 + length
        (count,) = unpack_from(">i", assignment, at)
        for number in unpack_from(f">{count}i", assignment, at + 4):
            yield Partition(topic, number)
        at += 4 + 4 * count
