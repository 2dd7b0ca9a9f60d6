"""A reject must not leave a ring of exception, traceback and frame: it would hold the rows and values of the whole run."""

from __future__ import annotations

import gc

import pytest

from pipeline import contract as contracts
from pipeline import workload
from pipeline.config.schema import Dedup, Limits, Route
from pipeline.decode import Decoder


@pytest.mark.parametrize("name", workload.NAMES)
def test_rejects_leave_nothing_to_the_collector(name: str) -> None:
    shape = workload.shape(name)
    tables = {tag: f"t_{tag}" for tag in shape.tags} if shape.tags != ("",) else {}
    route = Route(topic="t", table="" if tables else "t", tables=tables, contract=shape.contract)
    decoder = Decoder(contracts.load(route, Dedup(key=list(shape.key)), {}), Limits().record_bytes_max, "drop")
    made = workload.Generator(shape, 1, workload.Mix(poison=0.02, unknown_version=0.02)).records(0, 0, 2_000)
    values = [record.value for record in made]
    decoder.decode(values)  # What is made once, such as the code of a lazy import, is no ring.
    left = []
    for _ in range(3):  # A thread of another test, a server of it say, may leave something meanwhile.
        gc.collect()
        gc.disable()
        try:
            rejects = len(decoder.decode(values)[1])
            assert rejects > 20
            left.append(gc.collect())
        finally:
            gc.enable()
    assert min(left) == 0
