"""What the engine pays for a row, in a process with nothing but the engine: our blocks, and the same rows as JSONEachRow.

`python -m pipeline.bench.engine FILES ENGINE` reads what `rows` wrote into FILES and prints one JSON object. Each block is
one insert with the settings and a token like a worker's, into the tables that `penstock ddl` prints; merges are stopped.
There is no HTTP and no compression of what is sent, in either form.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.bench.rows import TABLES_FILE
from pipeline.clickhouse import INSERT_SETTINGS
from pipeline.embedded.chdb_engine import Engine

FORMATS = {"native": "Native", "json": "JSONEachRow"}
JSON_SETTINGS = {
    "date_time_input_format": "best_effort",
    "input_format_json_read_objects_as_strings": "1",
    "input_format_json_read_arrays_as_strings": "1",
}
"""What it takes to read the workloads' text as it is: ISO times, and objects and arrays that are kept as JSON text."""


def main(arguments: Sequence[str]) -> int:
    """`different` names the tables that do not hold the same rows after both: there the figures compare nothing."""
    files, directory = Path(arguments[0]), arguments[1]
    engine = Engine(directory)
    known = set(_run(engine, "SELECT name FROM system.settings").decode().split())
    ours = {key: str(value) for key, value in INSERT_SETTINGS.items() if key in known}
    settings = {"native": ours, "json": ours | {key: value for key, value in JSON_SETTINGS.items() if key in known}}
    tables: list[dict[str, Any]] = json.loads((files / TABLES_FILE).read_text())
    figures: dict[str, Any] = {}
    for kind in FORMATS:
        for table in tables:
            _run(engine, table["create"].replace(table["name"], f"{table['name']}_{kind}", 1))
            _run(engine, f"SYSTEM STOP MERGES {table['name']}_{kind}")
        figures[f"{kind}_cpu_s"] = _insert(engine, kind, files, tables, settings[kind])
    native, lines = ([_contents(engine, kind, table) for table in tables] for kind in FORMATS)
    figures["rows"] = sum(int(contents.split()[0]) for contents in native)
    figures["different"] = [
        table["name"] for table, ours_, theirs in zip(tables, native, lines, strict=True) if ours_ != theirs
    ]
    print(json.dumps(figures))
    return 0


def _insert(
    engine: Engine, kind: str, files: Path, tables: Sequence[Mapping[str, Any]], settings: Mapping[str, str]
) -> float:
    """CPU seconds of this process for the inserts."""
    before_s = _cpu_s()
    for table in tables:
        for block in sorted(files.glob(f"*.{table['name']}.{kind}")):
            names = ", ".join(table["columns"])
            into = f"INSERT INTO {table['name']}_{kind} ({names})"
            _run(
                engine,
                f"{into} FROM INFILE '{block}' FORMAT {FORMATS[kind]}",
                {**settings, "insert_deduplication_token": block.name},
            )
    return _cpu_s() - before_s


def _contents(engine: Engine, kind: str, table: Mapping[str, Any]) -> bytes:
    """Count and checksum of what a table holds."""
    names = ", ".join(table["columns"])
    return _run(engine, f"SELECT count(), sum(cityHash64({names})) FROM {table['name']}_{kind}")


def _run(engine: Engine, statement: str, settings: Mapping[str, str] | None = None) -> bytes:
    with engine.lease("default", settings or {}, None) as connection:
        return connection.query(statement.encode(), "TSV", {}).data


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
