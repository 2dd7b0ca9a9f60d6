"""Contracts from Python against tables: what fits, and every problem at once for what does not."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import contracts_for_tests
import msgspec
import pytest

from pipeline.config.schema import Dedup, Route
from pipeline.contract import Contract, TableColumn, ch, load
from pipeline.errors import ConfigurationError, Problem

HERE = "contracts_for_tests"
LINEAGE = {
    "_topic": "LowCardinality(String)",
    "_partition": "Int32",
    "_offset": "Int64",
    "_timestamp": "DateTime64(3)",
}
EVENT = {
    "id": "UUID",
    "user_id": "UInt32",
    "sent_at": "DateTime64(3)",
    "country": "LowCardinality(String)",
    "amount": "Nullable(Decimal(18, 2))",
    "body": "String",
}


def table(types: dict[str, str], **kinds: str) -> list[TableColumn]:
    return [
        TableColumn(name, type_, kinds.get(name, ""), "1" if name in kinds else "") for name, type_ in types.items()
    ]


def problems_of(
    contract: str, columns: list[TableColumn] | None, key: tuple[str, ...] = (), **route: object
) -> list[Problem]:
    with pytest.raises(ConfigurationError) as caught:
        loaded(contract, columns, key, **route)
    return caught.value.problems


def loaded(contract: str, columns: list[TableColumn] | None, key: tuple[str, ...] = (), **route: object) -> Contract:
    tables = {} if columns is None else {"events": columns}
    return load(Route(topic="t", table="events", contract=contract, **route), Dedup(key=list(key)), tables)  # type: ignore[arg-type]


def test_columns_follow_the_table_and_name_their_fields() -> None:
    shuffled = dict(reversed((EVENT | LINEAGE).items()))
    contract = loaded(f"{HERE}:Event", table(shuffled), ("id", "user_id"), version="3")
    (target,) = contract.tables.values()
    assert [column.name for column in target.columns if not column.source.startswith("@")] == list(reversed(EVENT))
    assert [column.source for column in target.columns if column.name == "body"] == ["text"]
    assert {column.name: column.source for column in target.columns if column.source.startswith("@")} == {
        "_topic": "@topic",
        "_partition": "@partition",
        "_offset": "@offset",
        "_timestamp": "@timestamp",
    }
    assert next(column for column in target.columns if column.name == "sent_at").epoch_unit == "ms"
    assert target.key_columns == ("id", "user_id")
    assert (contract.name, contract.version) == (f"{HERE}:Event", "3")


def test_offline_the_table_is_what_ddl_makes() -> None:
    (target,) = loaded(f"{HERE}:Event", None, ("id",)).tables.values()
    assert {column.name: column.type for column in target.columns} == EVENT | LINEAGE


def test_lineage_columns_are_optional() -> None:
    (target,) = loaded(f"{HERE}:Event", table(EVENT)).tables.values()
    assert all(not column.source.startswith("@") for column in target.columns)


def test_columns_with_a_default_or_null_need_no_field() -> None:
    extra = {"added": "DateTime", "made": "UInt8", "same": "UInt8", "note": "Nullable(String)"}
    columns = table(EVENT | extra, added="DEFAULT", made="MATERIALIZED", same="ALIAS")
    (target,) = loaded(f"{HERE}:Event", columns).tables.values()
    assert not {column.name for column in target.columns} & set(extra)


def test_every_problem_is_reported_at_once() -> None:
    wrong = dict(EVENT) | {
        "user_id": "String",
        "country": "Enum8('DE' = 1)",
        "amount": "Decimal(18, 2)",
        "_offset": "String",
    }
    del wrong["body"]
    wrong |= {"bodies": "String", "sent": "DateTime", "shape": "Array(Point)"}
    wrong["when"] = wrong.pop("sent_at")
    found = problems_of(f"{HERE}:Event", table(wrong, when="ALIAS"), ("user", "debug", "id"))
    texts = "\n".join(map(str, found))
    for expected in (
        "Event.user_id: int does not go into String",
        "Event.country: Enum8('DE' = 1) has no member 'FR'",
        "Event.amount: it may be null and the column (Decimal(18, 2)) is not Nullable",
        "Event.text: table events has no column 'body' for it. Did you mean 'bodies'?",
        "Event.sent_at: table events has no column 'sent_at' for it",
        "events.bodies String: no field fills this column and it has no default. Did you mean 'body'?",
        "events.sent DateTime: no field fills this column and it has no default. Did you mean 'sent_at'?",
        "events.shape Array(Point): no field fills this column",
        "events._offset String: a lineage column of this name must be Int64",
        "dedup.key = user: Event has no such field. Did you mean 'user_id'?",
        "dedup.key = debug: Event.debug goes into no column",
    ):
        assert expected in texts.replace("routes[t].contract = ", ""), expected
    assert len(found) == 11


def test_a_field_cannot_fill_a_computed_column() -> None:
    (found,) = problems_of(f"{HERE}:Event", table(EVENT, user_id="MATERIALIZED"))
    assert "column events.user_id is MATERIALIZED" in found.rule


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("nonsense", "named as `module:Struct`"),
        ("no.such.module:Event", "importing no.such.module failed: ModuleNotFoundError"),
        (f"{HERE}:Evnet", "Did you mean 'Event'?"),
        (f"{HERE}:NOT_A_STRUCT", "not a msgspec.Struct"),
        (f"{HERE}:Mixed", "not a msgspec.Struct nor a union"),
        (f"{HERE}:Ambiguous", "msgspec cannot decode it"),
    ],
)
def test_references_that_lead_nowhere(reference: str, says: str) -> None:
    (found,) = problems_of(reference, table(EVENT))
    assert says in str(found)
    assert found.key == "routes[t].contract"


def union(tables: dict[str, str], known: dict[str, list[TableColumn]] | None = None) -> Contract:
    route = Route(topic="t", tables=tables, contract=f"{HERE}:Orders")
    return load(route, Dedup(key=["id"]), known or {})


def test_a_tagged_union_has_a_table_per_tag() -> None:
    contract = union({"OrderPaid": "paid", "OrderShipped": "shipped"})
    assert {target.tag: target.table for target in contract.tables.values()} == {
        "OrderPaid": "paid",
        "OrderShipped": "shipped",
    }
    assert all(target.key_columns == ("id",) for target in contract.tables.values())


def test_tags_and_tables_must_meet() -> None:
    with pytest.raises(ConfigurationError) as caught:
        union({"OrderPayed": "paid"})
    texts = str(caught.value)
    assert "OrderPayed = 'paid': no type of the contract has this tag. Did you mean 'OrderPaid'?" in texts
    assert "OrderPaid: this type of the union has no table" in texts
    assert "OrderShipped: this type of the union has no table" in texts


def test_two_tags_cannot_share_a_table() -> None:
    with pytest.raises(ConfigurationError, match="OrderPaid goes to this table already"):
        union({"OrderPaid": "orders", "OrderShipped": "orders"})


def test_a_union_needs_tables() -> None:
    (found,) = problems_of(f"{HERE}:Orders", table(EVENT))
    assert "OrderPaid" in found.fix
    assert found.key == "routes[t].tables"


@pytest.mark.parametrize("key", ["@key", "@header:event-id"])
def test_keys_outside_the_contract_have_no_columns(key: str) -> None:
    (target,) = loaded(f"{HERE}:Event", table(EVENT), (key,)).tables.values()
    assert target.key_columns == ()


def test_a_column_that_cannot_identify_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    struct = msgspec.defstruct("Odd", [("ratio", float), ("tags", list[str])])
    monkeypatch.setattr(contracts_for_tests, "Odd", struct, raising=False)
    found = problems_of(f"{HERE}:Odd", None, ("ratio", "tags"))
    assert [problem.value for problem in found] == ["ratio", "tags"]


@pytest.mark.parametrize(
    ("annotation", "type_", "says"),
    [
        (int, "Bool", "int does not go into Bool"),
        (bool, "UInt8", "bool does not go into UInt8"),
        (float, "Int64", "float does not go into Int64"),
        (float, "Decimal(9, 2)", "float does not go into Decimal(9, 2)"),
        (str, "JSON", "str does not go into JSON"),
        (list[int], "Array(String)", "int does not go into String"),
        (list[int | None], "Array(Int64)", "it may be null"),
        (dict[str, str], "Map(String, UInt8)", "str does not go into UInt8"),
        (int, "Point", "columns of type Point cannot be filled"),
        (list[int], "UInt8", "list does not go into UInt8"),
    ],
)
def test_types_that_do_not_fit(annotation: object, type_: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    struct = msgspec.defstruct("Odd", [("field", annotation)])
    monkeypatch.setattr(contracts_for_tests, "Odd", struct, raising=False)
    (found,) = problems_of(f"{HERE}:Odd", table({"field": type_}))
    assert says in found.rule


@pytest.mark.parametrize(
    ("annotation", "type_"),
    [
        (int, "Float64"),
        (int, "Enum8('a' = 1)"),
        (str, "IPv4"),
        (str, "Decimal(9, 2)"),
        (dict, "JSON"),
        (msgspec.Raw, "JSON"),
        (list[dict[str, int]], "String"),
        (list[dict[str, int]], "Array(Map(String, UInt8))"),
        (list[int] | None, "Array(UInt8)"),
        (Annotated[int, ch("UInt8")], "UInt16"),
    ],
)
def test_types_that_fit(annotation: object, type_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    struct = msgspec.defstruct("Odd", [("field", annotation)])
    monkeypatch.setattr(contracts_for_tests, "Odd", struct, raising=False)
    assert loaded(f"{HERE}:Odd", table({"field": type_})).tables


def test_lineage_names_are_not_for_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    struct = msgspec.defstruct("Odd", [("offset", Annotated[int, ch("Int64")], 0)], rename={"offset": "_offset"})
    monkeypatch.setattr(contracts_for_tests, "Odd", struct, raising=False)
    (found,) = problems_of(f"{HERE}:Odd", table({"_offset": "Int64"}))
    assert "belongs to a lineage column" in found.rule


def test_the_digest_is_the_same_in_every_process() -> None:
    code = (
        "from test_contract_load import *\n"
        "print(loaded(HERE + ':Event', table(EVENT), ('id',)).digest, union({'OrderPaid': 'a', 'OrderShipped': 'b'}).digest)"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    here = loaded(f"{HERE}:Event", table(EVENT), ("id",)).digest
    assert runs == {f"{here} {union({'OrderPaid': 'a', 'OrderShipped': 'b'}).digest}\n"}


def test_the_digest_changes_with_all_that_decides_rows() -> None:
    base = loaded(f"{HERE}:Event", table(EVENT), ("id",))
    others = [
        loaded(f"{HERE}:Event", table(EVENT)),
        loaded(f"{HERE}:Event", table(EVENT | LINEAGE), ("id",)),
        loaded(f"{HERE}:Event", table(EVENT | {"user_id": "UInt64"}), ("id",)),
        loaded(f"{HERE}:Event", table(EVENT), ("id",), format="msgpack"),
    ]
    assert len({contract.digest for contract in [base, *others]}) == 5
    assert loaded(f"{HERE}:Event", table(EVENT), ("id",), version="9").digest == base.digest, (
        "the version is a name only"
    )
