"""What a demo found, for people and as JSON. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.demo.options import Options
from pipeline.verify import Report
from pipeline.verify.oracle import Oracle
from pipeline.workload import Outcome
from pipeline.workload.produce import Latency


@dataclass(frozen=True)
class Kill:
    """One SIGKILL, and what it hit: declared batches of the worker that nobody had finished a second later."""

    worker: int
    batches: int
    records: int
    unwritten: int
    """Of these batches, how many had no row in ClickHouse then: killed between declare and insert."""
    progress: float
    """Share of all events that was committed at that time."""


@dataclass(frozen=True)
class Result:
    """The end of a demo."""

    options: Options
    produced: int
    seconds: float
    worker_cpu_s: float
    """Of all worker processes, the killed ones too."""
    worker_start_cpu_s: float
    """Of it, what starting the processes took."""
    exit_codes: tuple[int, ...]
    """Of the workers that were asked to stop."""
    kills: tuple[Kill, ...]
    latency: Latency
    report: Report
    oracle: Oracle
    kept: str

    @property
    def kills_in_flight(self) -> int:
        return sum(kill.batches > 0 for kill in self.kills)

    @property
    def ok(self) -> bool:
        enough = (
            self.kills_in_flight >= self.options.kill and self.produced == self.options.events == self.oracle.offsets
        )
        return self.report.ok and enough and not any(self.exit_codes)

    @property
    def rows(self) -> int:
        return self.report.rows + self.report.unreadable_rows

    @property
    def dead_letters(self) -> int:
        return self.report.dead_letters + self.oracle.unreadable[Outcome.LETTER]

    @property
    def duplicates_dropped(self) -> int:
        return self.report.duplicates + self.oracle.unreadable[Outcome.DUPLICATE]

    def as_json(self) -> dict[str, Any]:
        """The keys the demo promises, then more."""
        report = self.report
        return {
            "produced": self.produced,
            "unique": self.oracle.unique,
            "rows": self.rows,
            "duplicates_dropped": self.duplicates_dropped,
            "dead_letters": self.dead_letters,
            "missing": report.missing,
            "doubled": report.doubled,
            "kills": len(self.kills),
            "seconds": round(self.seconds, 3),
            "events_per_second": round(self.produced / self.seconds, 1),
            "worker_cpu_us_per_event": round(self.worker_cpu_s / self.produced * 1e6, 3),
            "ok": self.ok,
            "seed": self.options.seed,
            "unexpected": report.unexpected,
            "kills_in_flight": self.kills_in_flight,
            "kill_details": [vars(kill) for kill in self.kills],
            "dead_letters_repeated": report.dead_letters_repeated,
            "read_again": report.records,
            "unreadable": report.unreadable,
            "examples": report.as_json()["examples"],
            "worker_start_cpu_s": round(self.worker_start_cpu_s, 3),
            "publish_latency_ms": self.latency._asdict(),
            "worker_exit_codes": list(self.exit_codes),
            "partitions": self.options.partitions,
            "workers": self.options.workers,
            "group_protocol": self.options.protocol,
            "workload": self.options.workload,
        }

    def lines(self) -> list[str]:
        """The report for people, without its headline."""
        options, report, latency = self.options, self.report, self.latency
        cpu_us, start_us = (cpu_s / self.produced * 1e6 for cpu_s in (self.worker_cpu_s, self.worker_start_cpu_s))
        lines = [
            f"{self.produced:,} {options.workload} events of seed {options.seed} over {options.partitions} partitions, "
            f"{options.workers} workers, {len(self.kills)} x SIGKILL",
            "",
            f"{self.rows:>12,}  rows in ClickHouse, one for each good event",
            f"{self.duplicates_dropped:>12,}  duplicates dropped",
            f"{self.dead_letters:>12,}  dead letters" + self._repeated(),
            f"{report.missing:>12,}  missing",
            f"{report.doubled:>12,}  doubled",
        ]
        if report.unexpected:
            lines.append(f"{report.unexpected:>12,}  not as generated")
        lines += ["", *map(_told, self.kills)]
        lines += [
            f"{self.seconds:.1f} s, {self.produced / self.seconds:,.0f} events a second with the stalls after the kills; "
            f"{cpu_us:.2f} us of worker CPU an event, {start_us:.2f} of them to start the processes",
            f"publish latency: p50 {latency.p50_ms:.1f} ms, p99 {latency.p99_ms:.1f} ms, max {latency.max_ms:.1f} ms",
        ]
        found = {kind: examples for kind, examples in report.examples.items() if examples}
        lines += [
            f"{kind}: {one.topic}/{one.partition} offset {one.offset}: {one.why}"
            for kind in found
            for one in found[kind]
        ]
        lines += [f"proved: {text}" for text in report.proved] + [f"not proved: {text}" for text in report.not_proved]
        if any(self.exit_codes):
            lines.append(f"workers ended with {self.exit_codes} instead of 0")
        if self.kept:
            lines.append(f"kept: {self.kept} (penstock.toml, logs, data)")
        return lines

    def _repeated(self) -> str:
        repeated = self.report.dead_letters_repeated
        return f" ({repeated} of them written twice)" if repeated else ""


def _told(kill: Kill) -> str:
    if not kill.batches:
        return f"worker {kill.worker} killed at {kill.progress:.0%}, no batch of it in flight; started again"
    batches = "1 batch" if kill.batches == 1 else f"{kill.batches} batches"
    state = "declared and not inserted" if kill.unwritten else "inserted and not committed"
    return (
        f"worker {kill.worker} killed at {kill.progress:.0%} with {batches} of {kill.records:,} records in flight, {state}; "
        "started again"
    )
