"""Applies every rule to a configuration: the two tables of `bounds`, and the rules of each section.

It never talks to Kafka or ClickHouse; that is `penstock check`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from pipeline.config import rules_clickhouse, rules_flow, rules_kafka
from pipeline.config.bounds import BOUNDS, ORDERS
from pipeline.config.facts import Facts, Finding, value_at
from pipeline.config.secrets import is_secret_name, shown
from pipeline.errors import Problem


class Verdict(NamedTuple):
    """What the rules found: problems forbid a start, warnings are told."""

    problems: list[Problem]
    warnings: list[Problem]


def bounds(facts: Facts) -> Iterator[Finding]:
    for bound in BOUNDS:
        value = value_at(facts.config, bound.key)
        if math.isnan(value) or value < bound.low:
            yield Finding(
                bound.key, _range(bound.low, bound.high, bound.reason), f"Set it to {_number(bound.low)} or more"
            )
        elif value > bound.high:
            yield Finding(
                bound.key, _range(bound.low, bound.high, bound.reason), f"Set it to {_number(bound.high)} or less"
            )


def orders(facts: Facts) -> Iterator[Finding]:
    for order in ORDERS:
        less, more = value_at(facts.config, order.less), value_at(facts.config, order.more)
        if less > more or (order.strict and less == more):
            relation = "below" if order.strict else "at most"
            lower = f"Set {order.less} to {_number(more - 1 if order.strict else more)} or less"
            yield Finding(
                order.less,
                f"must be {relation} {order.more} = {_number(more)} ({order.reason})",
                f"{lower}, or raise {order.more}",
                reads=(order.more,),
            )


RULES = (bounds, orders, *rules_kafka.RULES, *rules_clickhouse.RULES, *rules_flow.RULES)


def apply(facts: Facts, broken: Collection[str]) -> Verdict:
    """What every rule finds, without findings that rest on a key in `broken`: that one is reported already."""
    verdict = Verdict([], [])
    broken = set(broken)
    for rule in RULES:
        for finding in rule(facts):
            if _rests_on(finding, broken):
                continue
            (verdict.warnings if finding.warning else verdict.problems).append(_problem(facts, finding))
            if rule is bounds:
                broken.add(finding.key)  # One complaint about a number that is out of its range is enough.
    return verdict


def _rests_on(finding: Finding, broken: Iterable[str]) -> bool:
    return any(_covers(bad, key) for bad in broken for key in (finding.key, *finding.reads))


def _covers(bad: str, key: str) -> bool:
    """A key is unusable when it, or the table or list it is in, was."""
    return key == bad or key.startswith((f"{bad}.", f"{bad}["))


def _problem(facts: Facts, finding: Finding) -> Problem:
    value = value_at(facts.config, finding.key) if finding.value is None else finding.value
    hidden = is_secret_name(finding.key.rpartition(".")[2])
    text = ("***" if value else "") if hidden else shown(value) if value not in (None, "") else ""
    if origin := facts.origins.get(finding.key.partition("[")[0]):
        text = f"{text} (from the environment variable {origin})".lstrip()
    return Problem(finding.key, text, finding.rule, finding.fix)


def _range(low: float, high: float, reason: str) -> str:
    return f"must be from {_number(low)} to {_number(high)} ({reason})"


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) and not value.is_integer() else str(int(value))
