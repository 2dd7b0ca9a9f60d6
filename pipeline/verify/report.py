"""What a verification found: numbers, bounded lists of what is wrong, what was proved and what was not. Plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Fault = Literal["missing", "doubled", "unexpected"]


STRETCHES_SHOWN_MAX = 3
"""With more partitions their offsets are in the JSON only."""


@dataclass(frozen=True)
class Example:
    """One record that is at fault."""

    topic: str
    partition: int
    offset: int
    why: str


@dataclass(frozen=True)
class Stretch:
    """Of one partition: `[first, next)` is accounted for; of it, Kafka still had `[readable_from, next)`."""

    topic: str
    partition: int
    first: int
    next: int
    readable_from: int


@dataclass
class Report:
    """Counts of records by what became of them. Every record read is in exactly one of the first seven counts."""

    rows: int = 0
    """Exactly one row in the target tables, found by lineage, and no dead letter."""
    dead_letters: int = 0
    duplicates: int = 0
    """No row of their own; the same event id is stored under another lineage."""
    filtered: int = 0
    dropped: int = 0
    """Rejects that `dead_letters.on_reject = "drop"` gives no place."""
    missing: int = 0
    doubled: int = 0
    """Several rows, or a row and a dead letter."""
    unexpected: int = 0
    """Accounted for, but not as the generator of the workload says."""
    records: int = 0
    dead_letters_repeated: int = 0
    """Further dead letters of records that have one."""
    unreadable: int = 0
    """Consumed offsets that are no longer in Kafka."""
    unreadable_rows: int = 0
    """Rows found for those."""
    rows_beyond: int = 0
    """Rows at or after the committed offsets: of batches in flight."""
    in_flight: int = 0
    """Batches declared and not yet passed by the committed offset."""
    removed: int = 0
    """Of the offsets no longer in Kafka, those that retention took while they were about to be read."""
    partitions: int = 0
    stretch: list[Stretch] = field(default_factory=list)
    """The offsets that the account is about."""
    seconds: float = 0.0
    proved: list[str] = field(default_factory=list)
    not_proved: list[str] = field(default_factory=list)
    examples: dict[Fault, list[Example]] = field(
        default_factory=lambda: {"missing": [], "doubled": [], "unexpected": []}
    )
    examples_max: int = 20

    @property
    def ok(self) -> bool:
        return not self.missing and not self.doubled and not self.unexpected

    def fault(self, kind: Fault, topic: str, partition: int, offset: int, why: str) -> None:
        """Counts a fault and keeps it as an example while there is room."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.examples[kind]) < self.examples_max:
            self.examples[kind].append(Example(topic, partition, offset, why))

    def as_json(self) -> dict[str, Any]:
        values = asdict(self)
        del values["examples_max"]
        return {"ok": self.ok, **values}

    def lines(self) -> list[str]:
        """The report for people."""
        partitions = "1 partition" if self.partitions == 1 else f"{self.partitions} partitions"
        head = [f"{self.records:,} records of {partitions} read again in {self.seconds:.1f} s"]
        if len(self.stretch) <= STRETCHES_SHOWN_MAX:
            head += [f"  {one.topic}/{one.partition}: offsets {one.first:,} to {one.next:,}" for one in self.stretch]
        counts = (
            ("rows", self.rows, ""),
            ("dead letters", self.dead_letters, self._repeated()),
            ("duplicates of a stored row", self.duplicates, ""),
            ("filtered", self.filtered, ""),
            ("dropped rejects", self.dropped, ""),
            ("missing", self.missing, ""),
            ("doubled", self.doubled, ""),
            ("not as generated", self.unexpected, ""),
        )
        always = ("rows", "dead letters", "duplicates of a stored row", "missing", "doubled")
        lines = head + [f"  {number:>14,}  {name}{more}" for name, number, more in counts if number or name in always]
        for kind, found in self.examples.items():
            total = getattr(self, kind)
            lines += [f"  {kind}: {one.topic}/{one.partition} offset {one.offset}: {one.why}" for one in found]
            if total > len(found):
                lines.append(f"  {kind}: and {total - len(found):,} more")
        lines += [f"  proved: {text}" for text in self.proved]
        lines += [f"  not proved: {text}" for text in self.not_proved]
        return lines

    def _repeated(self) -> str:
        return f" ({self.dead_letters_repeated:,} written more than once)" if self.dead_letters_repeated else ""
