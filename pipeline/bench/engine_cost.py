"""What ClickHouse pays for a row: our Native blocks against the same rows as JSONEachRow, over the same connection.

Merges are stopped, both are sent as one block per insert with LZ4, and the rows that arrive are compared.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import lz4.frame

from pipeline import native
from pipeline.bench.stage import TOPIC, Stage
from pipeline.clickhouse import Encoded, quote_table
from pipeline.config.schema import Batch, Limits
from pipeline.contract import LINEAGE, Contract
from pipeline.decode import Decoder
from pipeline.errors import InvariantViolated
from pipeline.workload import Generator
from pipeline.workload.make import START_MS, STEP_MS

NATIVE_TABLE = "bench_native"
JSON_TABLE = "bench_json"
BLOCKS = 5


@dataclass
class Inserts:
    """The same rows twice, ready to be sent."""

    native: list[Encoded]
    json: list[Encoded]
    rows: int
    columns: tuple[str, ...]
    """The columns that both fill."""


def prepare(stage: Stage, seed: int) -> Inserts:
    """Encodes full batches of ordinary records, each as a Native block and as JSON lines."""
    contract = stage.create_table(NATIVE_TABLE)
    stage.create_table(JSON_TABLE)
    for table in (NATIVE_TABLE, JSON_TABLE):
        stage.clickhouse.command(f"SYSTEM STOP MERGES {table}")
    target = next(iter(contract.tables.values()))
    columns = tuple(column.name for column in target.columns)
    generator = Generator(stage.shape, seed + 1)
    rows_each = Batch().rows_max
    result = Inserts([], [], BLOCKS * rows_each, tuple(name for name in columns if name not in LINEAGE))
    for index in range(BLOCKS):
        values = [made.value or b"" for made in generator.records(0, index * rows_each, rows_each)]
        block = _block(contract, values, index * rows_each)
        result.native.append(stage.clickhouse.encode(NATIVE_TABLE, columns, block))
        result.json.append(_as_json(values))
    return result


def _block(contract: Contract, values: list[bytes], first: int) -> bytes:
    """The records as one Native block, by the way every worker takes."""
    row_type, target = next(iter(contract.tables.items()))
    builder = native.BlockBuilder(target.columns, key=(), encode_json=contract.encode_json)
    rows, rejects, _ = Decoder(contract, Limits().record_bytes_max, "drop").decode(list(values))
    offsets = array("q", range(first, first + len(values)))
    times = array("q", (START_MS + offset * STEP_MS for offset in offsets))
    run = native.Run(TOPIC, 0, 0, offsets, times)
    refusals = native.append({row_type: builder}, rows, run, None, None, bytearray(len(rows)))
    if rejects or refusals:
        raise InvariantViolated("bench: an ordinary record was refused")
    return builder.finish().native()


def _as_json(values: list[bytes]) -> Encoded:
    body = f"INSERT INTO {quote_table(JSON_TABLE)} FORMAT JSONEachRow\n".encode() + b"\n".join(values)
    return Encoded(JSON_TABLE, (), lz4.frame.compress(body, block_linked=False, content_checksum=True), "lz4")


def measure(stage: Stage, inserts: list[Encoded], name: str) -> float:
    """CPU seconds of the engine's process for these inserts."""
    table = inserts[0].table
    stage.clickhouse.command(f"TRUNCATE TABLE {table}")
    before_s = stage.engine.cpu_seconds()
    for index, encoded in enumerate(inserts):
        stage.clickhouse.insert(encoded, f"{name}-{index}")
    return stage.engine.cpu_seconds() - before_s


def compare(stage: Stage, inserts: Inserts) -> None:
    """Both tables hold the same rows, all of them; otherwise the figures compare nothing."""
    names = ", ".join(inserts.columns)
    sums = [
        stage.clickhouse.query_rows(f"SELECT count(), sum(cityHash64({names})) FROM {table}")[0]
        for table in (NATIVE_TABLE, JSON_TABLE)
    ]
    if sums[0] != sums[1] or sums[0][0] != inserts.rows:
        raise InvariantViolated(f"bench: the rows differ: Native {sums[0]}, JSONEachRow {sums[1]}")
