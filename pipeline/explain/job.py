"""One explanation from a configuration: opens the clients, finds the places, asks about each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from pipeline.config.schema import Config
from pipeline.explain.answer import Answer
from pipeline.explain.ids import IdSearch
from pipeline.explain.place import Explainer
from pipeline.kafka import Cluster
from pipeline.selection import Selection, SelectionError
from pipeline.source import open_source
from pipeline.types import Partition, Span
from pipeline.verify.opening import WAIT_S, opened
from pipeline.verify.reach import partitions_of
from pipeline.verify.tables import Tables


class _Open(NamedTuple):
    cluster: Cluster
    tables: Tables
    explainer: Explainer
    search: Callable[[Sequence[str]], IdSearch]


def explain_place(config: Config, partition: Partition, offset: int, *, wait_s: float = WAIT_S) -> Answer:
    """What became of the record at a place. Raises SelectionError when no route leads to such a partition."""
    with _opened(config, wait_s) as parts:
        if partition not in partitions_of(config, parts.cluster):
            raise SelectionError(f"{partition} is no partition of a topic that a route names")
        return parts.explainer.explain(partition, offset)


def explain_id(
    config: Config,
    values: Sequence[str],
    selection: Selection,
    *,
    wait_s: float = WAIT_S,
    begin: Callable[[int], None] = lambda _: None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """What became of the records with an event id: those that have rows; or else, of the selection, those that Kafka holds.

    None found: an empty list. Raises SelectionError when the values do not fit the key. `begin` is told how many records
    are read, where any must be, `progress` how many were since its last call.
    """
    with _opened(config, wait_s) as parts:
        search = parts.search(values)
        places = search.stored()
        if not places:
            spans = _spans(config, parts.cluster, selection)
            begin(sum(span.next - span.first for span in spans))
            places = search.in_kafka(spans, parts.explainer.read, progress)
        return [parts.explainer.explain(*place) for place in places]


def _spans(config: Config, cluster: Cluster, selection: Selection) -> list[Span]:
    """What Kafka holds of the selection, also beyond the committed offsets."""
    chosen = selection.resolve(partitions_of(config, cluster), cluster)
    spans = []
    for partition, (low, high) in cluster.watermarks(chosen).items():
        first, next_ = chosen[partition]
        spans.append(Span(partition, max(low, first or 0), min(high, high if next_ is None else next_)))
    return [span for span in spans if span.first < span.next]


@contextmanager
def _opened(config: Config, wait_s: float) -> Iterator[_Open]:
    with opened(config, wait_s) as (cluster, tables, contracts):
        explainer = Explainer(config, cluster, tables, contracts, lambda: open_source(config.kafka))
        yield _Open(cluster, tables, explainer, lambda values: IdSearch(config, tables, contracts, values))
