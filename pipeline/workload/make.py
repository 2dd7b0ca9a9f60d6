"""Makes records from (seed, partition, offset) and knows what must become of each. It sends nothing and reads no clock.

All randomness comes from SHAKE-128 over (seed, partition, block of 1,024 offsets), so any offset can be made again alone:

    dice     8 bytes a record   what kind of record it is, and a choice within the kind
    content  n bytes a record   the values a workload fills its template with
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from pipeline.types import Headers, RejectCode

BLOCK_RECORDS = 1_024
DUPLICATE_DISTANCE_MAX = 1_000
"""By default a duplicate repeats a record at the most this many offsets before it, plus the few passed over in looking."""
DUPLICATE_LOOKS_MAX = 64
LATE_MS_MIN = 3_600_000
LATE_MS_MAX = 48 * 3_600_000
START_MS = 1_767_225_600_000
"""Event time of offset 0 of every partition: 2026-01-01."""
STEP_MS = 10
"""Event time between two offsets of a partition."""

_DICE = struct.Struct("<II")
_BLOCKS_CACHED_MAX = 256


class Outcome(StrEnum):
    """What must become of a record."""

    ROW = "row"
    DUPLICATE = "duplicate"
    LETTER = "letter"
    FILTERED = "filtered"


class Fate(NamedTuple):
    """What must become of a record, and why. `origin` is the offset a duplicate repeats, in the same partition."""

    outcome: Outcome
    origin: int = -1
    code: str = ""
    kind: str = ""
    """Name of the poison, "unknown_version", "late" or "tombstone"; empty for an ordinary record."""


class Made(NamedTuple):
    """One record, as it goes to Kafka, and its fate."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    fate: Fate


@dataclass(frozen=True)
class Poison:
    """One way to spoil a good value, and the reject it must end as."""

    name: str
    code: RejectCode
    spoil: Callable[[bytes], bytes]


@dataclass(frozen=True)
class Shape:
    """A workload: its contract, its event id and how its values are made.

    `render(event_ms, draw)` makes one good value from a tuple that `draw` unpacks; `identify(draw)` its event id as text.
    `tags` names the members of a union, `tag_of(draw)` which of them a value is; a plain Struct has the one tag "".
    """

    name: str
    contract: str
    key: tuple[str, ...]
    draw: struct.Struct
    render: Callable[[int, Any], bytes]
    identify: Callable[[Any], bytes]
    unknown_version: Poison
    poisons: tuple[Poison, ...]
    tags: tuple[str, ...] = ("",)
    tag_of: Callable[[Any], str] = lambda _: ""


@dataclass(frozen=True)
class Mix:
    """Shares of what is not an ordinary record, each between 0 and 1, together at the most 1."""

    duplicates: float = 0.0
    poison: float = 0.0
    late: float = 0.0
    unknown_version: float = 0.0
    tombstones: float = 0.0
    keys: bool = False
    """The event id as record key; otherwise there is none."""
    headers: bool = False
    """The event id and the workload's name as headers."""
    duplicate_distance_max: int = DUPLICATE_DISTANCE_MAX
    """In offsets."""

    def thresholds(self) -> tuple[int, ...]:
        """Upper bounds of the dice for duplicate, poison, unknown version, tombstone and late, in this order."""
        bounds, total = [], 0.0
        for share in (self.duplicates, self.poison, self.unknown_version, self.tombstones, self.late):
            if not 0 <= share <= 1:
                raise ValueError(f"a share of {share} is not between 0 and 1")
            total += share
            bounds.append(round(total * 2**32))
        if total > 1 + 1e-9:
            raise ValueError(f"the shares add up to {total:.3f}, which is more than 1")
        return tuple(bounds)


ORDINARY = Fate(Outcome.ROW)
_LATE = Fate(Outcome.ROW, kind="late")
_TOMBSTONE = Fate(Outcome.FILTERED, kind="tombstone")


