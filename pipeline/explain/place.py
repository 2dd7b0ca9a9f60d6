"""What became of the record at one place: (topic, partition, offset)."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline import intent, native
from pipeline import spans as span_reader
from pipeline.assembly import id_columns
from pipeline.config.schema import Config
from pipeline.config.start import parse_start
from pipeline.contract import Contract, encode_json
from pipeline.decode import Decoder
from pipeline.explain.answer import Answer, Batch, Letter, Outcome
from pipeline.kafka import Cluster
from pipeline.letter import PREFIX, record_of
from pipeline.types import Partition, Records, Source, Span
from pipeline.verify.account import Heart
from pipeline.verify.candidates import Candidates
from pipeline.verify.keys import KeySearch, digest, keys_of, source_of
from pipeline.verify.report import Report
from pipeline.verify.tables import Row, Tables, time_text

SKEW_MS = 300_000
"""A letter's time may lie this much before its record's."""
LETTERS_MAX = 10
"""More letters of one record are not shown."""


class _Known(NamedTuple):
    """What Kafka says of a partition."""

    committed: int | None
    metadata: str
    low: int
    high: int


class Explainer:
    """Answers about places. One thread."""

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        tables: Tables,
        contracts: Mapping[str, Contract],
        open_source: Callable[[], Source],
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._tables = tables
        self._contracts = contracts
        self._open_source = open_source
        self._keys = KeySearch(config, cluster, tables, self.read)

    def read(self, spans: Sequence[Span]) -> Iterator[tuple[Records, int, int]]:
        """Runs of records, as `spans.read` gives them; gives up when Kafka falls silent."""
        heart = Heart(self._config.kafka.brokers)
        for found in span_reader.read(self._open_source, spans, lambda: heart(False)):
            yield found
            heart(True)

    def explain(self, partition: Partition, offset: int) -> Answer:
        """What became of the record. The partition must be one of a routed topic."""
        known = self._known(partition)
        answer = Answer(*partition, offset, Outcome.MISSING)
        answer.committed, answer.log_start, answer.log_end = known.committed, known.low, known.high
        record = self._record(partition, offset) if known.low <= offset < known.high else None
        if record is not None:
            records, index = record
            value = records.values[index]
            answer.timestamp = time_text(records.timestamps[index])
            answer.nbytes = None if value is None else len(value)
        answer.rows = self._tables.rows(partition, offset)
        answer.letters = self._letters(partition, offset, record)
        if answer.rows or answer.letters:
            self._found(answer, known)
        elif record is None:
            self._without_record(answer, partition, known)
        else:
            self._of_record(answer, known, *record)
        return answer

    def _known(self, partition: Partition) -> _Known:
        offset, metadata = self._cluster.committed([partition])[partition]
        low, high = self._cluster.watermarks([partition])[partition]
        return _Known(offset if offset >= 0 else None, metadata, low, high)

    def _record(self, partition: Partition, offset: int) -> tuple[Records, int] | None:
        for records, first, cut in self.read([Span(partition, offset, offset + 1)]):
            if first < cut:
                return records, first
        return None

    def _found(self, answer: Answer, known: _Known) -> None:
        rows = len(answer.rows)
        if rows > 1 or (rows and answer.letters):
            answer.outcome = Outcome.DOUBLED
            answer.why = f"{rows} rows" if rows > 1 else "a row"
            answer.why += " and a dead letter" if answer.letters else ""
            return
        answer.outcome = Outcome.ROW if rows else Outcome.DEAD_LETTER
        if len(answer.letters) > 1:
            answer.why = f"written {len(answer.letters)} times, which does no harm"
        if known.committed is None or answer.offset >= known.committed:
            answer.why = "its batch is not committed yet"
            answer.batch = self._batch(answer, known)

    def _without_record(self, answer: Answer, partition: Partition, known: _Known) -> None:
        """Neither row, nor letter, nor record."""
        if answer.offset >= known.high:
            answer.outcome = Outcome.NOT_PRODUCED
        elif self._is_before_start(partition, answer.offset, -1):
            answer.outcome = Outcome.BEFORE_START
        elif answer.offset < known.low:
            answer.outcome = Outcome.GONE
        else:
            answer.outcome = Outcome.NO_RECORD

    def _of_record(self, answer: Answer, known: _Known, records: Records, index: int) -> None:
        """Neither row nor letter, but the record is there."""
        if known.committed is None or answer.offset >= known.committed:
            answer.batch = self._batch(answer, known)
            answer.outcome = Outcome.IN_FLIGHT if answer.batch is not None else Outcome.NOT_READ
            return
        report = Report(examples_max=1)
        topic = records.partition.topic
        candidates = Candidates(self._config, topic, self._contracts[topic], self._tables, report, self._keys)
        candidates.examine(records, [index])
        candidates.look_up()
        if report.filtered:
            answer.outcome = Outcome.FILTERED
        elif report.dropped:
            answer.outcome = Outcome.DROPPED
        elif report.duplicates:
            answer.outcome = Outcome.DUPLICATE
            answer.original = self._original(records, index)
        elif self._is_before_start(records.partition, answer.offset, records.timestamps[index]):
            answer.outcome = Outcome.BEFORE_START
        else:
            answer.outcome = Outcome.MISSING
            answer.why = report.examples["missing"][0].why

    def _original(self, records: Records, index: int) -> Row | None:
        """The row that holds the record's event id."""
        topic = records.partition.topic
        contract = self._contracts[topic]
        row = Decoder(contract, self._config.limits.record_bytes_max, "drop").decode([records.values[index]])[0][0]
        target = contract.tables[type(row)]
        if source := source_of(self._config):
            key = keys_of(source, records, [index])[0] or b""
            for found in self._keys.find(topic, frozenset([digest(key)]), records.timestamps[index]):
                if rows := self._tables.rows(found.partition, found.offset):
                    return rows[0]
            return None
        builder = native.BlockBuilder(id_columns(target), encode_json=encode_json)
        places = array("q", [records.offsets[index]]), array("q", [records.timestamps[index]])
        run = native.Run(topic, records.partition.number, 0, *places)
        native.append({type(row): builder}, [row], run, None, None, bytearray(1))
        return self._tables.owner(topic, target, builder.finish().native())

    def _batch(self, answer: Answer, known: _Known) -> Batch | None:
        """The declared batch that holds the record, by the committed metadata."""
        partition = Partition(answer.topic, answer.partition)
        for one in intent.decode(known.metadata, intent.Identity(self._config.name, "", {}), partition):
            if any(span.partition == partition and span.first <= answer.offset < span.next for span in one.spans):
                age_s = round(time.time() - one.declared_ms / 1000, 3)
                return Batch(time_text(one.declared_ms), age_s, [str(span) for span in one.spans], bool(one.salt))
        return None

    def _letters(self, partition: Partition, offset: int, record: tuple[Records, int] | None) -> list[Letter]:
        topic = self._config.dead_letters.topic
        if not topic or not self._cluster.topic_exists(topic):
            return []
        places = [Partition(topic, number) for number in range(self._cluster.topic_partitions(topic))]
        marks = self._cluster.watermarks(places)
        first: Mapping[Partition, int] = {}
        if record is not None and record[0].timestamps[record[1]] > SKEW_MS and not self._cluster.is_mock():
            since_ms = record[0].timestamps[record[1]] - SKEW_MS
            first = self._cluster.offsets_for_times(dict.fromkeys(places, since_ms))
        spans = [Span(p, max(low, first.get(p, low)), high) for p, (low, high) in marks.items()]
        found: list[Letter] = []
        for records, begin, cut in self.read([span for span in spans if span.first < span.next]):
            for index in range(begin, cut):
                headers = records.headers(index)
                if record_of(headers, self._config.name) == (partition, offset) and len(found) < LETTERS_MAX:
                    found.append(_letter(records, index))
        return found

    def _is_before_start(self, partition: Partition, offset: int, time_ms: int) -> bool:
        """Whether the pipeline began after the record, as far as its configuration and its rows tell."""
        start = parse_start(self._config.kafka.start)
        if start == "earliest":
            return False
        if start == "latest":
            bounds = self._tables.bounds(partition)
            return bounds is None or offset < bounds[0]
        if time_ms >= 0:
            return time_ms < start
        return offset < self._cluster.offsets_for_times({partition: start})[partition]


def _letter(records: Records, index: int) -> Letter:
    texts = {
        name.removeprefix(PREFIX): (value or b"").decode(errors="replace")
        for name, value in records.headers(index)
        if name.startswith(PREFIX)
    }
    said = [texts.get(name, "") for name in ("stage", "code", "detail", "contract", "attempt")]
    return Letter(*records.partition, records.offsets[index], *said)
