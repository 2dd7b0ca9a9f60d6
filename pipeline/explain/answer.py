"""What became of a record, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from pipeline.verify.tables import Row


class Outcome(StrEnum):
    """What a record can have become. The last two are alarms."""

    ROW = "row"
    DEAD_LETTER = "dead_letter"
    DUPLICATE = "duplicate"
    FILTERED = "filtered"
    DROPPED = "dropped"
    IN_FLIGHT = "in_flight"
    NOT_READ = "not_read"
    NOT_PRODUCED = "not_produced"
    NO_RECORD = "no_record"
    BEFORE_START = "before_start"
    GONE = "gone"
    MISSING = "missing"
    DOUBLED = "doubled"


_SAID = {
    Outcome.ROW: "a row",
    Outcome.DEAD_LETTER: "a dead letter",
    Outcome.DUPLICATE: "a duplicate, not written",
    Outcome.FILTERED: "filtered: it has no value",
    Outcome.DROPPED: "a reject, dropped as configured",
    Outcome.IN_FLIGHT: "in flight: declared, not yet known to be written",
    Outcome.NOT_READ: "not read yet",
    Outcome.NOT_PRODUCED: "not there: the partition ends before it",
    Outcome.NO_RECORD: "no record: a transaction marker, an aborted record, or one that compaction removed",
    Outcome.BEFORE_START: "never consumed: it lies before kafka.start",
    Outcome.GONE: "no longer in Kafka, and neither row nor dead letter: a duplicate, filtered or lost, nobody can tell",
    Outcome.MISSING: "MISSING",
    Outcome.DOUBLED: "DOUBLED",
}


@dataclass(frozen=True)
class Letter:
    """One dead letter: where it is, and what its headers say."""

    topic: str
    partition: int
    offset: int
    stage: str
    code: str
    detail: str
    contract: str
    attempt: str

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition} offset {self.offset}"


@dataclass(frozen=True)
class Batch:
    """A declared batch that has not been passed by the committed offset."""

    declared: str
    age_s: float
    spans: list[str]
    replay: bool
    """It is a replay's; it carries a salt."""


@dataclass
class Answer:
    """What became of the record at one place."""

    topic: str
    partition: int
    offset: int
    outcome: Outcome
    why: str = ""
    rows: list[Row] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    original: Row | None = None
    """The row that holds the event id."""
    batch: Batch | None = None
    timestamp: str = ""
    """Of the record; empty when it is not in Kafka."""
    nbytes: int | None = None
    """Of its value; None when there is none or the record is not in Kafka."""
    committed: int | None = None
    """The first offset of the partition that is not known to be durable."""
    log_start: int = 0
    log_end: int = 0

    @property
    def alarm(self) -> bool:
        return self.outcome in (Outcome.MISSING, Outcome.DOUBLED)

    def as_json(self) -> dict[str, Any]:
        found = {"alarm": self.alarm, **asdict(self)}
        # `asdict` leaves named tuples as they are, and JSON would make lists of them.
        found["rows"] = [row._asdict() for row in self.rows]
        found["original"] = self.original._asdict() if self.original is not None else None
        return found

    def head(self) -> str:
        """One line: where, and what became of it."""
        why = f": {self.why}" if self.why else ""
        return f"{self.topic}/{self.partition} offset {self.offset}: {_SAID[self.outcome]}{why}"

    def facts(self) -> list[tuple[str, str]]:
        """What the head rests on, as names and values."""
        found = [("row in", _row(row)) for row in self.rows]
        for letter in self.letters:
            found += [("dead letter", str(letter)), ("reason", f"{letter.stage}, {letter.code}: {letter.detail}")]
            found += [("contract", letter.contract), ("attempt", letter.attempt)]
        if self.original is not None:
            found.append(("duplicate of", _row(self.original)))
        if self.batch is not None:
            kind = "a replay's batch" if self.batch.replay else "batch"
            found.append(("declared", f"{self.batch.declared}, {self.batch.age_s:.0f} s ago, in the {kind}"))
            found += [("", span) for span in self.batch.spans]
        if self.timestamp:
            size = "no value" if self.nbytes is None else f"{self.nbytes:,} bytes"
            found.append(("record", f"of {self.timestamp}, {size}"))
        found.append(("partition", self._partition()))
        return found

    def _partition(self) -> str:
        committed = "nothing committed" if self.committed is None else f"committed up to {self.committed:,}"
        return f"holds {self.log_start:,} to {self.log_end:,}, {committed}"


def _row(row: Row) -> str:
    at = f" ({row.timestamp})" if row.timestamp else ""
    return f"{row.table}, of {row.topic}/{row.partition} offset {row.offset}{at}"
