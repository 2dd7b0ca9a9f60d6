"""The clients of a question about a pipeline: Kafka and ClickHouse, and what its configuration makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from pipeline.assembly import load_contracts, wait_for_clickhouse
from pipeline.clickhouse import ClickHouse
from pipeline.config.schema import Config
from pipeline.contract import Contract
from pipeline.kafka import Cluster
from pipeline.verify.tables import Tables

WAIT_S = 10.0


class Systems(NamedTuple):
    """Open clients, and the contracts by topic."""

    cluster: Cluster
    tables: Tables
    contracts: Mapping[str, Contract]


@contextmanager
def opened(config: Config, wait_s: float) -> Iterator[Systems]:
    """Waits so long for either system. Raises DependencyDown; ConfigurationError when tables or contracts do not fit."""
    with ExitStack() as stack:
        cluster = Cluster(config.kafka)
        stack.callback(cluster.close)
        cluster.wait(wait_s)
        clickhouse = ClickHouse(config.clickhouse)
        stack.callback(clickhouse.close)
        wait_for_clickhouse(clickhouse, wait_s)
        contracts = load_contracts(config, clickhouse, cluster)
        yield Systems(cluster, Tables(clickhouse, contracts), contracts)
