"""ClickHouse down, slow, full, silent, wrong or changed under a worker: it waits or stops loudly, every row is stored once.

Every test runs the real worker process against the embedded broker and a real engine that is told to misbehave.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.embedded.chdb_server import ChdbServer
from pipeline.embedded.mock_kafka import ApiKey, MockKafka
from tests.integration.harness import Pipeline, WorkerProcess, wait_until

COLUMNS = "id UUID, number UInt64, name String"
PARTITIONS = 2
CLOSED = "http://127.0.0.1:1"
FOREVER = 1_000_000


def event(number: int) -> bytes:
    return json.dumps({"id": str(uuid.UUID(int=number)), "number": number, "name": f"n{number}"}).encode()


def events(first: int, cut: int) -> list[bytes | None]:
    return [event(number) for number in range(first, cut)]


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    """Members of the consumer protocol that were killed are forgotten after two seconds."""
    with MockKafka(session_ms=2_000) as cluster:
        yield cluster


@pytest.fixture
def pipeline(tmp_path: Path, kafka: MockKafka, shared_chdb_server: ChdbServer) -> Iterator[Pipeline]:
    made = on(shared_chdb_server, tmp_path, kafka)
    try:
        yield made
    finally:
        for worker in made.workers:
            worker.kill()
        shared_chdb_server.clear_faults()
        made.close()


def on(server: ChdbServer, directory: Path, kafka: MockKafka, url: str = "") -> Pipeline:
    made = Pipeline(directory, kafka.bootstrap, url or server.url)
    kafka.create_topic(made.topic, PARTITIONS)
    kafka.create_topic(made.letters_topic, 1)
    return made


@pytest.fixture
def server(shared_chdb_server: ChdbServer) -> ChdbServer:
    return shared_chdb_server


QUICK_GROUP = {"group_protocol": "consumer", "session_timeout_ms": None}


def metric(worker: WorkerProcess, name: str, **labels: str) -> float:
    """The value of one series, 0 when there is none."""
    shown = ",".join(f'{key}="{value}"' for key, value in labels.items())
    found = re.search(
        rf"^{re.escape(name + (f'{{{shown}}}' if shown else ''))} (\S+)$", worker.get("/metrics")[1], re.M
    )
    return float(found[1]) if found else 0.0


def retries(worker: WorkerProcess) -> dict[str, float]:
    found = re.findall(r'^penstock_retries_total\{error_class="(\w+)"\} (\S+)$', worker.get("/metrics")[1], re.M)
    return {name: float(value) for name, value in found if float(value)}


def is_waiting_for(worker: WorkerProcess, text: str, timeout_s: float = 20) -> None:
    """Waits until /readyz says so; /livez must be well meanwhile."""

    def said() -> bool:
        assert worker.get("/livez")[0] == 200
        status, body = worker.get("/readyz")
        return status == 503 and text in body

    wait_until(said, timeout_s, f"{text!r} in /readyz")


def is_exact(pipeline: Pipeline, numbers: range | list[int], *, lineage: bool = True) -> None:
    """The table holds these numbers, each once."""
    assert [row[0] for row in pipeline.rows("number", "ORDER BY number")] == list(numbers)
    if lineage:
        assert pipeline.copies() == 1


def settles(pipeline: Pipeline, worker: WorkerProcess, numbers: range | list[int]) -> None:
    """The worker writes these numbers exactly and drains."""
    wait_until(lambda: pipeline.count() >= len(numbers), 60, f"{len(numbers)} rows")
    # A partition of a worker that died arrives later, and may still name a batch that is finished by now.
    wait_until(lambda: not pipeline.in_flight(range(PARTITIONS)), 20, "every batch committed")
    assert worker.terminate() == 0, worker.text()[-3_000:]
    is_exact(pipeline, numbers)
    assert not pipeline.in_flight(range(PARTITIONS))


# Down, slow, silent


class Feeder:
    """Produces ever new numbers in the background."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.produced = 0

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            for partition in range(PARTITIONS):
                self._pipeline.produce(events(self.produced, self.produced + 200), partition=partition)
                self.produced += 200


