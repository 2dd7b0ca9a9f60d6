"""Reads exact spans of any partitions, owned or not: for recovery, and to fetch a refused record again. It commits nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from pipeline.errors import SourceError
from pipeline.types import Partition, PartitionEnd, Records, Source, SourceFault, Span

POLL_S = 0.2
RECORDS_MAX = 10_000


def read(
    open_source: Callable[[], Source], spans: Sequence[Span], heartbeat: Callable[[], None]
) -> Iterator[tuple[Records, int, int]]:
    """Yields runs of records with the indices `[first, cut)` of those inside the spans, until every span was read whole.

    Offsets missing from the log are passed over. `heartbeat` is called while waiting and may raise to give up. Raises
    SourceError when part of a span is no longer in Kafka. Spans of the same partition must not overlap.
    """
    todo: dict[Partition, list[Span]] = {}
    for span in sorted(spans):
        todo.setdefault(span.partition, []).append(span)
    source = open_source()
    try:
        while todo:
            # One span of each partition at a time; most batches have just one.
            current = {partition: waiting.pop(0) for partition, waiting in todo.items()}
            yield from _read_each(source, current, heartbeat)
            todo = {partition: waiting for partition, waiting in todo.items() if waiting}
    finally:
        source.close()


def _read_each(
    source: Source, spans: dict[Partition, Span], heartbeat: Callable[[], None]
) -> Iterator[tuple[Records, int, int]]:
    at = {partition: span.first for partition, span in spans.items()}
    source.assign(dict(at))
    while at:
        heartbeat()
        for event in source.poll(RECORDS_MAX, POLL_S):
            partition = event.partition
            if partition not in at:
                continue
            if isinstance(event, SourceFault):
                raise SourceError(_gone(spans[partition], event))
            if not isinstance(event, PartitionEnd):
                first, cut = (
                    bisect_left(event.offsets, at[partition]),
                    bisect_left(event.offsets, spans[partition].next),
                )
                if cut > first:
                    yield event, first, cut
            at[partition] = max(at[partition], event.next_offset)
            if at[partition] >= spans[partition].next:
                del at[partition]


def _gone(span: Span, fault: SourceFault) -> str:
    return (
        f"{span}: records of a batch that was in flight cannot be read again: {fault.name} ({fault.detail}). "
        "If the topic's retention removed them, `penstock verify` lists what is missing from the tables; to go on without "
        "them, commit the next offset for this partition with empty metadata"
    )
