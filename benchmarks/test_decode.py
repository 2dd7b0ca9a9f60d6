"""Decoding a run of records into rows of the contract, per workload."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import contract as contracts
from pipeline import workload
from pipeline.config.schema import Dedup, Limits, Route
from pipeline.decode import Decoder

RECORDS = 10_000


@pytest.mark.parametrize("name", workload.NAMES)
def test_decode(stated: Any, name: str) -> None:
    shape = workload.shape(name)
    tables = {tag: f"t_{tag}" for tag in shape.tags} if shape.tags != ("",) else {}
    route = Route(topic="t", table="" if tables else "t", tables=tables, contract=shape.contract)
    decoder = Decoder(contracts.load(route, Dedup(key=list(shape.key)), {}), Limits().record_bytes_max, "drop")
    values = [made.value for made in workload.Generator(shape, 1).records(0, 0, RECORDS)]
    rows, rejects, _ = decoder.decode(values)
    assert not rejects
    assert len(rows) == RECORDS
    stated(lambda: decoder.decode(values), rows=RECORDS, nbytes=sum(map(len, values)), rounds=20)
