"""From plain data (TOML, environment) to the typed tree, reporting every unknown key, missing key and wrong type at once.

msgspec stops at the first error, so this module walks the tree itself and lets msgspec convert one leaf at a time. It knows
types only; bounds and relations are `rules`.
"""

from __future__ import annotations

import datetime
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

import msgspec

from pipeline.config.schema import Config
from pipeline.config.secrets import HIDDEN, is_secret_field, is_secret_name, shown
from pipeline.errors import Problem

_PLACEHOLDERS: dict[Any, Any] = {str: "", int: 0, float: 0.0, bool: False}


@dataclass
class Built:
    """The tree, with defaults where a value was unusable, and what was found on the way."""

    problems: list[Problem] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    """Keys whose value in the tree is a stand-in; no rule should look at them."""
    explicit: set[str] = field(default_factory=set)
    """Keys that were given, as opposed to left at their default."""
    origins: dict[str, str] = field(default_factory=dict)
    """Key -> the environment variable it came from."""
    config: Config | None = None

    def add(self, key: str, value: str, rule: str, fix: str) -> None:
        """Notes a problem of a key; the value is told together with where it came from."""
        origin = self.origins.get(key)
        if origin:
            value = f"{value} (from the environment variable {origin})" if value else f"(from {origin})"
        self.problems.append(Problem(key, value, rule, fix))
        self.broken.add(key)


def build(data: Mapping[str, Any], built: Built) -> Built:
    """Fills `built.config` from plain data. Problems found are added to those `built` holds."""
    built.config = _section(Config, data, "", built)
    return built


