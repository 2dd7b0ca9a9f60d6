"""The whole pipeline on a real Apache Kafka: what the embedded broker cannot show, and what it shows too kindly."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.types import Partition
from tests.integration.harness import PARTITIONS, Feeder, Pipeline, event, group, settle, wait_until

if TYPE_CHECKING:
    from pipeline.embedded.apache_kafka import ApacheKafka

pytestmark = pytest.mark.kafka
NUMBERS = range(PARTITIONS)


@pytest.fixture
def pipeline(apache_pipeline: Pipeline) -> Pipeline:
    return apache_pipeline


@pytest.fixture
def restarted(apache_kafka: ApacheKafka) -> Iterator[ApacheKafka]:
    """The session's broker for a test that kills it; it runs again afterwards, also when the test fails."""
    try:
        yield apache_kafka
    finally:
        apache_kafka.start()


def wait_for_batches_in_flight(pipeline: Pipeline) -> None:
    wait_until(lambda: pipeline.in_flight(NUMBERS), 60, "batches in flight")


def numbers(pipeline: Pipeline) -> list[int]:
    return [row[0] for row in pipeline.rows("number", "ORDER BY number")]


def test_kill_9_with_batches_in_flight(pipeline: Pipeline, protocol: str, rng: random.Random) -> None:
    config = pipeline.config(kafka=group(protocol), batch={"age_ms_max": 50})
    workers = [pipeline.start(config), pipeline.start(config)]
    with Feeder(pipeline, rng) as feeder:
        for _ in range(2):
            wait_for_batches_in_flight(pipeline)
            workers.pop(rng.randrange(len(workers))).kill()
            workers.append(pipeline.start(config))
            time.sleep(rng.uniform(0.5, 1.5))
    settle(pipeline, workers, feeder)


def test_kill_9_of_the_broker_under_load(
    pipeline: Pipeline, protocol: str, restarted: ApacheKafka, rng: random.Random
) -> None:
    config = pipeline.config(kafka=group(protocol), batch={"age_ms_max": 50})
    worker = pipeline.start(config)
    with Feeder(pipeline, rng) as feeder:
        wait_for_batches_in_flight(pipeline)
        restarted.kill()
        time.sleep(rng.uniform(0.0, 1.0))
        restarted.start()
        before = feeder.unique
        wait_until(lambda: feeder.unique > before + 2_000, 60, "the producer goes on")
        wait_until(lambda: pipeline.count() > before, 60, "the worker goes on")
    settle(pipeline, [worker], feeder)


def test_a_worker_stopped_beyond_its_session_harms_nothing(
    pipeline: Pipeline, protocol: str, rng: random.Random
) -> None:
    config = pipeline.config(kafka=group(protocol), batch={"age_ms_max": 50})
    zombie, other = pipeline.start(config), pipeline.start(config)
    with Feeder(pipeline, rng) as feeder:
        # Its share, whether it came first (and gave half away) or second.
        wait_until(lambda: "ed 2 partitions" in zombie.text(), 60, "half of the partitions")
        wait_for_batches_in_flight(pipeline)
        zombie.process.send_signal(signal.SIGSTOP)
        try:
            # The session, and a rebalance in which the other takes everything.
            time.sleep(9)
        finally:
            zombie.process.send_signal(signal.SIGCONT)
        time.sleep(rng.uniform(0.5, 1.5))
    settle(pipeline, [zombie, other], feeder)
    assert "lost" in zombie.text() or "joining again" in zombie.text(), zombie.text()[-3_000:]


def sasl(pipeline: Pipeline, kafka: ApacheKafka, password: str) -> Path:
    file = pipeline.directory / "password"
    file.write_text(password + "\n")
    file.chmod(0o600)
    login = {"mechanism": "PLAIN", "username": "reader", "password_file": str(file)}
    return pipeline.config(kafka={"brokers": kafka.sasl_bootstrap, "sasl": login})


