"""A lane: one topic's way from records to rows, in one pass: decode, claim and append. It holds no record back and does no I/O.

The same lane serves the live flow and the recovery of declared batches, so that both decide alike. Records go through
the native core, which hands over, one by one, those it is not sure of; or all through msgspec. Either way gives the same
rows, claims and rejects, in the same order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

from pipeline import native
from pipeline.batch import Counts, Taken, Target
from pipeline.contract import Contract
from pipeline.decode import Decoder
from pipeline.dedup import OFFSET_MAX, Dedup
from pipeline.errors import invariant
from pipeline.types import DeadLetter, Headers, Partition, Records, Reject, RejectCode, Stage
from pipeline.ways import Ways


class Ranges:
    """A set of offsets as sorted half-open ranges."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        ordered = sorted(ranges)
        self._first = [first for first, _ in ordered]
        self._next = [next_ for _, next_ in ordered]
        self._gaps: Ranges | None = None

    def __contains__(self, offset: int) -> bool:
        at = bisect_right(self._first, offset) - 1
        return at >= 0 and offset < self._next[at]

    @property
    def length(self) -> int:
        """How many offsets the ranges hold; they do not overlap."""
        return sum(self._next) - sum(self._first)

    def gaps(self) -> Ranges:
        """Every other offset; made once."""
        if self._gaps is None:
            self._gaps = Ranges(zip([0, *self._next], [*self._first, OFFSET_MAX], strict=True))
        return self._gaps

    @property
    def end(self) -> int:
        """The offset after the last range; 0 when there is none."""
        return self._next[-1] if self._next else 0


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Half-open ranges without overlaps."""
    result: list[tuple[int, int]] = []
    for first, next_ in sorted(ranges):
        if result and first <= result[-1][1]:
            result[-1] = result[-1][0], max(result[-1][1], next_)
        else:
            result.append((first, next_))
    return result


class LeftOut(NamedTuple):
    """What must not be written again: rows the tables have, letters the dead-letter topic has."""

    stored: Ranges
    written: frozenset[int] = frozenset()
    rejected: frozenset[int] = frozenset()
    """Records that were refused before they became rows; the contract of today may take them."""


class Job(NamedTuple):
    """The records `[first, cut)` of a run, to be taken."""

    records: Records
    first: int
    cut: int
    left_out: LeftOut | None


class _Record(NamedTuple):
    """What a letter needs of a record."""

    value: bytes | None
    key: bytes | None
    headers: Headers


class _Part(native.Part):
    """The work on one job, and what is noted of it. The records are let go of as soon as they are taken."""

    __slots__ = (
        "count",
        "filtered",
        "kept",
        "left_out",
        "lettered",
        "nbytes",
        "oldest_ms",
        "rejects",
        "stored",
        "stored_count",
    )

    def __init__(self, job: Job, dedup: Dedup) -> None:
        records, first, cut, left_out = job
        topic, number = partition = records.partition
        offsets, timestamps = records.offsets, records.timestamps
        if cut - first == len(offsets):
            self.nbytes, self.oldest_ms = records.nbytes, records.oldest_ms
        else:
            offsets, timestamps = offsets[first:cut], timestamps[first:cut]
            self.nbytes, self.oldest_ms = _nbytes(records, first, cut), min(timestamps, default=-1)
        self.count = cut - first
        self.left_out = left_out
        self.stored = left_out.stored if left_out is not None and self.count else None
        if self.stored is not None and offsets[0] >= self.stored.end:
            self.stored = None
        flags = bytes(offset in self.stored for offset in offsets) if self.stored is not None else None
        self.stored_count = sum(flags) if flags is not None else 0
        run = native.Run(topic, number, dedup.slot(partition), offsets, timestamps)
        super().__init__(run, records, first, dedup.keys(records, first, cut), flags)
        self.rejects: list[tuple[int, Reject]] = []
        self.filtered = self.lettered = 0
        self.kept: dict[int, _Record] = {}
        """By index: the records that are refused."""

    @property
    def rejected(self) -> frozenset[int]:
        return self.left_out.rejected if self.left_out is not None else frozenset()

    def keep_refused(self) -> None:
        """Before the records are let go of: what is refused is kept for its letter."""
        at = -1
        for _ in range(self.unexplained):
            at = self.statuses.index(native.UNEXPLAINED, at + 1)
            self.kept[at] = _record_at(self.records, self.first + at)
        for index, _ in self.rejects:
            self.kept[index] = _record_at(self.records, self.first + index)


class Lane:
    """The decoder and the builders of one topic. Used by one thread. Without `fast` every record goes through msgspec."""

    def __init__(
        self,
        contract: Contract,
        decoder: Decoder,
        targets: Sequence[tuple[type, Target]],
        dedup: Dedup,
        fast: native.RecordLane | None = None,
        left: tuple[str, ...] = (),
    ) -> None:
        self._contract_name = f"{contract.name}@{contract.version}" if contract.version else contract.name
        self._decoder = decoder
        self._dedup = dedup
        self._fast = fast
        self.left = left
        """What the native lane leaves to msgspec, and why."""
        self.handed_over = 0
        """Records that the native lane was not sure of, since the start."""
        self.ways = Ways(contract.name)
        self._builders = {row_type: target.builder for row_type, target in targets}
        self._ids = {row_type: target.ids for row_type, target in targets if target.ids is not None}
        self.targets = tuple(target for _, target in targets)

    def take(self, records: Records, first: int, cut: int, left_out: LeftOut | None) -> Taken:
        """Decodes, claims and appends the records `[first, cut)` of a run."""
        return self.take_all([Job(records, first, cut, left_out)])

    def take_all(self, jobs: list[Job], *, explain_later: bool = False) -> Taken:
        """Takes one run after the other, and the list apart: records are let go of while they are in the processor's cache.

        What is the same for all runs is done for all at once. After a run of a thousand records nothing of the Python code is
        left in that cache, and it costs several times what it does in a row. So the reasons why records are refused may wait
        for those of other polls.
        """
        jobs.reverse()
        parts = []
        while jobs:
            parts.append(_Part(jobs.pop(), self._dedup))
        self._by_the_cheaper(parts)
        refused = [part for part in parts if part.unexplained]
        if refused and not explain_later:
            self._explain(refused)
        taken = self._taken(parts)
        return taken._replace(unexplained=_Unexplained(self, refused)) if refused and explain_later else taken

    def explained(self, parts: Sequence[_Part]) -> tuple[Counts, list[DeadLetter]]:
        """The letters of what `take_all` has left unexplained of these; those of the rest were returned there."""
        for part in parts:
            part.rejects.clear()
        self._explain(parts)
        counts = Counts()
        return counts, [letter for part in parts for letter in self._letters_of(part, counts)]

    def _taken(self, parts: Sequence[_Part]) -> Taken:
        counts = Counts()
        letters: list[DeadLetter] = []
        for part in parts:
            counts.records += part.count
            counts.nbytes += part.nbytes
            counts.rows += part.statuses.count(native.APPENDED)
            counts.duplicates += part.statuses.count(native.DUPLICATE)
            counts.filtered += part.filtered
            counts.stored += part.stored_count
            counts.lettered += part.lettered
            if part.rejects:
                letters += self._letters_of(part, counts)
        return Taken(counts, letters, min((part.oldest_ms for part in parts if part.oldest_ms > 0), default=-1))

    def _letters_of(self, part: _Part, counts: Counts) -> list[DeadLetter]:
        part.rejects.sort(key=itemgetter(0))
        letters = [self._letter_of(part, index, reject) for index, reject in part.rejects]
        counts.rejects.update(letter.reject.code for letter in letters)
        return self._without_written(letters, part.left_out)

    def _by_the_cheaper(self, parts: list[_Part]) -> None:
        """Natively, unless that cannot be, or so much is left to msgspec that it is cheaper to send it there at once."""
        if self._fast is None or self._ids or any(part.rejected for part in parts):
            self._all_by_msgspec(parts)
            return
        handed_over = self.handed_over
        chosen = self.ways.choose()
        if chosen:
            self._fast.take_all(
                parts, self._dedup.claims, self._decoder.record_bytes_max, self._hand_over, _Part.keep_refused
            )
        else:
            self._all_by_msgspec(parts)
        self.ways.took(sum(part.count for part in parts), self.handed_over - handed_over, native=chosen)

    def _all_by_msgspec(self, parts: Iterable[_Part]) -> None:
        for part in parts:
            self._by_msgspec(part)
            part.keep_refused()
            part.records = None

    def _by_msgspec(self, part: _Part) -> None:
        """Every record at once: all are decoded, then all are claimed and appended."""
        run, statuses, records = part.run, part.statuses, part.records
        values = records.values[part.first : part.first + part.count]
        rows, part.rejects, part.filtered = self._decoder.decode(values, largest_bytes=records.largest_bytes)
        if part.stored is not None:
            part.rejects = self._leave_out(rows, part, part.stored)
        if part.rejected:
            self._leave_out_rejected(rows, part)
        refusals = native.append(self._builders, rows, run, self._dedup.claims, part.keys, statuses)
        if self._ids:
            self._append_ids(rows, run, statuses)
        part.rejects += [(refusal.index, _refused(refusal)) for refusal in refusals]

    def _hand_over(self, part: _Part, index: int) -> None:
        """Decodes, claims and appends the one record that the native lane is not sure of."""
        self.handed_over += 1
        rows, rejects, filtered = self._decoder.decode([part.records.value(part.first + index)])
        part.filtered += filtered
        part.rejects += [(index, reject) for _, reject in rejects]
        if rows[0] is not None:
            self._append_one(part, index, rows)

    def _append_one(self, part: _Part, index: int, rows: list[object | None]) -> None:
        run = part.run
        one = run._replace(offsets=run.offsets[index : index + 1], timestamps=run.timestamps[index : index + 1])
        status = bytearray(1)
        key = None if part.keys is None else part.keys[index : index + 1]
        refusals = native.append(self._builders, rows, one, self._dedup.claims, key, status)
        part.rejects += [(index, _refused(refusal)) for refusal in refusals]
        part.statuses[index] = status[0]

    def _explain(self, parts: Sequence[_Part]) -> None:
        """Asks msgspec, and the columns, why they refuse what the native lane is sure that they do: of all runs at once."""
        wanted = _unexplained(parts)
        rows, rejects, filtered = self._decoder.decode([part.kept[index].value for part, index in wanted])
        for number, reject in rejects:
            part, index = wanted[number]
            part.rejects.append((index, reject))
            part.statuses[index] = native.REFUSED
        for (part, index), row in zip(wanted, rows, strict=True):
            if row is not None:
                self._append_one(part, index, [row])
        invariant(
            not filtered and all(part.statuses[index] == native.REFUSED for part, index in wanted),
            f"{self._contract_name}: the native lane refused a record that msgspec takes; set decode.lane to msgspec",
        )

    def letter(self, records: Records, index: int, reject: Reject) -> DeadLetter:
        """The dead letter of one record."""
        place = records.partition, records.offsets[index], records.timestamps[index]
        return self._letter(*place, _record_at(records, index), reject)

    def _append_ids(self, rows: list[object | None], run: native.Run, statuses: bytearray) -> None:
        """The ids of the rows just appended, in the same order."""
        taken = [row if status == native.APPENDED else None for row, status in zip(rows, statuses, strict=True)]
        native.append(self._ids, taken, run, None, None, bytearray(len(rows)))

    def letter_without_record(self, partition: Partition, offset: int, reject: Reject) -> DeadLetter:
        """The dead letter of a record that Kafka does not have any more."""
        gone = Reject(reject.stage, reject.code, f"{reject.detail}; the record has left the topic since")
        return DeadLetter(partition, offset, -1, None, None, (), gone, self._contract_name)

    @staticmethod
    def _leave_out(rows: list[object | None], part: _Part, stored: Ranges) -> list[tuple[int, Reject]]:
        """Blanks the rows whose offset is stored already. Also a record that a changed contract refuses now is stored."""
        offsets = part.run.offsets
        rejected = {index for index, _ in part.rejects}
        for index in range(bisect_left(offsets, stored.end)):
            if offsets[index] in stored:
                # Every record counts once; one without a row that is no reject was counted as filtered.
                part.filtered -= rows[index] is None and index not in rejected
                rows[index] = None
        return [(index, reject) for index, reject in part.rejects if offsets[index] not in stored]

    @staticmethod
    def _leave_out_rejected(rows: list[object | None], part: _Part) -> None:
        for index, offset in enumerate(part.run.offsets):
            if offset in part.rejected and rows[index] is not None:
                rows[index] = None
                part.lettered += 1

    @staticmethod
    def _without_written(letters: list[DeadLetter], left_out: LeftOut | None) -> list[DeadLetter]:
        if left_out is None or not left_out.written:
            return letters
        return [letter for letter in letters if letter.offset not in left_out.written]

    def _letter_of(self, part: _Part, index: int, reject: Reject) -> DeadLetter:
        run = part.run
        place = Partition(run.topic, run.partition), run.offsets[index], run.timestamps[index]
        return self._letter(*place, part.kept[index], reject)

    def _letter(
        self, partition: Partition, offset: int, timestamp_ms: int, record: _Record, reject: Reject
    ) -> DeadLetter:
        return DeadLetter(
            partition=partition,
            offset=offset,
            timestamp_ms=timestamp_ms,
            key=record.key,
            value=record.value,
            headers=record.headers,
            reject=reject,
            contract=self._contract_name,
        )


class _Unexplained:
    """See `batch.Unexplained`."""

    def __init__(self, lane: Lane, parts: Sequence[_Part]) -> None:
        self._lane = lane
        self._parts = parts
        self.count = sum(part.unexplained for part in parts)
        self.nbytes = sum(len(part.kept[index].value or b"") for part, index in _unexplained(parts))

    def explain(self) -> tuple[Counts, list[DeadLetter]]:
        return self._lane.explained(self._parts)


def _unexplained(parts: Sequence[_Part]) -> list[tuple[_Part, int]]:
    return [(part, index) for part in parts for index in part.kept if part.statuses[index] == native.UNEXPLAINED]


def _record_at(records: Records, index: int) -> _Record:
    return _Record(records.value(index), records.key(index), records.headers(index))


def _refused(refusal: native.Refusal) -> Reject:
    return Reject(Stage.COLUMN, RejectCode(refusal.code), f"column {refusal.column}: {refusal.detail}")


def _nbytes(records: Records, first: int, cut: int) -> int:
    """Bytes of a part of the values."""
    return sum(map(len, filter(None, records.values[first:cut])))
