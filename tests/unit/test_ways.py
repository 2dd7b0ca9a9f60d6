"""The choice between the native core and msgspec for a whole run: by what either costs, tried anew now and then."""

from __future__ import annotations

import logging

import pytest

from pipeline.ways import AGAIN_RECORDS, WINDOW_RECORDS, Ways

RUN = 256


class Costs:
    """Runs of a made-up contract; costs are nanoseconds a record."""

    def __init__(self, left_share: float, native: int, msgspec: int) -> None:
        self.left_share, self.native, self.msgspec = left_share, native, msgspec
        self.now_ns = 0
        self.ways = Ways("contract", lambda: self.now_ns)

    def run(self, records: int) -> list[bool]:
        """Which way each run went."""
        went = []
        for _ in range(records // RUN):
            native = self.ways.choose()
            self.now_ns += RUN * (self.native if native else self.msgspec)
            self.ways.took(RUN, round(RUN * self.left_share) if native else 0, native=native)
            went.append(native)
        return went


def test_msgspec_is_not_tried_while_hardly_anything_is_left_to_it() -> None:
    assert all(Costs(0.01, 350, 100).run(AGAIN_RECORDS * 2))


def test_the_cheaper_way_is_taken_and_the_other_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = Costs(0.5, 3_300, 800)
    went = made.run(AGAIN_RECORDS * 3)
    natively = went.count(True) * RUN
    assert made.ways.bypassed
    assert WINDOW_RECORDS * 2 < natively <= WINDOW_RECORDS * 4
    assert [one.getMessage() for one in caplog.records] == [
        "contract: 50% of the records are left to msgspec, which costs more"
        " (3.3 us a record, 0.8 all through msgspec): all go to it"
    ]


def test_a_share_that_the_native_way_can_bear() -> None:
    went = Costs(0.2, 3_900, 9_100).run(AGAIN_RECORDS * 3)
    assert went.count(False) * RUN <= WINDOW_RECORDS * 3


def test_back_to_the_native_way_once_its_records_are_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = Costs(1.0, 6_300, 800)
    made.run(WINDOW_RECORDS * 4)
    assert made.ways.bypassed
    made.left_share, made.native = 0.0, 350
    made.run(AGAIN_RECORDS + WINDOW_RECORDS * 2)
    assert not made.ways.bypassed
    assert len(caplog.records) == 2


def test_equal_costs_change_nothing() -> None:
    made = Costs(0.3, 1_000, 950)
    made.run(AGAIN_RECORDS * 2)
    assert not made.ways.bypassed


def test_a_run_without_records() -> None:
    made = Costs(1.0, 1_000, 1_000)
    assert made.ways.choose()
    made.ways.took(0, 0, native=True)
