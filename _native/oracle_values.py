"""Values into columns in plain Python: what `_native.put` and its helpers must be equal to. For tests only.

Two steps, each a plain function of the type: `convert` checks one value and gives its normal form (the wire bytes of a
leaf, None, a list, a list of pairs, a tuple), `serialize` lays the normal forms of a column out as Native bytes.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from itertools import chain
from math import isinf, isnan
from typing import Any, NamedTuple
from uuid import UUID

from msgspec import UNSET, Raw, Struct

from _native.chtypes import DATE32_FIRST, DATE32_LAST, DAY_SECONDS, TypeSpec
from _native.oracle import string

EPOCH_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


class Refused(Exception):
    """This value does not fit this node of the type."""

    def __init__(self, code: str, spec: TypeSpec, value: object) -> None:
        self.code = code
        self.spec = spec
        self.got = type(value).__name__
        super().__init__(code)


class Rules(NamedTuple):
    """What a column decides beside its type."""

    null_as_default: bool
    epoch_unit: str
    encode_json: Callable[[Any], bytes]


def convert(spec: TypeSpec, value: Any, rules: Rules) -> Any:
    """The normal form of `value`; Refused when it does not fit."""
    if spec.kind == "nullable":
        return None if value is None or value is UNSET else convert(spec.children[0], value, rules)
    if value is UNSET or (value is None and rules.null_as_default):
        return zero(spec)
    if value is None:
        raise Refused("null", spec, value)
    if isinstance(value, Enum) and not (spec.kind == "string" and isinstance(value, str)):
        return convert(spec, value.value, rules)
    return _CONVERT[spec.kind](spec, value, rules)


def zero(spec: TypeSpec) -> Any:
    """The normal form a missing value has."""
    if spec.kind == "nullable":
        return None
    if spec.kind in ("array", "map"):
        return []
    if spec.kind == "tuple":
        return tuple(zero(child) for child in spec.children)
    return spec.zero


def serialize(spec: TypeSpec, values: list[Any]) -> bytes:
    """A column of normal forms as Native has it."""
    if spec.kind == "nullable":
        inner = spec.children[0]
        marks = bytes(value is None for value in values)
        return marks + serialize(inner, [zero(inner) if value is None else value for value in values])
    if spec.kind in ("array", "map"):
        ends, total = [], 0
        for value in values:
            total += len(value)
            ends.append(struct.pack("<Q", total))
        items = list(chain.from_iterable(values))
        columns = [[item] for item in items] if spec.kind == "array" else items
        return b"".join(ends) + _columns(spec.children, columns)
    if spec.kind == "tuple":
        return _columns(spec.children, values)
    return b"".join(values)


def _columns(specs: tuple[TypeSpec, ...], rows: list[Any]) -> bytes:
    return b"".join(serialize(spec, [row[place] for row in rows]) for place, spec in enumerate(specs))


# ---- numbers


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _int(spec: TypeSpec, value: Any, _rules: Rules) -> bytes:
    if not _is_int(value):
        raise Refused("wrong_type", spec, value)
    if not spec.low <= value <= spec.high:
        raise Refused("out_of_range", spec, value)
    return int(value).to_bytes(spec.width, "little", signed=spec.low < 0)


def _bool(spec: TypeSpec, value: Any, _rules: Rules) -> bytes:
    if not isinstance(value, bool):
        raise Refused("wrong_type", spec, value)
    return bytes([value])


def _float(spec: TypeSpec, value: Any, _rules: Rules) -> bytes:
    if not isinstance(value, float) and not _is_int(value):
        raise Refused("wrong_type", spec, value)
    try:
        real = float(value)
        if spec.kind == "float64":
            return struct.pack("<d", real)
        single = struct.pack("<f", real)
    except OverflowError:
        raise Refused("out_of_range", spec, value) from None
    if spec.kind == "float32":
        return single
    return b"\xc0\x7f" if isnan(real) else single[2:]


_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def _decimal(spec: TypeSpec, value: Any, _rules: Rules) -> bytes:
    rounding = isinstance(value, float)
    if not (rounding or _is_int(value) or isinstance(value, Decimal | str)):
        raise Refused("wrong_type", spec, value)
    if _is_int(value) and value.bit_length() > 256:
        raise Refused("out_of_range", spec, value)
    text = repr(float(value)) if rounding else str(int(value) if _is_int(value) else value)
    if not _DECIMAL.fullmatch(text):
        raise Refused("wrong_type" if isinstance(value, str) else "out_of_range", spec, value)
    with localcontext(Context(prec=5000, Emax=10**9, Emin=-(10**9), traps=[])):
        scaled = Decimal(text).scaleb(spec.scale)
        whole = scaled.to_integral_value(ROUND_HALF_EVEN) if scaled.adjusted() <= 100 else scaled
    if scaled.adjusted() > 100 and scaled:
        raise Refused("out_of_range", spec, value)
    if (whole != scaled and not rounding) or abs(int(whole)) > spec.high:
        raise Refused("out_of_range", spec, value)
    return int(whole).to_bytes(spec.width, "little", signed=True)


# ---- text


def _text(spec: TypeSpec, value: Any, rules: Rules) -> bytes:
    if isinstance(value, str):
        try:
            text = str.encode(value)
        except UnicodeEncodeError:
            raise Refused("invalid_utf8", spec, value) from None
    elif isinstance(value, bytes | bytearray | memoryview | Raw):
        text = bytes(value)
    elif spec.kind != "fixed_string" and isinstance(value, dict | list | tuple | Struct):
        try:
            text = rules.encode_json(value)
        except UnicodeError:
            raise Refused("invalid_utf8", spec, value) from None
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise Refused("wrong_type", spec, value) from None
    else:
        raise Refused("wrong_type", spec, value)
    if spec.kind != "fixed_string":
        return string(text)
    if len(text) > spec.width:
        raise Refused("out_of_range", spec, value)
    return text.ljust(spec.width, b"\0")


def _enum(spec: TypeSpec, value: Any, _rules: Rules) -> bytes:
    if isinstance(value, str):
        number = spec.labels.get(value)
    elif _is_int(value):
        number = int(value) if value in spec.labels.values() else None
    else:
        raise Refused("wrong_type", spec, value)
    if number is None:
        raise Refused("out_of_range", spec, value)
    return number.to_bytes(spec.width, "little", signed=True)


_HEX = "[0-9a-fA-F]"
_UUID = re.compile(f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}|{_HEX}{{32}}")


def _uuid(spec: TypeSpec, value: Any, _rules: Rules) -> bytes:
    if isinstance(value, str) and _UUID.fullmatch(value):
        value = UUID(value)
    if not isinstance(value, UUID):
        raise Refused("wrong_type", spec, value)
    return value.bytes[7::-1] + value.bytes[:7:-1]


def _ipv4(spec: TypeSpec, value: Any, _rules: Rules) -> bytes:
    packed = value.packed if isinstance(value, IPv4Address) else _address(socket.AF_INET, value)
    if packed is None:
        raise Refused("wrong_type", spec, value)
    return packed[::-1]


def _ipv6(spec: TypeSpec, value: Any, _rules: Rules) -> bytes:
    if isinstance(value, IPv6Address):
        return value.packed
    short = value.packed if isinstance(value, IPv4Address) else _address(socket.AF_INET, value)
    packed = b"\0" * 10 + b"\xff" * 2 + short if short else _address(socket.AF_INET6, value)
    if packed is None:
        raise Refused("wrong_type", spec, value)
    return packed


def _address(family: int, value: object) -> bytes | None:
    try:
        return socket.inet_pton(family, value) if isinstance(value, str) else None
    except (OSError, ValueError):
        return None


# ---- dates and times

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?([Zz]|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII
)


def _temporal(spec: TypeSpec, value: Any, rules: Rules) -> bytes:
    """Nanoseconds since the epoch, rounded down to the column's unit."""
    nanos = _nanos(spec, value, 10 ** (9 - EPOCH_DIGITS[rules.epoch_unit]))
    seconds = nanos // 10**9
    if spec.kind in ("date", "date32"):
        number = seconds // DAY_SECONDS
    elif spec.kind == "datetime":
        number = seconds
    else:
        if not DATE32_FIRST * DAY_SECONDS <= seconds < (DATE32_LAST + 1) * DAY_SECONDS:
            raise Refused("out_of_range", spec, value)
        number = nanos // 10 ** (9 - spec.scale)
    if not spec.low <= number <= spec.high:
        raise Refused("out_of_range", spec, value)
    return number.to_bytes(spec.width, "little", signed=spec.low < 0)


