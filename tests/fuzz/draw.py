"""Contracts drawn at random, with what makes records for them."""

from __future__ import annotations

import datetime
import enum
import sys
import types
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec

from pipeline import contract as contracts
from pipeline.config.schema import Dedup, Route
from pipeline.contract import Contract, TableColumn, ch, epoch, ignored, null_as_default
from pipeline.contract import column as column_name
from pipeline.errors import ConfigurationError
from tests.fuzz import values
from tests.fuzz.values import Dice, Make

MODULE = "contract_drawn_for_fuzzing"
LETTERS = ("a", "bb", "ccc", "it's", "ü")
ENUM = "Enum8('a' = 1, 'bb' = 2, 'ccc' = -3, 'it''s' = 0, 'ü' = 100)"


class Word(enum.Enum):
    A = "a"
    B = "bb"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 300


class Inner(msgspec.Struct):
    name: str
    count: int
    share: float = 0.5
    note: str | None = None
    tags: list[str] = []


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    first_name: str
    is_new: bool = False
    inner: Inner | None = None


@dataclass(frozen=True)
class Kind:
    """A type with a column of it and what a record may hold there."""

    annotation: Any
    chtype: str
    make: Make
    markers: tuple[Any, ...] = ()
    keyable: bool = True


def _whole(chtype: str, low: int, high: int, *markers: Any) -> Kind:
    return Kind(int, chtype, values.integer(low, high), markers)


def _inner(rng: Dice) -> str:
    """A record's value for Inner."""
    fields = [("name", values.text), ("count", values.integer(-(2**63), 2**64 - 1)), ("share", values.floating)]
    return _object(rng, [*fields, ("note", values.text), ("tags", values.array_of(values.text))])


def _strict(rng: Dice) -> str:
    """A record's value for Strict."""
    return _object(rng, [("firstName", values.text), ("isNew", values.boolean), ("inner", _inner)])


def _object(rng: Dice, fields: Sequence[tuple[str, Make]]) -> str:
    chosen = [one for one in fields if not rng.oddly(0.07)]
    if rng.oddly(0.05):
        rng.shuffle(chosen)
    return "{" + ",".join(f'"{name}":{make(rng)}' for name, make in chosen) + "}"


