"""A pipeline of a few lines without any safety, so that tests of `verify` can put every kind of fault into its result."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from pipeline import letter, native
from pipeline import spans as span_reader
from pipeline.clickhouse import ClickHouse
from pipeline.clickhouse.client import NativeBlock
from pipeline.config.schema import Batch, Config, DeadLetters, Dedup, Http, Kafka, Route
from pipeline.config.schema import ClickHouse as ClickHouseConfig
from pipeline.contract import Contract, encode_json, load
from pipeline.ddl import create_tables
from pipeline.decode import Decoder
from pipeline.kafka import Cluster
from pipeline.source import open_source
from pipeline.types import DeadLetter, Partition, Records, Reject, RejectCode, Span, Stage
from pipeline.workload import Generator, Mix, shape
from pipeline.workload.produce import Feed, positions, shares

EVENTS, LETTERS = "events", "letters"


class Ingest:
    """A workload in a topic of a mock cluster, tables for it, and what is needed to fill them."""

    def __init__(self, brokers: str, url: str, database: str, workload: str = "flat", **options: Any) -> None:
        self.shape = shape(workload)
        one = len(self.shape.tags) == 1
        self.tables = {tag: f"{workload}_{index}" for index, tag in enumerate(self.shape.tags)}
        self.config = Config(
            name="p",
            kafka=Kafka(brokers=brokers, group="g"),
            clickhouse=ClickHouseConfig(urls=[url], database=database),
            routes=[
                Route(
                    topic=EVENTS,
                    table=self.tables[""] if one else "",
                    tables={} if one else self.tables,
                    contract=self.shape.contract,
                )
            ],
            dedup=Dedup(key=options.pop("key", list(self.shape.key)), ids_max=100_000),
            dead_letters=DeadLetters(topic=LETTERS, **options),
            batch=Batch(),
            http=Http(enabled=False),
        )
        self.clickhouse = ClickHouse(self.config.clickhouse)
        self.contract: Contract = load(self.config.routes[0], self.config.dedup, {})
        for statement in create_tables(self.contract):
            self.clickhouse.command(statement)
        self.producer = Producer({"bootstrap.servers": brokers, "linger.ms": 5})
        self.decoder = Decoder(self.contract, 1 << 22, "drop")
        key_in_row = bool(self.config.dedup.key) and not self.config.dedup.key[0].startswith("@")
        self.builders = {
            row_type: native.BlockBuilder(
                target.columns, key=target.key_columns if key_in_row else (), encode_json=encode_json
            )
            for row_type, target in self.contract.tables.items()
        }
        self.claims = native.ClaimTable(100_000, secret=bytes(16)) if self.config.dedup.key else None
        self.slots: dict[int, int] = {}
        self.tokens = 0

    def generate(self, events: int, seed: int, mix: Mix) -> Generator:
        generator = Generator(self.shape, seed, mix)
        firsts = positions(Cluster(self.config.kafka), EVENTS)
        feed = Feed(self.config.kafka, EVENTS, generator)
        self.ends = feed.run(shares(events, firsts), firsts, lambda _: None).next
        return generator

    def ingest(self, *, skip: Iterable[tuple[int, int]] = (), commit: bool = True) -> None:
        """Everything in the topic, but for the (partition, offset) to skip, which become nothing at all."""
        left_out = set(skip)
        spans = [Span(Partition(EVENTS, number), 0, end) for number, end in self.ends.items() if end]
        for records, first, cut in span_reader.read(lambda: open_source(self.config.kafka), spans, lambda: None):
            self.take(records, first, cut, left_out)
        self.producer.flush()
        if commit:
            self.commit(self.ends)

    def commit(self, ends: dict[int, int]) -> None:
        consumer = Consumer({"bootstrap.servers": self.config.kafka.brokers, "group.id": "g"})
        offsets = [TopicPartition(EVENTS, number, end) for number, end in ends.items()]
        consumer.commit(offsets=offsets, asynchronous=False)
        consumer.close()

    def take(self, records: Records, first: int, cut: int, left_out: set[tuple[int, int]]) -> None:
        number = records.partition.number
        offsets = records.offsets[first:cut]
        rows, rejects, _ = self.decoder.decode(records.values[first:cut])
        for index, offset in enumerate(offsets):
            if (number, offset) in left_out:
                rows[index] = None
        if self.claims is not None and number not in self.slots:
            self.slots[number] = self.claims.open_slot(number)
        run = native.Run(EVENTS, number, self.slots.get(number, 0), offsets, array("q", records.timestamps[first:cut]))
        key = self.config.dedup.key[:1]
        keys = [records.key(index) for index in range(first, cut)] if key == ["@key"] else None
        refusals = native.append(self.builders, rows, run, self.claims, keys, bytearray(len(rows)))
        bad = [(index, reject.code.value) for index, reject in rejects]
        bad += [(refusal.index, str(refusal.code)) for refusal in refusals]
        for index, code in bad:
            if (number, offsets[index]) not in left_out and self.config.dead_letters.on_reject != "drop":
                self.letter(number, offsets[index], code, records.values[first + index])
        for row_type, builder in self.builders.items():
            if builder.rows:
                target = self.contract.tables[row_type]
                self.insert(target.table, [column.name for column in target.columns], builder.finish())

    def insert(self, table: str, columns: list[str], block: NativeBlock) -> None:
        self.tokens += 1
        self.clickhouse.insert(self.clickhouse.encode(table, columns, block), f"token-{self.tokens}")

    def letter(self, number: int, offset: int, code: str = "undecodable", value: bytes | None = b"x") -> None:
        reject = Reject(Stage.DECODE, RejectCode(code), "test")
        dead = DeadLetter(Partition(EVENTS, number), offset, 0, None, value, (), reject, "c")
        self.producer.produce(LETTERS, **letter.message(dead, "p"))
        self.producer.poll(0)

    def offsets(self, number: int, table: int = 0) -> list[int]:
        """The stored offsets of a partition."""
        name = list(self.tables.values())[table]
        sql = f"SELECT _offset FROM {name} WHERE _partition = {number} ORDER BY _offset"
        return [int(row[0]) for row in self.clickhouse.query_rows(sql)]

    def write_config(self, directory: Path) -> Path:
        """The configuration as a file."""
        config = self.config
        route = config.routes[0]
        tables = "\n".join(f'"{tag}" = "{table}"' for tag, table in route.tables.items())
        path = directory / "p.toml"
        path.write_text(
            f'name = "p"\n[kafka]\nbrokers = "{config.kafka.brokers}"\ngroup = "g"\n'
            f'[clickhouse]\nurls = ["{config.clickhouse.urls[0]}"]\ndatabase = "{config.clickhouse.database}"\n'
            f'[dedup]\nkey = {config.dedup.key}\n[dead_letters]\ntopic = "{LETTERS}"\n'
            f'[[routes]]\ntopic = "{EVENTS}"\ncontract = "{route.contract}"\n'
            + (f"[routes.tables]\n{tables}\n" if tables else f'table = "{route.table}"\n')
        )
        return path
