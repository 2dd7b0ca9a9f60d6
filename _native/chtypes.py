"""ClickHouse type names parsed into specifications. Owns the type grammar; never sees a value.

A specification says how a column's values are laid out in a Native block and which values fit. Its `wire` is the type
the block's header names: what ClickHouse converts by itself at no loss is sent in the plainer form, `LowCardinality(T)`
as `T` and `JSON` as `String`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

DAY_SECONDS = 86_400
DATE32_FIRST, DATE32_LAST = -25_567, 120_529
"""1900-01-01 and 2299-12-31 as days since the epoch, the range of Date32 and, to the second, of DateTime64."""
INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TypeSpec:
    """One type. Leaves of fixed width have a `zero` of that width; compound types have `children`."""

    kind: str
    """The layout and conversion rule, one of the names in `_native.node`."""
    text: str
    """As declared."""
    wire: str
    """As the block's header names it."""
    width: int = 0
    """Bytes a value, for leaves of fixed width."""
    low: int = 0
    high: int = 0
    """The smallest and the largest stored number, both allowed."""
    scale: int = 0
    """Digits after the point, for Decimal and DateTime64."""
    precision: int = 0
    """Digits in all, for Decimal."""
    names: tuple[str, ...] = ()
    """The element names of a named Tuple."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """The members of an Enum."""
    children: tuple[TypeSpec, ...] = ()
    zero: bytes = b""
    """The value a missing field is given, in wire form."""

    @property
    def rule(self) -> str:
        """What a value must be, for error messages."""
        if self.kind in ("int", "uint64", "bigint"):
            return f"{self.text} [{self.low}, {self.high}]"
        if self.kind == "decimal":
            return f"{self.text} (at most {self.precision - self.scale} digits before and {self.scale} after the point)"
        if self.kind == "fixed_string":
            return f"{self.text} (at most {self.width} bytes)"
        return self.text if len(self.text) <= 60 else f"{self.text[:57]}..."


def parse(text: str) -> TypeSpec:
    """The specification of a ClickHouse type. ValueError names a type that cannot be built or does not parse."""
    name, arguments = _split(text.strip())
    if name in _PLAIN and arguments is None:
        return _plain(name, text.strip())
    builder = _PARAMETRIC.get(name)
    if builder is None:
        raise ValueError(f"type {text!r} cannot be built: no rule for {name or 'an empty type'}")
    return builder(text.strip(), arguments or [])


def leaf(spec: TypeSpec) -> TypeSpec:
    """The type inside Nullable."""
    return spec.children[0] if spec.kind == "nullable" else spec


def _integer(bits: int, signed: bool) -> tuple[str, int, int, int]:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    kind = "bigint" if bits > 64 else "uint64" if bits == 64 and not signed else "int"
    return kind, bits // 8, low, high


_PLAIN: dict[str, tuple[str, int, int, int]] = {
    **{f"Int{bits}": _integer(bits, True) for bits in (8, 16, 32, 64, 128, 256)},
    **{f"UInt{bits}": _integer(bits, False) for bits in (8, 16, 32, 64, 128, 256)},
    "Float32": ("float32", 4, 0, 0),
    "Float64": ("float64", 8, 0, 0),
    "BFloat16": ("bfloat16", 2, 0, 0),
    "Bool": ("bool", 1, 0, 1),
    "String": ("string", 0, 0, 0),
    "UUID": ("uuid", 16, 0, 0),
    "Date": ("date", 2, 0, 65_535),
    "Date32": ("date32", 4, DATE32_FIRST, DATE32_LAST),
    "DateTime": ("datetime", 4, 0, 2**32 - 1),
    "IPv4": ("ipv4", 4, 0, 0),
    "IPv6": ("ipv6", 16, 0, 0),
    "JSON": ("json", 0, 0, 0),
}


def _plain(name: str, text: str) -> TypeSpec:
    kind, width, low, high = _PLAIN[name]
    zero = DATE32_FIRST.to_bytes(4, "little", signed=True) if kind == "date32" else bytes(width)
    if kind == "json":
        return TypeSpec("json", text, "String", zero=b"\x02{}")
    return TypeSpec(kind, text, text, width, low, high, zero=zero or b"\0")


def _json(text: str, _arguments: list[str]) -> TypeSpec:
    return TypeSpec("json", text, "String", zero=b"\x02{}")


def _fixed_string(text: str, arguments: list[str]) -> TypeSpec:
    (length,) = _numbers(text, arguments, 1)
    if not 1 <= length <= 0xFFFF:
        raise ValueError(f"type {text!r} cannot be built: the length must be in [1, 65535]")
    return TypeSpec("fixed_string", text, text, length, zero=bytes(length))


def _datetime(text: str, arguments: list[str]) -> TypeSpec:
    if len(arguments) > 1:
        raise ValueError(f"type {text!r} does not parse: it takes one time zone")
    return TypeSpec("datetime", text, text, 4, 0, 2**32 - 1, zero=bytes(4))


def _datetime64(text: str, arguments: list[str]) -> TypeSpec:
    (scale,) = _numbers(text, arguments[:1] or ["3"], 1)
    if not 0 <= scale <= 9 or len(arguments) > 2:
        raise ValueError(f"type {text!r} cannot be built: the precision must be in [0, 9]")
    unit = 10**scale
    low = DATE32_FIRST * DAY_SECONDS * unit
    high = min((DATE32_LAST + 1) * DAY_SECONDS * unit - 1, INT64_MAX)
    return TypeSpec("datetime64", text, text, 8, low, high, scale, zero=bytes(8))


def _decimal_of(text: str, precision: int, scale: int) -> TypeSpec:
    if not 1 <= precision <= 76 or not 0 <= scale <= precision:
        raise ValueError(f"type {text!r} cannot be built: precision must be in [1, 76] and scale in [0, precision]")
    width = 4 if precision <= 9 else 8 if precision <= 18 else 16 if precision <= 38 else 32
    bound = 10**precision - 1
    return TypeSpec("decimal", text, text, width, -bound, bound, scale, precision, zero=bytes(width))


def _decimal(text: str, arguments: list[str]) -> TypeSpec:
    precision, scale = _numbers(text, [*arguments, "0"] if len(arguments) == 1 else arguments or ["10", "0"], 2)
    return _decimal_of(text, precision, scale)


def _decimal_sized(text: str, arguments: list[str]) -> TypeSpec:
    (scale,) = _numbers(text, arguments, 1)
    bits = int(re.match(r"Decimal(\d+)", text)[1])  # type: ignore[index]
    return _decimal_of(text, {32: 9, 64: 18, 128: 38, 256: 76}[bits], scale)


_LABEL = re.compile(r"'((?:[^'\\]|\\.|'')*)'(?:\s*=\s*(-?\d+))?\Z", re.DOTALL)


def _enum(text: str, arguments: list[str]) -> TypeSpec:
    labels: dict[str, int] = {}
    following = 1
    for argument in arguments:
        match = _LABEL.match(argument)
        if match is None:
            raise ValueError(f"type {text!r} does not parse: {argument!r} is not a member")
        following = int(match[2]) if match[2] else following
        labels[_unquote(match[1])] = following
        following += 1
    if not labels:
        raise ValueError(f"type {text!r} has no members")
    numbers = labels.values()
    small = text.startswith("Enum8") or (text.startswith("Enum(") and min(numbers) >= -128 and max(numbers) <= 127)
    width = 1 if small else 2
    bound = 1 << (width * 8 - 1)
    if not (-bound <= min(numbers) and max(numbers) < bound):
        raise ValueError(f"type {text!r} cannot be built: a member's number does not fit {width} bytes")
    zero = min(numbers).to_bytes(width, "little", signed=True)
    return TypeSpec("enum", text, text, width, -bound, bound - 1, labels=labels, zero=zero)


def _inner(text: str, arguments: list[str], count: int) -> list[TypeSpec]:
    if len(arguments) != count:
        raise ValueError(f"type {text!r} does not parse: it needs {count} types, not {len(arguments)}")
    return [parse(argument) for argument in arguments]


def _nullable(text: str, arguments: list[str]) -> TypeSpec:
    (inner,) = _inner(text, arguments, 1)
    if inner.kind in ("nullable", "array", "map", "tuple"):
        raise ValueError(f"type {text!r} cannot be built: Nullable cannot hold {inner.text}")
    return TypeSpec("nullable", text, f"Nullable({inner.wire})", children=(inner,))


def _low_cardinality(text: str, arguments: list[str]) -> TypeSpec:
    return _inner(text, arguments, 1)[0]


def _simple_aggregate(text: str, arguments: list[str]) -> TypeSpec:
    return _inner(text, arguments[1:], 1)[0]


def _array(text: str, arguments: list[str]) -> TypeSpec:
    (inner,) = _inner(text, arguments, 1)
    return TypeSpec("array", text, f"Array({inner.wire})", children=(inner,))


def _map(text: str, arguments: list[str]) -> TypeSpec:
    key, value = _inner(text, arguments, 2)
    if key.kind in ("nullable", "array", "map", "tuple", "json", "float32", "float64", "bfloat16"):
        raise ValueError(f"type {text!r} cannot be built: {key.text} cannot be a key")
    return TypeSpec("map", text, f"Map({key.wire}, {value.wire})", children=(key, value))


_ELEMENT = re.compile(r"(`(?:[^`\\]|\\.)+`|[A-Za-z_]\w*)\s+(.+)\Z", re.DOTALL)


def _tuple(text: str, arguments: list[str]) -> TypeSpec:
    if not arguments:
        raise ValueError(f"type {text!r} cannot be built: an empty Tuple")
    named = [_ELEMENT.match(argument) for argument in arguments]
    types = [match[2] if match else argument for match, argument in zip(named, arguments, strict=True)]
    children = tuple(parse(child) for child in types)
    if not all(named):
        return TypeSpec("tuple", text, f"Tuple({', '.join(child.wire for child in children)})", children=children)
    quoted = [match[1] for match in named if match]
    elements = ", ".join(f"{name} {child.wire}" for name, child in zip(quoted, children, strict=True))
    names = tuple(_unquote(name[1:-1]) if name.startswith("`") else name for name in quoted)
    return TypeSpec("tuple", text, f"Tuple({elements})", names=names, children=children)


_PARAMETRIC = {
    "FixedString": _fixed_string,
    "DateTime": _datetime,
    "DateTime64": _datetime64,
    "Decimal": _decimal,
    **{f"Decimal{bits}": _decimal_sized for bits in (32, 64, 128, 256)},
    "Enum": _enum,
    "Enum8": _enum,
    "Enum16": _enum,
    "Nullable": _nullable,
    "LowCardinality": _low_cardinality,
    "SimpleAggregateFunction": _simple_aggregate,
    "Array": _array,
    "Map": _map,
    "Tuple": _tuple,
    "JSON": _json,
}


def _numbers(text: str, arguments: list[str], count: int) -> list[int]:
    if len(arguments) != count or not all(re.fullmatch(r"\d+", argument) for argument in arguments):
        raise ValueError(f"type {text!r} does not parse: it needs {count} numbers")
    return [int(argument) for argument in arguments]


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f", "a": "\a", "v": "\v"}


def _unquote(text: str) -> str:
    unescaped = re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text, flags=re.DOTALL)
    return unescaped.replace("''", "'")


def _split(text: str) -> tuple[str, list[str] | None]:
    """The name before the parenthesis and the top-level arguments inside it; None when there is no parenthesis."""
    opening = text.find("(")
    if opening < 0:
        return text, None
    if not text.endswith(")"):
        raise ValueError(f"type {text!r} does not parse: unbalanced parentheses")
    arguments: list[str] = []
    depth = start = 0
    quote = ""
    body = text[opening + 1 : -1]
    index = 0
    while index < len(body):
        char = body[index]
        if quote:
            index += char == "\\"
            quote = "" if char == quote else quote
        elif char in "'`":
            quote = char
        elif char == "," and depth == 0:
            arguments.append(body[start:index].strip())
            start = index + 1
        else:
            depth += (char == "(") - (char == ")")
        if depth < 0:
            break
        index += 1
    if depth or quote:
        raise ValueError(f"type {text!r} does not parse: unbalanced parentheses or quotes")
    last = body[start:].strip()
    return text[:opening].strip(), arguments + [last] * bool(last)
