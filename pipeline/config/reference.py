"""Every key of the configuration with its type, default, bounds and meaning, read off the schema and the table of bounds.

Nothing is said here that is not said there: a key's meaning is the text under it in `schema`, its bounds are in `bounds`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from pipeline.config import schema
from pipeline.config.bounds import BOUNDS, ORDERS, Order
from pipeline.config.overlay import variable
from pipeline.config.secrets import is_secret_field
from pipeline.config.tree import bare, fields_of, info_default, is_struct


class Key(NamedTuple):
    """One key. `default` is TOML, empty where the key is required."""

    name: str
    kind: str
    default: str
    bounds: str
    text: str
    environment: str
    """The variable that sets it; empty for a key inside a list, which is set as a whole."""


class Section(NamedTuple):
    """The keys under one heading of the file."""

    name: str
    heading: str
    text: str
    keys: tuple[Key, ...]


def sections() -> list[Section]:
    """The configuration in the order of the schema, the top level first."""
    return list(_sections(schema.Config, "", "", _texts()))


def relations() -> tuple[Order, ...]:
    """Which limits must not be above which others, and why."""
    return ORDERS


def _sections(
    struct: type[msgspec.Struct], name: str, heading: str, texts: dict[str, dict[str, str]]
) -> Iterator[Section]:
    prefix = f"{name}." if name else ""
    about = texts[struct.__name__]
    inner: list[tuple[type[msgspec.Struct], str, str]] = []
    keys = []
    for field, info in fields_of(struct).items():
        kind = bare(info.type)
        if is_struct(kind):
            inner.append((kind, prefix + field, f"[{prefix}{field}]"))
        elif get_origin(kind) is list and is_struct(get_args(kind)[0]):
            inner.append((get_args(kind)[0], f"{prefix}{field}[]", f"[[{prefix}{field}]]"))
        else:
            keys.append(_key(prefix + field, info, about.get(field, "")))
    yield Section(name, heading, about[""], tuple(keys))
    for kind, below, line in inner:
        yield from _sections(kind, below, line, texts)


def _key(name: str, info: msgspec.structs.FieldInfo, text: str) -> Key:
    bound = next((bound for bound in BOUNDS if bound.key == name), None)
    bounds = f"{bound.low:,.10g} to {bound.high:,.10g}: {bound.reason}" if bound else ""
    default = "" if info.required else _toml(info_default(info))
    kind = "secret text" if is_secret_field(info) else _kind(bare(info.type))
    return Key(name, kind, default, bounds, text, "" if "[]" in name else variable(name))


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(kind))
    if get_origin(kind) is list:
        return "list of texts"
    if get_origin(kind) is dict:
        return "table"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[kind]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}" if value >= 10_000 else str(value)
    return msgspec.json.encode(value).decode()


def _texts() -> dict[str, dict[str, str]]:
    """Class -> field -> the text under it in the source; '' -> the text of the class."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(schema)).body:
        if isinstance(node, ast.ClassDef):
            texts = {"": ast.get_docstring(node) or ""}
            for field, after in pairwise(node.body):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    texts[field.target.id] = _text_of(after)
            found[node.name] = texts
    return found


def _text_of(node: ast.stmt) -> str:
    """The text that a bare string is, empty for any other statement."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return inspect.cleandoc(node.value.value)
    return ""
