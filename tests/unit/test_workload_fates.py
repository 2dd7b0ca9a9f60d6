"""Every record of every workload ends as its fate says, by the very decoder and block builder that a worker uses."""

from __future__ import annotations

from array import array

import pytest

from pipeline import native
from pipeline.config.schema import Dedup, Route
from pipeline.contract import encode_json, load
from pipeline.decode import Decoder
from pipeline.workload import NAMES, Generator, Mix, Outcome, shape

COUNT = 2_000


@pytest.mark.parametrize("name", NAMES)
def test_fates_come_true(name: str, seed: int) -> None:
    one = shape(name)
    tables = {} if one.tags == ("",) else {tag: f"t{index}" for index, tag in enumerate(one.tags)}
    route = Route(topic="t", table="" if tables else "t", tables=tables, contract=one.contract)
    contract = load(route, Dedup(key=list(one.key)), {})
    mix = Mix(duplicates=0.1, poison=0.3, late=0.05, unknown_version=0.05, tombstones=0.05)
    generator = Generator(one, seed, mix)
    records = list(generator.records(3, 0, COUNT))
    rows, rejects, filtered = Decoder(contract, 1 << 22, "drop").decode([record.value for record in records])
    claims = native.ClaimTable(10_000, secret=bytes(16))
    builders = {
        row_type: native.BlockBuilder(target.columns, key=target.key_columns, encode_json=encode_json)
        for row_type, target in contract.tables.items()
    }
    offsets = array("q", range(COUNT))
    run = native.Run("t", 3, claims.open_slot(0), offsets, array("q", [0] * COUNT))
    statuses = bytearray(COUNT)
    refusals = native.append(builders, rows, run, claims, None, statuses)
    codes = {index: reject.code.value for index, reject in rejects}
    codes |= {refusal.index: str(refusal.code) for refusal in refusals}
    became = {native.APPENDED: Outcome.ROW, native.DUPLICATE: Outcome.DUPLICATE}
    for offset, (record, status) in enumerate(zip(records, statuses, strict=True)):
        outcome = Outcome.LETTER if offset in codes else became.get(status, Outcome.FILTERED)
        assert (outcome, codes.get(offset, "")) == (record.fate.outcome, record.fate.code), (offset, record)
        if outcome is Outcome.ROW and tables:
            assert contract.tables[type(rows[offset])].tag == generator.tag(3, offset)
    assert filtered == sum(record.fate.outcome is Outcome.FILTERED for record in records)
    assert {record.fate.kind for record in records} >= {poison.name for poison in one.poisons}
