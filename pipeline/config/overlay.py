"""The environment over the file: `PENSTOCK__KAFKA__GROUP=orders` sets `kafka.group`, typed by the schema.

Two underscores separate the names, lists and tables are written as JSON. Variables that begin with `PENSTOCK_` and have
no second underscore are left alone: an orchestrator makes such for a service of that name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from msgspec.structs import FieldInfo

from pipeline.config.secrets import HIDDEN, is_secret_field, is_secret_name, shown
from pipeline.config.tree import Built, bare, describe, did_you_mean, leaf_keys, sample, unit_of

PREFIX = "PENSTOCK__"
_TRUE = {"true": True, "false": False}


def variable(key: str) -> str:
    """The environment variable that sets a key."""
    return PREFIX + key.upper().replace(".", "__")


def apply(data: dict[str, Any], environ: Mapping[str, str], built: Built) -> dict[str, Any]:
    """A copy of the file's data with the environment's values in it. Problems are added to `built`."""
    known = leaf_keys()
    merged = copied(data)
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        key = name[len(PREFIX) :].lower().replace("__", ".")
        if key not in known:
            _unknown(name, key, environ[name], known, built)
            continue
        built.origins[key] = name
        parsed, ok = _parse(known[key], environ[name], key, name, built)
        if ok:
            _put(merged, key.split("."), parsed)
        else:
            _drop(merged, key.split("."))
    return merged


def near_misses(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Variables with single underscores that look like a forgotten double one: (as set, as it should be)."""
    singles = {f"PENSTOCK_{key.upper().replace('.', '_')}": variable(key) for key in leaf_keys()}
    return [(name, singles[name]) for name in sorted(environ) if name in singles and "://" not in environ[name]]


def _parse(info: FieldInfo, text: str, key: str, name: str, built: Built) -> tuple[Any, bool]:
    kind = bare(info.type)
    try:
        if kind is str or get_origin(kind) is Literal:
            return text, True
        if kind is bool:
            return _TRUE[text.strip().lower()], True
        if kind in (int, float):
            return kind(text.strip()), True
        value = json.loads(text)
        if isinstance(value, get_origin(kind) or object):
            return value, True
    except (KeyError, ValueError):
        pass
    # The text of a table or list that is not JSON may hold anything, so it is not shown.
    hide = is_secret_field(info) or get_origin(kind) in (dict, list)
    seen = HIDDEN if hide else shown(text, key)
    built.add(key, seen, f"must be {describe(info.type)}{unit_of(key)}", _fix(info, name))
    return None, False


def _fix(info: FieldInfo, name: str) -> str:
    kind = bare(info.type)
    if kind is bool:
        return f"Set {name}=true or {name}=false"
    if kind is int:
        return f"Set a whole number without a unit: {name}={sample(info)}"
    if kind is float:
        return f"Set a number: {name}={sample(info)}"
    if get_origin(kind) is dict:
        return f'Write a JSON object: {name}=\'{{"key": "value"}}\''
    inner = get_args(kind)[0]
    if inner is str:
        return f'Write a JSON list: {name}=\'["one", "two"]\''
    return f'Write a JSON list of objects: {name}=\'[{{"topic": "orders", "table": "orders"}}]\''


def _unknown(name: str, key: str, text: str, known: Mapping[str, FieldInfo], built: Built) -> None:
    section = [other for other in known if other.startswith(key + ".")]
    if section:
        fix = f"It is a section; set one of its keys, such as {variable(section[0])}"
    elif parents := [other for other in known if key.startswith(other + ".")]:
        fix = f"Set {variable(parents[0])} as a whole, as JSON"
    elif close := did_you_mean(key, known):
        fix = f"Did you mean {variable(close)}?"
    else:
        fix = f"Unset it, or name a key of the configuration, such as {variable('kafka.group')}"
    hide = is_secret_name(key) or is_secret_name(did_you_mean(key, known))
    seen = HIDDEN if hide else shown(text, key)
    built.add(name, seen, "is an environment variable that names no key", fix)


def copied(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: copied(value) if isinstance(value, Mapping) else value for key, value in data.items()}


def _put(data: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        inner = data.setdefault(name, {})
        if not isinstance(inner, dict):
            return  # The file has something else where a section should be; the walk will say so.
        data = inner
    data[path[-1]] = value


def _drop(data: dict[str, Any], path: list[str]) -> None:
    for name in path[:-1]:
        inner = data.get(name)
        if not isinstance(inner, dict):
            return
        data = inner
    data.pop(path[-1], None)