MOMENT = values.marked(values.moment, values.AS_STAMP, 0.7)
UUID = values.marked(values.uuid_text, values.AS_BYTES, 0.5)
WORDS = values.one_of(("a", "bb"))
BYTES = values.marked(values.one_of(("aGVsbG8=", "", "AA==")), values.AS_BYTES, 0.97)
SCALARS = (
    _whole("Int8", -128, 127), _whole("UInt8", 0, 255), _whole("Int16", -32768, 32767), _whole("UInt32", 0, 2**32 - 1),
    _whole("Int64", -(2**63), 2**63 - 1), _whole("UInt64", 0, 2**64 - 1), _whole("Int128", -(2**127), 2**127 - 1),
    _whole("UInt128", 0, 2**128 - 1), _whole("Int256", -(2**64), 2**64), _whole("Float64", -(2**53), 2**53),
    _whole("Float32", -(2**53), 2**53), _whole("Decimal(18, 2)", -(10**16), 10**16), _whole("Decimal(9, 0)", -(10**9), 10**9),
    _whole("DateTime64(3)", 0, 10**13, epoch("ms")), _whole("DateTime64(6)", -(10**9), 10**10, epoch("s")),
    _whole("DateTime64(9)", 0, 2**63 - 1, epoch("ns")), _whole("DateTime", 0, 2**32 - 1),
    _whole("DateTime", 0, (2**32 - 1) * 10**6, epoch("us")),
    _whole("Date", 0, 65_536 * 86_400 - 1), _whole("Date32", -2_208_988_800, 10_413_791_999),
    Kind(int, ENUM, values.one_number((1, -3, 0, 100))),
    Kind(float, "Float64", values.floating), Kind(float, "Float32", values.floating), Kind(float, "BFloat16", values.floating),
    Kind(float, "DateTime64(3)", values.floating),
    Kind(bool, "Bool", values.boolean),
    Kind(str, "String", values.text), Kind(str, "String", values.text), Kind(str, "LowCardinality(String)", values.text),
    Kind(str, "FixedString(8)", values.few_bytes), Kind(str, "UUID", values.uuid_text), Kind(str, ENUM, values.one_of(LETTERS)),
    Kind(str, "DateTime64(6)", values.moment), Kind(str, "DateTime", values.moment), Kind(str, "Date", values.day),
    Kind(str, "Date32", values.day), Kind(str, "Decimal(38, 10)", values.decimal(6, 1.0)),
    Kind(str, "Decimal(60, 5)", values.decimal(2, 1.0)), Kind(str, "IPv4", values.address4), Kind(str, "IPv6", values.address),
    Kind(datetime.datetime, "DateTime64(6)", MOMENT), Kind(datetime.datetime, "DateTime", MOMENT),
    Kind(datetime.datetime, "DateTime64(9)", MOMENT), Kind(datetime.date, "Date32", values.day),
    Kind(datetime.date, "Date", values.day), Kind(uuid.UUID, "UUID", UUID),
    Kind(Decimal, "Decimal(18, 4)", values.decimal(3, 0.8)), Kind(Decimal, "Decimal(9, 0)", values.decimal(0, 0.5)),
    Kind(Decimal, "Decimal(38, 10)", values.decimal(9, 0.8)), Kind(bytes, "String", BYTES),
    Kind(bytes, "FixedString(8)", BYTES), Kind(Any, "DateTime64(3)", MOMENT), Kind(Any, "Date", MOMENT),
    Kind(Any, "UUID", values.uuid_text), Kind(Any, "Float64", values.floating),
    Kind(Any, "Int64", values.integer(-(2**63), 2**63 - 1)),
    Kind(Any, "Decimal(18, 2)", values.integer(-(10**16), 10**16)), Kind(Any, ENUM, values.one_of(LETTERS)),
    Kind(Any, "Bool", values.boolean),
    Kind(Literal["a", "bb", "ccc"], "String", values.one_of(LETTERS[:3])), Kind(Literal["a", "bb"], ENUM, WORDS),
    Kind(Literal[1, 2], "UInt8", values.one_number((1, 2))), Kind(Word, "LowCardinality(String)", WORDS),
    Kind(Level, "UInt16", values.one_number((1, 300))),
    Kind(Annotated[int, msgspec.Meta(ge=0, lt=100)], "Int32", values.integer(0, 99)),
    Kind(Annotated[int, msgspec.Meta(gt=5, le=2**40)], "Int64", values.integer(6, 2**40)),
    Kind(Annotated[str, msgspec.Meta(max_length=5)], "String", values.text),
    Kind(int | float, "Float64", values.number), Kind(str | int, "DateTime", values.moment),
)  # fmt: skip
JSON_TEXT = (
    Kind(Any, "String", values.anything, keyable=False), Kind(msgspec.Raw, "String", values.anything, keyable=False),
    Kind(msgspec.Raw, "JSON", values.anything, keyable=False),
    Kind(dict[str, Any], "String", values.object_of(values.anything), keyable=False),
    Kind(dict[str, int], "String", values.object_of(values.number), keyable=False),
    Kind(list[Any], "String", values.array_of(values.anything), keyable=False),
    Kind(Inner, "String", _inner, keyable=False), Kind(list[Inner], "String", values.array_of(_inner), keyable=False),
    Kind(dict[str, Inner], "JSON", values.object_of(_inner), keyable=False), Kind(Strict, "String", _strict, keyable=False),
    Kind(list[float], "String", values.array_of(values.floating), keyable=False),
    Kind(list[int | float], "String", values.array_of(values.number), keyable=False),
    Kind(list[datetime.datetime], "String", values.array_of(values.moment), keyable=False),
)  # fmt: skip
COLUMNS = (
    "Int8", "UInt64", "Int64", "Float64", "Float32", "Bool", "String", "LowCardinality(String)", "FixedString(4)", "UUID", ENUM,
    "DateTime", "DateTime64(3)", "DateTime('Europe/Berlin')", "Date", "Date32", "Decimal(18, 3)", "IPv4", "IPv6", "JSON",
    "Nullable(String)", "Nullable(Int32)", "Nullable(DateTime64(6))", "Nullable(Decimal(9, 2))", "Array(String)",
    "Array(Nullable(Float64))", "Map(String, String)", "Map(String, Array(UInt8))", "Array(Array(Int64))",
)  # fmt: skip


