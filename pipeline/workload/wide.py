"""The wide workload: readings of 100 columns, numbers for the most part, about 1.8 kB."""

from __future__ import annotations

import struct
from typing import Annotated, Any

import msgspec

from pipeline.contract.markers import ch, epoch
from pipeline.types import RejectCode
from pipeline.workload import spoil
from pipeline.workload.make import Shape
from pipeline.workload.values import COUNTRIES, WORDS, uuid_of

_COUNTERS = tuple(f"counter_{i:02}" for i in range(30))
_LEVELS = tuple(f"level_{i:02}" for i in range(30))
_LABELS = tuple(f"label_{i:02}" for i in range(16))
_FLAGS = tuple(f"flag_{i:02}" for i in range(12))
_STATES = tuple(f"state_{i:02}" for i in range(8))

Event = msgspec.defstruct(
    "Event",
    [
        ("event_id", Annotated[str, ch("UUID")]),
        ("read_at", Annotated[int, ch("DateTime64(3)"), epoch("ms")]),
        ("device", Annotated[int, ch("UInt32")]),
        ("site", Annotated[str, ch("LowCardinality(String)")]),
        *((name, Annotated[int, ch("Int64")]) for name in _COUNTERS),
        *((name, float) for name in _LEVELS),
        *((name, str) for name in _LABELS),
        *((name, bool) for name in _FLAGS),
        *((name, Annotated[int, ch("UInt8")]) for name in _STATES),
    ],
    bases=None,
    module=__name__,
    frozen=True,
    gc=False,
)
"""A device read all its 100 sensors."""


def _template() -> bytes:
    parts = ['"event_id":"%b"', '"read_at":%d', '"device":%d', '"site":"%b"']
    parts += [f'"{name}":%d' for name in _COUNTERS]
    parts += [f'"{name}":%d.25' for name in _LEVELS]
    parts += [f'"{name}":"%b"' for name in _LABELS]
    parts += [f'"{name}":%b' for name in _FLAGS]
    parts += [f'"{name}":%d' for name in _STATES]
    return ("{" + ",".join(parts) + "}").encode()


_TEMPLATE = _template()
_BOOLEANS = (b"true", b"false")


def render(event_ms: int, draw: Any) -> bytes:
    """One reading; `draw` holds the 16 bytes of its id, 60 numbers of 32 and 36 of 8 bits."""
    numbers = draw[1:61]
    return _TEMPLATE % (
        uuid_of(draw[0]),
        event_ms,
        numbers[0],
        COUNTRIES[numbers[0] & 31],
        *numbers[:30],
        *[number >> 12 for number in numbers[30:]],
        *[WORDS[byte & 15] for byte in draw[61:77]],
        *[_BOOLEANS[byte & 1] for byte in draw[77:89]],
        *draw[89:97],
    )


SHAPE = Shape(
    name="wide",
    contract="pipeline.workload.wide:Event",
    key=("event_id",),
    draw=struct.Struct("<16s60I36B"),
    render=render,
    identify=lambda draw: uuid_of(draw[0]),
    unknown_version=spoil.replaced(
        "unknown_version", RejectCode.WRONG_TYPE, rb'"counter_07":-?\d+', b'"counter_07":{"v2":1}'
    ),
    poisons=(
        spoil.truncated(),
        spoil.invalid_utf8("label_03"),
        spoil.wrong_type("counter_12"),
        spoil.missing("site"),
        spoil.out_of_range("state_05", 256),
        spoil.no_id("event_id"),
    ),
)
