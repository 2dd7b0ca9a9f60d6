"""Reading a topic: the bare native reader (the floor), and both sources with every value as bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.config.schema import Kafka
from pipeline.embedded.mock_kafka import MockKafka
from pipeline.source import open_reader, open_source
from pipeline.types import Partition, PartitionEnd, SourceFault
from pipeline.workload import Generator, shape
from pipeline.workload.produce import Feed, shares

PARTITIONS = 8
RECORDS = 240_000


class Filled:
    """A topic with the flat workload. The broker is in this process, so its CPU is in these figures too."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        firsts = dict.fromkeys(range(PARTITIONS), 0)
        feed = Feed(kafka, "t", Generator(shape("flat"), 1), compression="lz4")
        self.nbytes = feed.run(shares(RECORDS, firsts), firsts, [].append).nbytes


@pytest.fixture(scope="module")
def filled() -> Iterator[Filled]:
    with MockKafka(topics={"t": PARTITIONS}) as broker:
        yield Filled(Kafka(brokers=broker.bootstrap, group="g"))


def test_reader_floor(stated: Any, filled: Filled) -> None:
    reader = open_reader(filled.kafka)

    def drain() -> int:
        reader.assign([("t", number, 0) for number in range(PARTITIONS)])
        records = 0
        while records < RECORDS:
            records += reader.drain(10_000, 1_000)[0]
        return records

    assert stated(drain, rows=RECORDS, nbytes=filled.nbytes) == RECORDS
    reader.close()


@pytest.mark.parametrize("kind", ["native", "confluent"])
def test_reader_source(stated: Any, filled: Filled, kind: Any) -> None:
    source = open_source(Kafka(brokers=filled.kafka.brokers, group="g", reader=kind))

    def read() -> int:
        source.assign({Partition("t", number): 0 for number in range(PARTITIONS)})
        records = 0
        while records < RECORDS:
            for event in source.poll(10_000, 1.0):
                assert not isinstance(event, SourceFault)
                if not isinstance(event, PartitionEnd):
                    records += len(event.values)
        return records

    assert stated(read, rows=RECORDS, nbytes=filled.nbytes) == RECORDS
    source.close()
