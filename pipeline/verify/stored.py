"""A set of offsets with those that are there more than once: rows of a table, or letters of a dead-letter topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Stored(NamedTuple):
    """The offsets of a partition that were found: all of them, and those that were found more than once."""

    offsets: frozenset[int]
    several: Mapping[int, int]
    """Offset -> how often, above 1."""


NOTHING = Stored(frozenset(), {})
