"""explain on the embedded broker and a real engine: every outcome a record can have, and nothing of its payload."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from pipeline import intent
from pipeline.cli import main
from pipeline.embedded.mock_kafka import MockKafka
from pipeline.explain import Answer, Outcome, explain_id, explain_place
from pipeline.intent import Identity, Intent
from pipeline.selection import Selection, SelectionError, parse
from pipeline.types import Partition, Span
from pipeline.workload import Mix
from pipeline.workload import Outcome as Fate
from tests.integration.ingest import EVENTS, Ingest

MIX = Mix(duplicates=0.1, poison=0.05, tombstones=0.05)
N = 1_500
EACH = N // 3


def declare(one: Ingest, number: int, offset: int, span: Span) -> None:
    """Commits an offset of a partition together with a batch in flight."""
    identity = Identity(one.config.name, "", {})
    metadata = intent.encode(identity, [Intent((span,), int(time.time() * 1000) - 5_000, bytes(8))])
    consumer = Consumer({"bootstrap.servers": one.config.kafka.brokers, "group.id": "g"})
    consumer.commit(offsets=[TopicPartition(EVENTS, number, offset, metadata)], asynchronous=False)
    consumer.close()


def of(one: Ingest, number: int, offset: int) -> Answer:
    return explain_place(one.config, Partition(EVENTS, number), offset)


def test_what_records_became(ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest()
    generator = one.generate(N, seed, MIX)
    fates = generator.fates(0, 0, EACH)
    plain = [o for o in range(EACH) if o not in fates and all(f.origin != o for f in fates.values())]
    lost, twice, row = plain[3], plain[4], plain[5]
    one.ingest(skip={(0, lost)})
    one.clickhouse.command(f"INSERT INTO flat_0 SELECT * FROM flat_0 WHERE _partition = 0 AND _offset = {twice}")

    answer = of(one, 0, row)
    assert (answer.outcome, answer.alarm) == (Outcome.ROW, False)
    [found] = answer.rows
    assert (found.table, found.topic, found.partition, found.offset) == ("flat_0", EVENTS, 0, row)
    assert found.timestamp == answer.timestamp
    assert answer.nbytes
    assert (answer.committed, answer.log_start, answer.log_end) == (EACH, 0, EACH)

    copy, origin = next((o, f.origin) for o, f in fates.items() if f.outcome is Fate.DUPLICATE)
    answer = of(one, 0, copy)
    assert answer.outcome is Outcome.DUPLICATE
    assert answer.original is not None
    assert (answer.original.partition, answer.original.offset) == (0, origin)

    reject = next(o for o, f in fates.items() if f.outcome is Fate.LETTER)
    answer = of(one, 0, reject)
    assert answer.outcome is Outcome.DEAD_LETTER
    [letter] = answer.letters
    assert (letter.topic, letter.attempt, letter.contract) == ("letters", "1", "c")
    assert letter.stage
    assert letter.code

    tombstone = next(o for o, f in fates.items() if f.outcome is Fate.FILTERED)
    assert of(one, 0, tombstone).outcome is Outcome.FILTERED
    assert of(one, 0, tombstone).nbytes is None

    answer = of(one, 0, lost)
    assert (answer.outcome, answer.alarm) == (Outcome.MISSING, True)
    assert "its event id is not stored" in answer.why
    answer = of(one, 0, twice)
    assert (answer.outcome, answer.alarm, answer.why, len(answer.rows)) == (Outcome.DOUBLED, True, "2 rows", 2)
    assert of(one, 0, EACH).outcome is Outcome.NOT_PRODUCED
    one.letter(0, row)
    one.producer.flush()
    assert of(one, 0, row).why == "a row and a dead letter"


def test_what_is_on_its_way(ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest()
    one.generate(N, seed, Mix())
    one.ingest(commit=False, skip={(1, offset) for offset in range(100, EACH)})
    span = Span(Partition(EVENTS, 1), 90, 200)
    declare(one, 1, 90, span)
    assert of(one, 1, 50).outcome is Outcome.ROW
    stored = of(one, 1, 95)
    assert (stored.outcome, stored.why) == (Outcome.ROW, "its batch is not committed yet")
    assert stored.batch is not None
    answer = of(one, 1, 150)
    assert (answer.outcome, answer.alarm) == (Outcome.IN_FLIGHT, False)
    assert answer.batch is not None
    assert answer.batch.spans == [str(span)]
    assert 5 <= answer.batch.age_s < 60
    assert of(one, 1, 200).outcome is Outcome.NOT_READ
    assert of(one, 2, 0).outcome is Outcome.ROW, "nothing is committed, but its row is there"
    assert of(one, 2, 0).committed is None


def test_what_kafka_lost_and_what_came_before(mock_kafka: MockKafka, ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest()
    one.generate(N, seed, Mix())
    one.ingest(skip={(1, offset) for offset in range(20)})
    latest = msgspec.structs.replace(one.config, kafka=msgspec.structs.replace(one.config.kafka, start="latest"))
    assert explain_place(latest, Partition(EVENTS, 1), 5).outcome is Outcome.BEFORE_START
    assert explain_place(latest, Partition(EVENTS, 1), 25).outcome is Outcome.ROW
    assert of(one, 1, 5).outcome is Outcome.MISSING
    mock_kafka.delete_records(EVENTS, 1, 30)
    assert of(one, 1, 5).outcome is Outcome.GONE
    kept = of(one, 1, 25)
    assert (kept.outcome, kept.nbytes, kept.timestamp) == (Outcome.ROW, None, "")


def test_dropped_rejects_and_ids_that_are_keys(ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest(key=["@key"], on_reject="drop")
    generator = one.generate(N, seed, Mix(duplicates=0.2, poison=0.05, keys=True))
    one.ingest()
    fates = generator.fates(2, 0, EACH)
    reject = next(o for o, f in fates.items() if f.outcome is Fate.LETTER)
    assert of(one, 2, reject).outcome is Outcome.DROPPED
    copy, origin = next((o, f.origin) for o, f in fates.items() if f.outcome is Fate.DUPLICATE)
    answer = of(one, 2, copy)
    assert answer.outcome is Outcome.DUPLICATE
    assert answer.original is not None
    assert answer.original.offset == origin
    one.clickhouse.command(f"DELETE FROM flat_0 WHERE _partition = 2 AND _offset = {origin}")
    others = [o for o, f in fates.items() if f.origin == origin]
    assert of(one, 2, others[0]).outcome is Outcome.MISSING


def test_by_event_id(ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest()
    generator = one.generate(N, seed, MIX)
    fates = generator.fates(0, 0, EACH)
    origin = next(f.origin for f in fates.values() if f.outcome is Fate.DUPLICATE)
    copies = [o for o, f in fates.items() if f.origin == origin]
    plain = [o for o in range(EACH) if o not in fates and all(f.origin != o for f in fates.values())]
    one.ingest()
    [column] = one.contract.tables[next(iter(one.contract.tables))].key_columns

    def id_of(offset: int) -> str:
        sql = f"SELECT toString({column}) FROM flat_0 WHERE _partition = 0 AND _offset = {offset}"
        return str(one.clickhouse.query_rows(sql)[0][0])

    assert origin is not None
    known, other = id_of(origin), id_of(plain[0])
    [answer] = explain_id(one.config, [known], Selection())
    assert (answer.outcome, answer.offset) == (Outcome.ROW, origin)
    one.clickhouse.command(f"DELETE FROM flat_0 WHERE _partition = 0 AND _offset IN ({origin}, {plain[0]})")
    read: list[int] = []
    [answer] = explain_id(one.config, [other], Selection(), begin=read.append)
    assert (answer.outcome, answer.partition, answer.offset) == (Outcome.MISSING, 0, plain[0])
    assert read == [N]
    answers = explain_id(one.config, [known], Selection())
    assert [(a.outcome, a.offset) for a in answers] == [(Outcome.MISSING, o) for o in sorted([origin, *copies])]
    assert explain_id(one.config, [other], parse(f"{EVENTS}/1:0", None)) == []
    with pytest.raises(SelectionError, match="cannot read the values as"):
        explain_id(one.config, ["no id"], Selection())
    with pytest.raises(SelectionError, match="2 values for 1 fields"):
        explain_id(one.config, [known, other], Selection())


def test_the_command(ingest: Callable[..., Ingest], seed: int, tmp_path: Path, capsys: Any) -> None:
    one = ingest()
    generator = one.generate(N, seed, MIX)
    fates = generator.fates(1, 0, EACH)
    row = next(o for o in range(EACH) if o not in fates and all(f.origin != o for f in fates.values()))
    one.ingest(skip={(1, row)})
    config = ["-c", str(one.write_config(tmp_path))]
    assert main(["explain", EVENTS, "1", str(row), *config, "--json"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["ok"] is False
    assert (found["records"][0]["outcome"], found["records"][0]["alarm"]) == ("missing", True)
    reject = next(o for o, f in fates.items() if f.outcome is Fate.LETTER)
    assert main(["explain", EVENTS, "1", str(reject), *config]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{EVENTS}/1 offset {reject}: a dead letter\n  dead letter  letters/")
    copy = next(o for o, f in fates.items() if f.outcome is Fate.DUPLICATE)
    assert main(["explain", EVENTS, "1", str(copy), *config, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["records"][0]["original"]["table"] == "flat_0"
    for words in (["other", "0", "1"], [EVENTS, "9", "1"], [EVENTS, "1"], [EVENTS, "x", "1"], []):
        assert main(["explain", *words, *config]) == 2
    assert main(["explain", EVENTS, "1", "1", *config, "--id", "x"]) == 2
    unknown = "00000000-0000-0000-0000-000000000001"
    assert main(["explain", "--id", unknown, *config]) == 1
    assert "no row has this id" in capsys.readouterr().out


def test_nothing_of_the_payload_is_shown(ingest: Callable[..., Ingest], seed: int, tmp_path: Path, capsys: Any) -> None:
    one = ingest()
    one.generate(3, seed, Mix())
    secret = b'{"secret": "hunter2", broken'
    one.producer.produce(EVENTS, secret, partition=0)
    one.producer.flush()
    one.ends[0] += 1
    one.ingest()
    config = ["-c", str(one.write_config(tmp_path))]
    for words in ([], ["--json"]):
        assert main(["explain", EVENTS, "0", str(one.ends[0] - 1), *config, *words]) == 0
        text = capsys.readouterr().out
        assert "undecodable" in text
        assert "hunter2" not in text
        assert "secret" not in text
