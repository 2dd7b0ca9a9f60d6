"""Where the records with one event id are: in the tables, or else in Kafka. It compares ids and shows none."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from pipeline import native
from pipeline.assembly import id_columns
from pipeline.clickhouse import ClickHouseError
from pipeline.config.schema import Config
from pipeline.contract import Contract, Target, encode_json
from pipeline.decode import Decoder
from pipeline.selection import SelectionError
from pipeline.types import Partition, Records, Span
from pipeline.verify.keys import Reading, keys_of, source_of
from pipeline.verify.tables import Tables

PLACES_MAX = 20
"""Records with one id that are looked for; more are not shown."""
IDS_MAX = 50_000
"""Records whose ids ClickHouse compares at once."""

Place = tuple[Partition, int]


class IdSearch:
    """Looks for one event id. `values` are the texts of the key's fields, in the order of `dedup.key`.

    Raises SelectionError when they do not fit the key.
    """

    def __init__(
        self, config: Config, tables: Tables, contracts: Mapping[str, Contract], values: Sequence[str]
    ) -> None:
        key = config.dedup.key
        if not key:
            raise SelectionError(
                "--id: the pipeline has no event ids (dedup.key is empty). Give TOPIC PARTITION OFFSET"
            )
        if len(values) != len(key):
            raise SelectionError(f"--id: {len(values)} values for {len(key)} fields ({', '.join(key)})")
        self._config = config
        self._tables = tables
        self._contracts = contracts
        self._values = list(values)
        self._source = source_of(config)

    def stored(self) -> list[Place]:
        """Places whose rows have the id; none where ids are no columns."""
        if self._source:
            return []
        found: set[Place] = set()
        for topic, contract in self._contracts.items():
            for target in contract.tables.values():
                with self._told(target):
                    found |= set(self._tables.with_id(topic, target, self._values, PLACES_MAX))
        return sorted(found)[:PLACES_MAX]

    def in_kafka(self, spans: Sequence[Span], read: Reading, progress: Callable[[int], None]) -> list[Place]:
        """Places of records with the id. Reads the spans whole, until enough are found."""
        found: list[Place] = []
        for span in spans:
            look = self._by_key if self._source else self._by_columns
            for places in look(span, read, progress):
                found += places
                if len(found) >= PLACES_MAX:
                    return found[:PLACES_MAX]
        return found

    def _by_key(self, span: Span, read: Reading, progress: Callable[[int], None]) -> Iterator[list[Place]]:
        wanted = self._values[0].encode()
        for records, first, cut in read([span]):
            keys = keys_of(self._source, records, range(first, cut))
            yield [(span.partition, records.offsets[first + at]) for at, key in enumerate(keys) if key == wanted]
            progress(cut - first)

    def _by_columns(self, span: Span, read: Reading, progress: Callable[[int], None]) -> Iterator[list[Place]]:
        contract = self._contracts[span.partition.topic]
        decoder = Decoder(contract, self._config.limits.record_bytes_max, "drop")
        builders = {
            row_type: native.BlockBuilder(id_columns(target), encode_json=encode_json)
            for row_type, target in contract.tables.items()
        }
        for records, first, cut in read([span]):
            _append(decoder, builders, records, first, cut)
            if sum(builder.rows for builder in builders.values()) >= IDS_MAX:
                yield self._matching(contract, builders)
            progress(cut - first)
        yield self._matching(contract, builders)

    def _matching(self, contract: Contract, builders: Mapping[type, native.BlockBuilder]) -> list[Place]:
        found: list[Place] = []
        for row_type, builder in builders.items():
            if builder.rows:
                target = contract.tables[row_type]
                block = builder.finish()
                topic = block.lineage()[0][0]
                with self._told(target):
                    same = self._tables.having_id(target, self._values, block.native())
                found += [(Partition(topic, number), offset) for number, offset in same]
        return found

    @contextmanager
    def _told(self, target: Target) -> Iterator[None]:
        """ClickHouse reads the values as the columns' types; what it cannot read is a mistake of the caller."""
        try:
            yield
        except ClickHouseError as error:
            if error.retriable:
                raise
            types = {column.name: column.type for column in target.columns}
            said = ", ".join(f"{name} {types[name]}" for name in target.key_columns)
            raise SelectionError(f"--id: ClickHouse cannot read the values as {said} (code {error.code})") from None


def _append(
    decoder: Decoder, builders: Mapping[type, native.BlockBuilder], records: Records, first: int, cut: int
) -> None:
    rows = decoder.decode(records.values[first:cut])[0]
    offsets, times = array("q", records.offsets[first:cut]), array("q", records.timestamps[first:cut])
    run = native.Run(records.partition.topic, records.partition.number, 0, offsets, times)
    native.append(dict(builders), rows, run, None, None, bytearray(len(rows)))
