"""Which stretch of the topics a command looks at: from and to, as a time or as offsets, of all partitions or of named ones.

Owns the syntax, shared by the commands that read a stretch again, and its translation into offsets. It reads no record.

    2026-11-26T10:00:00Z             a time with a zone: the first record at or after it
    orders/0:1200,orders/3:980       TOPIC/PARTITION:OFFSET, of these partitions only
    earliest                         only as `from`: the first record there is
    1200                             an offset, of every partition selected with --partition

`from` is included, `to` is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.config.start import parse_start
from pipeline.errors import ConfigurationError, Exit, PenstockError, Problem
from pipeline.kafka import Cluster
from pipeline.types import Partition

_PLACE = re.compile(r"([A-Za-z0-9._-]+)/(\d+):(\d+)")
_NAMED = re.compile(r"(?:([A-Za-z0-9._-]+)/)?(\d+)|([A-Za-z0-9._-]+)")


class SelectionError(PenstockError):
    """The bounds or partitions asked for do not make sense, or do not fit the topics."""

    exit_code = Exit.USAGE


class Moment(NamedTuple):
    """A record time, in milliseconds since the epoch."""

    ms: int


EARLIEST = Moment(-1)
Bound = Moment | int | Mapping[Partition, int]


class Bounds(NamedTuple):
    """The offsets `[first, next)` asked for; None where the stretch is open."""

    first: int | None
    next: int | None


@dataclass(frozen=True)
class Selection:
    """What was asked for, as it was written. The default is everything."""

    begin: Bound | None = None
    end: Bound | None = None
    partitions: tuple[str, ...] = ()

    def resolve(self, known: Sequence[Partition], cluster: Cluster) -> dict[Partition, Bounds]:
        """The selected ones of the known partitions, in order, with their offsets.

        Raises SelectionError for what names no known partition, ConfigurationError for a time that the cluster cannot look up.
        """
        chosen = self._chosen(known)
        begins, ends = (_offsets(bound, chosen, cluster) for bound in (self.begin, self.end))
        for partition in chosen:
            first, next_ = begins.get(partition), ends.get(partition)
            if first is not None and next_ is not None and first > next_:
                raise SelectionError(f"{partition}: the stretch begins at {first}, after its end at {next_}")
        return {partition: Bounds(begins.get(partition), ends.get(partition)) for partition in chosen}

    def _chosen(self, known: Sequence[Partition]) -> list[Partition]:
        if self.partitions:
            chosen = {partition for text in self.partitions for partition in _named(text, known)}
        elif isinstance(self.begin, int) or isinstance(self.end, int):
            raise SelectionError("a plain offset needs --partition TOPIC/NUMBER, to say of which partition it is")
        else:
            lists = [bound for bound in (self.begin, self.end) if isinstance(bound, Mapping)]
            chosen = {partition for bound in lists for partition in bound} if lists else set(known)
        for partition in sorted(chosen - set(known)):
            raise SelectionError(f"{partition} is no partition of a topic that a route names")
        return sorted(chosen)


def parse(begin: str | None, end: str | None, partitions: Sequence[str] = ()) -> Selection:
    """A selection from the texts of --from, --to and --partition; SelectionError says what is wrong with which."""
    for text in partitions:
        if not _NAMED.fullmatch(text):
            raise SelectionError(f"--partition {text!r}: expected TOPIC/NUMBER, NUMBER or TOPIC")
    return Selection(_bound("--from", begin), _bound("--to", end), tuple(partitions))


def _bound(option: str, text: str | None) -> Bound | None:
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    places = [_PLACE.fullmatch(part.strip()) for part in text.split(",")]
    if any(places):
        found: dict[Partition, int] = {}
        for place, part in zip(places, text.split(","), strict=True):
            if place is None:
                raise SelectionError(f"{option}: {part!r} is not TOPIC/PARTITION:OFFSET")
            found[Partition(place[1], int(place[2]))] = int(place[3])
        return found
    try:
        start = parse_start(text)
    except ValueError as error:
        raise SelectionError(f"{option} {text!r} is neither offsets nor a time: it {_reason(error)}") from None
    if start == "earliest" and option == "--from":
        return EARLIEST
    if isinstance(start, str):
        raise SelectionError(f"{option}: leave it out for {start!r}")
    return Moment(start)


def _reason(error: ValueError) -> str:
    if str(error).startswith("is "):
        return str(error)
    return 'must be TOPIC/PARTITION:OFFSET, an offset, or an ISO 8601 time such as "2026-01-31T06:00:00Z"'


def _named(text: str, known: Sequence[Partition]) -> list[Partition]:
    match = _NAMED.fullmatch(text)
    assert match is not None, "parse lets nothing else pass"
    topics = {partition.topic for partition in known}
    if match[3] and match[3] in topics:
        return [partition for partition in known if partition.topic == match[3]]
    if match[2] and not match[1]:
        if len(topics) > 1:
            raise SelectionError(f"--partition {text}: several topics are routed; write TOPIC/{text}")
        return [Partition(next(iter(topics)), int(match[2]))]
    if match[2]:
        return [Partition(match[1], int(match[2]))]
    raise SelectionError(f"--partition {text}: no route names this topic")


def _offsets(bound: Bound | None, chosen: Sequence[Partition], cluster: Cluster) -> dict[Partition, int]:
    if bound is None:
        return {}
    if bound == EARLIEST:
        return dict.fromkeys(chosen, 0)
    if isinstance(bound, Moment):
        return offsets_at(cluster, chosen, bound.ms)
    if isinstance(bound, int):
        return dict.fromkeys(chosen, bound)
    return {partition: bound[partition] for partition in chosen if partition in bound}


def offsets_at(cluster: Cluster, partitions: Sequence[Partition], time_ms: int) -> dict[Partition, int]:
    """The first offset at or after a time. Raises ConfigurationError on librdkafka's mock cluster, which knows no times."""
    if cluster.is_mock():
        rule = "the embedded broker cannot look up offsets by time"
        raise ConfigurationError([Problem("kafka.brokers", "", rule, "Give offsets instead: TOPIC/PARTITION:OFFSET")])
    return cluster.offsets_for_times(dict.fromkeys(partitions, time_ms))
