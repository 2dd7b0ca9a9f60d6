"""What the engine pays for a row, in a process with nothing but the engine: our blocks, and the same rows as JSONEachRow.

`python -m pipeline.bench.engine FILES ENGINE TABLE COLUMN...` reads the files that `rows` wrote and prints one JSON object.
`TABLE` is a file with the CREATE TABLE. Each block is one insert with the settings and a token like a worker's, into the
table that `penstock ddl` prints; merges are stopped. There is no HTTP and no compression of what is sent, in either form.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.clickhouse import INSERT_SETTINGS
from pipeline.embedded.chdb_engine import Engine

FORMATS = {"native": "Native", "json": "JSONEachRow"}


def main(arguments: Sequence[str]) -> int:
    """Gives 1 when the two tables do not hold the same rows: the figures would compare nothing."""
    files, directory, table, *columns = arguments
    engine = Engine(directory)
    known = set(_run(engine, "SELECT name FROM system.settings").decode().split())
    settings = {key: str(value) for key, value in INSERT_SETTINGS.items() if key in known}
    names = ", ".join(columns)
    figures: dict[str, float] = {}
    contents = set()
    for kind in FORMATS:
        _run(engine, Path(table).read_text().replace("bench_contract", kind))
        _run(engine, f"SYSTEM STOP MERGES {kind}")
        figures[f"{kind}_cpu_s"] = _insert(engine, kind, sorted(Path(files).glob(f"*.{kind}")), names, settings)
        contents.add(_run(engine, f"SELECT count(), sum(cityHash64({names})) FROM {kind}"))
    rows = int(min(contents).split()[0])
    print(json.dumps(figures | {"rows": rows}))
    return 0 if len(contents) == 1 else 1


def _insert(engine: Engine, table: str, blocks: Sequence[Path], names: str, settings: Mapping[str, str]) -> float:
    """CPU seconds of this process for the inserts."""
    before_s = _cpu_s()
    for block in blocks:
        statement = f"INSERT INTO {table} ({names}) FROM INFILE '{block}' FORMAT {FORMATS[table]}"
        _run(engine, statement, {**settings, "insert_deduplication_token": block.name})
    return _cpu_s() - before_s


def _run(engine: Engine, statement: str, settings: Mapping[str, str] | None = None) -> bytes:
    with engine.lease("default", settings or {}, None) as connection:
        return connection.query(statement.encode(), "TSV", {}).data


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
