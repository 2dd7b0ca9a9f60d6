"""What a user would run instead of a worker: programs of their own, each about as short as it is usually written.

    plain     confluent-kafka, one message at a time, json.loads, clickhouse-connect insert of rows
    columns   confluent-kafka consume(batch), orjson, clickhouse-connect insert of columns
    lines     a bare C consumer that hands values on as JSONEachRow: what ClickHouse's own Kafka engine does
    bytewax   a Python stream framework with a compiled engine; clickhouse-connect insert of columns

They read the flat workload, from the start of the first partitions to their ends, into a table like a worker's. None of
them has exactly once, dedup or dead letters: a copy becomes a second row, a bad record is skipped and counted, a crash
repeats or loses records. Each prints one JSON object: `records` read, `rows` inserted, `skipped`, and `Steady.figures`.
"""

from __future__ import annotations

NAMES = ("plain", "columns", "lines", "bytewax")
PYTHON = ("plain", "columns", "bytewax")
"""Those that make a Python object of each record."""
EXTRA = {"bytewax": "bytewax"}
"""Baselines that need a distribution which this project does not need otherwise (the extra `bench`), and its module."""