def test_clickhouse_killed_under_load_is_waited_for(tmp_path: Path, kafka: MockKafka) -> None:
    with ChdbServer(tmp_path / "data") as server:
        pipeline = on(server, tmp_path, kafka)
        pipeline.create_table(COLUMNS)
        worker = pipeline.start(pipeline.config(batch={"age_ms_max": 50}))
        try:
            with Feeder(pipeline) as feeder:
                wait_until(lambda: pipeline.count() > 0, 30, "rows")
                for outage_s in (6.5, 0):
                    server.kill()
                    # Inserting, or looking up what became of an insert that was under way.
                    is_waiting_for(worker, pipeline.table)
                    # Longer than the session: only a member that goes on sending heartbeats keeps its partitions.
                    time.sleep(outage_s)
                    server.start()
                    before = pipeline.count()
                    wait_until(lambda seen=before: pipeline.count() > seen, 30, "rows again")
            wait_until(lambda: worker.get("/readyz")[0] == 200, 20, "/readyz is well again")
            assert metric(worker, "penstock_rebalances_total", kind="assigned") == 1
            assert metric(worker, "penstock_rebalances_total", kind="lost") == 0
            assert retries(worker)["network"] > 0
            settles(pipeline, worker, range(feeder.produced))
        finally:
            worker.kill()


def test_clickhouse_away_during_recovery_is_waited_for_and_does_not_pass_for_a_hang(
    pipeline: Pipeline, server: ChdbServer
) -> None:
    pipeline.create_table(COLUMNS)
    pipeline.produce(events(0, 100))
    server.fault("drop", times=FOREVER, match="max(_offset)", inserts_only=False)
    config = pipeline.config(
        kafka={**QUICK_GROUP, "max_poll_interval_ms": 10_000, "commit_timeout_ms": 1_000, "revoke_drain_ms_max": 1_000},
        limits={"stall_ms_max": 2_000},
        clickhouse={"insert_timeout_ms": 1_000},
    )
    worker = pipeline.start(config)
    is_waiting_for(worker, "looking for stored rows")
    time.sleep(3)
    assert "no progress" not in worker.get("/readyz")[1]
    server.clear_faults()
    settles(pipeline, worker, range(100))
    assert "no progress" not in worker.text()


def test_clickhouse_gone_again_between_two_questions_of_a_start(pipeline: Pipeline, server: ChdbServer) -> None:
    pipeline.create_table(COLUMNS)
    pipeline.produce(events(0, 100))
    # Read-only questions are asked twice by the client library itself.
    server.fault("drop", times=4, match="system.columns", inserts_only=False)
    pipeline.run_until_caught_up(pipeline.config())
    is_exact(pipeline, range(100))


def test_a_leader_that_moves_while_a_partition_is_assigned_is_waited_for(pipeline: Pipeline, kafka: MockKafka) -> None:
    pipeline.create_table(COLUMNS)
    pipeline.produce(events(0, 100))
    not_leader = 6
    kafka.push_request_errors(ApiKey.LIST_OFFSETS, [not_leader] * 6)
    worker = pipeline.run_until_caught_up(pipeline.config(dedup={"rebuild": "kafka"}))
    assert "waiting: reading the ends of partitions" in worker.text()
    is_exact(pipeline, range(100))


def test_inserts_slower_than_their_timeout(pipeline: Pipeline, server: ChdbServer) -> None:
    pipeline.create_table(COLUMNS)
    server.fault("delay", delay_ms=2_500, times=2, match=pipeline.table)
    pipeline.produce(events(0, 200))
    worker = pipeline.start(pipeline.config(clickhouse={"insert_timeout_ms": 1_000}))
    wait_until(lambda: pipeline.count() >= 200, 30, "rows")
    assert retries(worker)["network"] + retries(worker).get("timeout", 0) > 0
    time.sleep(1.5)  # until the slower of the attempts that were given up has ended, too
    settles(pipeline, worker, range(200))


def test_an_insert_that_lands_after_its_worker_died_and_another_recovered_it(
    pipeline: Pipeline, server: ChdbServer
) -> None:
    pipeline.create_table(COLUMNS)
    server.fault("delay", delay_ms=7_000, match=pipeline.table)
    pipeline.produce(events(0, 200))
    config = pipeline.config(kafka=QUICK_GROUP)
    first = pipeline.start(config)
    wait_until(lambda: server.faults_left() == 0, 30, "the insert under way")
    started_s = time.monotonic()
    first.kill()
    second = pipeline.start(config)
    wait_until(lambda: pipeline.count() >= 200, 30, "rows")
    assert time.monotonic() - started_s < 7, "the recovery came too late for this test to show anything"
    time.sleep(max(0.0, 7.5 - (time.monotonic() - started_s)))
    settles(pipeline, second, range(200))


def test_answers_lost_after_the_insert_was_applied(pipeline: Pipeline, server: ChdbServer) -> None:
    pipeline.create_table(COLUMNS)
    server.fault("drop_after", times=3, match=pipeline.table)
    server.fault("drop", times=1, match=pipeline.table)
    pipeline.produce(events(0, 200))
    worker = pipeline.start(pipeline.config())
    wait_until(lambda: retries(worker) == {"network": 4}, 30, "four lost answers, each counted")
    settles(pipeline, worker, range(200))


