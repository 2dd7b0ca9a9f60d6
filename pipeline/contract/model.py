"""What a loaded contract is: the type to decode, and per row type the table and its columns. Never changed once made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from pipeline.contract.reading import Reading
from pipeline.native import Column

LINEAGE = {
    "_topic": ("@topic", "LowCardinality(String)"),
    "_partition": ("@partition", "Int32"),
    "_offset": ("@offset", "Int64"),
    "_timestamp": ("@timestamp", "DateTime64(3)"),
}
"""Lineage column -> (what the block builder takes it from, its type in tables that `penstock ddl` makes)."""


@dataclass(frozen=True)
class TableColumn:
    """One column of a table as ClickHouse describes it. `default_kind`: "", DEFAULT, MATERIALIZED, ALIAS or EPHEMERAL."""

    name: str
    type: str
    default_kind: str = ""
    default_expression: str = ""


@dataclass(frozen=True)
class Target:
    """Where the rows of one type go. `columns` are those written, lineage columns of the table included."""

    table: str
    columns: tuple[Column, ...]
    key_columns: tuple[str, ...] = ()
    """Columns of the dedup key, in the order of the configuration; empty when the key is not made of fields."""
    tag: str = ""
    """The tag of the union's member; empty outside a union."""


@dataclass(frozen=True)
class Contract:
    """A topic's contract.

    `root` is what a msgspec decoder is made for. `reading`, of an inferred contract, reads what this decoder refuses
    though ClickHouse would not.
    """

    name: str
    version: str
    root: Any
    format: Literal["json", "msgpack"]
    tables: Mapping[type, Target]
    reading: Reading | None = field(default=None, compare=False)

    @property
    def digest(self) -> str:
        """A hash of all that decides which rows a record becomes; equal in every process."""
        return hashlib.sha256(_canonical(self).encode()).hexdigest()[:32]


def _canonical(contract: Contract) -> str:
    lines = [f"format {contract.format}"]
    targets = sorted(contract.tables.items(), key=lambda item: (item[1].tag, item[1].table))
    for row_type, target in targets:
        lines.append(f"table {target.table!r} tag {target.tag!r} key {target.key_columns!r}")
        lines += [f"column {tuple(column)!r}" for column in target.columns]
        lines += describe(row_type)
    return "\n".join(lines)


def describe(row_type: type) -> list[str]:
    """Every type a Struct is made of, as text that does not depend on the process: no addresses, no import order."""
    seen: dict[Any, int] = {}
    lines: list[str] = []
    _describe(msgspec.inspect.type_info(row_type), seen, lines)
    return lines


def _describe(info: Any, seen: dict[Any, int], lines: list[str]) -> str:
    """Text of one msgspec type description; Structs and the like are written to `lines` once and then named by number."""
    cls = getattr(info, "cls", None)
    if cls is not None and cls in seen:
        return f"#{seen[cls]}"
    if cls is not None:
        seen[cls] = len(seen)
    parts = []
    for name in info.__struct_fields__:
        value = getattr(info, name)
        if name == "cls":
            parts.append(f"cls={cls.__qualname__}" if isinstance(cls, type) else f"cls={cls}")
            if isinstance(info, msgspec.inspect.EnumType):
                parts.append(f"members={[(member.name, member.value) for member in info.cls]!r}")
        else:
            parts.append(f"{name}={_text(value, seen, lines)}")
    text = f"{type(info).__name__}({', '.join(parts)})"
    if cls is None:
        return text
    number = seen[cls]
    lines.append(f"#{number} {text}")
    return f"#{number}"


def _text(value: Any, seen: dict[Any, int], lines: list[str]) -> str:
    if isinstance(value, msgspec.inspect.Type | msgspec.inspect.Field):
        return _describe(value, seen, lines)
    if isinstance(value, tuple):
        return "(" + ", ".join(_text(item, seen, lines) for item in value) + ")"
    if isinstance(value, msgspec.Raw):
        return repr(bytes(value))
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__name__))
    return repr(value)
