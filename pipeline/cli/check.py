"""`penstock check`: whether a configuration can work, one line a check, and the memory plan."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.config import Config, MemoryLimit
    from pipeline.preflight import Check

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red", "down": "red", "skipped": "dim"}


def add(subparsers: Any) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "check",
        help="check a configuration, and whether Kafka and ClickHouse fit it",
        description="Checks the configuration, the contracts, Kafka and ClickHouse, and prints the memory plan. It changes "
        "nothing. Exit code 0: it can run, 1: something does not fit, 69: a dependency is down, 78: bad configuration.",
    )
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)")
    parser.add_argument("--offline", action="store_true", help="look at the configuration and the contracts only")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="how long to wait for Kafka")


def run(args: argparse.Namespace) -> int:
    """Prints each check as soon as it is known."""
    import logging

    from pipeline import logs
    from pipeline.config.schema import Log

    if args.debug:
        logs.configure(Log(level="debug", format="text"))
        return _check(args)
    logging.disable()  # What went wrong is told by the checks.
    try:
        return _check(args)
    finally:
        logging.disable(logging.NOTSET)


def _check(args: argparse.Namespace) -> int:
    import os

    from pipeline import config as configuration
    from pipeline import preflight
    from pipeline.errors import ConfigurationError

    try:
        config, warnings = configuration.read(args.config, os.environ)
    except ConfigurationError as error:
        checks = [
            preflight.of_problem(problem, preflight.Status.PROBLEM, configuration=True) for problem in error.problems
        ]
        return _end(_print(checks, args.json), [], args.json)
    found = _print(_all(config, warnings, args), args.json)
    plan = configuration.memory_plan(config)
    if not args.json:
        _print_plan(plan)
    return _end(found, plan, args.json)


def _all(config: Config, warnings: Sequence[Any], args: argparse.Namespace) -> Iterable[Check]:
    from pipeline import preflight
    from pipeline.preflight import Status

    topics = ", ".join(route.topic for route in config.routes)
    yield preflight.Check("configuration", Status.OK, f"{args.config}: pipeline {config.name}, topics {topics}")
    for warning in warnings:
        yield preflight.of_problem(warning, Status.WARNING)
    if args.offline:
        yield from preflight.offline(config)
        return
    yield from preflight.kafka(config, args.timeout)
    yield from preflight.clickhouse(config)


def _print(checks: Iterable[Check], quiet: bool) -> list[Check]:
    from pipeline.cli import output

    seen = []
    for check in checks:
        seen.append(check)
        if not quiet:
            status = output.coloured(f"{check.status:8}", _COLOURS[check.status])
            output.line(f"{status} {check.name}: {check.text}" + (f"\n           -> {check.fix}" if check.fix else ""))
    return seen


def _print_plan(plan: Sequence[MemoryLimit]) -> None:
    from pipeline.cli import output

    output.line("\nmemory plan of one worker")
    rows = [(limit.name, output.bytes_text(limit.nbytes), limit.rests_on) for limit in plan]
    output.line(output.table(rows, right=(1,), indent="  "))


def _end(checks: Sequence[Check], plan: Sequence[MemoryLimit], as_json: bool) -> int:
    from pipeline import preflight
    from pipeline.cli import output

    code = preflight.exit_code(checks)
    problems = sum(check.status in ("problem", "down") for check in checks)
    warnings = sum(check.status == "warning" for check in checks)
    if as_json:
        output.result(
            {
                "ok": code == 0,
                "exit": int(code),
                "problems": problems,
                "warnings": warnings,
                "checks": [
                    {"name": check.name, "status": str(check.status), "text": check.text, "fix": check.fix}
                    for check in checks
                ],
                "memory_plan": {limit.name: limit.nbytes for limit in plan},
            }
        )
    else:
        output.note(f"\n{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}")
    return int(code)


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'s' if number != 1 else ''}"
