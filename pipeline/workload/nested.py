"""The nested workload: change events of about 2 kB, objects inside objects, optional and nullable fields, lists."""

from __future__ import annotations

import struct
from typing import Annotated, Any

import msgspec

from pipeline.contract.markers import ch, epoch
from pipeline.types import RejectCode
from pipeline.workload import spoil
from pipeline.workload.make import Shape
from pipeline.workload.values import CITIES, COUNTRIES, PRODUCTS, WORDS, uuid_of


class Actor(msgspec.Struct, frozen=True):
    """Who did it."""

    login: str
    id: int
    roles: list[str]
    profile: dict[str, Any]


class Event(msgspec.Struct, frozen=True):
    """Something in a catalogue was changed."""

    event_id: Annotated[str, ch("UUID")]
    changed_at: Annotated[int, ch("DateTime64(3)"), epoch("ms")]
    revision: Annotated[int, ch("UInt64")]
    kind: Annotated[str, ch("LowCardinality(String)")]
    actor: Actor
    before: msgspec.Raw
    after: msgspec.Raw
    tags: list[str]
    scores: list[float]
    comment: str | None
    previous_id: Annotated[str, ch("UUID")] | None = None


_KINDS = (b"created", b"changed", b"moved", b"removed")
_ACTOR = (
    b'{"login":"%b-%d","id":%d,"roles":["editor","%b"],"profile":{"city":"%b","country":"%b","languages":["en","de"],'
    b'"settings":{"theme":"dark","page":%d,"mail":{"daily":true,"weekly":false,"address":"%b%d@example.com"}}}}'
)
_ARTICLE = (
    b'{"sku":"%b-%06x","title":"%b","price":{"amount":"%d.%02d","currency":"EUR","tax":{"rate":0.19,"region":"%b"}},'
    b'"dimensions":{"w":%d,"h":%d,"d":%d,"unit":"mm"},"stock":[%b],"active":%b,'
    b'"text":"%b of the \\u00bbfirst\\u00ab kind, packed by hand\\nand sent within %d days"}'
)
_STOCK = b'{"place":"%b","shelf":"%c-%03d","pieces":%d,"reserved":%d}'
_COMMENT = b'"seen by \\"%b\\", checked against the list of %b, entry %d"'
_BOOLEANS = (b"true", b"false")


def _article(numbers: Any) -> bytes:
    a, b, c, d = numbers
    sku, title = PRODUCTS[a & 15]
    stock = b",".join(
        [_STOCK % (CITIES[(b + i) & 15], 65 + (c + i) % 26, d % 1000, (c >> i) % 500, d >> i & 15) for i in range(11)]
    )
    return _ARTICLE % (
        sku, a & 0xFFFFFF, title, a % 500, b % 100, COUNTRIES[c & 31], a % 3000, b % 3000, c % 900, stock,
        _BOOLEANS[d & 1], title, 1 + d % 9,
    )  # fmt: skip


def render(event_ms: int, draw: Any) -> bytes:
    """One change; `draw` holds the 16 bytes of its id and numbers for its fields."""
    id_, a, b, c, d, *more = draw
    actor = _ACTOR % (
        WORDS[a & 15], a % 9000, a, WORDS[b & 15], CITIES[b >> 4 & 15], COUNTRIES[b >> 8 & 31], 10 + c % 90,
        WORDS[c & 15], c % 9000,
    )  # fmt: skip
    tags = b",".join([b'"%b"' % WORDS[number & 15] for number in more[: 1 + a % 6]])
    scores = b",".join([b"%d.5" % (number % 1000) for number in more[: b % 7]])
    return (
        b'{"event_id":"%b","changed_at":%d,"revision":%d,"kind":"%b","actor":%b,"before":%b,"after":%b,'
        b'"tags":[%b],"scores":[%b],"comment":%b%b}'
    ) % (
        uuid_of(id_),
        event_ms,
        c << 20 | d,
        _KINDS[d & 3],
        actor,
        b"null" if d & 3 == 0 else _article(more[:4]),
        b"null" if d & 3 == 3 else _article(more[4:]),
        tags,
        scores,
        b"null" if c & 1 else _COMMENT % (WORDS[c >> 4 & 15], WORDS[d >> 4 & 15], d),
        b"" if d & 4 else b',"previous_id":"%b"' % uuid_of(id_[::-1]),
    )


SHAPE = Shape(
    name="nested",
    contract="pipeline.workload.nested:Event",
    key=("event_id",),
    draw=struct.Struct("<16s12I"),
    render=render,
    identify=lambda draw: uuid_of(draw[0]),
    unknown_version=spoil.replaced(
        "unknown_version", RejectCode.BREAKS_CONTRACT, rb'"actor":\{"login"', b'"actor":{"name"'
    ),
    poisons=(
        spoil.truncated(),
        spoil.invalid_utf8("kind"),
        spoil.wrong_type("revision"),
        spoil.missing("kind"),
        spoil.out_of_range("revision", 2**64),
        spoil.no_id("event_id"),
    ),
)