def test_errors_that_pass_are_counted_by_what_they_are(pipeline: Pipeline, server: ChdbServer) -> None:
    pipeline.create_table(COLUMNS)
    for action, code, name, times in (
        ("fail", 252, "TOO_MANY_PARTS", 3),
        ("fail", 241, "MEMORY_LIMIT_EXCEEDED", 2),
        ("fail", 242, "TABLE_IS_READ_ONLY", 3),
        ("fail_after", 319, "UNKNOWN_STATUS_OF_INSERT", 1),
    ):
        server.fault(action, code=code, name=name, times=times, match=pipeline.table)
    pipeline.produce(events(0, 200))
    worker = pipeline.start(pipeline.config())
    wanted = {"overload": 3, "memory": 2, "read_only": 3, "keeper": 1}
    wait_until(lambda: retries(worker) == wanted, 30, f"{wanted} in the metrics")
    assert "TOO_MANY_PARTS" in worker.text()
    settles(pipeline, worker, range(200))


def test_the_first_of_two_servers_is_down(pipeline: Pipeline, server: ChdbServer) -> None:
    """Both addresses must lead to one replicated table. The engine here has no Keeper, so the worker is told that it is."""
    pipeline.create_table(COLUMNS)
    pipeline.produce(events(0, 200))
    config = pipeline.config(clickhouse={"urls": [CLOSED, server.url], "insert_timeout_ms": 5_000})
    refused = pipeline.start(config, "--until-caught-up")
    assert refused.wait() == 78
    assert "an insert repeated on another one would be stored twice" in refused.text()
    program = (
        "import sys; from pipeline.clickhouse import ClickHouse; facts = ClickHouse.table_facts\n"
        "ClickHouse.table_facts = lambda self, table: facts(self, table)._replace(replicated=True)\n"
        "from pipeline.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "-c", str(config), "--until-caught-up"],
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()[-3_000:]
    is_exact(pipeline, range(200))


# What an operator must mend


def test_wrong_credentials_are_named_and_not_shown(tmp_path: Path, kafka: MockKafka) -> None:
    with ChdbServer(tmp_path / "data", user="writer", password="right-0ne") as server:
        address = server.url.removeprefix("http://")
        pipeline = on(server, tmp_path, kafka, f"http://writer:right-0ne@{address}")
        pipeline.create_table(COLUMNS)
        pipeline.produce(events(0, 10))
        wrong = {"urls": [server.url], "username": "writer"}
        secret = {"PENSTOCK__CLICKHOUSE__PASSWORD": "wr0ng-one"}
        worker = pipeline.start(pipeline.config(clickhouse=wrong), "--wait", "5", environment=secret)
        assert worker.wait() == 69
        assert "Check clickhouse.username and the password" in worker.text()
        assert "wr0ng-one" not in worker.text()
        right = {"PENSTOCK__CLICKHOUSE__PASSWORD": "right-0ne"}
        worker = pipeline.start(pipeline.config(clickhouse=wrong), "--until-caught-up", environment=right)
        assert worker.wait() == 0, worker.text()
        assert "right-0ne" not in worker.text()
        is_exact(pipeline, range(10))


def test_an_unknown_error_stops_and_nothing_is_lost(pipeline: Pipeline, server: ChdbServer) -> None:
    pipeline.create_table(COLUMNS)
    server.fault("fail", code=7777, name="NEVER_SEEN", match=pipeline.table, message="row text: n13")
    pipeline.produce(events(0, 200))
    worker = pipeline.start(pipeline.config(kafka=QUICK_GROUP))
    assert worker.wait() == 70
    assert "code 7777" in worker.text()
    assert "Look the code up in ClickHouse's log" in worker.text()
    assert "n13" not in worker.text()
    pipeline.run_until_caught_up(pipeline.config(kafka=QUICK_GROUP))
    is_exact(pipeline, range(200))


def test_a_table_dropped_under_the_worker(pipeline: Pipeline) -> None:
    pipeline.create_table(COLUMNS)
    pipeline.produce(events(0, 50))
    worker = pipeline.start(pipeline.config(kafka=QUICK_GROUP))
    wait_until(lambda: pipeline.count() == 50, 30, "rows")
    wait_until(lambda: not pipeline.in_flight([0]), 10, "nothing in flight")
    pipeline.client.command(f"DROP TABLE {pipeline.table} SYNC")
    pipeline.produce(events(50, 100))
    assert worker.wait() == 70
    assert "code 60 UNKNOWN_TABLE" in worker.text()
    assert "`penstock ddl` prints the statement" in worker.text()
    again = pipeline.start(pipeline.config(kafka=QUICK_GROUP))
    assert again.wait() == 78
    assert pipeline.table in again.text()
    pipeline.create_table(COLUMNS)
    pipeline.run_until_caught_up(pipeline.config(kafka=QUICK_GROUP))
    is_exact(pipeline, range(50, 100))


def test_rows_that_a_constraint_refuses_become_dead_letters(pipeline: Pipeline) -> None:
    pipeline.create_table(f"{COLUMNS}, CONSTRAINT unlucky CHECK number % 50 != 13")
    pipeline.produce(events(0, 200))
    worker = pipeline.start(pipeline.config())
    refused = [13, 63, 113, 163]
    letters = pipeline.letters(len(refused))
    assert [letter.value() for letter in letters] == [event(number) for number in refused]
    headers = [{key: value.decode() for key, value in letter.headers()} for letter in letters]
    assert {header["penstock-code"] for header in headers} == {"refused"}
    assert {header["penstock-detail"] for header in headers} == {"ClickHouse code 469 VIOLATED_CONSTRAINT"}
    assert [int(header["penstock-offset"]) for header in headers] == refused
    wait_until(
        lambda: metric(worker, "penstock_records_rejected_total", reason="refused") == 4, 10, "4 rejects counted"
    )
    settles(pipeline, worker, [number for number in range(200) if number not in refused])


@pytest.mark.parametrize("killed", ["before the letters", "after the letters"])
def test_a_worker_killed_while_it_delivers_a_refused_block(pipeline: Pipeline, kafka: MockKafka, killed: str) -> None:
    pipeline.create_table(f"{COLUMNS}, CONSTRAINT unlucky CHECK number % 50 != 13")
    letters = [event(number) for number in (13, 63, 113, 163)]
    # What is durable is committed after at most the age of a batch: time enough to be killed in between.
    config = pipeline.config(kafka=QUICK_GROUP, batch={"age_ms_max": 2_000})
    worker = pipeline.start(config)
    worker.says("window rebuilt")
    if killed == "before the letters":
        kafka.delete_topic(pipeline.letters_topic)
    pipeline.produce(events(0, 200))
    wait_until(lambda: pipeline.count() == 196, 30, "the rows that are taken")
    if killed == "after the letters":
        assert [letter.value() for letter in pipeline.letters(4)] == letters
    worker.kill()
    assert pipeline.in_flight([0])
    if killed == "before the letters":
        kafka.create_topic(pipeline.letters_topic, 1)
    settles(pipeline, pipeline.start(config), [number for number in range(200) if number % 50 != 13])
    assert [letter.value() for letter in pipeline.letters(4)] == letters


# The dead-letter topic


def test_a_dead_letter_topic_that_goes_missing_is_waited_for(pipeline: Pipeline, kafka: MockKafka) -> None:
    pipeline.create_table(COLUMNS)
    missing = pipeline.start(pipeline.config(dead_letters={"topic": "no-such-letters"}))
    assert missing.wait() == 78
    assert "no-such-letters" in missing.text()
    assert "kafka-topics.sh" in missing.text()
    worker = pipeline.start(pipeline.config(kafka=QUICK_GROUP))
    pipeline.produce(events(0, 10))
    wait_until(lambda: pipeline.count() == 10, 30, "rows")
    kafka.delete_topic(pipeline.letters_topic)
    pipeline.produce([b"bad", *events(10, 20)])
    is_waiting_for(worker, f"writing to the dead-letter topic {pipeline.letters_topic}: the topic is missing", 30)
    kafka.create_topic(pipeline.letters_topic, 1)
    [letter] = pipeline.letters(1, timeout_s=30)
    assert letter.value() == b"bad"
    wait_until(lambda: worker.get("/readyz")[0] == 200, 20, "/readyz is well again")
    assert retries(worker)["missing_topic"] > 0
    settles(pipeline, worker, range(20))


# Tables that do not fit


def check(config: Path, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """`penstock check`: its exit code and all it says."""

    command = [sys.executable, "-m", "pipeline", "check", "-c", str(config)]
    done = subprocess.run(
        command, check=False, capture_output=True, timeout=60, env={**os.environ, **(environment or {})}
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def test_a_table_that_remembers_no_inserts_is_refused(pipeline: Pipeline) -> None:
    pipeline.create_table(COLUMNS, settings="non_replicated_deduplication_window = 0")
    pipeline.produce(events(0, 10))
    config = pipeline.config()
    worker = pipeline.start(config, "--until-caught-up")
    assert worker.wait() == 78
    code, said = check(config)
    assert code == 1
    for text in (worker.text(), said):
        assert "remembers no inserts (non_replicated_deduplication_window = 0)" in text
        assert (
            f"ALTER TABLE `default`.`{pipeline.table}` MODIFY SETTING non_replicated_deduplication_window = 100000"
            in text
        )
    pipeline.client.command(f"ALTER TABLE {pipeline.table} MODIFY SETTING non_replicated_deduplication_window = 100000")
    pipeline.run_until_caught_up(config)
    is_exact(pipeline, range(10))


def test_a_table_without_lineage_columns_is_warned_of_and_exact(pipeline: Pipeline, server: ChdbServer) -> None:
    pipeline.create_table(COLUMNS, lineage=False)
    pipeline.produce(events(0, 100), partition=0)
    pipeline.produce(events(100, 200), partition=1)
    config = pipeline.config(kafka=QUICK_GROUP)
    code, said = check(config)
    assert code == 0
    server.fault("drop_after", times=FOREVER, match=pipeline.table)
    worker = pipeline.start(config)
    wait_until(lambda: pipeline.count() >= 200, 30, "rows")
    worker.kill()
    server.clear_faults()
    for text in (worker.text(), said):
        assert "has no lineage columns" in text
        assert f"ALTER TABLE `default`.`{pipeline.table}` ADD COLUMN _topic" in text
    pipeline.run_until_caught_up(config)
    is_exact(pipeline, range(200), lineage=False)


def test_a_contract_that_does_not_fit_is_told_with_all_its_problems(pipeline: Pipeline) -> None:
    pipeline.create_table(f"{COLUMNS}, amount Int64, noted String DEFAULT 'none'")
    (pipeline.directory / "faults_contract_for_test.py").write_text(
        "import msgspec, uuid\n\nclass Order(msgspec.Struct):\n"
        "    id: uuid.UUID\n    number: int\n    nam: str\n    extra: int = 0\n"
    )
    config = pipeline.config(route={"contract": "faults_contract_for_test:Order"})
    path = {"PYTHONPATH": str(pipeline.directory)}
    worker = pipeline.start(config, environment=path)
    assert worker.wait() == 78
    _, said = check(config, path)
    for text in (worker.text(), said):
        assert "Order.nam" in text
        assert "Did you mean 'name'?" in text
        assert "Order.extra" in text
        assert "amount" in text
        assert "noted" not in text


# A block that becomes several parts


def test_a_block_of_which_only_some_parts_were_stored_when_its_worker_died(
    pipeline: Pipeline, server: ChdbServer
) -> None:
    pipeline.create_table(COLUMNS, order_by="number PARTITION BY number % 5")
    pipeline.produce(events(0, 200), partition=0)
    pipeline.produce(events(200, 400), partition=1)
    server.fault("drop_after", times=FOREVER, match=pipeline.table)
    config = pipeline.config(kafka=QUICK_GROUP)
    worker = pipeline.start(config)
    wait_until(lambda: pipeline.count() >= 400, 30, "rows")
    worker.kill()
    assert pipeline.in_flight(range(PARTITIONS))
    # As if the server had died between two parts of the insert: what is left is what it had stored by then.
    pipeline.client.command(f"ALTER TABLE {pipeline.table} DROP PARTITION 3")
    assert pipeline.count() == 320
    server.clear_faults()
    server.fault("fail", code=252, name="TOO_MANY_PARTS", times=2, match=pipeline.table)
    server.fault("drop_after", times=2, match=pipeline.table)
    settles(pipeline, pipeline.start(config), range(400))


def test_a_server_killed_again_and_again_under_blocks_of_several_parts(tmp_path: Path, kafka: MockKafka) -> None:
    """It may know the token of a part that it has not kept: the repeated insert then passes for done (the sink looks)."""
    with ChdbServer(tmp_path / "data") as server:
        pipeline = on(server, tmp_path, kafka)
        pipeline.create_table(COLUMNS, order_by="number PARTITION BY number % 20")
        worker = pipeline.start(pipeline.config(batch={"age_ms_max": 20}))
        try:
            with Feeder(pipeline) as feeder:
                wait_until(lambda: pipeline.count() > 0, 30, "rows")
                for _ in range(3):
                    before = feeder.produced
                    wait_until(lambda seen=before: feeder.produced > seen + 400, 30, "records")
                    server.kill()
                    server.start()
            settles(pipeline, worker, range(feeder.produced))
        finally:
            worker.kill()
