"""What a replay is to read, and how much of it an earlier run of the same replay has done. It asks Kafka and changes nothing.

A replay has a group of its own, named after the pipeline's group and what was asked for. Its progress is that group's offsets
and intents, so that the same command goes on where a killed one stopped; the pipeline's own group is only read. A replay
that has finished sets its group back to the beginning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from pipeline import intent
from pipeline.config.schema import Config
from pipeline.kafka import Cluster
from pipeline.selection import Selection
from pipeline.types import Partition, Span
from pipeline.verify.reach import partitions_of


@dataclass(frozen=True)
class Plan:
    """The stretch, by partition; every partition of its topics is named, with an empty span where nothing is read."""

    spans: Mapping[Partition, Span]
    group: str
    committed: Mapping[Partition, int]
    """How far an earlier run came; only partitions of which it committed something."""
    in_flight: bool
    """An earlier run declared batches that are not known to be finished."""
    notes: tuple[str, ...]

    @property
    def offsets(self) -> int:
        return sum(span.next - span.first for span in self.spans.values())

    @property
    def begun(self) -> bool:
        """An earlier run did a part and was stopped."""
        return self.in_flight or self.offsets_before > 0

    @property
    def offsets_before(self) -> int:
        """How many offsets an earlier run has done."""
        return sum(max(0, min(self.committed.get(p, 0), span.next) - span.first) for p, span in self.spans.items())


def group_of(config: Config, selection: Selection) -> str:
    """The group of a replay: the same for the same question to the same pipeline."""
    asked = repr((config.name, selection.begin, selection.end, sorted(selection.partitions)))
    return f"{config.kafka.group}-replay-{hashlib.blake2b(asked.encode(), digest_size=4).hexdigest()}"


def plan(config: Config, cluster: Cluster, selection: Selection) -> Plan:
    """Raises SelectionError when the selection names what there is not. Never reads past what the pipeline has committed."""
    known = partitions_of(config, cluster)
    chosen = selection.resolve(known, cluster)
    committed, marks = cluster.committed(known), cluster.watermarks(known)
    spans: dict[Partition, Span] = {}
    gone = ahead = 0
    for partition, bounds in chosen.items():
        (low, high), durable = marks[partition], max(0, committed[partition][0])
        wanted = min(high if bounds.next is None else bounds.next, high)
        end = min(wanted, durable)
        first = bounds.first or 0
        ahead += max(0, wanted - max(end, first)) if bounds.next is not None else 0
        gone += max(0, min(low, end) - first)
        first = min(max(first, low), end)
        spans[partition] = Span(partition, first, end)
    topics = {partition.topic for partition in spans}
    for partition in known:
        if partition.topic in topics:
            low = marks[partition][0]
            spans.setdefault(partition, Span(partition, low, low))
    group = group_of(config, selection)
    mine = Cluster(msgspec.structs.replace(config.kafka, group=group))
    try:
        progress = mine.committed(spans)
    finally:
        mine.close()
    identity = intent.Identity(config.name, "", {})
    in_flight = any(intent.decode(metadata, identity, p) for p, (_, metadata) in progress.items())
    notes = []
    if gone:
        notes.append(f"{gone:,} offsets of the stretch are no longer in Kafka")
    if ahead:
        notes.append(f"{ahead:,} offsets of the stretch are not committed by the pipeline yet: they are left to it")
    return Plan(
        dict(sorted(spans.items())),
        group,
        {partition: offset for partition, (offset, _) in progress.items() if offset >= 0},
        in_flight,
        tuple(notes),
    )
