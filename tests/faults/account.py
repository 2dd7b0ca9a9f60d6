"""The oracle of a run: what each offset became, against what its generator made it, and against the window of the dedup.

`verify` proves from Kafka and ClickHouse that no record is missing or doubled. This adds what only the generator knows:
which records share an event id. An id that has several rows is a finding, unless each further row is of a record that
came later than the window after every row before it; there the pipeline promises nothing.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.verify import verify
from pipeline.workload import Generator, Outcome
from tests.faults.letters import LetterBook
from tests.faults.stage import Stage

EXAMPLES_MAX = 20
STEP = 65_536


@dataclass
class Account:
    """Counts of produced records by what became of them, and everything that is wrong."""

    produced: int = 0
    rows: int = 0
    letters: int = 0
    letters_repeated: int = 0
    duplicates: int = 0
    """Dropped: the id has a row."""
    beyond_window: int = 0
    """Rows of duplicates that came later than the window after the row they repeat: passed."""
    copies_for_originals: int = 0
    """Ids whose one row is not of the first record that had them."""
    filtered: int = 0
    missing: int = 0
    doubled: int = 0
    wrong: int = 0
    """A row of a record that is none, or a dead letter of a good one."""
    examples: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.missing or self.doubled or self.wrong)

    def fault(self, kind: str, text: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(f"{kind}: {text}")


class Rows:
    """The rows of one partition: offset, record time, in the order of offsets; an offset may be there several times."""

    def __init__(self, stage: Stage, number: int) -> None:
        sql = (
            "SELECT toInt64(_offset), toInt64(toUnixTimestamp64Milli(toDateTime64(_timestamp, 3))) "
            f"FROM {stage.table} WHERE _partition = {number} ORDER BY _offset"
        )
        pairs = array("q", b"".join(stage.tables.query_bytes(sql, "RowBinary")))
        self.offsets, self.times_ms = pairs[::2], pairs[1::2]

    def count(self, offset: int) -> int:
        return bisect_left(self.offsets, offset + 1) - bisect_left(self.offsets, offset)

    def time_ms(self, offset: int) -> int:
        return self.times_ms[bisect_left(self.offsets, offset)]


def account(stage: Stage, ends: Mapping[int, int], book: LetterBook) -> Account:
    """Looks at every offset that was produced."""
    generator = stage.setting.generator()
    result = Account()
    for number, end in ends.items():
        result.produced += end
        rows = Rows(stage, number)
        owners = _judge_offsets(result, generator, number, end, rows, book)
        _judge_ids(result, number, rows, owners, stage.setting.window_s * 1000)
    result.letters_repeated = book.repeated()
    return result


def _judge_offsets(
    result: Account, generator: Generator, number: int, end: int, rows: Rows, book: LetterBook
) -> dict[int, list[int]]:
    """Rows and letters by offset. Returns the original of each id that has copies -> the offsets that have its id."""
    sharers: dict[int, list[int]] = {}
    for first in range(0, end, STEP):
        count = min(STEP, end - first)
        fates = generator.fates(number, first, count)
        for index in range(count):
            offset, stored = first + index, rows.count(first + index)
            fate = fates.get(index)
            lettered = book.holds(number, offset)
            if stored > 1:
                result.fault("doubled", f"{number}/{offset} has {stored} rows")
            if fate is None or fate.outcome in (Outcome.ROW, Outcome.DUPLICATE):
                if lettered:
                    result.fault("wrong", f"{number}/{offset} is a good record and has a dead letter")
                if fate is not None and fate.outcome is Outcome.DUPLICATE:
                    sharers.setdefault(fate.origin, [fate.origin]).append(offset)
                elif stored == 0:
                    sharers.setdefault(offset, [offset])
            elif stored:
                result.fault("wrong", f"{number}/{offset} has a row, though it is a {fate.kind} record")
            elif fate.outcome is Outcome.FILTERED:
                result.filtered += 1
            elif lettered:
                result.letters += 1
            else:
                result.fault("missing", f"{number}/{offset} has no dead letter, though it is a {fate.kind} record")
    past = rows.offsets[-1] if len(rows.offsets) else -1
    if past >= end:
        result.fault("wrong", f"{number}/{past} has a row and was not produced")
    return sharers


def _judge_ids(result: Account, number: int, rows: Rows, sharers: Mapping[int, list[int]], window_ms: int) -> None:
    """Every id has one row, and further ones only where the window had passed."""
    result.rows += len(set(rows.offsets))
    for origin, offsets in sharers.items():
        stored = [offset for offset in offsets if rows.count(offset)]
        if not stored:
            result.fault("missing", f"{number}/{origin}: no record with its id has a row ({offsets})")
            continue
        result.duplicates += len(offsets) - len(stored)
        result.copies_for_originals += stored[0] != origin
        latest_ms = rows.time_ms(stored[0])
        for offset in stored[1:]:
            time_ms = rows.time_ms(offset)
            if time_ms - latest_ms > window_ms:
                result.beyond_window += 1
            else:
                text = f"{number}/{offset} has a row, {(time_ms - latest_ms) / 1000:.1f} s after a row of the same id"
                result.fault("doubled", f"{text} ({number}/{origin}; all with it: {offsets}; with rows: {stored})")
            latest_ms = max(latest_ms, time_ms)


def prove(stage: Stage) -> tuple[list[str], dict[str, int]]:
    """What `penstock verify` finds: its faults as sentences, and its counts.

    Missing rejects are left to `account`, which also knows the letters of a topic that was deleted.
    """
    report = verify(stage.config, wait_s=30.0, examples_max=100_000)
    found = [
        f"verify: {kind}: {one.partition}/{one.offset}: {one.why}"
        for kind, examples in report.examples.items()
        for one in examples
        if "there is no dead letter" not in one.why
    ]
    counts = {name: getattr(report, name) for name in ("records", "rows", "duplicates", "filtered", "in_flight")}
    if report.in_flight or report.rows_beyond:
        found.append(f"verify: {report.in_flight} batches in flight, {report.rows_beyond} rows beyond the offsets")
    return found, counts
