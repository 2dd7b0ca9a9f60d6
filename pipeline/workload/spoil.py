"""Ways to spoil a good JSON value, each ending in a known reject. They change bytes only; nothing is decoded."""

from __future__ import annotations

import re
from collections.abc import Callable

from pipeline.types import RejectCode
from pipeline.workload.make import Poison


def truncated() -> Poison:
    """The value ends after two thirds of its bytes."""
    return Poison("truncated", RejectCode.UNDECODABLE, lambda value: value[: len(value) * 2 // 3])


def invalid_utf8(field: str) -> Poison:
    """Bytes that no UTF-8 text holds at the beginning of a text field."""
    start = f'"{field}":"'.encode()
    return Poison("invalid_utf8", RejectCode.INVALID_UTF8, lambda value: value.replace(start, start + b"\xff\xfe", 1))


def wrong_type(field: str) -> Poison:
    """A text where a number is due."""
    return Poison("wrong_type", RejectCode.WRONG_TYPE, _number(field, b'"%s":"many"' % field.encode()))


def missing(field: str) -> Poison:
    """A required field, and the comma after it, left out."""
    pattern = re.compile(rb'"%s":(?:"[^"]*"|[^,"{\[]+),' % field.encode())
    return Poison("missing_field", RejectCode.BREAKS_CONTRACT, lambda value: pattern.sub(b"", value, count=1))


def out_of_range(field: str, number: int) -> Poison:
    """A number that is well formed and does not fit the column."""
    return Poison("out_of_range", RejectCode.OUT_OF_RANGE, _number(field, b'"%s":%d' % (field.encode(), number)))


def no_id(field: str) -> Poison:
    """A null where the event id is due."""
    pattern = re.compile(rb'"%s":"[^"]*"' % field.encode())
    null = b'"%s":null' % field.encode()
    return Poison("null_id", RejectCode.NULL, lambda value: pattern.sub(null, value, count=1))


def replaced(name: str, code: RejectCode, pattern: bytes, by: bytes) -> Poison:
    """Whatever matches, replaced once."""
    compiled = re.compile(pattern)
    return Poison(name, code, lambda value: compiled.sub(by, value, count=1))


def _number(field: str, by: bytes) -> Callable[[bytes], bytes]:
    pattern = re.compile(rb'"%s":-?[0-9.]+' % field.encode())
    return lambda value: pattern.sub(by, value, count=1)
