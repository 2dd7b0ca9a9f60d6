"""The event of the simulation, in versions that differ in what they refuse."""

from __future__ import annotations

from functools import cache
from typing import Annotated

import msgspec

from pipeline import contract as contracts
from pipeline.config.schema import Dedup, Route
from pipeline.contract import Contract, TableColumn
from pipeline.contract.model import LINEAGE
from pipeline.intent import Identity, digest

TOPIC = "t"
TABLE = "events"
IDENTITY = Identity("sim", "cluster", {TOPIC: "id"})
REFUSED = range(900, 1_000)
"""What a constraint of the table refuses of `n`."""


class First(msgspec.Struct):
    id: int
    serial: int
    n: Annotated[int, msgspec.Meta(le=100_000)]
    shard: int


class Stricter(msgspec.Struct):
    id: int
    serial: int
    n: Annotated[int, msgspec.Meta(le=50)]
    shard: int


class Laxer(msgspec.Struct):
    id: int
    serial: int
    n: int
    shard: int


VERSIONS = ("First", "Stricter", "Laxer")
COLUMNS = {"id": "UInt64", "serial": "UInt64", "n": "Int32", "shard": "UInt8"}


def columns(lineage: bool) -> dict[str, str]:
    """The table's columns, name to type."""
    return COLUMNS | ({name: kind for name, (_, kind) in LINEAGE.items()} if lineage else {})


@cache
def load(version: int, lineage: bool, dedup_key: tuple[str, ...]) -> Contract:
    route = Route(topic=TOPIC, table=TABLE, contract=f"{__name__}:{VERSIONS[version]}")
    table = [TableColumn(name, kind) for name, kind in columns(lineage).items()]
    return contracts.load(route, Dedup(key=list(dedup_key)), {TABLE: table})


@cache
def digest_of(version: int, lineage: bool, dedup_key: tuple[str, ...]) -> bytes:
    return digest(load(version, lineage, dedup_key).digest)
