"""The same rows twice, for the engine: as the Native blocks a worker sends, and as JSON lines with every column of them."""

from __future__ import annotations

import json
import re
from array import array
from collections import defaultdict
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
"""Batches, each one insert per table."""
BLOCK_ROWS_MIN = 1_000
TABLES_FILE = "tables.json"
TABLE = "bench_contract"
_MILLISECONDS = re.compile(rb'("(?:viewed|occurred|read|changed)_at":\d+)(\d{3})')
_LINEAGE = b',"_topic":"%b","_partition":0,"_offset":%d,"_timestamp":%d.%03d}'


def write(stage: Stage, directory: Path, seed: int) -> None:
    """Writes `N.TABLE.native` and `N.TABLE.json` for each block, of ordinary records only, and what the tables are.

    A batch is as full as a worker's, but holds no more than its part of the topic, so that a short run stays short.
    """
    contract = stage.create_tables(TABLE)
    generator = Generator(stage.shape, seed + 1)
    limits = Batch()
    rows_each = min(limits.rows_max, int(limits.bytes_max / (stage.nbytes / stage.records)), stage.records // BLOCKS)
    rows_each = max(BLOCK_ROWS_MIN, rows_each)
    for index in range(BLOCKS):
        first = index * rows_each
        values = [made.value or b"" for made in generator.records(0, first, rows_each)]
        for table, (block, lines) in _both(contract, values, first).items():
            (directory / f"{index}.{table}.native").write_bytes(block)
            (directory / f"{index}.{table}.json").write_bytes(lines)
    tables = [
        {
            "name": target.table,
            "columns": [column.name for column in target.columns],
            "create": stage.clickhouse.query_rows(f"SHOW CREATE TABLE {target.table}")[0][0].replace("default.", "", 1),
        }
        for target in contract.tables.values()
    ]
    (directory / TABLES_FILE).write_text(json.dumps(tables))


def _both(contract: Contract, values: Sequence[bytes], first: int) -> dict[str, tuple[bytes, bytes]]:
    """Table -> (one Native block, made the way every worker takes, and the same records as JSON lines)."""
    builders = {
        row_type: native.BlockBuilder(target.columns, key=(), encode_json=encode_json)
        for row_type, target in contract.tables.items()
    }
    rows, rejects, _ = Decoder(contract, Limits().record_bytes_max, "drop").decode(list(values))
    lines: dict[type, list[bytes]] = defaultdict(list)
    for offset, (row, value) in enumerate(zip(rows, values, strict=True), first):
        lines[type(row)].append(_line(value, offset))
    offsets = array("q", range(first, first + len(values)))
    run = native.Run(TOPIC, 0, 0, offsets, array("q", map(_time_ms, offsets)))
    refusals = native.append(builders, rows, run, None, None, bytearray(len(rows)))
    if rejects or refusals:
        raise InvariantViolated("bench: an ordinary record was refused")
    return {
        target.table: (builders[row_type].finish().native(), b"\n".join(lines[row_type]))
        for row_type, target in contract.tables.items()
        if builders[row_type].rows
    }


def _line(value: bytes, offset: int) -> bytes:
    """A record as it is, with the lineage that the block has too.

    ClickHouse reads a bare integer into DateTime64 as seconds, so milliseconds are given their point.
    """
    line = value[:-1] + _LINEAGE % (TOPIC.encode(), offset, *divmod(_time_ms(offset), 1000))
    return _MILLISECONDS.sub(rb"\1.\2", line, count=1)


def _time_ms(offset: int) -> int:
    return START_MS + offset * STEP_MS
