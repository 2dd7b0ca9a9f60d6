"""The commerce workload: a tagged union of four facts about orders, about 700 bytes each, one table a fact."""

from __future__ import annotations

import decimal
import struct
from typing import Annotated, Any, Literal

import msgspec

from pipeline.contract.markers import ch, epoch
from pipeline.types import RejectCode
from pipeline.workload import spoil
from pipeline.workload.make import Shape
from pipeline.workload.values import CITIES, COUNTRIES, PRODUCTS, uuid_of

Money = Annotated[decimal.Decimal, ch("Decimal(18, 2)")]
Moment = Annotated[int, ch("DateTime64(3)"), epoch("ms")]
Id = Annotated[str, ch("UUID")]


class Line(msgspec.Struct, frozen=True, gc=False):
    """One line of an order; kept as JSON text."""

    sku: str
    title: str
    quantity: int
    price: str


class OrderFact(msgspec.Struct, frozen=True, tag_field="type"):
    """What all facts about an order have in common."""

    event_id: Id
    occurred_at: Moment
    order_id: Annotated[int, ch("UInt64")]
    customer_id: Annotated[int, ch("UInt32")]
    channel: Annotated[
        Literal["web", "app", "store", "phone"], ch("Enum8('web' = 1, 'app' = 2, 'store' = 3, 'phone' = 4)")
    ]


class OrderPlaced(OrderFact, frozen=True, tag="OrderPlaced.v1"):
    """A customer ordered."""

    currency: Annotated[str, ch("FixedString(3)")]
    total: Money
    lines: list[Line]
    ship_to: dict[str, str]
    coupon: str | None = None


class OrderPaid(OrderFact, frozen=True, tag="OrderPaid.v1"):
    """A payment for an order arrived."""

    amount: Money
    method: Annotated[str, ch("LowCardinality(String)")]
    installments: Annotated[int, ch("UInt8")]
    payer_ip: Annotated[str, ch("IPv4")]
    risk: float
    reference: str
    note: str


class OrderShipped(OrderFact, frozen=True, tag="OrderShipped.v1"):
    """A parcel of an order left."""

    carrier: Annotated[str, ch("LowCardinality(String)")]
    tracking: list[str]
    weight_g: Annotated[int, ch("UInt32")]
    promised_on: Annotated[str, ch("Date")]
    ship_to: dict[str, str]
    checkpoints: dict[str, Annotated[int, ch("UInt32")]]


class OrderRefunded(OrderFact, frozen=True, tag="OrderRefunded.v1"):
    """Money for an order went back."""

    amount: Money
    reason: str
    lines: list[Line]
    approved_by: str | None = None


Event = OrderPlaced | OrderPaid | OrderShipped | OrderRefunded

_CHANNELS = (b"web", b"app", b"store", b"phone")
_METHODS = (b"card", b"paypal", b"invoice", b"transfer")
_CARRIERS = (b"DHL", b"UPS", b"DPD", b"Post")
_CURRENCIES = (b"EUR", b"USD", b"GBP", b"SEK")
_REASONS = (b"damaged", b"too late", b"wrong article", b"changed mind")
_NOTE = (
    b"authorised by the issuer after a challenge; settled with the next file of the day; the customer was told by mail "
    b"and sees the receipt in the account under orders, payments and receipts; a refund goes back the way it came"
)

_HEAD = b'{"type":"%b","event_id":"%b","occurred_at":%d,"order_id":%d,"customer_id":%d,"channel":"%b",'
_LINE = b'{"sku":"%b-%04x","title":"%b, size %d, colour %d","quantity":%d,"price":"%d.%02d"}'
_ADDRESS = b'{"name":"Customer %d","street":"Long Street %d","city":"%b","postcode":"%05d","country":"%b"}'


def _lines(draw: Any, count: int) -> bytes:
    numbers = draw[2:8]
    lines = []
    for number in numbers[:count]:
        sku, title = PRODUCTS[number & 15]
        lines.append(
            _LINE
            % (sku, number & 0xFFFF, title, number % 50, number % 9, 1 + number % 3, 5 + number % 200, number % 100)
        )
    return b"[" + b",".join(lines) + b"]"


