"""ClickHouse type texts as trees: parses what `system.columns` prints. Knows no Python types and talks to no server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

INTEGERS = frozenset(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64, 128, 256))
FLOATS = frozenset({"Float32", "Float64", "BFloat16"})
DECIMALS = frozenset({"Decimal", "Decimal32", "Decimal64", "Decimal128", "Decimal256"})
_KINDS = {
    **dict.fromkeys(INTEGERS, "int"),
    **dict.fromkeys(FLOATS, "float"),
    **dict.fromkeys(DECIMALS, "decimal"),
    "Bool": "bool",
    "String": "string",
    "FixedString": "fixed",
    "UUID": "uuid",
    "Date": "date",
    "Date32": "date",
    "DateTime": "datetime",
    "DateTime64": "datetime",
    "Enum8": "enum",
    "Enum16": "enum",
    "IPv4": "ip",
    "IPv6": "ip",
    "Array": "array",
    "Map": "map",
    "JSON": "json",
}
_NAME = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*")
_ENUM_MEMBER = re.compile(r"\s*'((?:[^'\\]|\\.|'')*)'\s*=\s*(-?\d+)\s*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f"}


@dataclass(frozen=True)
class ChType:
    """One type: its name, the texts of its arguments, and what is inside it."""

    name: str
    args: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.args)})" if self.args else self.name

    @cached_property
    def core(self) -> ChType:
        """The type without `Nullable` and `LowCardinality` around it."""
        return self.inner(0).core if self.name in {"Nullable", "LowCardinality"} else self

    @cached_property
    def nullable(self) -> bool:
        """Whether the column can hold NULL."""
        return self.name == "Nullable" or (self.name == "LowCardinality" and self.inner(0).nullable)

    @property
    def kind(self) -> str:
        """The family of the core type, `""` for one that no contract can fill."""
        return _KINDS.get(self.core.name, "")

    def inner(self, index: int) -> ChType:
        """The type that is the argument at `index`."""
        return parse(self.args[index])

    @cached_property
    def enum(self) -> dict[str, int]:
        """Members of an Enum, in the order of their numbers."""
        members = {}
        number = 0
        for arg in self.args:
            match = _ENUM_MEMBER.fullmatch(arg)
            if match is None:
                # ClickHouse numbers a member without a number one after the member before it.
                number += 1
                members[unquote(arg)] = number
            else:
                number = int(match[2])
                members[_unescape(match[1])] = number
        return dict(sorted(members.items(), key=lambda member: member[1]))

    @property
    def precision(self) -> int:
        """Digits after the second of a date-time; 0 for DateTime."""
        return int(self.args[0]) if self.name == "DateTime64" and self.args else 3 if self.name == "DateTime64" else 0

    @property
    def timezone(self) -> str:
        """The time zone named by a date-time type, or `""`."""
        at = 1 if self.name == "DateTime64" else 0
        return unquote(self.args[at]) if len(self.args) > at else ""

    @property
    def scale(self) -> int:
        """Digits after the point of a Decimal."""
        return int(self.args[-1]) if self.args and (self.name != "Decimal" or len(self.args) == 2) else 0


@lru_cache(maxsize=4096)
def parse(text: str) -> ChType:
    """Parses one type. Raises ValueError when the text is not a type's."""
    match = _NAME.match(text)
    if match is None:
        raise ValueError(f"not a ClickHouse type: {text!r}")
    rest = text[match.end() :].strip()
    if not rest:
        return ChType(match[1])
    if not (rest.startswith("(") and rest.endswith(")")):
        raise ValueError(f"not a ClickHouse type: {text!r}")
    return ChType(match[1], tuple(_split(rest[1:-1], text)))


def supported(chtype: ChType) -> bool:
    """Whether a contract can fill a column of this type, inner types included."""
    core = chtype.core
    if core.kind == "array":
        return supported(core.inner(0))
    if core.kind == "map":
        return supported(core.inner(0)) and supported(core.inner(1))
    return bool(core.kind)


def unquote(text: str) -> str:
    """The string a quoted ClickHouse literal stands for; other texts are returned as they are."""
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] == "'":
        return _unescape(text[1:-1])
    return text


def quote(text: str) -> str:
    """A ClickHouse string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _unescape(text: str) -> str:
    text = text.replace("''", "'")
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text, flags=re.DOTALL)


def _split(inside: str, whole: str) -> list[str]:
    """Splits arguments at the commas that are neither in brackets nor in quotes."""
    parts, depth, start, quoted, at = [], 0, 0, "", 0
    while at < len(inside):
        char = inside[at]
        if quoted:
            if char == "\\":
                at += 1
            elif char == quoted:
                quoted = ""
        elif char in "'`\"":
            quoted = char
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(inside[start:at].strip())
            start = at + 1
        at += 1
    if depth or quoted:
        raise ValueError(f"not a ClickHouse type: {whole!r}")
    last = inside[start:].strip()
    return [*parts, last] if last else parts
