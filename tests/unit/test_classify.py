"""The classification of ClickHouse's errors: every code of the tables, and every code that is not in them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline import classify
from pipeline.classify import DATA, RETRIABLE, STOP, ErrorClass

CODES = range(1, 1_100)

RETRIED = [3, 159, 160, 198, 201, 202, 203, 209, 210, 216, 236, 241, 242, 243, 244, 252, 254, 265, 279, 285, 286, 289]
RETRIED += [297, 319, 364, 384, 394, 425, 439, 473, 722, 999, 1000]
STOPPED = [16, 20, 36, 44, 47, 60, 81, 115, 164, 192, 193, 194, 195, 291, 497, 516]
BAD_DATA = [6, 26, 27, 38, 41, 53, 69, 70, 72, 117, 131, 321, 349, 469]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [(RETRIED, ErrorClass.RETRIABLE), (STOPPED, ErrorClass.STOP), (BAD_DATA, ErrorClass.DATA)],
)
def test_the_codes_everything_rests_on(codes: list[int], expected: ErrorClass) -> None:
    assert {code: classify.classify(code) for code in codes} == dict.fromkeys(codes, expected)


def test_every_code_has_exactly_one_class() -> None:
    for code in CODES:
        listed = [code in RETRIABLE, code in STOP, code in DATA]
        expected = [ErrorClass.RETRIABLE, ErrorClass.STOP, ErrorClass.DATA]
        assert sum(listed) <= 1, code
        found = classify.classify(code)
        assert found is (expected[listed.index(True)] if any(listed) else ErrorClass.UNKNOWN), code
        # The message and the status never matter when there is a code; 252 has its own test.
        assert classify.classify(code, "Code: 6. Too many parts", 503) is found


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Too many parts (3000 with average size of 1.00 KiB) in table 'a.b'", ErrorClass.RETRIABLE),
        ("Too many inactive parts (200) in table 'a.b'", ErrorClass.RETRIABLE),
        ("", ErrorClass.RETRIABLE),
        ("Too many partitions for single INSERT block (more than 100).", ErrorClass.STOP),
        ("TOO MANY PARTITIONS FOR SINGLE INSERT BLOCK", ErrorClass.STOP),
    ],
)
def test_252_means_two_things(message: str, expected: ErrorClass) -> None:
    assert classify.classify(252, message) is expected
    assert bool(classify.next_step(252, message)) is (expected is ErrorClass.STOP)


@pytest.mark.parametrize("status", [None, 408, 425, 429, 500, 502, 503, 504, 599])
def test_without_a_code_waiting_helps(status: int | None) -> None:
    assert classify.classify(0, "", status) is ErrorClass.RETRIABLE


@pytest.mark.parametrize("status", [401, 403, 404, 413, 414])
def test_statuses_that_stop_say_what_to_do(status: int) -> None:
    assert classify.classify(0, "", status) is ErrorClass.STOP
    assert classify.next_step(0, "", status)


@pytest.mark.parametrize("status", [200, 302, 400, 418, 451])
def test_other_statuses_are_unknown(status: int) -> None:
    assert classify.classify(0, "", status) is ErrorClass.UNKNOWN


def test_everything_that_stops_says_what_to_do_and_everything_retried_why() -> None:
    for code in CODES:
        found = classify.classify(code)
        assert bool(classify.next_step(code)) is (found in {ErrorClass.STOP, ErrorClass.UNKNOWN}), code
        if found is ErrorClass.RETRIABLE:
            assert classify.reason(code).isidentifier()
    assert classify.reason(0) == "network"
    assert classify.reason(0, 503) == "overload"


def test_names_are_those_of_the_engine() -> None:
    """In a process of its own: one engine path per process, and the engine would stay for all other tests."""
    script = (
        "import chdb; r = chdb.query('SELECT number, errorCodeToName(toInt32(number)) FROM numbers(1, 1100)', 'CSV');"
        "print(r.bytes().decode())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    names = {int(code): name.strip('"') for code, name in (line.split(",") for line in done.stdout.split())}
    ours = {code: classify.name(code) for code in CODES if classify.name(code) and names[code]}
    assert len(ours) > 60  # An older engine does not know them all.
    assert ours == {code: names[code] for code in ours}
