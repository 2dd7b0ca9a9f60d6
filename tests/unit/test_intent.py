"""Intents on the wire, tokens, and the cut of a refused block."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import intent as intents
from pipeline.errors import InvariantViolated
from pipeline.intent import ForeignIntent, Identity, Intent, canonical, digest, halves, token
from pipeline.types import Partition, Span

HERE = Partition("orders", 3)
IDENTITY = Identity("orders", "cluster-a", {"orders": "id-1", "refunds": "id-2"})


def span(topic: str, number: int, first: int, next_offset: int) -> Span:
    return Span(Partition(topic, number), first, next_offset)


spans_strategy = st.lists(
    st.builds(
        lambda topic, number, first, length: span(topic, number, first, first + length),
        st.sampled_from(["orders", "refunds"]),
        st.integers(0, 70_000),
        st.integers(0, 2**62),
        st.integers(1, 2**20),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda found: found.partition,
)


@given(st.lists(st.tuples(spans_strategy, st.integers(0, 2**45), st.text(max_size=5)), max_size=4))
def test_what_is_written_is_read(batches: list[tuple[list[Span], int, str]]) -> None:
    written = tuple(Intent(canonical(spans), ms, digest("contract"), salt) for spans, ms, salt in batches)
    assert intents.decode(intents.encode(IDENTITY, written), IDENTITY, HERE) == written


def test_four_batches_of_64_partitions_fit() -> None:
    # Offsets of ten digits: what a topic of years looks like.
    def batch(index: int) -> Intent:
        spans = [span("orders", n, 10**10 + index * 9_000, 10**10 + (index + 1) * 9_000) for n in range(64)]
        return Intent(canonical(spans), 1_700_000_000_000, digest("contract"))

    assert intents.fits(IDENTITY, [batch(index) for index in range(4)])
    assert not intents.fits(IDENTITY, [batch(index) for index in range(6)])
    with pytest.raises(InvariantViolated, match="exceed"):
        intents.encode(IDENTITY, [batch(index) for index in range(6)])


@pytest.mark.parametrize("metadata", [None, "", "somebody else's note", '{"offset": 3}'])
def test_metadata_that_is_not_ours_holds_no_batch(metadata: str | None) -> None:
    assert intents.decode(metadata, IDENTITY, HERE) == ()


GOOD = intents.encode(IDENTITY, [Intent((span("orders", 3, 5, 9),), 7, digest("c"))])


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        (GOOD[:-4], "damaged"),
        (GOOD + "AAAA", "damaged"),
        ("penstock1.!!!", "damaged"),
        ("penstock1.", "damaged"),
        ("penstock2." + GOOD.partition(".")[2], "layout '2'"),
    ],
)
def test_damaged_or_newer_metadata_stops(metadata: str, says: str) -> None:
    with pytest.raises(ForeignIntent, match=says):
        intents.decode(metadata, IDENTITY, HERE)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Identity("payments", "cluster-a", {"orders": "id-1"}), "declared by the pipeline 'orders'"),
        (Identity("orders", "cluster-b", {"orders": "id-1"}), "another Kafka cluster"),
        (Identity("orders", "cluster-a", {"orders": "id-9"}), "deleted and made anew"),
    ],
)
def test_a_batch_of_another_pipeline_cluster_or_topic_stops(other: Identity, says: str) -> None:
    with pytest.raises(ForeignIntent, match=says):
        intents.decode(GOOD, other, HERE)


def test_an_unknown_cluster_or_topic_id_is_not_another_one() -> None:
    assert intents.decode(GOOD, Identity("orders", "", {"orders": ""}), HERE)


def test_tokens_name_pipeline_table_spans_topic_ids_and_path() -> None:
    spans = (span("orders", 1, 0, 5), span("orders", 2, 7, 9))
    base = token(IDENTITY, "t", spans)
    others = [
        token(Identity("other", "cluster-a", IDENTITY.topics), "t", spans),
        token(Identity("orders", "cluster-a", {"orders": "id-9"}), "t", spans),
        token(IDENTITY, "u", spans),
        token(IDENTITY, "t", spans[:1]),
        token(IDENTITY, "t", (span("orders", 1, 0, 6), spans[1])),
        token(IDENTITY, "t", spans, salt="replay"),
        token(IDENTITY, "t", spans, path="0"),
        token(IDENTITY, "t", spans, look=1),
    ]
    assert len({base, *others}) == len(others) + 1
    # Tokens outlive versions: batches in flight during an upgrade are finished under them.
    assert base == token(IDENTITY, "t", spans) == "925a1f35dee122a8220727618d9657fe"


@given(spans_strategy)
def test_halves_cover_the_same_offsets(spans: list[Span]) -> None:
    whole = canonical(spans)
    if len(whole) == 1 and whole[0].next - whole[0].first == 1:
        with pytest.raises(InvariantViolated):
            halves(whole)
        return
    left, right = halves(whole)
    assert left
    assert right
    count = sum(part.next - part.first for part in (*left, *right))
    assert count == sum(part.next - part.first for part in whole)
    assert {part.partition for part in (*left, *right)} == {part.partition for part in whole}


def test_batches_are_finished_in_the_order_of_their_lists_and_else_of_their_clocks() -> None:
    """A long list of one partition does not come behind what is later in another."""
    first, second, third = (
        Intent((span("orders", 1, at, at + 5),), declared_ms, b"config-1")
        for at, declared_ms in ((0, 10), (5, 20), (10, 30))
    )
    slow_clock = Intent((span("orders", 2, 0, 5),), 40, b"config-1")
    after_it = Intent((span("orders", 2, 5, 9),), 15, b"config-1")
    found = intents.in_order([[slow_clock, after_it], [first, second, third]])
    assert found == (first, second, third, slow_clock, after_it)
