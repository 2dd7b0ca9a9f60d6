"""What the tests of contracts share: a table on a real engine, and records decoded, built into a block and inserted there."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from pipeline import native
from pipeline.config.schema import Dedup, Route
from pipeline.contract import Contract, TableColumn, encode_json, load
from pipeline.decode import Decoder


class Engine:
    """A database on a ClickHouse server or the embedded engine, over ClickHouse's HTTP interface."""

    def __init__(self, url: str, database: str) -> None:
        self.client: Any = clickhouse_connect.get_client(dsn=url, database=database)
        # Ours is the strict reading of names; servers since 26.x would also take `ID` for `id`.
        name = "input_format_column_name_matching_mode"
        known = self.rows(f"SELECT count() FROM system.settings WHERE name = '{name}'") == [(1,)]
        self.exact_names = {name: "match_case"} if known else {}

    def create(self, table: str, columns: str) -> list[TableColumn]:
        self.client.command(f"CREATE TABLE {table} ({columns}) ENGINE = Memory")
        return self.columns(table)

    def columns(self, table: str) -> list[TableColumn]:
        sql = (
            "SELECT name, type, default_kind, default_expression FROM system.columns "
            "WHERE database = currentDatabase() AND table = {t:String} ORDER BY position"
        )
        return [TableColumn(*row) for row in self.client.query(sql, parameters={"t": table}).result_rows]

    def insert_json(self, table: str, records: Sequence[bytes], **settings: Any) -> None:
        """As ClickHouse itself reads the records; those it refuses are skipped."""
        try:
            self.client.raw_insert(
                table,
                insert_block=b"\n".join(records),
                fmt="JSONEachRow",
                settings={
                    "input_format_allow_errors_num": len(records),
                    "input_format_parallel_parsing": 0,
                    "async_insert": 0,
                    **self.exact_names,
                    **settings,
                },
            )
        except ClickHouseError:
            # Some errors, such as 407, are not skipped and refuse the whole insert.
            half = len(records) // 2
            if half:
                self.insert_json(table, records[:half], **settings)
                self.insert_json(table, records[half:], **settings)

    def insert_ours(self, contract: Contract, records: Sequence[bytes]) -> list[tuple[int, str, str]]:
        """As the pipeline reads and writes them; returns what it refuses as (index, code, detail)."""
        decoder = Decoder(contract, 1 << 24, "drop")
        builders = {
            row_type: native.BlockBuilder(target.columns, encode_json=encode_json)
            for row_type, target in contract.tables.items()
        }
        refused: list[tuple[int, str, str]] = []
        for first in range(0, len(records), 1_000):
            part: list[bytes | None] = list(records[first : first + 1_000])
            rows, rejects, _ = decoder.decode(part)
            run = native.Run("topic", 0, 0, array("q", range(first, first + len(part))), array("q", [0] * len(part)))
            status = bytearray(len(part))
            refusals = native.append(builders, rows, run, None, None, status)
            refused += [(first + index, reject.code.value, reject.detail) for index, reject in rejects]
            refused += [(first + one.index, one.code, f"{one.column}: {one.detail}") for one in refusals]
        for row_type, target in contract.tables.items():
            names = [column.name for column in target.columns]
            block = builders[row_type].finish().native()
            self.client.raw_insert(target.table, names, block, fmt="Native", settings={"async_insert": 0})
        return sorted(refused)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.client.query(sql).result_rows]

    def close(self) -> None:
        self.client.close()


def inferred(table: str, columns: Sequence[TableColumn], timezone: str = "UTC") -> Contract:
    return load(Route(topic="topic", table=table), Dedup(), {table: columns}, timezone=timezone)
