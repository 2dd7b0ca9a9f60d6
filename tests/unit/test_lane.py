"""What a lane leaves out of a batch that is read again."""

from __future__ import annotations

from array import array

import msgspec

from pipeline import contract as contracts
from pipeline.batch import OpenBatch, Target
from pipeline.config.schema import Batch, Route
from pipeline.config.schema import Dedup as DedupConfig
from pipeline.decode import Decoder
from pipeline.dedup import Dedup
from pipeline.lane import Job, Lane, LeftOut, Ranges
from pipeline.native import BlockBuilder
from pipeline.planning import native_lane
from pipeline.types import Partition, Reject, RejectCode, Stage
from pipeline.ways import WINDOW_RECORDS

HERE = Partition("t", 0)


class Event(msgspec.Struct):
    id: int


class Run:
    """Four records at the offsets 10 to 13."""

    partition = HERE
    offsets = array("q", range(10, 14))
    timestamps = array("q", [1, 2, 3, 4])
    next_offset = 14
    nbytes = 36
    largest_bytes = 9
    oldest_ms = 1

    def __init__(self) -> None:
        self.values = [b'{"id":%d}' % offset for offset in self.offsets]

    def __len__(self) -> int:
        return 4

    def value(self, index: int) -> bytes | None:
        return self.values[index]

    def key(self, index: int) -> bytes | None:
        return None

    def headers(self, index: int) -> list[tuple[str, bytes | None]]:
        return []


def lane(*, native: bool = False) -> tuple[Lane, BlockBuilder]:
    contract = contracts.load(Route(topic="t", table="x", contract=f"{__name__}:Event"), DedupConfig(), {})
    ((row_type, target),) = contract.tables.items()
    builder = BlockBuilder(target.columns, encode_json=contracts.encode_json)
    targets = [(row_type, Target("t", "x", tuple(c.name for c in target.columns), builder))]
    fast = native_lane(contract, targets).lane if native else None
    return Lane(contract, Decoder(contract, 1_000, "drop"), targets, Dedup(DedupConfig()), fast), builder


def test_a_record_with_a_letter_becomes_no_row_though_the_contract_takes_it_now() -> None:
    """The letter was written under a stricter contract, by a worker that died before it had advanced."""
    made, builder = lane()
    left_out = LeftOut(Ranges([(10, 11)]), frozenset({12}), frozenset({12}))
    taken = made.take(Run(), 0, 4, left_out)
    assert (taken.counts.rows, taken.counts.stored, taken.counts.lettered) == (2, 1, 1)
    assert list(builder.finish().lineage()[3]) == [11, 13]
    assert taken.letters == []


def test_a_record_that_has_left_the_topic_has_a_letter_that_says_so() -> None:
    made, _ = lane()
    letter = made.letter_without_record(HERE, 5, Reject(Stage.INSERT, RejectCode.REFUSED, "ClickHouse code 469"))
    assert (letter.partition, letter.offset, letter.value, letter.timestamp_ms) == (HERE, 5, None, -1)
    assert letter.reject.detail == "ClickHouse code 469; the record has left the topic since"
    assert letter.contract.endswith(":Event")


def test_a_lane_that_leaves_everything_to_msgspec_sends_it_there_at_once() -> None:
    """Rows, claims and letters are the same on either way, and in the same order."""
    made, _ = lane(native=True)
    run = Run()
    run.values = [b'{"\\u0069d":1}', b'{"\\u0069d":2}', b'{"\\u0069d":"x"}', b'{"\\u0069d":4}']
    for _ in range(3 * WINDOW_RECORDS // len(run)):
        taken = made.take(run, 0, 4, None)
        assert (taken.counts.rows, [one.offset for one in taken.letters]) == (3, [12])
    assert made.ways.bypassed
    assert WINDOW_RECORDS <= made.handed_over < 2 * WINDOW_RECORDS


def test_reasons_may_wait_until_the_batch_is_sealed() -> None:
    """Two polls: a null that the native lane surely refuses, and a text that msgspec was asked about in its turn."""
    made, _ = lane(native=True)
    batch = OpenBatch(made.targets, Batch())
    letters = []
    for first in (20, 10):
        run = Run()
        run.offsets = array("q", range(first, first + 4))
        run.values = [b'{"id":1}', b'{"id":null}', b'{"\\u0069d":"x"}', b'{"id":4}']
        letters += made.take(run, 0, 4, None).letters
        taken = made.take_all([Job(run, 0, 4, None)], explain_later=True)
        assert taken.unexplained is not None
        assert (taken.refused, taken.unexplained.count, taken.unexplained.nbytes) == (2, 1, 11)
        assert [one.offset for one in taken.letters] == [first + 2]
        batch.add(taken)
    sealed = batch.seal("rows", 0, 0.0)
    assert [one.offset for one in sealed.letters] == [11, 12, 21, 22]
    assert sorted(sealed.letters, key=lambda one: one.offset) == sorted(letters, key=lambda one: one.offset)
    assert (sealed.counts.records, sealed.counts.rejects.total()) == (8, 4)
