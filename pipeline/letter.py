"""The form of a dead letter: a Kafka message with the record's own key and value, and headers that say what went wrong.

It turns rejects into messages and reads from a message's headers which record it stands for. It sends nothing.

The record's own headers come first, then these, all text:

    penstock-topic penstock-partition penstock-offset    the record the letter stands for
    penstock-timestamp                                   of that record, in milliseconds since the epoch, -1 unknown
    penstock-stage penstock-code penstock-detail         where, why (`types.Stage`, `types.RejectCode`), the rule it breaks
    penstock-contract penstock-pipeline                  what it was read as, and by whom
    penstock-attempt                                     1, or one more than a letter's that was put back and rejected again
    penstock-truncated                                   only on a pointer: what was left out, as "value=20971520 headers=3"

A record that is too large for the dead-letter topic becomes a *pointer*: the same penstock headers, no value, no headers
of its own, and its key only when that is short. Topic, partition and offset say where the bytes are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypedDict

from pipeline.types import DeadLetter, Headers, Partition, Reject

PREFIX = "penstock-"
POINTER_KEY_BYTES_MAX = 1_024
DETAIL_CHARS_MAX = 1_000
REASONS_KEPT = 256


class Message(TypedDict):
    """Arguments of `Producer.produce`."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]]


def message(letter: DeadLetter, pipeline: str) -> Message:
    """The whole letter. Penstock headers of an earlier letter give way to the new ones, but for the count of attempts."""
    own: list[tuple[str, str | bytes | None]] = [
        (name, value) for name, value in letter.headers if not name.startswith(PREFIX)
    ]
    return {"key": letter.key, "value": letter.value, "headers": own + _headers(letter, pipeline)}


def pointer(letter: DeadLetter, pipeline: str) -> Message:
    """The letter without what may be large."""
    keep_key = letter.key is None or len(letter.key) <= POINTER_KEY_BYTES_MAX
    left_out = [f"value={len(letter.value or b'')}"]
    if not keep_key:
        left_out.append(f"key={len(letter.key or b'')}")
    if letter.headers:
        left_out.append(f"headers={len(letter.headers)}")
    headers = _headers(letter, pipeline)
    headers.append((PREFIX + "truncated", " ".join(left_out).encode()))
    return {"key": letter.key if keep_key else None, "value": None, "headers": headers}


def record_of(headers: Any, pipeline: str) -> tuple[Partition, int] | None:
    """The record that a letter of this pipeline stands for, from `Message.headers()`; None for any other message."""
    found = {name: value for name, value in headers or () if name.startswith(PREFIX)}
    topic, number, offset = (found.get(PREFIX + name) for name in ("topic", "partition", "offset"))
    if found.get(PREFIX + "pipeline") != pipeline.encode() or topic is None or number is None or offset is None:
        return None
    try:
        return Partition(topic.decode(), int(number)), int(offset)
    except ValueError:
        return None


def stage_of(headers: Any) -> str:
    """Where the record of a letter was refused; empty when it does not say."""
    found = dict(headers or ()).get(PREFIX + "stage")
    return found.decode("utf-8", "replace") if found is not None else ""


def _headers(letter: DeadLetter, pipeline: str) -> list[tuple[str, str | bytes | None]]:
    topic, number = letter.partition
    return [
        (PREFIX + "topic", _bytes(topic)),
        (PREFIX + "partition", b"%d" % number),
        (PREFIX + "offset", b"%d" % letter.offset),
        (PREFIX + "timestamp", b"%d" % letter.timestamp_ms),
        *_reasons(letter.reject, letter.contract),
        (PREFIX + "pipeline", _bytes(pipeline)),
        (PREFIX + "attempt", b"%d" % (_attempts_before(letter.headers) + 1)),
    ]


@lru_cache(maxsize=REASONS_KEPT)
def _reasons(reject: Reject, contract: str) -> tuple[tuple[str, bytes], ...]:
    """The same for most letters: a batch of them has few reasons."""
    return (
        (PREFIX + "stage", _bytes(reject.stage.value)),
        (PREFIX + "code", _bytes(reject.code.value)),
        (PREFIX + "detail", _bytes(reject.detail[:DETAIL_CHARS_MAX])),
        (PREFIX + "contract", _bytes(contract)),
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _attempts_before(headers: Headers) -> int:
    counts = [value for name, value in headers if name == PREFIX + "attempt" and value is not None and value.isdigit()]
    return max((int(count[:9]) for count in counts), default=0)