def fields_of(struct: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {f.name: f for f in msgspec.structs.fields(struct)}


def bare(annotation: Any) -> Any:
    """The type without `Annotated`."""
    return get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation


def is_struct(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def leaf_keys() -> dict[str, msgspec.structs.FieldInfo]:
    """Dotted key -> field, for every key outside lists."""
    return dict(_leaves(Config, ""))


def _leaves(struct: type[msgspec.Struct], prefix: str) -> Iterable[tuple[str, msgspec.structs.FieldInfo]]:
    for name, info in fields_of(struct).items():
        if is_struct(bare(info.type)):
            yield from _leaves(bare(info.type), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The closest of the known words, or ''."""
    matches = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return matches[0] if matches else ""


def describe(annotation: Any) -> str:
    """What a key wants, in words."""
    kind = bare(annotation)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in args)
    if origin is list:
        return "a list of tables" if is_struct(args[0]) else "a list of texts"
    if origin is dict:
        return "a table of key = value"
    if is_struct(kind):
        return "a table (a section of its own)"
    if isinstance(kind, types.UnionType) or origin is typing.Union:
        return "a text, a number, true or false"
    return {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}[kind]


def unit_of(key: str) -> str:
    """The unit that a key's name tells, in words."""
    name = key.removesuffix("_max")
    units = {"_ms": " (milliseconds)", "_s": " (seconds)", "bytes": " (bytes)"}
    return next((unit for end, unit in units.items() if name.endswith(end)), "")


def sample(info: msgspec.structs.FieldInfo) -> str:
    """A value that a key could have: its default where that is one."""
    if not info.required and isinstance(value := info_default(info), (bool, int, float)):
        return str(value).lower()
    return "1000"


def _section(struct: type[msgspec.Struct], data: Mapping[str, Any], prefix: str, built: Built) -> Any:
    known = fields_of(struct)
    for name in data:
        if name not in known:
            _unknown(struct, name, data[name], prefix, built)
    values = {name: _field(info, data, f"{prefix}{name}", built) for name, info in known.items()}
    return struct(**values)


def _field(info: msgspec.structs.FieldInfo, data: Mapping[str, Any], key: str, built: Built) -> Any:
    kind = bare(info.type)
    if info.name not in data:
        if info.required and key not in built.broken:  # Broken already: its environment variable was refused.
            built.add(key, "", "is required and missing", _example(key, kind))
            return _stand_in(info, key, built)
        return _stand_in(info, key, built)
    value = data[info.name]
    built.explicit.add(key)
    if is_struct(kind):
        if isinstance(value, Mapping):
            return _section(kind, value, f"{key}.", built)
        built.add(key, shown(value, key), f"must be {describe(kind)}", f"Write its keys under a line [{key}]")
        return _stand_in(info, key, built)
    if get_origin(kind) is list and is_struct(get_args(kind)[0]):
        return _section_list(get_args(kind)[0], value, key, built)
    return _leaf(info, value, key, built)


def _section_list(struct: type[msgspec.Struct], value: Any, key: str, built: Built) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        built.add(key, shown(value, key), "must be a list of tables", f"Begin each one with a line [[{key}]]")
        return []
    return [_section(struct, item, f"{key}[{index}].", built) for index, item in enumerate(value)]


def _leaf(info: msgspec.structs.FieldInfo, value: Any, key: str, built: Built) -> Any:
    if isinstance(value, (datetime.datetime, datetime.date)) and bare(info.type) is str:
        value = value.isoformat()  # TOML has times of its own; `start = 2026-01-01T00:00:00Z` means the text.
    try:
        return msgspec.convert(value, info.type, strict=True)
    except msgspec.ValidationError:
        seen = HIDDEN if is_secret_field(info) else shown(value, key)
        built.add(key, seen, f"must be {describe(info.type)}{unit_of(key)}", _type_fix(info, value, key))
        return _stand_in(info, key, built)


def info_default(info: msgspec.structs.FieldInfo) -> Any:
    """The default of an optional field."""
    return info.default_factory() if info.default_factory is not msgspec.NODEFAULT else info.default


def _stand_in(info: msgspec.structs.FieldInfo, key: str, built: Built) -> Any:
    kind = bare(info.type)
    if is_struct(kind) and not info.required:
        return info_default(info)
    if is_struct(kind):
        # A whole section is missing: its required keys are part of the same problem.
        inner = Built()
        section = _section(kind, {}, f"{key}.", inner)
        built.broken |= inner.broken
        return section
    if not info.required:
        return info_default(info)
    return [] if get_origin(kind) is list else _PLACEHOLDERS.get(kind, "")


def _unknown(struct: type[msgspec.Struct], name: str, value: Any, prefix: str, built: Built) -> None:
    section = prefix.rstrip(".") or "the top level"
    close = did_you_mean(name, fields_of(struct))
    elsewhere = [key for key in leaf_keys() if key.rpartition(".")[2] == name]
    if elsewhere and is_secret_name(name):
        fix = f"Did you mean {elsewhere[0]}_file? Secrets come from files or the environment"
    elif elsewhere:
        fix = f"Did you mean {elsewhere[0]}? Move it under [{elsewhere[0].rpartition('.')[0]}]"
    elif is_secret_name(close):
        fix = f"Did you mean {prefix}{close}_file? Secrets come from files or the environment"
    elif close:
        fix = f"Did you mean {prefix}{close}?"
    else:
        fix = f"Known keys of {section}: " + ", ".join(fields_of(struct))
    # A misspelt `password` is as secret as a well-spelt one.
    hide = is_secret_name(name) or is_secret_name(close)
    seen = HIDDEN if hide else shown(value, name)
    built.add(f"{prefix}{name}", seen, "is not a key this version knows", fix)


def _example(key: str, kind: Any) -> str:
    if get_origin(kind) is list and is_struct(get_args(kind)[0]):
        return f"Add a line [[{key}]] with its topic and table"
    section, _, name = key.rpartition(".")
    where = f" under [{section}]" if section and "[" not in section else ""
    if is_struct(kind):
        required = ", ".join(f.name for f in msgspec.structs.fields(kind) if f.required)
        return f"Add a section [{key}] with {required}"
    like = {"brokers": '"host:9092"', "urls": '["http://host:8123"]', "group": '"penstock-orders"'}.get(
        name, f'"{name}"'
    )
    return f"Add {name} = {like}{where}"


def _type_fix(info: msgspec.structs.FieldInfo, value: Any, key: str) -> str:
    kind = bare(info.type)
    name = key.rpartition(".")[2]
    if get_origin(kind) is Literal:
        close = did_you_mean(str(value), get_args(kind))
        return f'Did you mean "{close}"?' if close else f'Choose one, for example {name} = "{get_args(kind)[-1]}"'
    if kind in (int, float, bool) and isinstance(value, str):
        return f"Write it without quotes: {name} = {sample(info)}"
    if kind in (int, float, bool):
        return f"Write {name} = {sample(info)}"
    if get_origin(kind) is list:
        one = shown(value, key) if isinstance(value, str) else '"..."'
        return f"Write a list, also for a single one: {name} = [{one}]"
    if get_origin(kind) is dict:
        return f"Write it under a line [{key}]; each value is a text, a number, true or false"
    return f'Write it in quotes: {name} = "..."'
