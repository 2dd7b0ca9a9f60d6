"""What ever differed between the lanes, and a short search for more."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline import contract as contracts
from pipeline.config.schema import Dedup, Route
from pipeline.contract import Contract, TableColumn
from pipeline.lane import LeftOut, Ranges
from tests.fuzz.draw import load
from tests.fuzz.lanes import Lanes
from tests.fuzz.search import search

CORPUS = json.loads(Path(__file__).with_name("corpus.json").read_text(encoding="utf-8"))
SECONDS = float(os.environ.get("PENSTOCK_FUZZ_SECONDS", "6"))
CONTRACTS_MIN = 24
"""However slow the machine: of a few contracts the native lane may take little."""
TAKEN_SHARE_MIN = 0.3
"""Half is usual. What is not taken natively compares msgspec with itself."""


def contract_of(case: dict[str, Any]) -> Contract:
    if "columns" in case:
        columns = [TableColumn(name, chtype) for name, chtype in case["columns"]]
        route = Route(topic="fuzz", table="t", format=case.get("format", "json"))
        return contracts.load(route, Dedup(key=case["key"]), {"t": columns})
    names: dict[str, Any] = {"msgspec": msgspec}
    # Annotations as objects: the names they use are known here only.
    exec(compile(case["source"], case["what"], "exec", dont_inherit=True), names)
    return load(names["Event"], case["key"], packed=case.get("format") == "msgpack")


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case["what"][:40])
def test_what_differed_once(case: dict[str, Any]) -> None:
    """Records are kept as Latin-1, so that any bytes can be written down."""
    records = [None if one is None else one.encode("latin-1") for one in case["records"]]
    left_out = LeftOut(Ranges([tuple(one) for one in case["stored"]])) if "stored" in case else None
    assert Lanes(contract_of(case), case["key"]).difference(records, left_out) == ""


def test_a_short_search() -> None:
    seed = int(os.environ.get("PENSTOCK_SEED", "0")) or int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    total, found = search(seed, SECONDS, print, CONTRACTS_MIN)
    assert found is None, f"seed {seed}: {found}"
    assert all(total.taken(name) > TAKEN_SHARE_MIN for name in total.offered), str(total)
