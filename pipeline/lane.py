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
from pipeline.dedup import Dedup
from pipeline.types import DeadLetter, Partition, Records, Reject, RejectCode, Stage
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
            self._gaps = Ranges(zip([0, *self._next], [*self._first, 2**63 - 1], strict=True))
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


class _Fates:
    """What became of the records of a run, as far as it is not in their statuses."""

    def __init__(self) -> None:
        self.rejects: list[tuple[int, Reject]] = []
        self.filtered = 0
        self.stored = 0
        self.lettered = 0


class _Part(NamedTuple):
    """The records of a run that a lane takes, and what it notes of each."""

    records: Records
    first: int
    run: native.Run
    keys: list[bytes | None] | None
    statuses: bytearray
    stored: Ranges | None


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
        whole = cut - first == len(records)
        run = native.Run(
            records.partition.topic,
            records.partition.number,
            self._dedup.slot(records.partition),
            records.offsets if whole else records.offsets[first:cut],
            records.timestamps if whole else records.timestamps[first:cut],
        )
        statuses = bytearray(cut - first)
        stored = left_out.stored if left_out is not None and cut > first else None
        if stored is not None and run.offsets[0] >= stored.end:
            stored = None
        rejected = left_out.rejected if left_out is not None else frozenset()
        part = _Part(records, first, run, self._dedup.keys(records, first, cut), statuses, stored)
        fates = self._by_the_cheaper(part, rejected)
        counts = Counts(
            records=cut - first,
            nbytes=records.nbytes if whole else _nbytes(records, first, cut),
            rows=statuses.count(native.APPENDED),
            duplicates=statuses.count(native.DUPLICATE),
            filtered=fates.filtered,
            stored=fates.stored,
            lettered=fates.lettered,
        )
        letters: list[DeadLetter] = []
        if fates.rejects:
            fates.rejects.sort(key=itemgetter(0))
            letters = [self._letter(records, first + index, reject) for index, reject in fates.rejects]
            counts.rejects.update(letter.reject.code for letter in letters)
        oldest_ms = records.oldest_ms if whole else min(run.timestamps, default=-1)
        return Taken(counts, self._without_written(letters, left_out), oldest_ms)

    def _by_the_cheaper(self, part: _Part, rejected: frozenset[int]) -> _Fates:
        """Natively, unless that cannot be, or so much is left to msgspec that it is cheaper to send it there at once."""
        if self._fast is None or self._ids or rejected:
            return self._by_msgspec(part, rejected)
        handed_over = self.handed_over
        chosen = self.ways.choose()
        fates = self._natively(part) if chosen else self._by_msgspec(part, rejected)
        self.ways.took(len(part.statuses), self.handed_over - handed_over, native=chosen)
        return fates

    def _by_msgspec(self, part: _Part, rejected: frozenset[int]) -> _Fates:
        """Every record at once: all are decoded, then all are claimed and appended."""
        records, first, run, keys, statuses, stored = part
        fates = _Fates()
        values = records.values[first : first + len(statuses)]
        rows, fates.rejects, fates.filtered = self._decoder.decode(values, largest_bytes=records.largest_bytes)
        if stored is not None:
            fates.rejects = self._leave_out(rows, fates.rejects, run.offsets, stored, fates)
        if rejected:
            self._leave_out_rejected(rows, run.offsets, rejected, fates)
        refusals = native.append(self._builders, rows, run, self._dedup.claims, keys, statuses)
        if self._ids:
            self._append_ids(rows, run, statuses)
        fates.rejects += [(refusal.index, _refused(refusal)) for refusal in refusals]
        return fates

    def _natively(self, part: _Part) -> _Fates:
        """From bytes to columns; what the native lane is not sure of is decoded and appended in its turn."""
        assert self._fast is not None
        records, first, run, keys, statuses, stored = part
        fates = _Fates()
        left_out = None
        if stored is not None:
            left_out = bytes(offset in stored for offset in run.offsets)
            fates.stored = sum(left_out)
        self._fast.take(
            records if isinstance(records, native.MessageRun) else records.values,
            first,
            run,
            self._dedup.claims,
            keys,
            statuses,
            left_out,
            self._decoder.record_bytes_max,
            lambda index: self._hand_over(part, index, fates),
        )
        return fates

    def _hand_over(self, part: _Part, index: int, fates: _Fates) -> None:
        """Decodes, claims and appends the one record."""
        records, first, run, keys, statuses, _ = part
        self.handed_over += 1
        rows, rejects, filtered = self._decoder.decode([records.value(first + index)])
        fates.filtered += filtered
        fates.rejects += [(index, reject) for _, reject in rejects]
        if rows[0] is None:
            return
        one = run._replace(offsets=run.offsets[index : index + 1], timestamps=run.timestamps[index : index + 1])
        status = bytearray(1)
        key = None if keys is None else keys[index : index + 1]
        refusals = native.append(self._builders, rows, one, self._dedup.claims, key, status)
        fates.rejects += [(index, _refused(refusal)) for refusal in refusals]
        statuses[index] = status[0]

    def letter(self, records: Records, index: int, reject: Reject) -> DeadLetter:
        """The dead letter of one record."""
        return self._letter(records, index, reject)

    def _append_ids(self, rows: list[object | None], run: native.Run, statuses: bytearray) -> None:
        """The ids of the rows just appended, in the same order."""
        taken = [row if status == native.APPENDED else None for row, status in zip(rows, statuses, strict=True)]
        native.append(self._ids, taken, run, None, None, bytearray(len(rows)))

    def letter_without_record(self, partition: Partition, offset: int, reject: Reject) -> DeadLetter:
        """The dead letter of a record that Kafka does not have any more."""
        gone = Reject(reject.stage, reject.code, f"{reject.detail}; the record has left the topic since")
        return DeadLetter(partition, offset, -1, None, None, (), gone, self._contract_name)

    @staticmethod
    def _leave_out(
        rows: list[object | None],
        rejects: list[tuple[int, Reject]],
        offsets: Sequence[int],
        stored: Ranges,
        fates: _Fates,
    ) -> list[tuple[int, Reject]]:
        """Blanks the rows whose offset is stored already. Also a record that a changed contract refuses now is stored."""
        rejected = {index for index, _ in rejects}
        for index in range(bisect_left(offsets, stored.end)):
            if offsets[index] in stored:
                # Every record counts once; one without a row that is no reject was counted as filtered.
                fates.filtered -= rows[index] is None and index not in rejected
                rows[index] = None
                fates.stored += 1
        return [(index, reject) for index, reject in rejects if offsets[index] not in stored]

    @staticmethod
    def _leave_out_rejected(
        rows: list[object | None], offsets: Sequence[int], rejected: frozenset[int], fates: _Fates
    ) -> None:
        for index, offset in enumerate(offsets):
            if offset in rejected and rows[index] is not None:
                rows[index] = None
                fates.lettered += 1

    @staticmethod
    def _without_written(letters: list[DeadLetter], left_out: LeftOut | None) -> list[DeadLetter]:
        if left_out is None or not left_out.written:
            return letters
        return [letter for letter in letters if letter.offset not in left_out.written]

    def _letter(self, records: Records, index: int, reject: Reject) -> DeadLetter:
        return DeadLetter(
            partition=records.partition,
            offset=records.offsets[index],
            timestamp_ms=records.timestamps[index],
            key=records.key(index),
            value=records.value(index),
            headers=records.headers(index),
            reject=reject,
            contract=self._contract_name,
        )


def _refused(refusal: native.Refusal) -> Reject:
    return Reject(Stage.COLUMN, RejectCode(refusal.code), f"column {refusal.column}: {refusal.detail}")


def _nbytes(records: Records, first: int, cut: int) -> int:
    """Bytes of a part of the values."""
    return sum(map(len, filter(None, records.values[first:cut])))
