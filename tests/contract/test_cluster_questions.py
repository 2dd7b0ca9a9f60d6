"""What is asked of the cluster while its broker goes away and comes back, again and again.

Each question is asked in a process of its own: librdkafka answers some of them with a failed assertion, which ends it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

ASKER = """
import threading, time
from pipeline.config.schema import Kafka
from pipeline.embedded.mock_kafka import MockKafka
from pipeline.errors import DependencyDown
from pipeline.kafka import Cluster
from pipeline.types import Partition

with MockKafka() as kafka:
    kafka.create_topic("t", 2)
    cluster = Cluster(Kafka(brokers=kafka.bootstrap, group="g"), timeout_s=2.0)
    answers = down = 0
    ended = threading.Event()

    def ask():
        global answers, down
        while not ended.is_set():
            try:
                cluster.{question}
                answers += 1
            except DependencyDown:
                down += 1
            time.sleep(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    for number in range(4):
        time.sleep(0.3)
        kafka.broker_down(1)
        time.sleep(1.5 + number)
        kafka.broker_up(1)
    time.sleep(1)
    ended.set()
    thread.join()
    cluster.close()
print("survived", bool(answers), bool(down))
"""


@pytest.mark.parametrize(
    "question",
    [
        'committed([Partition("t", 0)])',
        'watermarks([Partition("t", 0)])',
        'offsets_for_times({Partition("t", 0): 1})',
        'topic_partitions("t")',
    ],
)
def test_a_broker_that_goes_away_under_a_question(question: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKER.replace("{question}", question)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert done.stdout.splitlines()[-1] == "survived True True"
