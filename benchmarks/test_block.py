"""Decoded rows to one Native block, per workload: with the claims of a dedup window, as in a worker, and the LZ4 frame."""

from __future__ import annotations

from array import array
from typing import Any

import lz4.frame
import pytest

from pipeline import contract as contracts
from pipeline import native, workload
from pipeline.config.schema import Dedup, Limits, Route
from pipeline.decode import Decoder

RECORDS = 10_000


class Encoder:
    """A workload's rows and the builders of its tables."""

    def __init__(self, name: str) -> None:
        shape = workload.shape(name)
        tables = {tag: f"t_{tag}" for tag in shape.tags} if shape.tags != ("",) else {}
        route = Route(topic="t", table="" if tables else "t", tables=tables, contract=shape.contract)
        contract = contracts.load(route, Dedup(key=list(shape.key)), {})
        self.values = [made.value for made in workload.Generator(shape, 1).records(0, 0, RECORDS)]
        self.rows, rejects, _ = Decoder(contract, Limits().record_bytes_max, "drop").decode(self.values)
        assert not rejects
        self.builders = {
            row_type: native.BlockBuilder(target.columns, key=target.key_columns, encode_json=contracts.encode_json)
            for row_type, target in contract.tables.items()
        }
        self._claims = native.ClaimTable(1_000_000, secret=bytes(16))
        self._slot = self._claims.open_slot(0)
        self._offset = 0

    def encode(self) -> list[bytes]:
        """One run of records, each new to the window: the ids are those of other offsets of the same reading."""
        offsets = array("q", range(RECORDS))
        run = native.Run("t", 0, self._slot, offsets, offsets)
        status = bytearray(RECORDS)
        refusals = native.append(self.builders, self.rows, run, self._claims, None, status)
        assert not refusals
        return [builder.finish().native() for builder in self.builders.values() if builder.rows]


@pytest.mark.parametrize("name", workload.NAMES)
def test_block(stated: Any, name: str) -> None:
    encoder = Encoder(name)
    blocks = encoder.encode()
    block_bytes = sum(map(len, blocks)) // RECORDS
    nbytes = sum(len(value or b"") for value in encoder.values)
    stated(encoder.encode, rows=RECORDS, nbytes=nbytes, rounds=20, block_bytes_per_row=block_bytes)


@pytest.mark.parametrize("name", workload.NAMES)
def test_lz4(stated: Any, name: str) -> None:
    block = b"".join(Encoder(name).encode())
    ratio = round(len(block) / len(lz4.frame.compress(block)), 2)
    stated(lambda: lz4.frame.compress(block), rows=RECORDS, nbytes=len(block), rounds=20, ratio=ratio)
