"""`penstock ddl`: the CREATE TABLE statements for a contract. It prints them and runs none."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config.schema import Dedup, Route
    from pipeline.ddl import Engine
    from pipeline.errors import Problem

ENGINES = ("MergeTree", "ReplacingMergeTree", "ReplicatedMergeTree", "ReplicatedReplacingMergeTree")


def add(subparsers: Any) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "ddl",
        help="print the CREATE TABLE of a contract",
        description="Prints the CREATE TABLE statements for a contract: its columns, the lineage columns, a deduplication "
        "window and a sorting key. Nothing is created; pipe them into clickhouse-client.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("-c", "--config", type=Path, metavar="FILE", help="every route of a configuration")
    source.add_argument("--contract", metavar="MODULE:STRUCT", help="one contract, a Struct or a tagged union")
    parser.add_argument(
        "--table",
        action="append",
        default=[],
        metavar="[TAG=]NAME",
        help="the table (for a union: of a tag, repeated); with --contract, instead of a name made of the Struct's",
    )
    parser.add_argument(
        "--key", type=_names, default=[], metavar="COLUMNS", help="dedup key, with --contract: event_id"
    )
    parser.add_argument("--engine", choices=ENGINES, default="MergeTree", help="table engine (default: %(default)s)")
    parser.add_argument(
        "--replacing", action="store_true", help="the Replacing variant of the engine: rows with the same key merge"
    )
    parser.add_argument("--version-column", default="", metavar="COLUMN", help="which of the replaced rows stays")
    parser.add_argument(
        "--order-by", type=_names, default=[], metavar="COLUMNS", help="sorting key: a,b (default: dedup key)"
    )
    parser.add_argument(
        "--partition-by", default="", metavar="EXPR", help="table partitions, such as toYYYYMM(_timestamp)"
    )
    parser.add_argument("--ttl", default="", metavar="EXPR", help="when rows expire")
    parser.add_argument("--cluster", default="", metavar="NAME", help="adds ON CLUSTER")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def run(args: argparse.Namespace) -> int:
    """Prints one statement a table."""
    from pipeline.cli import output

    engine = _engine(args)
    statements = _of_contract(args, engine) if args.contract else _of_config(args, engine)
    if args.json:
        output.result({"ok": bool(statements), "statements": statements})
    else:
        output.line("\n\n".join(f"{statement};" for statement in statements))
    return 0 if statements else 1


def _engine(args: argparse.Namespace) -> Engine:
    from pipeline.ddl import Engine

    return Engine(
        replacing=args.replacing or "Replacing" in args.engine,
        version=args.version_column,
        replicated=args.engine.startswith("Replicated"),
        cluster=args.cluster,
        order_by=tuple(args.order_by),
        partition_by=args.partition_by,
        ttl=args.ttl,
    )


def _of_config(args: argparse.Namespace, engine: Engine) -> list[str]:
    import os

    import msgspec

    from pipeline import config as configuration
    from pipeline.cli import output

    if args.table or args.key:
        _misuse("table" if args.table else "key", "is for --contract", "The configuration says it; remove the option")
    config = configuration.load(args.config, os.environ)
    statements = []
    for route in config.routes:
        if not route.contract:
            output.note(
                f"{route.topic}: its contract is inferred from the table {route.table}, so that has to be there first"
            )
            continue
        database = "" if config.clickhouse.database == "default" else config.clickhouse.database
        statements += _statements(msgspec.structs.replace(route, **_in_database(route, database)), config.dedup, engine)
    return statements


def _in_database(route: Route, database: str) -> dict[str, Any]:
    """The route's tables with their database, so that the statements work whatever database they are run in."""

    def full(table: str) -> str:
        return f"{database}.{table}" if database and table and "." not in table else table

    return {"table": full(route.table), "tables": {tag: full(table) for tag, table in route.tables.items()}}


def _of_contract(args: argparse.Namespace, engine: Engine) -> list[str]:
    from pipeline.config.schema import Dedup, Route
    from pipeline.contract.check import Problems
    from pipeline.contract.resolve import resolve, structs_of
    from pipeline.errors import ConfigurationError

    problems = Problems("--contract")
    root = resolve(args.contract, problems)
    if root is None:
        raise ConfigurationError(problems.found)
    structs = structs_of(root)
    named, single = _tables(args.table)
    if len(structs) == 1 and not named:
        route = Route(topic="ddl", table=single or _snake(structs[0].__name__), contract=args.contract)
    else:
        if single:
            _misuse("table", "names one table for several types", "Write --table TAG=NAME for each, or leave it out")
        tables = {str(struct.__struct_config__.tag): _snake(struct.__name__) for struct in structs} | named
        route = Route(topic="ddl", tables=tables, contract=args.contract)
    try:
        return _statements(route, Dedup(key=args.key), engine)
    except ConfigurationError as error:
        raise ConfigurationError([_as_option(problem) for problem in error.problems]) from None


_OPTIONS = {
    "routes[ddl].contract": "--contract",
    "routes[ddl].tables": "--table",
    "dedup.key": "--key",
    "order_by": "--order-by",
    "version": "--version-column",
}


def _as_option(problem: Problem) -> Problem:
    """A problem named by the option it came from instead of the key it would be in a file."""
    return problem._replace(key=_OPTIONS.get(problem.key, problem.key))


def _tables(words: list[str]) -> tuple[dict[str, str], str]:
    named = dict(word.split("=", 1) for word in words if "=" in word)
    plain = [word for word in words if "=" not in word]
    if len(plain) > 1 or (plain and named):
        _misuse("table", "is given more than once", "Write --table NAME once, or --table TAG=NAME for each type")
    return named, plain[0] if plain else ""


def _statements(route: Route, dedup: Dedup, engine: Engine) -> list[str]:
    from pipeline import contract as contracts
    from pipeline import ddl

    return ddl.create_tables(contracts.load(route, dedup, {}), engine)


def _snake(name: str) -> str:
    """OrderPaid -> order_paid."""
    import re

    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _misuse(option: str, rule: str, fix: str) -> None:
    from pipeline.errors import ConfigurationError, Problem

    raise ConfigurationError([Problem(f"--{option}", "", rule, fix)])