def _address(draw: Any) -> bytes:
    number = draw[2]
    return _ADDRESS % (number % 100_000, number % 300, CITIES[number & 15], number % 99_999, COUNTRIES[number & 31])


def _placed(draw: Any) -> bytes:
    number = draw[3]
    coupon = b"null" if number & 3 else b'"SPRING-%04x"' % (number & 0xFFFF)
    parts = (_CURRENCIES[number & 3], 20 + number % 900, number % 100, _lines(draw, 6), _address(draw), coupon)
    return b'"currency":"%b","total":"%d.%02d","lines":%b,"ship_to":%b,"coupon":%b}' % parts


def _paid(draw: Any) -> bytes:
    number = draw[3]
    head = b'"amount":"%d.%02d","method":"%b","installments":%d,"payer_ip":"10.%d.%d.%d","risk":0.%03d,' % (
        20 + number % 900,
        number % 100,
        _METHODS[number & 3],
        1 + number % 12,
        number >> 8 & 255,
        number >> 16 & 255,
        number >> 24,
        number % 1000,
    )
    reference = b"-".join([b"%08x" % one for one in draw[2:8]])
    return head + b'"reference":"%b","note":"%b %b"}' % (reference, _REASONS[number & 3], _NOTE)


def _shipped(draw: Any) -> bytes:
    number = draw[3]
    codes = b",".join([b'"1Z%08X%04X"' % (one, number & 0xFFFF) for one in draw[2:6]])
    places = b",".join(
        [b'"%b":%d' % (CITIES[(number + step) & 15], number % 10_000 + step * 977) for step in range(11)]
    )
    return (
        b'"carrier":"%b","tracking":[%b],"weight_g":%d,"promised_on":"2026-%02d-%02d","ship_to":%b,"checkpoints":{%b}}'
        % (_CARRIERS[number & 3], codes, number % 30_000, 1 + number % 12, 1 + number % 28, _address(draw), places)
    )


def _refunded(draw: Any) -> bytes:
    number = draw[3]
    by = b"null" if number & 1 else b'"clerk-%d"' % (number % 500)
    parts = (1 + number % 900, number % 100, _REASONS[number & 3], _NOTE[:160], _lines(draw, 4), by)
    return b'"amount":"%d.%02d","reason":"%b: %b","lines":%b,"approved_by":%b}' % parts


_KINDS = (
    ("OrderPlaced.v1", _placed),
    ("OrderPaid.v1", _paid),
    ("OrderPaid.v1", _paid),
    ("OrderPlaced.v1", _placed),
    ("OrderShipped.v1", _shipped),
    ("OrderShipped.v1", _shipped),
    ("OrderPlaced.v1", _placed),
    ("OrderRefunded.v1", _refunded),
)


def render(event_ms: int, draw: Any) -> bytes:
    """One fact. `draw` holds the 16 bytes of its id, a byte that chooses the fact, and numbers for its fields."""
    tag, rest = _KINDS[draw[1] & 7]
    number = draw[4]
    head = _HEAD % (
        tag.encode(),
        uuid_of(draw[0]),
        event_ms,
        number << 16 | draw[5] & 0xFFFF,
        number % 5_000_000,
        _CHANNELS[number & 3],
    )
    return head + rest(draw)


SHAPE = Shape(
    name="commerce",
    contract="pipeline.workload.commerce:Event",
    key=("event_id",),
    draw=struct.Struct("<16sB3x6I"),
    render=render,
    identify=lambda draw: uuid_of(draw[0]),
    tags=("OrderPlaced.v1", "OrderPaid.v1", "OrderShipped.v1", "OrderRefunded.v1"),
    tag_of=lambda draw: _KINDS[draw[1] & 7][0],
    unknown_version=spoil.replaced("unknown_version", RejectCode.UNKNOWN_TYPE, rb'\.v1"', b'.v9"'),
    poisons=(
        spoil.truncated(),
        spoil.invalid_utf8("channel"),
        spoil.wrong_type("order_id"),
        spoil.missing("customer_id"),
        spoil.out_of_range("customer_id", 5_000_000_000),
        spoil.no_id("event_id"),
        spoil.replaced("unknown_type", RejectCode.UNKNOWN_TYPE, rb'"type":"\w+', b'"type":"OrderVanished'),
    ),
)