@dataclass
class Drawn:
    """A contract, its dedup key, and a maker for each field of each type."""

    contract: Contract
    key: tuple[str, ...]
    types: list[tuple[tuple[tuple[str, str], ...], list[tuple[str, Make]]]] = field(default_factory=list)
    """For each type: the tag as (name, JSON text), if any, and the fields' names and makers."""

    @property
    def packed(self) -> bool:
        """Whether records are MessagePack."""
        return self.contract.format == "msgpack"


def draw(rng: Dice, kinds: Sequence[Kind], compound: Sequence[Kind], *, packed: bool) -> Drawn:
    """A contract that loads, of these kinds of fields."""
    while True:
        try:
            return _inferred(rng, packed) if rng.random() < 0.2 else _written(rng, kinds, compound, packed)
        except ConfigurationError:
            continue


def _written(rng: Dice, kinds: Sequence[Kind], compound: Sequence[Kind], packed: bool) -> Drawn:
    union = rng.random() < 0.25
    key_kind = rng.choice([kind for kind in kinds if kind.keyable])
    tags = ["A", "Beta.v1", "ccc"][: rng.randrange(2, 4)] if union else [""]
    tag_field = rng.choice(("type", "kind"))
    options = {"forbid_unknown_fields": rng.random() < 0.2, "rename": rng.choice((None, None, None, "camel"))}
    structs, makers = [], []
    for tag in tags:
        fields, made = _fields(rng, key_kind, kinds, compound)
        tagged = {"tag_field": tag_field, "tag": tag} if union or rng.random() < 0.1 else {}
        if tagged and not union:
            tagged["tag"] = "Only"
        structs.append(msgspec.defstruct(f"Row{tag[:1]}", fields, kw_only=True, module=MODULE, **options, **tagged))
        names = [one.encode_name for one in msgspec.structs.fields(structs[-1])]
        pairs = ((tag_field, f'"{tagged["tag"]}"'),) if tagged else ()
        makers.append((pairs, list(zip(names, made, strict=True))))
    root = structs[0]
    for other in structs[1:]:
        root = root | other
    # The key is a field by its name in the record; `event` is the same in every style.
    key = rng.choice([(), ("event",), ("event",), ("event",), ("event", "other"), ("@key",)])
    tables = {tag: f"t{index}" for index, tag in enumerate(tags)} if union else {}
    return Drawn(load(root, key, tables, packed=packed), key, makers)


def load(root: Any, key: Sequence[str] = (), tables: dict[str, str] | None = None, *, packed: bool = False) -> Contract:
    """The contract of a Struct or a union made here."""
    module = types.ModuleType(MODULE)
    module.Event = root  # type: ignore[attr-defined]
    sys.modules[MODULE] = module
    route = Route(
        topic="fuzz",
        table="" if tables else "t",
        tables=tables or {},
        contract=f"{MODULE}:Event",
        format="msgpack" if packed else "json",
    )
    return contracts.load(route, Dedup(key=list(key)), {})


def of_one(kind: Kind, *markers: Any, optional: bool = False, chtype: str = "", packed: bool = False) -> Contract:
    """A contract with one field of a kind."""
    annotation = kind.annotation | None if optional else kind.annotation
    marked = Annotated[(annotation, *kind.markers, ch(chtype or kind.chtype), *markers)]
    fields = [("value", marked), ("after", Annotated[int, ignored], 0)]
    return load(msgspec.defstruct("One", fields, module=MODULE), packed=packed)


def _fields(rng: Dice, key_kind: Kind, kinds: Sequence[Kind], compound: Sequence[Kind]) -> tuple[list[Any], list[Make]]:
    fields: list[Any] = [
        _spec(rng, "event", key_kind, kinds, plain=rng.random() < 0.8),
        _spec(rng, "other", rng.choice(kinds), kinds),
    ]
    for index in range(rng.choice((0, 1, 2, 4, 6, 9, 70)) if rng.random() < 0.97 else 130):
        kind = rng.choice(compound) if rng.random() < 0.2 else rng.choice(kinds)
        name = rng.choice(("field", "some_longer_name_of_a_field", "f", "naïve")) + f"_{index}"
        fields.append(_spec(rng, name, kind, kinds))
    return [spec for spec, _ in fields], [make for _, make in fields]


