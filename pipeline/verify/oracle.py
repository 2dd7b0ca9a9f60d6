"""What a generated workload must have become, from its generator alone: also for records that Kafka no longer has."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.types import Partition
from pipeline.verify.letters import Letters
from pipeline.verify.reach import Reach
from pipeline.verify.report import Fault, Report
from pipeline.verify.stored import Stored
from pipeline.verify.tables import Tables
from pipeline.workload.make import BLOCK_RECORDS, Fate, Generator, Outcome

STEP_RECORDS = 64 * BLOCK_RECORDS


class Oracle:
    """Compares tables and dead letters with what the generator of one topic says. Expects a topic filled from offset 0."""

    def __init__(self, topic: str, generator: Generator) -> None:
        self._topic = topic
        self._generator = generator
        self.offsets = 0
        self.expected: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.unreadable: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        """Of those expected, the ones Kafka no longer has."""
        self.unique = 0
        """Records that are no duplicates: rows, dead letters and filtered ones."""

    def check(self, reaches: Sequence[Reach], tables: Tables, letters: Letters, report: Report) -> None:
        """Of records that Kafka still has, what differs is `unexpected`: the account knows whether one is missing or doubled.
        Of the others it is `missing` or `doubled`."""
        for reach in reaches:
            if reach.partition.topic != self._topic:
                continue
            for first in range(0 if reach.open_begin else reach.first, reach.end, STEP_RECORDS):
                next_ = min(reach.end, first + STEP_RECORDS)
                stored = tables.stored(reach.partition, first, next_)
                lettered = letters.between(reach.partition, first, next_).offsets
                self._count(reach.partition, first, next_, reach.low)
                for offset, kind, why in self._differences(reach.partition, first, next_, stored, lettered):
                    readable = reach.low <= offset < reach.end
                    report.fault("unexpected" if readable else kind, *reach.partition, offset, why)

    def _differences(
        self, partition: Partition, first: int, next_: int, stored: Stored, lettered: frozenset[int]
    ) -> list[tuple[int, Fault, str]]:
        fates = self._generator.fates(partition.number, first, next_ - first)
        special = {first + index: fate for index, fate in fates.items() if fate.outcome is not Outcome.ROW}
        letters_due = {offset for offset, fate in special.items() if fate.outcome is Outcome.LETTER}
        rows_due = set(range(first, next_)) - special.keys()
        found: list[tuple[int, Fault, str]] = []
        found += [(offset, "missing", "the generator made it a row") for offset in rows_due - stored.offsets]
        found += [(offset, "doubled", _why(special[offset])) for offset in stored.offsets - rows_due]
        found += [(offset, "missing", "the generator made it a dead letter") for offset in letters_due - lettered]
        found += [(offset, "doubled", "a dead letter for a good record") for offset in lettered - letters_due]
        found += [(offset, "doubled", f"{count} rows") for offset, count in stored.several.items()]
        return sorted(found)

    def _count(self, partition: Partition, first: int, next_: int, low: int) -> None:
        for start, end, counts in (
            (first, next_, self.expected),
            (first, min(next_, low), self.unreadable),
        ):
            if start < end:
                fates = self._generator.fates(partition.number, start, end - start)
                counts[Outcome.ROW] += end - start - len(fates)
                for fate in fates.values():
                    counts[fate.outcome] += 1
        self.offsets += next_ - first
        self.unique = self.offsets - self.expected[Outcome.DUPLICATE]


def _why(fate: Fate) -> str:
    if fate.outcome is Outcome.DUPLICATE:
        return f"a row, though it repeats offset {fate.origin}"
    return f"a row, though it is a {fate.kind} record"
