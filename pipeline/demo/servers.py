"""What the demo runs on: brokers and ClickHouse, started or named, with topics and tables of its own, removed afterwards."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline import config as configuration
from pipeline.clickhouse import ClickHouse, quote
from pipeline.config.schema import ClickHouse as ClickHouseConfig
from pipeline.config.schema import Config
from pipeline.contract import load
from pipeline.ddl import create_tables
from pipeline.demo.options import Options
from pipeline.workload import Shape

MOCK_BYTES_AHEAD = 4 * 1024 * 1024
"""Of the 5 MiB that the mock cluster keeps a partition; counted before compression, so far on the safe side."""
MOCK_RECORDS_AHEAD_MAX = 50_000
MOCK_SESSION_MS = 3_000
"""How long the mock cluster waits for a dead member of a `consumer` group."""
SESSION_MS = 6_000
"""The same for classic groups: the shortest that brokers accept."""


class Servers:
    """A context manager. Inside it `config` and `config_file` describe a pipeline that can run."""

    config: Config
    config_file: Path
    directory: Path

    def __init__(self, options: Options, shape: Shape) -> None:
        self._options = options
        self._shape = shape
        self._stack = ExitStack()
        self.mock = not options.brokers
        name = "" if self.mock and not options.clickhouse else f"_{secrets.token_hex(4)}"
        self.name = f"demo{name}"

    def __enter__(self) -> Self:
        try:
            self.directory = self._directory()
            database = self._database()
            brokers = self._brokers()
            self.config_file = self.directory / "penstock.toml"
            self.config_file.write_text(self._text(brokers, *database))
            self.config = configuration.load(self.config_file, {})
            self._create(database[1])
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def records_ahead(self) -> int | None:
        """How far the producer may run ahead of the committed offsets; None: as far as it likes."""
        if not self.mock:
            return None
        sample = [
            len(self._shape.render(0, draw))
            for draw in self._shape.draw.iter_unpack(secrets.token_bytes(64 * self._shape.draw.size))
        ]
        return min(MOCK_RECORDS_AHEAD_MAX, MOCK_BYTES_AHEAD // (max(sample) + 64))

    def _directory(self) -> Path:
        keep = self._options.keep
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            # An earlier demo's rows would be found by their lineage and taken for this one's.
            shutil.rmtree(keep / "clickhouse", ignore_errors=True)
            for log in keep.glob("worker-*.log"):
                log.unlink()
            return keep.resolve()
        directory = Path(tempfile.mkdtemp(prefix="penstock-demo-"))
        self._stack.callback(shutil.rmtree, directory, ignore_errors=True)
        return directory

    def _brokers(self) -> str:
        if not self.mock:
            return self._options.brokers
        from pipeline.embedded.mock_kafka import MockKafka

        topics = {self.name: self._options.partitions, f"{self.name}-dead": 1}
        return self._stack.enter_context(MockKafka(topics=topics, session_ms=MOCK_SESSION_MS)).bootstrap

    def _database(self) -> tuple[str, str]:
        if self._options.clickhouse:
            return self._options.clickhouse, f"penstock_{self.name}"
        from pipeline.embedded.chdb_server import ChdbServer

        server = self._stack.enter_context(ChdbServer(self.directory / "clickhouse"))
        return server.url, "default"

    def _create(self, database: str) -> None:
        """Tables, and topics where there is no mock cluster that made them."""
        options = self._options
        if options.clickhouse:
            admin = ClickHouse(ClickHouseConfig(urls=[options.clickhouse]))
            self._stack.callback(admin.close)
            admin.command(f"CREATE DATABASE {quote(database)}")
            if options.keep is None:
                self._stack.callback(admin.command, f"DROP DATABASE {quote(database)}")
        if not self.mock:
            from pipeline.workload.produce import create_topic, delete_topics

            topics = {self.config.routes[0].topic: options.partitions, self.config.dead_letters.topic: 1}
            if options.keep is None:
                self._stack.callback(delete_topics, self.config.kafka, list(topics))
            for topic, partitions in topics.items():
                create_topic(self.config.kafka, topic, partitions)
        clickhouse = ClickHouse(self.config.clickhouse)
        try:
            for statement in create_tables(load(self.config.routes[0], self.config.dedup, {})):
                clickhouse.command(statement)
        finally:
            clickhouse.close()

    def _text(self, brokers: str, url: str, database: str) -> str:
        """The configuration file. JSON's strings and lists are TOML's."""
        options, shape = self._options, self._shape
        tables = {tag: tag.partition(".")[0] or shape.name for tag in shape.tags}
        lines = [
            f"name = {json.dumps(self.name)}",
            "[kafka]",
            f"brokers = {json.dumps(brokers)}",
            f"group = {json.dumps(self.name)}",
            f"group_protocol = {json.dumps(options.protocol)}",
            f"session_timeout_ms = {SESSION_MS}" if options.protocol == "classic" else "",
            "[clickhouse]",
            f"urls = {json.dumps([url])}",
            f"database = {json.dumps(database)}",
            "[dedup]",
            f"key = {json.dumps(list(shape.key))}",
            "[batch]",
            "age_ms_max = 500",
            "[dead_letters]",
            f"topic = {json.dumps(self.name + '-dead')}",
            "[http]",
            'host = "127.0.0.1"',
            "port = 0",
            "[[routes]]",
            f"topic = {json.dumps(self.name)}",
            f"contract = {json.dumps(shape.contract)}",
        ]
        if shape.tags == ("",):
            lines.append(f"table = {json.dumps(shape.name)}")
        else:
            lines += ["[routes.tables]", *(f"{json.dumps(tag)} = {json.dumps(table)}" for tag, table in tables.items())]
        return "\n".join(line for line in lines if line) + "\n"