def test_credentials_right_and_wrong(pipeline: Pipeline, apache_kafka: ApacheKafka) -> None:
    pipeline.produce([event(number) for number in range(50)])
    started_s = time.monotonic()
    worker = pipeline.start(sasl(pipeline, apache_kafka, "not-the-secret"))
    assert worker.wait(30) == 69, worker.text()
    assert time.monotonic() - started_s < 15, "it is no use waiting for better credentials"
    assert "refuse our credentials" in worker.text()
    assert "kafka.sasl.username" in worker.text()
    assert "not-the-secret" not in worker.text()
    assert pipeline.count() == 0
    pipeline.run_until_caught_up(sasl(pipeline, apache_kafka, "reader-secret"))
    assert pipeline.count() == 50


class Transactions:
    """Producers whose records count, or do not, all at once."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._makers = 0

    def begin(self) -> Producer:
        self._makers += 1
        name = f"{self._pipeline.group}-{self._makers}"
        maker = Producer({"bootstrap.servers": self._pipeline.brokers, "transactional.id": name, "log_level": 2})
        maker.init_transactions(30)
        maker.begin_transaction()
        return maker

    def send(self, maker: Producer, values: Sequence[int], partition: int) -> None:
        for number in values:
            maker.produce(self._pipeline.topic, event(number), partition=partition)
        assert maker.flush(30) == 0


def ends(pipeline: Pipeline) -> dict[int, int]:
    """The offset after the last of each partition, control records included."""
    from confluent_kafka import Consumer

    client = Consumer({"bootstrap.servers": pipeline.brokers, "group.id": "reader"})
    try:
        return {n: client.get_watermark_offsets(TopicPartition(pipeline.topic, n), timeout=10)[1] for n in NUMBERS}
    finally:
        client.close()


def test_only_committed_transactions_arrive(pipeline: Pipeline, protocol: str) -> None:
    """Partition 0 ends with a commit, 1 with an abort, 2 holds nothing else than aborted records, 3 an open transaction."""
    config = pipeline.config(kafka=group(protocol))
    transactions = Transactions(pipeline)
    good, bad, late = transactions.begin(), transactions.begin(), transactions.begin()
    # The same ids first in the transaction that will not count: they must not pass for the originals.
    transactions.send(bad, range(100), 0)
    transactions.send(good, range(100), 0)
    transactions.send(good, range(100, 200), 1)
    transactions.send(bad, range(200, 300), 1)
    transactions.send(bad, range(300, 400), 2)
    pipeline.produce([event(number) for number in range(400, 450)], partition=3)
    transactions.send(late, range(450, 500), 3)
    pipeline.produce([event(number) for number in range(500, 550)], partition=3)
    good.commit_transaction(30)
    bad.abort_transaction(30)

    worker = pipeline.run_until_caught_up(config)
    assert numbers(pipeline) == [*range(200), *range(400, 450)], worker.text()
    reached = {number: offset for number, (offset, _) in pipeline.committed(NUMBERS).items()}
    assert {n: reached[n] for n in (0, 1, 2)} == {0: 202, 1: 202, 2: 101}
    assert reached[3] == 50

    late.commit_transaction(30)
    pipeline.run_until_caught_up(config)
    assert numbers(pipeline) == [*range(200), *range(400, 550)]
    assert {number: offset for number, (offset, _) in pipeline.committed(NUMBERS).items()} == ends(pipeline)
    assert pipeline.copies() == 1


def test_kill_9_between_transactions(pipeline: Pipeline, rng: random.Random) -> None:
    """Batches in flight whose spans hold aborted records and markers are recovered as they were declared."""
    config = pipeline.config(batch={"age_ms_max": 50})
    transactions = Transactions(pipeline)
    makers = [transactions.begin() for _ in range(2)]
    worker = pipeline.start(config)
    wanted: list[int] = []
    next_number = 0
    for turn in range(60):
        maker = makers[turn % 2]
        values = range(next_number, next_number + rng.randint(1, 40))
        next_number = values.stop
        transactions.send(maker, values, rng.choice(NUMBERS))
        if rng.random() < 0.5:
            maker.abort_transaction(30)
        else:
            maker.commit_transaction(30)
            wanted += values
        maker.begin_transaction()
        if turn in (20, 40):
            worker.kill()
            worker = pipeline.start(config)
    for maker in makers:
        maker.abort_transaction(30)
    wait_until(lambda: pipeline.count() >= len(wanted), 60, "all committed records")
    assert worker.terminate() == 0, worker.text()[-3_000:]
    pipeline.run_until_caught_up(config)
    assert numbers(pipeline) == wanted
    assert pipeline.copies() == 1
    assert {number: offset for number, (offset, _) in pipeline.committed(NUMBERS).items()} == ends(pipeline)


def make_anew(pipeline: Pipeline, kafka: ApacheKafka) -> None:
    """Deletes the topic and creates one of the same name."""
    admin = AdminClient({"bootstrap.servers": pipeline.brokers, "log_level": 2})
    admin.delete_topics([pipeline.topic], operation_timeout=30)[pipeline.topic].result(30)
    wait_until(lambda: pipeline.topic not in admin.list_topics(timeout=10).topics, 30, "the topic is gone")
    kafka.create_topic(pipeline.topic, PARTITIONS)


def delete_records(pipeline: Pipeline, partition: int, before: int) -> None:
    admin = AdminClient({"bootstrap.servers": pipeline.brokers, "log_level": 2})
    [answer] = admin.delete_records([TopicPartition(pipeline.topic, partition, before)]).values()
    answer.result(30)


def test_a_position_outside_the_log_halts_its_partition_only(pipeline: Pipeline) -> None:
    config = pipeline.config()
    for partition in NUMBERS:
        pipeline.produce([event(1_000 * partition + number) for number in range(100)], partition=partition)
    pipeline.run_until_caught_up(config)
    for partition in NUMBERS:
        pipeline.produce([event(1_000 * partition + number) for number in range(100, 200)], partition=partition)
    delete_records(pipeline, 1, 150)

    worker = pipeline.start(config)
    wait_until(lambda: pipeline.count() == 400 + 300, 30, "what can be read")
    wait_until(lambda: worker.get("/readyz")[0] == 503, 30, "not ready")
    reasons = worker.get("/readyz")[1]
    assert f"{Partition(pipeline.topic, 1)} is not read" in reasons
    assert "OFFSET_OUT_OF_RANGE" in reasons or "AUTO_OFFSET_RESET" in reasons, reasons
    assert worker.get("/livez")[0] == 200
    pipeline.produce([event(9_000)], partition=0)
    wait_until(lambda: pipeline.count() == 701, 30, "the others go on")
    assert worker.terminate() == 70, worker.text()[-3_000:]
    reached = {number: offset for number, (offset, _) in pipeline.committed(NUMBERS).items()}
    assert reached == {0: 201, 1: 100, 2: 200, 3: 200}
    assert "Nothing past it was committed" in worker.text()


def test_a_topic_made_anew_is_not_taken_for_the_old_one(pipeline: Pipeline, apache_kafka: ApacheKafka) -> None:
    """The offsets begin again, and the rows of the old topic have the same ones."""
    config = pipeline.config()
    for partition in NUMBERS:
        pipeline.produce([event(1_000 * partition + number) for number in range(100)], partition=partition)
    pipeline.run_until_caught_up(config)
    make_anew(pipeline, apache_kafka)
    for partition in NUMBERS:
        pipeline.produce([event(1_000 * partition + number) for number in range(500, 700)], partition=partition)
    worker = pipeline.start(config, "--until-caught-up")
    assert worker.wait(60) == 70, (worker.text()[-3_000:], pipeline.count())
    assert "deleted and made anew" in worker.text()
    assert pipeline.count() == 400
    pipeline.client.command(f"TRUNCATE TABLE {pipeline.table}")
    pipeline.run_until_caught_up(config)
    assert pipeline.count() == 800
    assert pipeline.copies() == 1