class Generator:
    """The records of one workload under one seed. Every method is a pure function of its arguments. Thread-safe."""

    def __init__(self, shape: Shape, seed: int, mix: Mix | None = None) -> None:
        self.shape = shape
        self.seed = seed
        self.mix = mix or Mix()
        self._duplicate, self._poison, self._version, self._tombstone, self._late = self.mix.thresholds()
        self._letters = {
            poison: Fate(Outcome.LETTER, -1, poison.code.value, poison.name)
            for poison in (*shape.poisons, shape.unknown_version)
        }
        # Per instance, because a cache on the method would keep every generator alive.
        self._dice = lru_cache(maxsize=_BLOCKS_CACHED_MAX)(self._dice_of)
        self._content = lru_cache(maxsize=_BLOCKS_CACHED_MAX)(self._content_of)

    def record(self, partition: int, offset: int) -> Made:
        """One record."""
        return next(self.records(partition, offset, 1))

    def records(self, partition: int, first: int, count: int) -> Iterator[Made]:
        """The records of offsets `[first, first + count)`."""
        fates = self.fates(partition, first, count)
        late = self._lateness(partition, first, fates)
        draws = self._draws(partition, first, count)
        times = [START_MS + offset * STEP_MS for offset in range(first, first + count)]
        for index, ms in late.items():
            times[index] -= ms
        values: list[bytes | None] = list(map(self.shape.render, times, draws))
        sources: list[Sequence[Any]] = draws
        for index, fate in fates.items():
            if fate.outcome is Outcome.DUPLICATE:
                draw = self._draws(partition, fate.origin, 1)[0]
                sources[index] = draw
                values[index] = self.shape.render(self._event_ms(partition, fate.origin), draw)
            elif fate.outcome is Outcome.LETTER:
                values[index] = self._spoiled(fate, values[index] or b"")
            elif fate.outcome is Outcome.FILTERED:
                values[index] = None
        keys, headers = self._attributes(sources)
        full = [fates.get(index, ORDINARY) for index in range(count)]
        return map(Made, keys, values, headers, times, full)

    def fates(self, partition: int, first: int, count: int) -> dict[int, Fate]:
        """Index (offset - first) -> fate, for every record of the range that is not ordinary. Makes no value."""
        result: dict[int, Fate] = {}
        edge = self._late
        for start, dice in self._dice_runs(partition, first, count):
            for index, (roll, choice) in enumerate(dice, start - first):
                if roll < edge:
                    fate = self._fate(partition, first + index, roll, choice)
                    if fate is not ORDINARY:
                        result[index] = fate
        return result

    def tag(self, partition: int, offset: int) -> str:
        """Which member of the union the record at this offset is, if it is a row."""
        return self.shape.tag_of(self._draws(partition, offset, 1)[0])

    def _fate(self, partition: int, offset: int, roll: int, choice: int) -> Fate:
        if roll < self._duplicate:
            origin = self._origin(partition, offset, choice)
            return ORDINARY if origin < 0 else Fate(Outcome.DUPLICATE, origin, kind="duplicate")
        if roll < self._poison:
            return self._letters[self.shape.poisons[choice % len(self.shape.poisons)]]
        if roll < self._version:
            return self._letters[self.shape.unknown_version]
        return _TOMBSTONE if roll < self._tombstone else _LATE

    def _origin(self, partition: int, offset: int, choice: int) -> int:
        """The nearest record at or before the chosen distance that is an ordinary row; -1 when there is none near.

        Late records are no origins: whether a copy of one is still recognised depends on the window. It looks at each
        candidate's dice only, never at what a candidate itself repeats: that would be a chain.
        """
        candidate = offset - 1 - choice % max(1, min(offset, self.mix.duplicate_distance_max))
        for earlier in range(candidate, max(-1, candidate - DUPLICATE_LOOKS_MAX), -1):
            roll = self._dice(partition, earlier // BLOCK_RECORDS)[earlier % BLOCK_RECORDS][0]
            if roll >= self._late:
                return earlier
        return -1

    def _event_ms(self, partition: int, offset: int) -> int:
        roll, choice = self._dice(partition, offset // BLOCK_RECORDS)[offset % BLOCK_RECORDS]
        late_ms = _late_ms(choice) if self._tombstone <= roll < self._late else 0
        return START_MS + offset * STEP_MS - late_ms

    def _lateness(self, partition: int, first: int, fates: dict[int, Fate]) -> dict[int, int]:
        normal = START_MS + first * STEP_MS
        late = [index for index, fate in fates.items() if fate is _LATE]
        return {index: normal + index * STEP_MS - self._event_ms(partition, first + index) for index in late}

    def _spoiled(self, fate: Fate, value: bytes) -> bytes:
        poison = next(poison for poison, known in self._letters.items() if known is fate)
        return poison.spoil(value)

    def _attributes(self, draws: Sequence[Any]) -> tuple[Sequence[bytes | None], Sequence[Headers]]:
        if not self.mix.keys and not self.mix.headers:
            return [None] * len(draws), [()] * len(draws)
        ids = list(map(self.shape.identify, draws))
        name = self.shape.name.encode()
        headers: Sequence[Headers] = [()] * len(draws)
        if self.mix.headers:
            headers = [(("event-id", id_), ("workload", name)) for id_ in ids]
        return (ids if self.mix.keys else [None] * len(draws)), headers

    def _draws(self, partition: int, first: int, count: int) -> list[Any]:
        result: list[Any] = []
        size = self.shape.draw.size
        for block, start, end in _blocks(first, count):
            result += self.shape.draw.iter_unpack(self._content(partition, block)[start * size : end * size])
        return result

    def _dice_runs(self, partition: int, first: int, count: int) -> Iterator[tuple[int, Sequence[tuple[int, int]]]]:
        for block, start, end in _blocks(first, count):
            yield block * BLOCK_RECORDS + start, self._dice(partition, block)[start:end]

    def _dice_of(self, partition: int, block: int) -> Sequence[tuple[int, int]]:
        return list(_DICE.iter_unpack(self._random("dice", partition, block, _DICE.size)))

    def _content_of(self, partition: int, block: int) -> bytes:
        return self._random(f"content {self.shape.name}", partition, block, self.shape.draw.size)

    def _random(self, stream: str, partition: int, block: int, size: int) -> bytes:
        return hashlib.shake_128(f"{stream} {self.seed} {partition} {block}".encode()).digest(size * BLOCK_RECORDS)


def _late_ms(choice: int) -> int:
    return LATE_MS_MIN + choice % (LATE_MS_MAX - LATE_MS_MIN)


def _blocks(first: int, count: int) -> Iterator[tuple[int, int, int]]:
    """The blocks of `[first, first + count)`: number, and the part `[start, end)` inside it."""
    end = first + count
    for block in range(first // BLOCK_RECORDS, (end + BLOCK_RECORDS - 1) // BLOCK_RECORDS):
        base = block * BLOCK_RECORDS
        yield block, max(first - base, 0), min(end - base, BLOCK_RECORDS)