def _spec(rng: Dice, name: str, kind: Kind, kinds: Sequence[Kind], *, plain: bool = False) -> tuple[Any, Make]:
    """A field for defstruct, and its maker."""
    annotation, chtype, make, markers = kind.annotation, kind.chtype, kind.make, list(kind.markers)
    roll = rng.random()
    if not plain and kind.keyable and roll < 0.12:
        inner = rng.choice(kinds) if rng.random() < 0.3 else kind
        annotation, chtype, make = (
            dict[str, inner.annotation],
            f"Map(String, {inner.chtype})",
            values.object_of(inner.make),
        )  # type: ignore[name-defined]
        markers = list(inner.markers)
    elif not plain and kind.keyable and roll < 0.24:
        annotation, chtype, make = list[annotation], f"Array({chtype})", values.array_of(make)  # type: ignore[valid-type]
    default: tuple[Any, ...] = ()
    if not plain and annotation is not msgspec.Raw and rng.random() < 0.3:
        inner_make = make
        annotation = annotation | None if not isinstance(annotation, str) else annotation
        make = lambda one: "null" if one.random() < 0.2 else inner_make(one)  # noqa: E731
        if rng.random() < 0.6 and not chtype.startswith(("Array", "Map", "LowCardinality", "JSON")):
            chtype = f"Nullable({chtype})"
        elif not chtype.startswith(("Array", "Map")):
            markers.append(null_as_default)
        default = (None,) if rng.random() < 0.6 else ()
    elif not plain and rng.random() < 0.1:
        annotation, default = annotation | msgspec.UnsetType, (msgspec.UNSET,)
    markers.append(ignored if not plain and rng.random() < 0.07 else ch(chtype))
    if rng.random() < 0.1 and not plain:
        markers.append(column_name(f"column_{name}"))
    return (name, Annotated[(annotation, *markers)], *default), make


def _inferred(rng: Dice, packed: bool) -> Drawn:
    columns = [TableColumn("event", rng.choice(("String", "UUID", "UInt64", "LowCardinality(String)")))]
    for index in range(rng.randrange(1, 8)):
        chtype = rng.choice(COLUMNS)
        default = rng.choice(("", "", "", "DEFAULT")) if chtype in ("Int8", "String", "Float64") else ""
        columns.append(
            TableColumn(
                f"c{index}", chtype, default, {"Int8": "5", "String": "'x'"}.get(chtype, "now()") if default else ""
            )
        )
    route = Route(topic="fuzz", table="t", format="msgpack" if packed else "json")
    key = rng.choice([(), ("event",)])
    loaded = contracts.load(route, Dedup(key=list(key)), {"t": columns}, timezone=rng.choice(("UTC", "Europe/Berlin")))
    return Drawn(loaded, key, [((), [(one.name, _usual(one)) for one in columns])])


def _usual(column: TableColumn) -> Make:
    """What a record usually holds for a column: nothing where ClickHouse computes it."""
    if column.default_expression == "now()":
        return lambda rng: values.floating(rng) if rng.oddly(0.3) else "null"
    core = column.type.removeprefix("Nullable(")
    by_prefix: dict[str, Make] = {
        "Array(String": values.array_of(values.text), "Array(Array": values.array_of(values.array_of(values.number)),
        "Array(": values.array_of(values.floating), "Map(String, String": values.object_of(values.text),
        "Map(": values.object_of(values.array_of(values.integer(0, 255))),
        "Int8": values.integer(-128, 127), "Int": values.integer(-(2**31), 2**31 - 1), "UInt": values.integer(0, 2**64 - 1),
        "Float": values.floating, "Bool": values.boolean, "UUID": values.uuid_text,
        "Enum": values.one_of(LETTERS), "DateTime": MOMENT, "Date": values.day, "Decimal": values.decimal(2, 0.5),
        "IPv4": values.address4, "IPv6": values.address, "Fixed": values.few_bytes, "JSON": values.object_of(values.anything),
    }  # fmt: skip
    return next((make for prefix, make in by_prefix.items() if core.startswith(prefix)), values.text)
