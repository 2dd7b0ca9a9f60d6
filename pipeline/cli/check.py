"""`penstock check`: whether a configuration can work, with a fix for what cannot; the memory plan; the least privileges."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.config import Config, MemoryLimit
    from pipeline.preflight import Check

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red", "down": "red", "skipped": "dim"}
_ORDER = ("skipped", "warning", "problem", "down")
"""What is not well, in the order it is shown: what matters most comes last, where a terminal leaves the eye."""
_WIDTH_MAX = 120


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
    parser.add_argument(
        "--outage",
        type=_hours,
        default=24.0,
        metavar="HOURS",
        help="the longest time without workers that must be survived without a stop (default: 24)",
    )
    parser.add_argument(
        "--privileges",
        action="store_true",
        help="print the least privileges as commands for Kafka and ClickHouse, and check nothing",
    )


def _hours(text: str) -> float:
    value = float(text)
    if not 0 < value <= 24 * 365:
        raise argparse.ArgumentTypeError("a number of hours above 0, up to a year")
    return value


def run(args: argparse.Namespace) -> int:
    """Looks at everything, then prints: what is well in a line each, then the memory plan, then what is not."""
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
        return _end(checks, [], args.json)
    if args.privileges:
        return _privileges(config, args.json)
    return _end(list(_all(config, warnings, args)), configuration.memory_plan(config), args.json)


def _all(config: Config, warnings: Sequence[Any], args: argparse.Namespace) -> Iterable[Check]:
    from pipeline import preflight
    from pipeline.preflight import Status

    topics = ", ".join(route.topic for route in config.routes)
    text = f"{args.config}: pipeline {config.name}, topics {topics}"
    yield preflight.Check("configuration", "configuration", Status.OK, text)
    for warning in warnings:
        yield preflight.of_problem(warning, Status.WARNING)
    if args.offline:
        yield from preflight.offline(config)
        return
    yield preflight.deadlines(config)
    terms = preflight.Terms(args.timeout, args.outage * 3_600)
    workers = yield from preflight.kafka(config, terms)
    yield from preflight.clickhouse(config, terms, workers)


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
                    {
                        "check": check.code,
                        "name": check.name,
                        "status": str(check.status),
                        "text": check.text,
                        "fix": check.fix,
                    }
                    for check in checks
                ],
                "memory_plan": {limit.name: limit.nbytes for limit in plan},
            }
        )
        return int(code)
    _print_well(checks)
    if plan:
        _print_plan(plan)
    _print_rest(checks)
    output.note(f"\n{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}")
    return int(code)


def _print_well(checks: Sequence[Check]) -> None:
    """One line for each thing looked at, whatever number of checks it passed."""
    from pipeline.cli import output

    texts: dict[str, list[str]] = {}
    for check in checks:
        if check.status == "ok":
            texts.setdefault(check.name, []).append(check.text)
    column = max(map(len, texts), default=0)
    for name, found in texts.items():
        head = f"{'ok':7}  {name:{column}}  "
        lines = _wrapped("; ".join(dict.fromkeys(found)), len(head))
        output.line(output.coloured(f"{'ok':7}", "green") + head[7:] + lines)


def _print_rest(checks: Sequence[Check]) -> None:
    """What is not well, each with its code in `docs/doctor.md` and its fix on a line that can be copied."""
    from pipeline.cli import output

    for status in _ORDER:
        for check in checks:
            if check.status != status:
                continue
            head = f"{check.status:7}  "
            text = _wrapped(f"{check.name}: {check.text} [{check.code}]", len(head))
            output.line("\n" + output.coloured(f"{check.status:7}", _COLOURS[check.status]) + "  " + text)
            if check.fix:
                output.line(f"{'':7}  fix: {check.fix}")


def _wrapped(text: str, indent: int) -> str:
    """The text in lines that fit the terminal, all but the first indented; in one line where a program reads it."""
    import shutil
    import sys
    import textwrap

    if not sys.stdout.isatty():
        return text
    width = min(_WIDTH_MAX, shutil.get_terminal_size((_WIDTH_MAX, 24)).columns)
    lines = textwrap.wrap(text, max(40, width - indent), break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines)


def _print_plan(plan: Sequence[MemoryLimit]) -> None:
    from pipeline.cli import output

    output.line("\nmemory plan of one worker")
    rows = [(limit.name, output.bytes_text(limit.nbytes), limit.rests_on) for limit in plan]
    output.line(output.table(rows, right=(1,), indent="  "))


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'s' if number != 1 else ''}"


def _privileges(config: Config, as_json: bool) -> int:
    """The commands, for a worker and for `penstock check`; comments say which and why."""
    from pipeline.cli import output
    from pipeline.preflight import privileges

    acls = privileges.acl_commands(config)
    grants = [
        (grant.needed, f"{privileges.grant_statement(grant, config.clickhouse.username)};")
        for grant in privileges.grants(config, privileges.read_columns(config))
    ]
    if as_json:
        groups = {"kafka": acls, "clickhouse": grants}
        wanted = {"worker": True, "check": False}
        output.result(
            {
                system: {who: [text for needed, text in found if needed is flag] for who, flag in wanted.items()}
                for system, found in groups.items()
            }
        )
        return 0
    for system, found, comment in (("Kafka", acls, "#"), ("ClickHouse", grants, "--")):
        for needed, what in ((True, "a worker needs"), (False, "`penstock check` reads besides")):
            output.line(f"{comment} {system}: what {what}")
            for _, text in (one for one in found if one[0] is needed):
                output.line(text)
            output.line()
    return 0
