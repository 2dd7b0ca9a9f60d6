"""The same rows twice, for the engine: as the Native blocks a worker sends, and as JSON lines with every column of them."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from pathlib import Path

from pipeline import native
from pipeline.bench.stage import TOPIC, Stage
from pipeline.config.schema import Batch, Limits
from pipeline.contract import Contract, encode_json
from pipeline.decode import Decoder
from pipeline.errors import InvariantViolated
from pipeline.workload import Generator
from pipeline.workload.make import START_MS, STEP_MS

BLOCKS = 5
"""Full batches, each one insert."""
_MILLISECONDS = re.compile(rb'("viewed_at":\d+)(\d{3})')
_LINEAGE = b',"_topic":"%b","_partition":0,"_offset":%d,"_timestamp":%d.%03d}'


def write(stage: Stage, directory: Path, seed: int) -> tuple[str, ...]:
    """Writes `N.native` and `N.json` for each block, of ordinary records only; gives the columns of the blocks."""
    contract = stage.create_table("bench_contract")
    generator = Generator(stage.shape, seed + 1)
    rows_each = Batch().rows_max
    for index in range(BLOCKS):
        first = index * rows_each
        values = [made.value or b"" for made in generator.records(0, first, rows_each)]
        (directory / f"{index}.native").write_bytes(_block(contract, values, first))
        (directory / f"{index}.json").write_bytes(_lines(values, first))
    return tuple(column.name for column in next(iter(contract.tables.values())).columns)


def _block(contract: Contract, values: Sequence[bytes], first: int) -> bytes:
    """The records as one Native block, by the way every worker takes."""
    row_type, target = next(iter(contract.tables.items()))
    builder = native.BlockBuilder(target.columns, key=(), encode_json=encode_json)
    rows, rejects, _ = Decoder(contract, Limits().record_bytes_max, "drop").decode(list(values))
    offsets = array("q", range(first, first + len(values)))
    run = native.Run(TOPIC, 0, 0, offsets, array("q", map(_time_ms, offsets)))
    refusals = native.append({row_type: builder}, rows, run, None, None, bytearray(len(rows)))
    if rejects or refusals:
        raise InvariantViolated("bench: an ordinary record was refused")
    return builder.finish().native()


def _lines(values: Sequence[bytes], first: int) -> bytes:
    """The records as they are, with the lineage that the block has too.

    ClickHouse reads a bare integer into DateTime64 as seconds, so milliseconds are given their point.
    """
    topic = TOPIC.encode()
    lines = [
        value[:-1] + _LINEAGE % (topic, offset, *divmod(_time_ms(offset), 1000))
        for offset, value in enumerate(values, first)
    ]
    return _MILLISECONDS.sub(rb"\1.\2", b"\n".join(lines))


def _time_ms(offset: int) -> int:
    return START_MS + offset * STEP_MS
