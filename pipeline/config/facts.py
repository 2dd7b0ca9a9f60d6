"""What a rule sees and what it answers: the tree, which keys were given, and findings about keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.config.schema import Config


class Finding(NamedTuple):
    """One thing a rule found. `reads` are the keys it rests on beside `key`: unusable ones silence it."""

    key: str
    rule: str
    fix: str
    reads: tuple[str, ...] = ()
    warning: bool = False
    value: Any = None
    """What to show instead of the key's own value."""


@dataclass(frozen=True)
class Facts:
    """The tree and which of its keys were given rather than left at their default."""

    config: Config
    explicit: frozenset[str]
    origins: dict[str, str] = field(default_factory=dict)

    def given(self, keys: Iterable[str]) -> list[str]:
        return [key for key in keys if key in self.explicit]


def value_at(config: Any, key: str) -> Any:
    """The value of a dotted key; `routes[0].topic` reaches into lists. None when there is no such key."""
    value = config
    for part in key.replace("[", ".[").split("."):
        if part.startswith("["):
            index = int(part[1:-1])
            value = value[index] if index < len(value) else None
        elif isinstance(value, dict):
            value = value.get(part)
        else:
            value = getattr(value, part, None)
        if value is None:
            return None
    return value
