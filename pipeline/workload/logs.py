"""The logs workload: log lines of about 1.5 kB with three maps, ISO times, nullable trace ids and addresses."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from pipeline.contract.markers import ch
from pipeline.types import RejectCode
from pipeline.workload import spoil
from pipeline.workload.make import Shape
from pipeline.workload.values import LEVELS, MESSAGES, SERVICES, WORDS, uuid_of


class Event(msgspec.Struct, frozen=True):
    """A service logged a line."""

    event_id: Annotated[str, ch("UUID")]
    logged_at: datetime
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        ch("Enum8('debug' = 10, 'info' = 20, 'warning' = 30, 'error' = 40)"),
    ]
    service: Annotated[str, ch("LowCardinality(String)")]
    host: Annotated[str, ch("LowCardinality(String)")]
    source_ip: Annotated[str, ch("IPv6")]
    pid: Annotated[int, ch("UInt32")]
    message: str
    attributes: dict[str, str]
    resource: dict[str, str]
    measures: dict[str, float]
    trace_id: Annotated[str, ch("FixedString(32)")] | None = None
    span_id: Annotated[str, ch("FixedString(16)")] | None = None


_TEMPLATE = (
    b'{"event_id":"%b","logged_at":"%bZ","level":"%b","service":"%b","host":"%b-%d.internal","source_ip":"fd00::%x:%x",'
    b'"pid":%d,"message":"%b [%b %b] at %b","attributes":{%b},"resource":{%b},"measures":{%b},"trace_id":%b,"span_id":%b}'
)
_ATTRIBUTES = tuple(
    name.encode()
    for name in (
        "http.request.method", "http.route", "http.response.status_code", "url.scheme", "url.full", "user_agent.original",
        "client.address", "server.address", "db.system", "db.statement", "session.id", "enduser.id",
    )
)  # fmt: skip
_RESOURCE = tuple(
    name.encode()
    for name in (
        "service.version", "service.instance.id", "deployment.environment", "host.arch", "k8s.pod.name",
        "k8s.namespace.name", "cloud.region", "process.runtime.version",
    )
)  # fmt: skip
_MEASURES = (b"duration_ms", b"bytes_in", b"bytes_out", b"rows", b"cache_hits", b"retries")
_STACK = (
    b"orders.repository.find:118 < orders.service.list:64 < orders.api.get:31 < http.router.dispatch:207 < "
    b"http.middleware.session:52 < http.middleware.trace:40 < http.server.handle:333"
)
_STATEMENT = (
    b"select id, total, placed_at from orders where customer_id = ? and placed_at > ? order by placed_at desc limit 50"
)


def render(event_ms: int, draw: Any) -> bytes:
    """One log line; `draw` holds the 16 bytes of its id and numbers for its fields."""
    id_, *numbers = draw
    a, b, c = numbers[:3]
    attributes = b",".join(
        [
            b'"%b":"%b/%08x"' % (name, _STATEMENT if name == b"db.statement" else WORDS[number & 15], number)
            for name, number in zip(_ATTRIBUTES, numbers * 2, strict=False)
        ]
    )
    resource = b",".join(
        [
            b'"%b":"%b-%04x"' % (name, WORDS[number >> 4 & 15], number >> 16)
            for name, number in zip(_RESOURCE, numbers, strict=False)
        ]
    )
    measures = b",".join(
        [b'"%b":%d.%d' % (name, number % 90_000, number & 7) for name, number in zip(_MEASURES, numbers, strict=False)]
    )
    traced = a & 3
    moment = datetime.fromtimestamp(event_ms / 1000, UTC).isoformat(timespec="milliseconds")[:23].encode()
    service = SERVICES[b & 7]
    return _TEMPLATE % (
        uuid_of(id_),
        moment,
        LEVELS[a >> 4 & 7],
        service,
        service,
        c & 63,
        c >> 16,
        c & 0xFFFF,
        1 + b % 4_000_000,
        MESSAGES[c & 7],
        WORDS[a & 15],
        WORDS[b & 15],
        _STACK,
        attributes,
        resource,
        measures,
        b'"%08x%08x%08x%08x"' % tuple(numbers[:4]) if traced else b"null",
        b'"%08x%08x"' % (b, c) if traced else b"null",
    )


SHAPE = Shape(
    name="logs",
    contract="pipeline.workload.logs:Event",
    key=("event_id",),
    draw=struct.Struct("<16s8I"),
    render=render,
    identify=lambda draw: uuid_of(draw[0]),
    unknown_version=spoil.replaced(
        "unknown_version", RejectCode.BREAKS_CONTRACT, rb'"level":"\w+"', b'"level":"fatal"'
    ),
    poisons=(
        spoil.truncated(),
        spoil.invalid_utf8("message"),
        spoil.wrong_type("pid"),
        spoil.missing("service"),
        spoil.out_of_range("pid", 5_000_000_000),
        spoil.no_id("event_id"),
    ),
)