def _nanos(spec: TypeSpec, value: Any, unit: int) -> int:
    if isinstance(value, datetime):
        since = (value if value.utcoffset() is not None else value.replace(tzinfo=UTC)) - _EPOCH
        return since // timedelta(microseconds=1) * 1000
    if isinstance(value, date):
        return (value.toordinal() - date(1970, 1, 1).toordinal()) * DAY_SECONDS * 10**9
    if isinstance(value, str):
        return _iso_nanos(spec, value)
    if _is_int(value):
        return int(value) * unit
    if not isinstance(value, float):
        raise Refused("wrong_type", spec, value)
    if isnan(value) or isinf(value):
        raise Refused("out_of_range", spec, value)
    with localcontext(Context(prec=1000)):
        return int((Decimal(repr(float(value))) * unit).to_integral_value("ROUND_FLOOR"))


def _iso_nanos(spec: TypeSpec, text: str) -> int:
    match = _ISO.fullmatch(text)
    if match is None:
        raise Refused("wrong_type", spec, text)
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    zone = match[8] or "Z"
    ahead = 0
    if zone not in "Zz":
        hours, minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
        ahead = (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)
        if hours > 23 or minutes > 59:
            raise Refused("wrong_type", spec, text)
    try:  # 400 years later the calendar is the same, and year 0 exists there
        days = date(year or 400, month, day).toordinal() - date(1970, 1, 1).toordinal() - (146_097 if not year else 0)
    except ValueError:
        raise Refused("wrong_type", spec, text) from None
    if hour > 23 or minute > 59 or second > 59:
        raise Refused("wrong_type", spec, text)
    seconds = days * DAY_SECONDS + hour * 3600 + minute * 60 + second - ahead
    return seconds * 10**9 + int((match[7] or "0")[:9].ljust(9, "0"))


