"""verify and replay on a real Apache Kafka: times, transactions, retention, and groups whose members must not notice."""

from __future__ import annotations

import datetime
import random
import re
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline import config as configuration
from pipeline.selection import parse
from pipeline.verify import verify
from tests.integration.harness import PARTITIONS, Feeder, Pipeline, event, group, wait_until
from tests.integration.replays import Replay, replayed

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.kafka
HOUR_MS = 3_600_000
BEGIN_MS = 1_767_225_600_000


@pytest.fixture
def pipeline(apache_pipeline: Pipeline) -> Pipeline:
    return apache_pipeline


def at(hours: float) -> str:
    moment = datetime.datetime.fromtimestamp((BEGIN_MS + hours * HOUR_MS) / 1000, datetime.UTC)
    return moment.isoformat().replace("+00:00", "Z")


def hourly(pipeline: Pipeline, hours: int, each: int = 50) -> None:
    """So many events an hour in every partition, and in the hour after a copy of each tenth."""
    for partition in range(PARTITIONS):
        for hour in range(hours):
            first = partition * 100_000 + hour * each
            values = [event(number) for number in range(first, first + each)]
            values += [event(number) for number in range(first - each, first, 10) if hour]
            pipeline.produce(values, partition=partition, timestamp=BEGIN_MS + hour * HOUR_MS)


def everything(pipeline: Pipeline) -> Any:
    return pipeline.rows("_partition, _offset, toString(id), number, name, _timestamp")


def delete(pipeline: Pipeline, where: str) -> None:
    pipeline.client.command(f"ALTER TABLE {pipeline.table} DELETE WHERE {where} SETTINGS mutations_sync = 2")


def members(pipeline: Pipeline) -> Any:
    """What the coordinator says of the pipeline's group."""
    admin = AdminClient({"bootstrap.servers": pipeline.brokers, "log_level": 2})
    found = admin.describe_consumer_groups([pipeline.group])[pipeline.group].result(15)
    return found.state.name, sorted(
        (member.member_id, sorted((p.topic, p.partition) for p in member.assignment.topic_partitions))
        for member in found.members
    )


def rebalances(pipeline: Pipeline) -> list[str]:
    return [
        line for worker in pipeline.workers for line in re.findall(r"(?:assigned|revoked|lost) \d+ part", worker.text())
    ]


def test_by_time_beside_workers_that_do_not_notice(pipeline: Pipeline, protocol: str, rng: random.Random) -> None:
    config = pipeline.config(kafka=group(protocol), batch={"age_ms_max": 50}, dedup={"window_s": 7_200})
    hourly(pipeline, 6)
    pipeline.run_until_caught_up(config)
    for _ in range(2):
        pipeline.start(config)
    wait_until(lambda: len(members(pipeline)[1]) == 2 and members(pipeline)[0] == "STABLE", 60, "a stable group")
    lost, twice = pipeline.rows("_offset", "WHERE _partition = 2 AND number % 50 = 27 ORDER BY _offset")[2:4]
    delete(pipeline, f"_partition = 2 AND _offset = {lost[0]}")
    pipeline.client.command(
        f"INSERT INTO {pipeline.table} SELECT * FROM {pipeline.table} WHERE _partition = 2 AND _offset = {twice[0]}"
    )
    loaded = configuration.load(config, {})
    with Feeder(pipeline, rng, per_second=2_000):
        wait_until(lambda: pipeline.in_flight(range(PARTITIONS)), 60, "work in flight")
        before, noticed = members(pipeline), rebalances(pipeline)
        report = verify(loaded, selection=parse(at(1), at(5)), rate=2_000)
        result = replayed(config, "--from", at(1), "--to", at(2.5))
        assert members(pipeline) == before, "the group is the same, of the same members"
        assert rebalances(pipeline) == noticed
    assert (report.missing, report.doubled) == (1, 1)
    [missing], [doubled] = report.examples["missing"], report.examples["doubled"]
    assert (missing.partition, missing.offset) == (2, lost[0])
    assert (doubled.partition, doubled.offset, doubled.why) == (2, twice[0], "2 rows")
    assert report.records == PARTITIONS * 4 * 55
    assert report.duplicates == PARTITIONS * 4 * 5
    assert result["rows_written"] == 1
    assert (result["records"], result["duplicates"]) == (PARTITIONS * 2 * 55, PARTITIONS * 2 * 5)
    assert verify(loaded, selection=parse(at(1), at(2.9))).ok


