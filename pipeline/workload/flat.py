"""The flat workload: page views of about 200 bytes, eight columns, a UUID as event id."""

from __future__ import annotations

import struct
from typing import Annotated, Any, Literal

import msgspec

from pipeline.contract.markers import ch, epoch, ignored
from pipeline.types import RejectCode
from pipeline.workload import spoil
from pipeline.workload.make import Shape
from pipeline.workload.values import COUNTRIES, PATHS, STATUSES, uuid_of


class Event(msgspec.Struct, frozen=True, gc=False):
    """A page was viewed."""

    event_id: Annotated[str, ch("UUID")]
    viewed_at: Annotated[int, ch("DateTime64(3)"), epoch("ms")]
    user_id: Annotated[int, ch("UInt32")]
    country: Annotated[str, ch("LowCardinality(String)")]
    path: str
    status: Annotated[int, ch("UInt16")]
    duration_ms: float
    cached: bool
    version: Annotated[Literal[1], ignored] = 1


_TEMPLATE = (
    b'{"event_id":"%b","viewed_at":%d,"user_id":%d,"country":"%b","path":"%b/%x",'
    b'"status":%d,"duration_ms":%d.%d,"cached":%b,"version":1}'
)
_CACHED = (b"true", b"false")


def render(event_ms: int, draw: Any) -> bytes:
    """One page view; `draw` holds the 16 bytes of its id, then what its other fields are chosen by."""
    id_, user, path, duration, country, status, cached, tenth = draw
    return _TEMPLATE % (
        uuid_of(id_),
        event_ms,
        user,
        COUNTRIES[country & 31],
        PATHS[path & 15],
        path,
        STATUSES[status & 15],
        duration,
        tenth % 10,
        _CACHED[cached & 1],
    )


SHAPE = Shape(
    name="flat",
    contract="pipeline.workload.flat:Event",
    key=("event_id",),
    draw=struct.Struct("<16sIIHBBBB2x"),
    render=render,
    identify=lambda draw: uuid_of(draw[0]),
    unknown_version=spoil.replaced("unknown_version", RejectCode.BREAKS_CONTRACT, rb'"version":1', b'"version":9'),
    poisons=(
        spoil.truncated(),
        spoil.invalid_utf8("path"),
        spoil.wrong_type("user_id"),
        spoil.missing("country"),
        spoil.out_of_range("status", 70_000),
        spoil.no_id("event_id"),
    ),
)
