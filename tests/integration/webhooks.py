"""Real webhook deliveries as GitHub documents them, multiplied, and contracts for them. Not a test.

The records are read from the folder beside the checkout and never copied; without it the tests skip.
"""

from __future__ import annotations

import datetime
import gzip
import uuid
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from pipeline.contract import ch

PATH = Path(__file__).resolve().parents[3] / "shared" / "data" / "github-webhooks.ndjson.gz"
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Wrapped(msgspec.Struct, kw_only=True):
    """A delivery as the file has it: the payload is one nested object, kept as its text."""

    delivery: Annotated[str, ch("UUID")]
    received_at: Annotated[datetime.datetime, ch("DateTime64(3)")]
    event: Annotated[str, ch("LowCardinality(String)")]
    example: str
    payload: msgspec.Raw


class Delivery(msgspec.Struct, kw_only=True):
    """A delivery with the payload's fields beside the envelope's, as a webhook receiver would write it."""

    delivery: Annotated[str, ch("UUID")]
    received_at: Annotated[datetime.datetime, ch("DateTime64(3)")]
    event: Annotated[str, ch("LowCardinality(String)")]
    example: str
    action: Annotated[str, ch("LowCardinality(String)")] = ""
    number: Annotated[int, ch("UInt32")] | None = None
    ref: str | None = None
    ref_type: Literal["branch", "tag"] | None = None
    before: Annotated[str, ch("FixedString(40)")] = ""
    forced: bool = False
    hook_id: Annotated[int, ch("UInt64")] = 7
    created_at: Annotated[datetime.datetime, ch("DateTime64(3)")] | None = None
    starred_at: Annotated[datetime.datetime, ch("DateTime")] | None = None
    effective_date: Annotated[datetime.datetime, ch("DateTime64(6)")] | msgspec.UnsetType = msgspec.UNSET
    inputs: dict[str, str] = {}
    client_payload: dict[str, bool] = {}
    repository: msgspec.Raw = msgspec.Raw(b"")
    sender: msgspec.Raw = msgspec.Raw(b"")
    installation: msgspec.Raw = msgspec.Raw(b"")
    issue: msgspec.Raw = msgspec.Raw(b"")


WRITTEN_COLUMNS = """
    delivery UUID, received_at DateTime64(3), event LowCardinality(String), example String, action LowCardinality(String),
    number Nullable(UInt32), ref Nullable(String), ref_type LowCardinality(Nullable(String)), before FixedString(40),
    forced Bool, hook_id UInt64 DEFAULT 7, created_at Nullable(DateTime64(3)), starred_at Nullable(DateTime),
    effective_date DateTime64(6), inputs Map(String, String), client_payload Map(String, Bool),
    repository String, sender String, installation String, issue String
"""
# ClickHouse takes these out of the texts itself, for both readings alike.
COMPUTED = """
    repository_id UInt64 MATERIALIZED JSONExtractUInt(repository, 'id'),
    repository_name String MATERIALIZED JSONExtractString(repository, 'full_name'),
    sender_login LowCardinality(String) MATERIALIZED JSONExtractString(sender, 'login'),
    labels Array(String) MATERIALIZED arrayMap(l -> JSONExtractString(l, 'name'), JSONExtractArrayRaw(issue, 'labels'))
"""
WRAPPED_COLUMNS = """
    delivery UUID, received_at DateTime64(3), event LowCardinality(String), example String, payload String,
    action LowCardinality(String) MATERIALIZED JSONExtractString(payload, 'action')
"""
INFERRED_COLUMNS = f"""
    {WRITTEN_COLUMNS},
    created Nullable(Bool), description Nullable(String), id Nullable(Int64), updated_at DateTime,
    state Enum8('' = 0, 'success' = 1, 'failure' = 2), sha FixedString(40), workflow Nullable(String),
    head_commit Nullable(String), commits Array(String), repositories_added Array(String), branches Array(String),
    label Map(String, Nullable(String)), rule String, zen String DEFAULT 'none',
    stored_at DateTime DEFAULT toDateTime('2026-01-01 00:00:00'), {COMPUTED}
"""
JSON_COLUMNS = (
    "delivery UUID, event String, repository JSON, sender JSON(login String), rule JSON, branches Array(JSON)"
)


@lru_cache(maxsize=1)
def lines() -> list[bytes]:
    """The deliveries, one JSON object each."""
    return gzip.decompress(PATH.read_bytes()).splitlines()


@lru_cache(maxsize=1)
def hoisted() -> list[bytes]:
    """The inside of each delivery's object with the payload's fields in the place of the payload, otherwise byte by byte."""
    made = []
    for line in lines():
        parts = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        envelope = b",".join(b'"%s":%s' % (name.encode(), bytes(parts[name])) for name in ("event", "example"))
        made.append(
            envelope + b"," + bytes(parts["payload"]).strip()[1:-1] if len(bytes(parts["payload"])) > 2 else envelope
        )
    return made


def records(first: int, count: int, *, wrapped: bool) -> Iterator[bytes]:
    """`count` deliveries with ids and times of their own, a pure function of their number: both shapes share the ids."""
    insides = [line[1:-1] for line in lines()] if wrapped else hoisted()
    for number in range(first, first + count):
        received = START + datetime.timedelta(milliseconds=137 * number)
        stamp = received.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head = f'{{"delivery":"{uuid.UUID(int=number)}","received_at":"{stamp}",'
        yield head.encode() + insides[number % len(insides)] + b"}"


def chunks(count: int, size: int, *, wrapped: bool) -> Iterator[tuple[int, list[bytes]]]:
    """The records in lists of `size`, with the number of the first."""
    for first in range(0, count, size):
        yield first, list(records(first, min(size, count - first), wrapped=wrapped))