# ---- compound


def _array(spec: TypeSpec, value: Any, rules: Rules) -> list[Any]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise Refused("wrong_type", spec, value)
    return [convert(spec.children[0], item, rules) for item in value]


def _map(spec: TypeSpec, value: Any, rules: Rules) -> list[tuple[Any, Any]]:
    if not isinstance(value, dict):
        raise Refused("wrong_type", spec, value)
    key_spec, item_spec = spec.children
    return [(convert(key_spec, key, rules), convert(item_spec, item, rules)) for key, item in value.items()]


def _tuple(spec: TypeSpec, value: Any, rules: Rules) -> tuple[Any, ...]:
    if isinstance(value, list | tuple):
        items = list(value)
    elif spec.names and isinstance(value, dict):
        items = [value.get(name, UNSET) for name in spec.names]
    elif spec.names and isinstance(value, Struct):
        items = [getattr(value, name, UNSET) for name in spec.names]
    else:
        raise Refused("wrong_type", spec, value)
    if len(items) != len(spec.children):
        raise Refused("wrong_type", spec, value)
    return tuple(convert(child, item, rules) for child, item in zip(spec.children, items, strict=True))


_CONVERT: dict[str, Callable[[TypeSpec, Any, Rules], Any]] = {
    **dict.fromkeys(("int", "uint64", "bigint"), _int),
    **dict.fromkeys(("float32", "float64", "bfloat16"), _float),
    **dict.fromkeys(("string", "fixed_string", "json"), _text),
    **dict.fromkeys(("date", "date32", "datetime", "datetime64"), _temporal),
    "bool": _bool,
    "decimal": _decimal,
    "enum": _enum,
    "uuid": _uuid,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "array": _array,
    "map": _map,
    "tuple": _tuple,
}
