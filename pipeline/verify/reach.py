"""How far each partition was consumed, how much of that was asked for, and how much of it Kafka still has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline import intent
from pipeline.config.schema import Config
from pipeline.config.start import parse_start
from pipeline.kafka import Cluster
from pipeline.selection import Bounds, Selection
from pipeline.types import Partition
from pipeline.verify.tables import Tables


@dataclass(frozen=True)
class Reach:
    """Of one partition: `[first, low)` was consumed and is gone from Kafka, `[low, end)` is read again."""

    partition: Partition
    first: int
    low: int
    end: int
    high: int
    open_begin: bool = True
    """Nobody asked for a beginning: rows before `first` belong to the account as well."""
    open_end: bool = True


def partitions_of(config: Config, cluster: Cluster) -> list[Partition]:
    """Every partition of every routed topic, in order."""
    return sorted(
        Partition(route.topic, number)
        for route in config.routes
        for number in range(cluster.topic_partitions(route.topic))
    )


def reaches(
    config: Config, cluster: Cluster, tables: Tables, selection: Selection, report_to: list[str]
) -> list[Reach]:
    """The account's share of each selected partition, in order; what cannot be known is told to `report_to`.

    Begins where the selection or else `kafka.start` says. Raises SelectionError when the selection names what there is not.
    """
    chosen = selection.resolve(partitions_of(config, cluster), cluster)
    committed = cluster.committed(chosen)
    marks = cluster.watermarks(chosen)
    begins = _begins(config, cluster, tables, [p for p, bounds in chosen.items() if bounds.first is None], report_to)
    found, ahead, without = [], 0, 0
    for partition, bounds in chosen.items():
        offset, (low, high) = committed[partition][0], marks[partition]
        if offset < 0:
            without += 1
            continue
        if offset > high:
            report_to.append(
                f"{partition}: {offset - high:,} committed offsets lie beyond the end of the log ({high:,})"
            )
        end = min(offset, high)
        if bounds.next is not None:
            ahead += max(0, min(bounds.next, high) - end)
            end = min(end, bounds.next)
        found.append(_reach(partition, bounds, begins.get(partition, 0), low, end, high))
    if without:
        report_to.append(
            f"{without} of {len(chosen)} partitions have no committed offset: nothing of them was consumed"
        )
    if ahead:
        report_to.append(f"{ahead:,} offsets of the stretch are not committed yet: they were left out")
    return found


def _reach(partition: Partition, bounds: Bounds, begin: int, low: int, end: int, high: int) -> Reach:
    first = min(begin if bounds.first is None else bounds.first, end)
    return Reach(partition, first, min(max(low, first), end), end, high, bounds.first is None, bounds.next is None)


def _begins(
    config: Config, cluster: Cluster, tables: Tables, partitions: Sequence[Partition], report_to: list[str]
) -> Mapping[Partition, int]:
    """Where the pipeline began to consume, where nobody asked for another beginning."""
    start = parse_start(config.kafka.start)
    if start == "earliest" or not partitions:
        return {}
    if start == "latest":
        report_to.append('kafka.start is "latest": nothing is known of records before the first row of each partition')
        bounds = {partition: tables.bounds(partition) for partition in partitions}
        return {partition: found[0] if found else 2**62 for partition, found in bounds.items()}
    return cluster.offsets_for_times(dict.fromkeys(partitions, start))


def batches_in_flight(config: Config, cluster: Cluster, partitions: Sequence[Partition]) -> int:
    """How many declared batches the committed metadata names that the committed offsets have not passed."""
    identity = intent.Identity(config.name, "", {})
    found = set()
    for partition, (offset, metadata) in cluster.committed(partitions).items():
        for one in intent.decode(metadata, identity, partition):
            if any(span.partition == partition and span.next > offset for span in one.spans):
                found.add(one.identity)
    return len(found)
