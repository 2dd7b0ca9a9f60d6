"""Reads a value the way ClickHouse's JSONEachRow format does, where a typed msgspec decoder alone would refuse it.

An inferred contract decodes with plain types, which is fast and covers what a column usually gets. What ClickHouse
accepts beside that (an object into a String column, a number in quotes, `true` into an integer, `""` as zero, seconds
with a fraction, ...) is read here, one value at a time. A field is read the same whichever way its record came: every
value is first offered to the decoder of its own type. Where ClickHouse would change the data silently (wrap an integer,
clamp a date) the record is refused instead.
"""

from __future__ import annotations

import datetime
import decimal
import math
import re
import uuid
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import msgspec

from pipeline.contract.chtypes import ChType
from pipeline.types import RejectCode

_INTEGER = re.compile(rb"[+-]?[0-9]{1,80}")
_NUMBER = re.compile(rb"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_NAIVE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(\.\d+)?)?)?")
_NOT_FINITE = re.compile(rb"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_SECONDS_MAX = 10**12
"""Beyond every date-time; keeps the arithmetic small."""
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
QUOTE, NULL_START, BRACE = b'"'[0], b"n"[0], b"{"[0]
NULL = msgspec.Raw(b"null")


class Refused(Exception):
    """A value that this column does not take. The text names the rule, never the value."""

    def __init__(self, code: RejectCode, rule: str) -> None:
        super().__init__(rule)
        self.code = code
        self.rule = rule
        self.path = ""


def wrong(what: str, chtype: ChType) -> Refused:
    return Refused(RejectCode.WRONG_TYPE, f"{what} does not go into {chtype}")


@dataclass
class Reader:
    """Reads one value for a column, an array element or a map value."""

    chtype: ChType
    usual: msgspec.json.Decoder[Any]
    """Decodes what the fast way accepts."""
    odd: Callable[[bytes], Any]
    """Reads what it refuses."""
    null: Any
    """What null is read as; NULL itself where it is refused."""
    odd_starts: bytes = b""
    """First bytes of values that are never usual, so that asking costs nothing."""

    def read(self, raw: bytes) -> Any:
        """The value for the column. Raises Refused, or what msgspec raises for text that is not UTF-8."""
        if raw[0] in self.odd_starts:
            return self.odd(raw)
        try:
            return self.read_usual(raw)
        except msgspec.ValidationError:
            return self.odd(raw)

    def read_usual(self, raw: bytes) -> Any:
        """As `read`, but raises ValidationError for what is not usual."""
        if raw[0] == NULL_START:
            if self.null is NULL:
                raise Refused(RejectCode.NULL, f"null does not go into {self.chtype}")
            return self.null
        return self.usual.decode(raw)


def reader_of(chtype: ChType, annotation: Any, null: Any, timezone: str) -> Reader:
    """A reader for values of a ClickHouse type whose fast way is `annotation`."""
    usual: msgspec.json.Decoder[Any] = msgspec.json.Decoder(annotation)
    odd_starts = b'"tf' if chtype.kind in ("int", "float") else b""
    return Reader(chtype, usual, _odd(chtype.core, timezone), null, odd_starts)


def computed_reader(chtype: ChType, expression: str) -> Reader:
    """A reader for a column that ClickHouse computes: nothing but null may be sent for it."""

    def refuse(_raw: bytes) -> Any:
        rule = f"the column is computed by its DEFAULT {expression}: no value can be sent for it"
        raise Refused(RejectCode.BREAKS_CONTRACT, rule)

    usual: msgspec.json.Decoder[Any] = msgspec.json.Decoder(None)
    return Reader(chtype, usual, refuse, None)


def _odd(core: ChType, timezone: str) -> Callable[[bytes], Any]:
    refuse = _refuser(core)
    readers: dict[str, Callable[[bytes], Any]] = {
        "int": lambda raw: _integer(raw, refuse),
        "float": lambda raw: _float(raw, refuse),
        "bool": lambda raw: raw == b"1" if raw in (b"0", b"1") else refuse(raw),
        "string": _text,
        "decimal": lambda raw: Decimal(0) if raw == b'""' else refuse(raw),
        "date": lambda raw: _days(raw, core, refuse),
        "datetime": lambda raw: _moment(raw, core, core.timezone or timezone, refuse),
        "array": _array(core, timezone, refuse) if core.kind == "array" else refuse,
        "map": _map(core, timezone, refuse) if core.kind == "map" else refuse,
    }
    return readers.get(core.kind, refuse)


def _refuser(core: ChType) -> Callable[[bytes], Any]:
    kinds = {b"{"[0]: "an object", b"["[0]: "an array", QUOTE: "this text", b"t"[0]: "a bool", b"f"[0]: "a bool"}

    def refuse(raw: bytes) -> Any:
        raise wrong(kinds.get(raw[0], "this number"), core)

    return refuse


_BOOLS = {b"true": 1, b"false": 0, b'"true"': 1, b'"false"': 0}


def _integer(raw: bytes, refuse: Callable[[bytes], Any]) -> Any:
    if raw in _BOOLS:
        return _BOOLS[raw]
    if raw == b'""':
        return 0
    inside = raw[1:-1]
    return int(inside) if raw[0] == QUOTE and _INTEGER.fullmatch(inside) else refuse(raw)


def _float(raw: bytes, refuse: Callable[[bytes], Any]) -> Any:
    if raw in _BOOLS:
        return float(_BOOLS[raw])
    number = raw[1:-1] if raw[0] == QUOTE else raw
    if not _NUMBER.fullmatch(number):
        return float(number) if raw[0] == QUOTE and _NOT_FINITE.fullmatch(number) else refuse(raw)
    if math.isinf(float(number)):
        raise Refused(RejectCode.OUT_OF_RANGE, "the number is out of the range of a Float64")
    return float(number)


def _text(raw: bytes) -> Any:
    return msgspec.Raw(raw)


def _days(raw: bytes, core: ChType, refuse: Callable[[bytes], Any]) -> Any:
    if not _INTEGER.fullmatch(raw):
        return refuse(raw)
    low, high = (0, 65_535) if core.exact == "date" else (-719_162, 2_932_896)
    if not low <= int(raw) <= high:
        raise Refused(RejectCode.OUT_OF_RANGE, f"the number of days is out of the range of {core}")
    return _EPOCH.date() + datetime.timedelta(days=int(raw))


def _moment(raw: bytes, core: ChType, timezone: str, refuse: Callable[[bytes], Any]) -> Any:
    if raw[0] == QUOTE:
        match = _NAIVE.fullmatch(msgspec.json.decode(raw, type=str))
        return _local(match, timezone, core) if match else refuse(raw)
    if not _NUMBER.fullmatch(raw):
        return refuse(raw)
    number = Decimal(raw.decode())
    if not -_SECONDS_MAX < number < _SECONDS_MAX:
        raise Refused(RejectCode.OUT_OF_RANGE, f"the time is out of the range of {core}")
    with decimal.localcontext(rounding=decimal.ROUND_DOWN):
        # ClickHouse cuts a number's fraction off towards zero, to the digits of the column.
        units = int(number.scaleb(core.scale))
    whole, part = divmod(units, 10**core.scale)
    return _iso(whole, str(part).rjust(core.scale, "0") if core.scale else "", core)


def _iso(seconds: int, fraction: str, core: ChType) -> str:
    try:
        moment = _EPOCH + datetime.timedelta(seconds=seconds)
    except OverflowError:
        raise Refused(RejectCode.OUT_OF_RANGE, f"the time is out of the range of {core}") from None
    # strftime would not pad the year to four digits.
    text = moment.replace(tzinfo=None).isoformat()
    return f"{text}.{fraction}Z" if fraction else f"{text}Z"


def _local(match: re.Match[str], timezone: str, core: ChType) -> Any:
    """Text without a zone is local time of the column's zone. Times that a change of the clock skips or repeats are refused."""
    numbers = [int(number or 0) for number in match.groups()[:6]]
    try:
        zone = zoneinfo.ZoneInfo(timezone)
        early = datetime.datetime(*numbers, tzinfo=zone)  # type: ignore[misc,arg-type]
    except zoneinfo.ZoneInfoNotFoundError:
        raise Refused(RejectCode.WRONG_TYPE, f"a time without a zone, and zone {timezone} is not known here") from None
    except ValueError:
        raise Refused(RejectCode.OUT_OF_RANGE, "no such date or time") from None
    if early.utcoffset() != early.replace(fold=1).utcoffset():
        raise Refused(RejectCode.WRONG_TYPE, f"the time is skipped or repeated in {timezone}: send its zone") from None
    seconds = (early - _EPOCH) // datetime.timedelta(seconds=1)
    return _iso(seconds, (match[7] or ".")[1:][: core.scale], core)


def _array(core: ChType, timezone: str, refuse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    element = element_reader(core.inner(0), timezone)

    def read(raw: bytes) -> Any:
        if raw[0] != b"["[0]:
            return refuse(raw)
        return [_inner(element, one) for one in msgspec.json.decode(raw, type=list[msgspec.Raw])]

    return read


def _map(core: ChType, timezone: str, refuse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    value = element_reader(core.inner(1), timezone)
    keyed: Any = dict[key_annotation(core.inner(0)), msgspec.Raw]  # type: ignore[misc]
    decoder: msgspec.json.Decoder[dict[Any, msgspec.Raw]] = msgspec.json.Decoder(keyed)

    def read(raw: bytes) -> Any:
        if raw[0] != BRACE:
            return refuse(raw)
        try:
            return {key: _inner(value, one) for key, one in decoder.decode(raw).items()}
        except msgspec.ValidationError:
            raise wrong("a key of this map", core.inner(0)) from None

    return read


def _inner(reader: Reader, raw: msgspec.Raw) -> Any:
    value = reader.read(bytes(raw))
    # Inside arrays and maps text is handed on as text, not as a reference to the record.
    return str(bytes(value), "utf-8") if isinstance(value, msgspec.Raw) and reader.chtype.kind == "string" else value


def element_reader(chtype: ChType, timezone: str) -> Reader:
    null = None if chtype.nullable else zero(chtype)
    return reader_of(chtype, _inside(chtype, timezone), null, timezone)


def zero(chtype: ChType) -> Any:
    """What null is read as inside an array or map of a type that is not Nullable."""
    core = chtype.core
    zeros: Mapping[str, Any] = {
        "int": 0,
        "float": 0.0,
        "bool": False,
        "string": "",
        "fixed": "",
        "decimal": Decimal(0),
        "uuid": str(uuid.UUID(int=0)),
        "date": _EPOCH.date(),
        "datetime": _EPOCH,
        "ip": "0.0.0.0" if core.exact == "ipv4" else "::",
        "array": [],
        "map": {},
        "json": {},
    }
    return zeros.get(core.kind, NULL)


def key_annotation(chtype: ChType) -> Any:
    """Python type of a map's keys."""
    return int if chtype.kind == "int" else str


def annotation_of(chtype: ChType, timezone: str) -> Any:
    """The Python type that a value of this column usually is in JSON: what is read fast. Without null unless Nullable."""
    core = chtype.core
    plain: Any
    if core.kind == "array":
        plain = list[_inside(core.inner(0), timezone)]  # type: ignore[misc]
    elif core.kind == "map":
        plain = dict[key_annotation(core.inner(0)), _inside(core.inner(1), timezone)]  # type: ignore[misc]
    elif core.kind == "datetime":
        plain = _datetime_annotation(core, timezone)
    else:
        plain = _PLAIN[core.kind]
    return plain | None if chtype.nullable and core.kind != "json" else plain


def _inside(chtype: ChType, timezone: str) -> Any:
    if chtype.kind == "json":
        return dict[str, Any] | None if chtype.nullable else dict[str, Any]
    return annotation_of(chtype, timezone)


_PLAIN: Mapping[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "string": str,
    "fixed": str,
    "uuid": str,
    "date": str,
    "enum": str | int,
    "decimal": Decimal,
    "ip": str,
    "json": msgspec.Raw,
}


_ZONED: Any = Annotated[str, msgspec.Meta(pattern=r"[T ][0-9:.]+(Z|[+-][0-9]{2}(:?[0-9]{2})?)$")]


def _datetime_annotation(core: ChType, timezone: str) -> Any:
    if is_utc(core.timezone or timezone):
        return str | int
    # Text without a zone is local time there, which only the careful way converts.
    return _ZONED | int


def is_utc(timezone: str) -> bool:
    return timezone in {"UTC", "Etc/UTC", "GMT", "Etc/GMT", "Zulu", "Etc/Zulu", "UCT", "Etc/UCT", "Universal"}
