"""Every error the pipeline raises on purpose, and the exit code each one ends a command with.

PenstockError                     exit
|- ConfigurationError              78   start-up: every problem names the key, the value, the bound and the fix
|- DependencyDown                  69   Kafka or ClickHouse cannot be reached or refuses us, and waiting is not allowed
|- MissingExtra (`cli`)            78   a command needs a part that this installation was made without
|- GaveUp                          75   something retriable did not succeed within the time the caller gave
|- PipelineStopped                 70   the pipeline cannot go on without an operator
|  |- SourceError                       a partition cannot be read on (out of range, corrupt)
|  |- SinkError                         ClickHouse refused an insert: `.code`, `.retriable`
|  `- RejectLimitExceeded               too many rejects, or a reject and nowhere to put it
`- InvariantViolated               70   a bug in us; never caught, stays on in production
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple


class Exit(IntEnum):
    """Exit codes of the command (after sysexits.h)."""

    OK = 0
    NO = 1
    USAGE = 2
    UNAVAILABLE = 69
    SOFTWARE = 70
    TEMPORARY = 75
    CONFIG = 78


class PenstockError(Exception):
    """Root of all errors raised on purpose. The message says what, where, and the next step."""

    exit_code: Exit = Exit.SOFTWARE


class Problem(NamedTuple):
    """One thing wrong with a configuration: dotted key, the value as given (redacted), the rule it breaks, how to mend it."""

    key: str
    value: str
    rule: str
    fix: str

    def __str__(self) -> str:
        shown = f" = {self.value}" if self.value else ""
        return f"{self.key}{shown}: {self.rule}. {self.fix}"


class ConfigurationError(PenstockError):
    """The configuration, or what it names (topic, table, contract), cannot work. Carries every problem found."""

    exit_code = Exit.CONFIG

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        super().__init__(f"configuration: {head}\n" + "\n".join(f"  {problem}" for problem in self.problems))


class DependencyDown(PenstockError):
    """Kafka or ClickHouse cannot be used now: unreachable, or it refuses our credentials."""

    exit_code = Exit.UNAVAILABLE


class GaveUp(PenstockError):
    """A retriable condition outlasted the time the caller allowed."""

    exit_code = Exit.TEMPORARY


class PipelineStopped(PenstockError):
    """The pipeline stopped itself because going on would lose or double a record."""


class SourceError(PipelineStopped):
    """A partition cannot be read on: the position is out of range, or the data is corrupt."""


class SinkError(PipelineStopped):
    """ClickHouse refused an operation. `code` is ClickHouse's error code (0: none, the transport failed)."""

    def __init__(self, message: str, *, code: int, retriable: bool) -> None:
        super().__init__(message)
        self.code = code
        self.retriable = retriable


class RejectLimitExceeded(PipelineStopped):
    """More records were rejected than the configuration allows, or there is no dead-letter topic for one."""


class InvariantViolated(PenstockError):
    """A bug in penstock: a state the protocol excludes. The worker stops at once; nothing was committed past it."""


def invariant(condition: bool, message: str) -> None:
    """Stops the worker when `condition` does not hold; kept on in production."""
    if not condition:
        raise InvariantViolated(f"{message}. This is a bug in penstock; the data is safe, please report the message")
