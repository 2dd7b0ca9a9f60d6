"""Records out of memory: the flow and its kernels measured without broker and engine. Nothing here does I/O."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from pipeline import assembly, workload
from pipeline import contract as contracts
from pipeline.config.schema import ClickHouse, Config, Dedup, Kafka, Route
from pipeline.contract import Contract
from pipeline.dedup import Dedup as Claims
from pipeline.lane import Lane
from pipeline.types import Headers, Partition
from pipeline.workload.make import START_MS, STEP_MS, Shape

TOPIC = "canned"


class ListRecords:
    """A run of records over values that are kept in a list."""

    def __init__(self, partition: Partition, first: int, time_ms: int, values: list[bytes | None]) -> None:
        """Offsets from `first` on; `time_ms` is the timestamp of the first record."""
        self.partition = partition
        self.values = values
        self.offsets: array[int] = array("q", range(first, first + len(values)))
        self.timestamps: array[int] = array("q", range(time_ms, time_ms + len(values) * STEP_MS, STEP_MS))
        self.next_offset = first + len(values)
        lengths = [len(value or b"") for value in values]
        self.nbytes = sum(lengths)
        self.largest_bytes = max(lengths, default=0)
        self.oldest_ms = time_ms

    def __len__(self) -> int:
        return len(self.values)

    def value(self, index: int) -> bytes | None:
        return self.values[index]

    def key(self, index: int) -> bytes | None:  # noqa: ARG002
        return None

    def headers(self, index: int) -> Headers:  # noqa: ARG002
        return ()


def config_of(shape: Shape, *, claims: bool = True, ids_max: int = 10_000_000) -> Config:
    """A configuration with everything on, whose servers are never asked."""
    return Config(
        name="canned",
        kafka=Kafka(brokers="127.0.0.1:1", group="canned"),
        clickhouse=ClickHouse(urls=["http://127.0.0.1:1"]),
        routes=[_route(shape)],
        dedup=Dedup(key=list(shape.key), ids_max=ids_max) if claims else Dedup(),
    )


def contract_of(config: Config) -> Contract:
    """The contract of its only route, without a look at a table."""
    return contracts.load(config.routes[0], config.dedup, {})


def lane_of(config: Config, contract: Contract, claims: Claims) -> Lane:
    """The lane that a worker would use."""
    return assembly.lane_of(TOPIC, contract, config, claims)


def values_of(shape: Shape, seed: int, count: int, *, first: int = 0) -> list[bytes | None]:
    """Ordinary records of the workload."""
    return [made.value for made in workload.Generator(shape, seed).records(0, first, count)]


def runs_of(values: Sequence[bytes | None], run_records: int) -> list[list[bytes | None]]:
    """The values in runs as long as a poll gives them."""
    return [list(values[start : start + run_records]) for start in range(0, len(values), run_records)]


def time_of(offset: int) -> int:
    return START_MS + offset * STEP_MS


def _route(shape: Shape) -> Route:
    if shape.tags == ("",):
        return Route(topic=TOPIC, table="canned", contract=shape.contract)
    tables = {tag: f"canned_{index}" for index, tag in enumerate(shape.tags)}
    return Route(topic=TOPIC, tables=tables, contract=shape.contract)
