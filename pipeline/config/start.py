"""Where a partition without a committed offset begins: the text of `kafka.start` and what it means."""

from __future__ import annotations

import datetime
from typing import Literal

StartPosition = Literal["earliest", "latest"] | int


def parse_start(text: str) -> StartPosition:
    """`earliest`, `latest`, or the milliseconds since the epoch of an ISO 8601 time with a zone; ValueError otherwise."""
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError('must be "earliest", "latest" or an ISO 8601 time such as "2026-01-31T06:00:00Z"') from None
    if moment.tzinfo is None:
        raise ValueError("is a time without a zone, so hours of records could be read twice or left out")
    if moment.timestamp() < 0:
        raise ValueError("is before 1970, where Kafka's timestamps begin")
    return int(moment.timestamp() * 1000)