def test_what_retention_and_transactions_left(pipeline: Pipeline) -> None:
    """Aborted records are nothing, markers are no records, and what is gone is said."""
    config = pipeline.config()
    for number, commit in enumerate((True, False, True)):
        maker = Producer({"bootstrap.servers": pipeline.brokers, "transactional.id": f"{pipeline.group}-{number}"})
        maker.init_transactions(30)
        maker.begin_transaction()
        for value in range(number * 50, number * 50 + 50):
            maker.produce(pipeline.topic, event(value % 100), partition=0)
        assert maker.flush(30) == 0
        (maker.commit_transaction if commit else maker.abort_transaction)(30)
    pipeline.run_until_caught_up(config)
    before = everything(pipeline)
    assert [row[3] for row in before] == list(range(50)), "the last fifty are copies of the first"
    committed = pipeline.committed(range(PARTITIONS))
    pipeline.client.command(f"TRUNCATE TABLE {pipeline.table}")
    result = replayed(config, "--from", "earliest")
    assert (result["rows_written"], result["duplicates"], result["records"]) == (50, 50, 100)
    assert everything(pipeline) == before
    admin = AdminClient({"bootstrap.servers": pipeline.brokers, "log_level": 2})
    [answer] = admin.delete_records([TopicPartition(pipeline.topic, 0, 20)]).values()
    answer.result(30)
    pipeline.client.command(f"TRUNCATE TABLE {pipeline.table}")
    result = replayed(config, "--from", f"{pipeline.topic}/0:10")
    assert (result["offsets"], result["rows_written"]) == (133, 50), "copies take the place of what is gone"
    assert result["notes"] == ["10 offsets of the stretch are no longer in Kafka"]
    assert pipeline.committed(range(PARTITIONS)) == committed
    report = verify(configuration.load(config, {}))
    assert (report.missing, report.doubled, report.rows, report.duplicates) == (0, 0, 50, 30)
    assert report.unreadable == 20


def test_killed_and_resumed(pipeline: Pipeline, protocol: str, rng: random.Random) -> None:
    config = pipeline.config(
        kafka=group(protocol), batch={"rows_max": 200, "age_ms_max": 100}, dedup={"window_s": 604_800}
    )
    hourly(pipeline, 40)
    pipeline.run_until_caught_up(config)
    before, committed = everything(pipeline), pipeline.committed(range(PARTITIONS))
    pipeline.client.command(f"TRUNCATE TABLE {pipeline.table}")
    words = ("--from", at(-1), "--to", at(39))
    replay = Replay(config, *words, "--rate", "1500")
    enough = rng.randint(500, 3_000)
    wait_until(lambda: pipeline.count() > enough or replay.process.poll() is not None, 60, "rows written again")
    assert replay.process.poll() is None, replay.finish()
    replay.kill()
    half = pipeline.count()
    # A dead member's partitions are free after its session.
    code, result, err = Replay(config, *words).finish(120)
    assert code == 0, err
    assert result["resumed"]
    assert result["recovered"] + result["rows_written"] <= len(before) - half
    due = [row for row in before if row[1] < 55 * 39 - 5]
    assert everything(pipeline) == due
    assert pipeline.committed(range(PARTITIONS)) == committed
    assert replayed(config, *words)["rows_there"] == len(due)
