"""The end of a run, for people and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator

from tests.faults.plan import Category
from tests.faults.run import REBUILD_S_MAX, Outcome

_TITLES: tuple[tuple[Category, str], ...] = (
    ("process", "process faults"),
    ("network", "network faults"),
    ("answer", "refusals and late answers of ClickHouse"),
    ("cluster", "changes of the cluster"),
)


def lines(outcome: Outcome) -> Iterator[str]:
    """A table of what was done and what became of every record."""
    setting, found = outcome.setting, outcome.account
    static = "static" if setting.static else "dynamic"
    yield f"seed {setting.seed}, {setting.protocol} groups, {static} members, {outcome.seconds / 60:.1f} minutes of faults"
    for category, title in _TITLES:
        yield f"{outcome.tally.total(category):>12,}  {title}"
        yield from (f"{count:>20,}  {kind}" for kind, count in outcome.tally.kinds(category).items())
    yield f"{found.produced:>12,}  records produced"
    for count, text in (
        (found.rows, "rows"),
        (found.letters, f"dead letters ({found.letters_repeated:,} written more than once)"),
        (found.duplicates, "duplicates of a stored row, dropped"),
        (found.filtered, "filtered"),
        (found.missing, "missing"),
        (found.doubled, "doubled"),
        (found.wrong, "not what the generator made"),
    ):
        yield f"{count:>20,}  {text}"
    yield f"{found.beyond_window:>20,}  of the rows repeat one from before the window: passed"
    yield f"{found.copies_for_originals:>20,}  of the rows are copies that came in place of their original"
    seconds = sorted(seconds for _, seconds in outcome.rebuilds) or [0.0]
    yield (
        f"{len(outcome.rebuilds):>12,}  windows rebuilt, {statistics.median(seconds):.2f} s in the median, "
        f"{seconds[-1]:.2f} s the longest (bound: {REBUILD_S_MAX:.0f} s)"
    )
    yield f"{len(outcome.exits):>12,}  times a worker ended by itself and was started again"
    yield f"everything was committed {outcome.settle_s:.1f} s after the faults ended"
    yield from (f"FINDING: {finding}" for finding in outcome.findings)
    yield "NOT exactly once, or not in order" if outcome.findings else "exactly once"


def as_json(outcome: Outcome) -> str:
    """One line."""
    found = outcome.account
    values = {
        "ok": not outcome.findings,
        **outcome.setting._asdict(),
        "seconds": outcome.seconds,
        "faults": {category: outcome.tally.total(category) for category, _ in _TITLES},
        "kinds": {category: outcome.tally.kinds(category) for category, _ in _TITLES},
        "records": {key: value for key, value in vars(found).items() if isinstance(value, int)},
        "verified": outcome.verified,
        "rebuilds": len(outcome.rebuilds),
        "rebuild_s_longest": max((seconds for _, seconds in outcome.rebuilds), default=0.0),
        "worker_exits": [(one.worker, one.code) for one in outcome.exits],
        "settle_s": round(outcome.settle_s, 1),
        "findings": outcome.findings,
    }
    return json.dumps(values)
