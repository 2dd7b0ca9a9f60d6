"""What a check is, how it ends, and what the command's exit code makes of all of them. Asks and judges nothing."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from pipeline.errors import Exit, Problem


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    DOWN = "down"
    SKIPPED = "skipped"


class Check(NamedTuple):
    """One thing looked at."""

    code: str
    """What was looked at, as `docs/doctor.md` lists it; it never changes."""
    name: str
    """What it was looked at of: `table orders`, `topic orders`, or the key of a configuration."""
    status: Status
    text: str
    fix: str = ""
    """The next step; a statement or command can be pasted as it is."""
    configuration: bool = False
    """A problem of the file itself, as opposed to one of what it meets."""


def exit_code(checks: Sequence[Check]) -> Exit:
    """78 when the configuration is wrong, else 69 when a dependency is down, else 1 when something does not fit, else 0."""
    if any(check.configuration and check.status is Status.PROBLEM for check in checks):
        return Exit.CONFIG
    if any(check.status is Status.DOWN for check in checks):
        return Exit.UNAVAILABLE
    return Exit.NO if any(check.status is Status.PROBLEM for check in checks) else Exit.OK


def of_problem(problem: Problem, status: Status, *, code: str = "configuration", configuration: bool = False) -> Check:
    """A problem as a check."""
    shown = f"{problem.value} " if problem.value else ""
    return Check(code, problem.key, status, f"{shown}{problem.rule}", problem.fix, configuration)


def down(code: str, error: Exception) -> Check:
    """A dependency that cannot be used now."""
    text, _, fix = str(error).partition(". ")
    fix = fix or "Check the address, the network, and that the service is up and listens there"
    return Check(code, code, Status.DOWN, text, fix)


def plural(number: int, noun: str, ending: str = "s") -> str:
    """`1 broker`, `3 brokers`."""
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def duration(seconds: float) -> str:
    """A time for people, in the unit that leaves one to three digits before the point."""
    for unit, length_s in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 or seconds == int(seconds) else f"{seconds:.1f} s"
