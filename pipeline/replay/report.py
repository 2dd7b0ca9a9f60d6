"""What a replay did: numbers and notes. Plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Report:
    """Counts of records by what became of them in this run; `written` rows and letters are new, the others were there."""

    finished: bool = False
    """Every record of the stretch is in one of the counts, of this run or of an earlier one that this one resumed."""
    dry_run: bool = False
    group: str = ""
    resumed: bool = False
    offsets: int = 0
    """How many offsets the stretch has."""
    offsets_before: int = 0
    """Of them, those that an earlier run of the same replay had done."""
    records: int = 0
    rows_written: int = 0
    rows_there: int = 0
    """Left alone: the table has the record's row."""
    duplicates: int = 0
    """Not written: another record holds the event id."""
    filtered: int = 0
    letters_written: int = 0
    letters_there: int = 0
    """Left alone: the record has a dead letter."""
    dropped: int = 0
    """Rejects that `dead_letters.on_reject = "drop"` gives no place."""
    recovered: int = 0
    """Rows of batches that an earlier run had declared and this one inserted first."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    stretch: list[dict[str, Any]] = field(default_factory=list)
    """Topic, partition, first and next of each partition's part."""

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.finished, **asdict(self)}

    def lines(self) -> list[str]:
        """The report for people."""
        would = " (nothing was written: a dry run)" if self.dry_run else ""
        head = f"{self.records:,} records read again in {self.seconds:.1f} s{would}"
        to_write = "rows to write" if self.dry_run else "rows written"
        letters = "dead letters to write" if self.dry_run else "dead letters written"
        counts = (
            (to_write, self.rows_written, True),
            ("rows of an interrupted batch, written first", self.recovered, False),
            ("rows there already", self.rows_there, True),
            ("duplicates of a row", self.duplicates, True),
            (letters, self.letters_written, True),
            ("dead letters there already", self.letters_there, False),
            ("filtered", self.filtered, False),
            ("dropped rejects", self.dropped, False),
        )
        lines = [head] + [f"  {number:>14,}  {name}" for name, number, always in counts if number or always]
        return lines + [f"  note: {note}" for note in self.notes]
