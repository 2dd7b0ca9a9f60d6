"""What contracts need to know of a ClickHouse type. The grammar of types belongs to the compiled core, which builds columns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from pipeline import native

_KINDS = {
    **dict.fromkeys(("int", "uint64", "bigint"), "int"),
    **dict.fromkeys(("float32", "float64", "bfloat16"), "float"),
    **dict.fromkeys(("date", "date32"), "date"),
    **dict.fromkeys(("datetime", "datetime64"), "datetime"),
    **dict.fromkeys(("ipv4", "ipv6"), "ip"),
    "fixed_string": "fixed",
    **{kind: kind for kind in ("decimal", "bool", "string", "uuid", "enum", "array", "map", "json")},
}
_ZONE = re.compile(r"'([^']*)'\)$")
_WRAPPED = re.compile(r"(?:Nullable|LowCardinality|SimpleAggregateFunction)\(")


@dataclass(frozen=True)
class ChType:
    """One type. `text` is as declared; `spec` is None for a type that no block can be built of, and `problem` says why."""

    text: str
    spec: native.TypeSpec | None
    problem: str = ""

    def __str__(self) -> str:
        return self.text

    @property
    def nullable(self) -> bool:
        """Whether the column can hold NULL."""
        return self.spec.kind == "nullable" if self.spec is not None else self.text.startswith("Nullable(")

    @cached_property
    def core(self) -> ChType:
        """The type without what is around it: Nullable, LowCardinality."""
        if self.spec is None:
            return self
        inner = self.spec.children[0] if self.nullable else self.spec
        return self if inner is self.spec and not _WRAPPED.match(self.text) else ChType(inner.text, inner)

    @property
    def kind(self) -> str:
        """The family of the core type, empty for one that no contract can fill."""
        core = self.core.spec
        return _KINDS.get(core.kind, "") if core is not None else ""

    @property
    def exact(self) -> str:
        """The core type's own kind, which tells Date from Date32 and IPv4 from IPv6."""
        core = self.core.spec
        return core.kind if core is not None else ""

    def inner(self, index: int) -> ChType:
        """The type of the elements of an array (0), of the keys (0) or values (1) of a map."""
        assert self.spec is not None
        child = self.spec.children[index]
        return ChType(child.text, child)

    @property
    def supported(self) -> bool:
        """Whether a contract can fill a column of this type, inner types included."""
        core = self.core
        if core.spec is None or not core.kind:
            return False
        return all(core.inner(index).supported for index in range(len(core.spec.children)))

    @property
    def labels(self) -> dict[str, int]:
        """Members of an Enum, in the order of their numbers."""
        core = self.core.spec
        return dict(sorted(core.labels.items(), key=lambda member: member[1])) if core is not None else {}

    @property
    def scale(self) -> int:
        """Digits after the point of a Decimal, after the second of a date-time."""
        core = self.core.spec
        return core.scale if core is not None else 0

    @property
    def timezone(self) -> str:
        """The time zone that a date-time type names, or an empty text."""
        named = _ZONE.search(self.core.text) if self.kind == "datetime" else None
        return named[1] if named else ""


@lru_cache(maxsize=4096)
def parse(text: str) -> ChType:
    """The type of a text as `system.columns` prints it. Never raises: an unknown type has no `spec`, and a `problem`."""
    try:
        return ChType(text.strip(), native.parse(text))
    except ValueError as error:
        return ChType(text.strip(), None, str(error))


def nullable(text: str) -> str:
    """The type that holds NULL, too; unchanged where ClickHouse has none."""
    chtype = parse(text)
    if chtype.nullable or chtype.kind in {"array", "map"}:
        return text
    inside = re.fullmatch(r"LowCardinality\((.*)\)", text, re.DOTALL)
    return f"LowCardinality({nullable(inside[1])})" if inside else f"Nullable({text})"


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f"}


def unquote(text: str) -> str:
    """The string that a quoted ClickHouse literal stands for."""
    inside = text.strip()[1:-1].replace("''", "'")
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), inside, flags=re.DOTALL)


def quote(text: str) -> str:
    """A ClickHouse string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
