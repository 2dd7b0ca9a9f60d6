"""What the tests of `penstock check` share: a configuration file, topics, a database, and what the command found."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline import cli

COLUMNS = "event_id String, amount Int64"
LINEAGE = "_topic LowCardinality(String), _partition Int32, _offset Int64, _timestamp DateTime64(3)"
WINDOW = "SETTINGS non_replicated_deduplication_window = 100000"


class Found(NamedTuple):
    """One check of `penstock check --json`."""

    check: str
    name: str
    status: str
    text: str
    fix: str


class Report(list[Found]):
    """What the command found."""

    def of(self, code: str, *statuses: str) -> list[Found]:
        return [one for one in self if one.check == code and (not statuses or one.status in statuses)]

    def one(self, code: str, *statuses: str) -> Found:
        (found,) = self.of(code, *statuses)
        return found

    def well(self, code: str) -> bool:
        """The check was made, and found nothing."""
        return {one.status for one in self.of(code)} == {"ok"}

    def statuses(self) -> set[str]:
        return {one.status for one in self}


class Setup:
    """A file for `check`, topics of a broker at `bootstrap`, and tables in a database of their own."""

    topic = "orders"
    letters = "orders-dead"
    group = "penstock-orders"

    def __init__(self, directory: Path, bootstrap: str, database: Any) -> None:
        self.path = directory / "penstock.toml"
        self.bootstrap = bootstrap
        self.database = database

    def sql(self, statement: str) -> str:
        url = f"{self.database.url}/?database={self.database.database}"
        with urllib.request.urlopen(urllib.request.Request(url, data=statement.encode()), timeout=60) as answer:
            return str(answer.read().decode())

    def table(self, columns: str = f"{COLUMNS}, {LINEAGE}", settings: str = WINDOW, partition: str = "") -> None:
        by = f"PARTITION BY {partition}" if partition else ""
        self.sql(f"CREATE TABLE orders ({columns}) ENGINE = MergeTree {by} ORDER BY tuple() {settings}")

    def write(self, extra: str = "", route: str = 'table = "orders"', kafka: str = "", clickhouse: str = "") -> None:
        self.path.write_text(
            f"""
            name = "orders"
            [kafka]
            brokers = "{self.bootstrap}"
            group = "{self.group}"
            {kafka}
            [clickhouse]
            urls = ["{self.database.url}"]
            database = "{self.database.database}"
            {clickhouse}
            [[routes]]
            topic = "{self.topic}"
            {route}
            [dead_letters]
            topic = "{self.letters}"
            {extra}
            """
        )

    def check(self, capsys: pytest.CaptureFixture[str], code: int | None = None, *options: str) -> Report:
        """Runs `penstock check --json`; `code` is the exit code it must end with."""
        ended = cli.main(["check", "-c", str(self.path), "--json", "--timeout", "5", *options])
        found = json.loads(capsys.readouterr().out)
        assert found["exit"] == ended
        report = Report(Found(**check) for check in found["checks"])
        if code is not None:
            assert ended == code, [one for one in report if one.status not in ("ok", "skipped")]
        return report
