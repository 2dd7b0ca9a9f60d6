"""Bad records, and systems that are down or wrong: nothing is lost, the message says what to do, the exit code is right.

Every test runs the real worker process against the embedded broker and a real engine.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.embedded.mock_kafka import MockKafka
from tests.integration.harness import Pipeline, opened

COLUMNS = "id UUID, small UInt8, day Date, name String, tags Array(String), note Nullable(String)"


@pytest.fixture
def pipeline(tmp_path: Path, mock_kafka: MockKafka, clickhouse_url: str) -> Iterator[Pipeline]:
    with opened(tmp_path, mock_kafka, clickhouse_url, COLUMNS) as made:
        yield made


def good(number: int, **changes: Any) -> bytes:
    event = {"id": str(uuid.UUID(int=number)), "small": 7, "day": "2026-01-02", "name": f"n{number}"}
    event |= {"tags": ["a"], "note": None}
    return json.dumps(event | changes).encode()


def without(text: bytes, field: str) -> bytes:
    event = json.loads(text)
    del event[field]
    return json.dumps(event).encode()


DEEP = b"[" * 10_000 + b"]" * 10_000
BAD: dict[str, tuple[bytes, str]] = {
    "0 bytes": (b"", "empty"),
    "invalid UTF-8": (good(900).replace(b"n900", b"\xff\xfe"), "invalid_utf8"),
    "truncated": (good(901)[:-9], "undecodable"),
    "10,000 nested arrays": (b'{"id": "%s", "tags": %s}' % (str(uuid.UUID(int=902)).encode(), DEEP), "too_deep"),
    "null id": (good(904, id=None), "no_key"),
    "no id": (without(good(905), "id"), "no_key"),
    "wrong type": (good(906, tags="not a list"), "wrong_type"),
    "integer out of the column's range": (good(907, small=300), "out_of_range"),
    "negative into unsigned": (good(908, small=-1), "out_of_range"),
    "date out of range": (good(909, day="1900-01-01"), "out_of_range"),
    "not an object": (b"[1, 2, 3]", "wrong_type"),
    "not JSON": (b"hello", "undecodable"),
    "two objects": (good(910) + good(911), "undecodable"),
}


def test_every_bad_record_becomes_one_dead_letter_and_the_good_ones_rows(pipeline: Pipeline) -> None:
    values: list[bytes | None] = []
    for number, (bad, _) in enumerate(BAD.values()):
        values += [good(number), bad]
    pipeline.produce(values)
    pipeline.run_until_caught_up(pipeline.config(limits={"record_bytes_max": 1_000_000}))
    assert [row[0] for row in pipeline.rows("name")] == [f"n{number}" for number in range(len(BAD))]
    letters = {int(dict(letter.headers())["penstock-offset"]): letter for letter in pipeline.letters(len(BAD))}
    found = {}
    for number, (name, (bad, _)) in enumerate(BAD.items()):
        letter = letters[2 * number + 1]
        headers = {key: value.decode() for key, value in letter.headers()}
        assert letter.value() == bad
        found[name] = headers["penstock-code"]
    assert found == {name: code for name, (_, code) in BAD.items()}


def test_a_record_of_20_mb_becomes_a_dead_letter_unread(pipeline: Pipeline) -> None:
    large = good(903, name="x" * 20_000_000)
    # Alone in its partition: the embedded broker keeps 5 MB besides the newest batch.
    pipeline.produce([large], partition=1)
    pipeline.produce([good(1)])
    pipeline.run_until_caught_up(pipeline.config())
    assert pipeline.count() == 1
    [letter] = pipeline.letters(1)
    assert dict(letter.headers())["penstock-code"] == b"too_large"
    assert letter.value() == large


def test_of_a_duplicate_key_in_an_object_the_last_wins(pipeline: Pipeline) -> None:
    pipeline.produce([good(1)[:-1] + b', "small": 9}'])
    pipeline.run_until_caught_up(pipeline.config())
    assert [tuple(row) for row in pipeline.rows("small")] == [(9,)]


@pytest.mark.parametrize("policy", ["drop", "reject"])
def test_a_tombstone_is_filtered_or_rejected_as_configured(pipeline: Pipeline, policy: str) -> None:
    pipeline.produce([good(1), None, good(2)])
    pipeline.run_until_caught_up(pipeline.config(dead_letters={"tombstones": policy}))
    assert pipeline.count() == 2
    letters = pipeline.letters(1 if policy == "reject" else 0, timeout_s=3)
    assert [dict(letter.headers())["penstock-code"] for letter in letters] == [b"tombstone"] * len(letters)


def test_without_a_dead_letter_topic_the_first_reject_stops_the_worker_and_nothing_is_lost(pipeline: Pipeline) -> None:
    pipeline.produce([good(1), b"bad", good(2)])
    config = pipeline.config(dead_letters={"topic": None})
    worker = pipeline.start(config, "--until-caught-up")
    assert worker.wait() == 70
    assert "offset 1 is a reject" in worker.text()
    assert "dead_letters.topic" in worker.text()
    # With a place for rejects the same records go on from where they stood.
    pipeline.run_until_caught_up(pipeline.config())
    assert [row[0] for row in pipeline.rows("name")] == ["n1", "n2"]
    pipeline.letters(1)


def test_on_reject_drop_counts_and_goes_on(pipeline: Pipeline) -> None:
    pipeline.produce([good(1), b"bad", good(2)])
    pipeline.run_until_caught_up(pipeline.config(dead_letters={"topic": None, "on_reject": "drop"}))
    assert pipeline.count() == 2


def test_too_many_rejects_stop_the_worker(pipeline: Pipeline) -> None:
    pipeline.produce([b"bad"] * 300)
    config = pipeline.config(dead_letters={"ratio_max": 0.5, "ratio_records": 200})
    worker = pipeline.start(config, "--until-caught-up")
    assert worker.wait() == 70
    assert "ratio_max" in worker.text()


def test_broker_down_at_the_start(pipeline: Pipeline) -> None:
    config = pipeline.config(kafka={"brokers": "127.0.0.1:1"})
    worker = pipeline.start(config, "--wait", "2")
    assert worker.wait() == 69
    assert "127.0.0.1:1" in worker.text()


def test_broker_down_later(pipeline: Pipeline, mock_kafka: Any) -> None:
    pipeline.produce([good(number) for number in range(50)])
    worker = pipeline.start(pipeline.config())
    worker.says("assigned")
    mock_kafka.broker_down(1)
    try:
        worker.says("kafka")
    finally:
        mock_kafka.broker_up(1)
    pipeline.produce([good(number) for number in range(50, 100)])
    from tests.integration.harness import wait_until

    wait_until(lambda: pipeline.count() == 100, 60, "100 rows")
    assert worker.terminate() == 0
    assert pipeline.copies() == 1


def test_topic_and_table_missing_are_told_together(pipeline: Pipeline) -> None:
    config = pipeline.config(route={"topic": "no-such-topic", "table": "no_such_table"})
    worker = pipeline.start(config)
    assert worker.wait() == 78
    assert "no-such-topic" in worker.text()
    assert "no_such_table" in worker.text()
    assert "penstock ddl" in worker.text()


def test_dead_letter_topic_missing(pipeline: Pipeline) -> None:
    worker = pipeline.start(pipeline.config(dead_letters={"topic": "no-such-letters"}))
    assert worker.wait() == 78
    assert "no-such-letters" in worker.text()


def test_clickhouse_down_at_the_start(pipeline: Pipeline) -> None:
    config = pipeline.config(clickhouse={"urls": ["http://127.0.0.1:1"]})
    worker = pipeline.start(config, "--wait", "2")
    assert worker.wait() == 69
    assert "127.0.0.1:1" in worker.text()
