"""Servers that the directed tests share; each test has topics and tables of its own on them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.stage import Servers


@pytest.fixture(scope="session")
def three_brokers(needs_apache_kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Three brokers and ClickHouse behind proxies. A test that takes one down brings it up again."""
    with Servers(tmp_path_factory.mktemp("servers")) as servers:
        yield servers
