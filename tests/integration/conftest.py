"""Pipelines under test: on the mock cluster, on Apache Kafka, and as a few lines without any safety."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.embedded.apache_kafka import ApacheKafka
from pipeline.embedded.mock_kafka import MockKafka
from tests.conftest import Database
from tests.integration.doctor import Setup
from tests.integration.harness import Pipeline, opened
from tests.integration.ingest import EVENTS, LETTERS, Ingest


@pytest.fixture
def pipeline(tmp_path: Path, mock_kafka: MockKafka, clickhouse_url: str) -> Iterator[Pipeline]:
    with opened(tmp_path, mock_kafka, clickhouse_url) as made:
        yield made


@pytest.fixture
def apache_pipeline(tmp_path: Path, apache_kafka: ApacheKafka, clickhouse_url: str) -> Iterator[Pipeline]:
    # Records of some tests are older than a broker keeps them by default.
    with opened(tmp_path, apache_kafka, clickhouse_url, **{"retention.ms": "-1"}) as made:
        yield made


@pytest.fixture
def ingest(mock_kafka: MockKafka, chdb_server: Database) -> Callable[..., Ingest]:
    """Makes an `Ingest` with the given options, on a topic of three partitions."""
    mock_kafka.create_topic(EVENTS, 3)
    mock_kafka.create_topic(LETTERS, 2)

    def make(**options: Any) -> Ingest:
        return Ingest(mock_kafka.bootstrap, chdb_server.url, chdb_server.database, **options)

    return make


@pytest.fixture
def setup(tmp_path: Path, mock_kafka: MockKafka, chdb_server: Database) -> Setup:
    """What `penstock check` looks at, and nothing wrong with it."""
    mock_kafka.create_topic(Setup.topic, 3)
    mock_kafka.create_topic(Setup.letters, 1)
    made = Setup(tmp_path, mock_kafka.bootstrap, chdb_server)
    made.write()
    return made
