"""--from, --to and --partition: what they mean, and what is refused."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pipeline.errors import ConfigurationError
from pipeline.selection import Bounds, Moment, SelectionError, parse
from pipeline.types import Partition

A0, A1, B0 = Partition("a", 0), Partition("a", 1), Partition("b.c", 0)
KNOWN = [A0, A1, B0]


class Times:
    """A cluster that knows one offset for every time."""

    def __init__(self, *, mock: bool = False) -> None:
        self._mock = mock

    def is_mock(self) -> bool:
        return self._mock

    def offsets_for_times(self, times_ms: dict[Partition, int]) -> dict[Partition, int]:
        return {partition: time_ms // 1_000 for partition, time_ms in times_ms.items()}


def resolved(begin: str | None, end: str | None, *partitions: str, known: list[Partition] = KNOWN) -> Any:
    return parse(begin, end, partitions).resolve(known, cast("Any", Times()))


def test_nothing_asked_for_is_everything() -> None:
    assert resolved(None, None) == dict.fromkeys(KNOWN, Bounds(None, None))


def test_a_time_holds_for_all_partitions_or_for_the_named_ones() -> None:
    assert parse("2026-01-01T00:00:00Z", None).begin == Moment(1_767_225_600_000)
    assert resolved("1970-01-01T00:00:07+00:00", "1970-01-01T00:00:09Z") == dict.fromkeys(KNOWN, Bounds(7, 9))
    assert resolved("1970-01-01T00:00:07Z", None, "a") == {A0: Bounds(7, None), A1: Bounds(7, None)}


def test_a_list_of_offsets_selects_its_partitions() -> None:
    assert resolved("a/0:5, b.c/0:7", "a/0:9") == {A0: Bounds(5, 9), B0: Bounds(7, None)}
    assert resolved(None, "a/1:3") == {A1: Bounds(None, 3)}
    assert resolved("a/0:5,a/1:6", None, "a/1") == {A1: Bounds(6, None)}


def test_a_plain_offset_is_of_the_named_partitions() -> None:
    assert resolved("5", "9", "a/1", "b.c/0") == {A1: Bounds(5, 9), B0: Bounds(5, 9)}
    assert resolved("5", "1970-01-01T00:00:09Z", "1", known=[A0, A1]) == {A1: Bounds(5, 9)}
    assert resolved("5", "5", "a/1") == {A1: Bounds(5, 5)}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("5", None), "a plain offset needs --partition"),
        ((None, "5"), "a plain offset needs --partition"),
        (("yesterday", None), "--from 'yesterday' is neither offsets nor a time"),
        (
            (None, "2026-01-01T00:00:00"),
            "--to '2026-01-01T00:00:00' is neither offsets nor a time: it is a time without",
        ),
        ((None, "earliest"), "leave it out for 'earliest'"),
        (("a/0:5,b/x:7", None), "'b/x:7' is not TOPIC/PARTITION:OFFSET"),
        (("a/0:5,", None), "'' is not TOPIC/PARTITION:OFFSET"),
        (("a/7:5", None), "a/7 is no partition of a topic that a route names"),
        (("a/0:5", "a/0:4"), "a/0: the stretch begins at 5, after its end at 4"),
        ((None, None, "c"), "no route names this topic"),
        ((None, None, "a/2"), "a/2 is no partition"),
        ((None, None, "0"), "several topics are routed; write TOPIC/0"),
        ((None, None, "a b"), "expected TOPIC/NUMBER, NUMBER or TOPIC"),
        (("²", None), "neither offsets nor a time"),
    ],
)
def test_what_is_refused(words: Any, says: str) -> None:
    with pytest.raises(SelectionError) as refused:
        resolved(*words)
    assert says in str(refused.value)
    assert refused.value.exit_code == 2


def test_the_embedded_broker_is_not_asked_for_times() -> None:
    selection = parse("2026-01-01T00:00:00Z", None)
    with pytest.raises(ConfigurationError, match="cannot look up offsets by time"):
        selection.resolve(KNOWN, cast("Any", Times(mock=True)))
