"""A configuration that can work, and helpers that change one thing in it."""

from __future__ import annotations

import copy
from typing import Any

from pipeline.config.load import from_data
from pipeline.errors import ConfigurationError, Problem

GOOD: dict[str, Any] = {
    "name": "orders",
    "kafka": {"brokers": "kafka-1:9092,kafka-2:9092", "group": "penstock-orders"},
    "clickhouse": {"urls": ["http://127.0.0.1:8123"]},
    "routes": [{"topic": "orders", "table": "orders"}],
    "dedup": {"key": ["event_id"]},
    "dead_letters": {"topic": "orders-dead"},
}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """GOOD with dotted keys set; a value of `...` removes the key."""
    data = copy.deepcopy(GOOD)
    for key, value in changes.items():
        *path, name = key.split(".")
        section = data
        for part in path:
            section = section.setdefault(part, {})
        if value is ...:
            section.pop(name, None)
        else:
            section[name] = value
    return data


def verdict(changes: dict[str, Any], environ: dict[str, str] | None = None) -> tuple[list[Problem], list[Problem]]:
    """The problems and warnings of GOOD with the changes."""
    try:
        return [], from_data(changed(changes), environ or {}).warnings
    except ConfigurationError as error:
        return error.problems, []


def problems(changes: dict[str, Any], environ: dict[str, str] | None = None) -> list[Problem]:
    return verdict(changes, environ)[0]


def warnings(changes: dict[str, Any], environ: dict[str, str] | None = None) -> list[Problem]:
    found, told = verdict(changes, environ)
    assert found == []
    return told
