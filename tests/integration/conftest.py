"""Fixtures of the integration tests: what `tests/conftest.py` offers, and topics on a mock cluster with several brokers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.embedded.mock_kafka import MockKafka


@pytest.fixture
def mock_kafka_3() -> Iterator[MockKafka]:
    """A mock cluster with three brokers, for leader and coordinator moves."""
    with MockKafka(brokers=3) as kafka:
        yield kafka
