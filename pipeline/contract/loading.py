"""Loads the contract of one route, from Python or inferred. Reports every problem at once; reads no table itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pipeline.config.schema import Dedup, Route
from pipeline.contract import infer
from pipeline.contract.check import Problems, bind, did_you_mean
from pipeline.contract.model import Contract, TableColumn, Target
from pipeline.contract.resolve import resolve, structs_of
from pipeline.errors import ConfigurationError

Tables = Mapping[str, Sequence[TableColumn]]


def load(route: Route, dedup: Dedup, tables: Tables, *, timezone: str = "UTC") -> Contract:
    """The contract of a route. Raises ConfigurationError with all problems.

    `tables` holds the columns of the route's tables as ClickHouse describes them; a table that is not in it is taken to
    be what `penstock ddl` makes of the contract, which needs a contract in Python. `timezone` is the server's: it
    decides what a time without a zone means to ClickHouse where the column names none, and matters to inferred contracts.
    """
    problems = Problems(f"routes[{route.topic}].contract")
    contract = (
        _python(route, dedup, tables, problems)
        if route.contract
        else _inferred(route, dedup, tables, timezone, problems)
    )
    if problems.found or contract is None:
        raise ConfigurationError(problems.found)
    return contract


def _inferred(route: Route, dedup: Dedup, tables: Tables, timezone: str, problems: Problems) -> Contract | None:
    if route.tables:
        problems.add(
            "",
            "several tables need a tagged union that says which record goes where",
            "Name a contract as `module:Union`",
        )
        return None
    columns = tables.get(route.table)
    if columns is None:
        problems.add(
            "",
            f"an inferred contract needs table {route.table!r}, which is not known",
            "Create the table, or name a contract",
        )
        return None
    return infer.contract(route, dedup.key, columns, timezone, problems)


def _python(route: Route, dedup: Dedup, tables: Tables, problems: Problems) -> Contract | None:
    root = resolve(route.contract, problems)
    if root is None:
        return None
    structs = structs_of(root)
    wanted = _tables_of(route, structs, problems)
    targets: dict[type, Target] = {}
    for struct in structs:
        table = wanted.get(struct)
        if table is not None:
            tag = str(struct.__struct_config__.tag) if len(structs) > 1 else ""
            targets[struct] = bind(struct, table, tables.get(table), dedup.key, tag, problems)
    return Contract(route.contract, route.version, root, route.format, targets)


def _tables_of(
    route: Route, structs: list[type[msgspec.Struct]], problems: Problems
) -> dict[type[msgspec.Struct], str]:
    """Which table each Struct's rows go to."""
    key = f"routes[{route.topic}].tables"
    tags = {str(struct.__struct_config__.tag): struct for struct in structs if struct.__struct_config__.tag is not None}
    if not route.tables:
        if len(structs) == 1:
            return {structs[0]: route.table}
        problems.add("", f"the union has {len(structs)} types and no table per type", _name_tables(tags), key=key)
        return {}
    for tag, table in route.tables.items():
        if tag not in tags:
            fix = f"{did_you_mean(tag, tags)}Remove it, or add a type with this tag to the union"
            problems.add(f"{tag} = {table!r}", "no type of the contract has this tag", fix, key=key)
    wanted: dict[type[msgspec.Struct], str] = {}
    owner: dict[str, str] = {}
    for tag, struct in tags.items():
        other = route.tables.get(tag)
        if other is None:
            problems.add(tag, "this type of the union has no table", f'Add `{tag} = "TABLE"`', key=key)
        elif other in owner:
            # Rows of two types are two blocks; under one token the second would be dropped as a repetition.
            problems.add(
                f"{tag} = {other!r}",
                f"{owner[other]} goes to this table already",
                "Give each type its own table",
                key=key,
            )
        else:
            owner[other] = tag
            wanted[struct] = other
    return wanted


def _name_tables(tags: Mapping[str, object]) -> str:
    return "Name one per tag: " + ", ".join(f'{tag} = "..."' for tag in tags)
