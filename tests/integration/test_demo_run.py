"""The demo as a user runs it: workers killed in the middle, exact afterwards, nothing left behind; also on Apache Kafka."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from pipeline.demo import Options, Result, run
from tests.integration.harness import wait_until

if TYPE_CHECKING:
    from pipeline.embedded.apache_kafka import ApacheKafka

PROMISED = {
    "produced",
    "unique",
    "rows",
    "duplicates_dropped",
    "dead_letters",
    "missing",
    "doubled",
    "kills",
    "seconds",
    "events_per_second",
    "worker_cpu_us_per_event",
    "ok",
}


def start(directory: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipeline", "demo", *words]
    environment = {**os.environ, "TMPDIR": str(directory)}
    # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)


def started_for(directory: Path) -> list[str]:
    """Processes whose arguments name the directory."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(directory) in line and process.pid != os.getpid():
            found.append(line)
    return found


def two_workers(directory: Path) -> None:
    def running() -> bool:
        return sum("pipeline run" in line for line in started_for(directory)) >= 2

    wait_until(running, 60.0, "two workers")


def nothing_left(directory: Path) -> None:
    wait_until(lambda: not started_for(directory), 5.0, "no process left")
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--kill", "1", "--workers", "1", "--group-protocol", "classic"],
        ["--kill", "2", "--workers", "3", "--workload", "commerce", "--duplicates", "0.3"],
    ],
)
def test_exact_after_kills(words: list[str], seed: int, tmp_path: Path) -> None:
    demo = start(tmp_path, "--events", "60000", "--partitions", "6", "--seed", str(seed), "--json", *words)
    out, err = demo.communicate(timeout=150)
    assert demo.returncode == 0, (out[-3_000:].decode(), err[-3_000:].decode())
    found = json.loads(out.splitlines()[-1])
    assert found.keys() >= PROMISED
    assert found["ok"] is True
    assert (found["missing"], found["doubled"], found["produced"]) == (0, 0, 60_000)
    assert found["unique"] == found["rows"] + found["dead_letters"]
    assert found["produced"] == found["unique"] + found["duplicates_dropped"]
    assert found["kills_in_flight"] >= int(words[1])
    assert found["worker_cpu_us_per_event"] > 0
    assert len(out.splitlines()) == 1
    nothing_left(tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nothing(number: int, code: int, tmp_path: Path) -> None:
    demo = start(tmp_path, "--events", "2000000", "--kill", "1")
    two_workers(tmp_path)
    time.sleep(1.0)
    demo.send_signal(number)
    demo.communicate(timeout=30)
    assert demo.returncode == code
    nothing_left(tmp_path)


def test_a_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    demo = start(tmp_path, "--events", "2000000", "--kill", "0")
    two_workers(tmp_path)
    demo.kill()
    demo.communicate(timeout=30)
    # The engine lets requests end first, for up to 20 s.
    wait_until(lambda: not started_for(tmp_path), 60.0, "no process left")


def test_what_is_kept_can_be_looked_at(seed: int, tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    for _ in range(2):
        demo = start(tmp_path, "--events", "5000", "--kill", "0", "--seed", str(seed), "--keep", str(keep))
        out, err = demo.communicate(timeout=100)
        assert demo.returncode == 0, (out, err)
    assert b"exactly once" in out
    assert f"kept: {keep}".encode() in out
    assert {path.name for path in keep.iterdir()} == {"penstock.toml", "clickhouse", "worker-1.log", "worker-2.log"}


class Quiet:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.reached = 0
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def reach(self, number: int) -> None:
        self.reached = max(self.reached, number)


@pytest.mark.kafka
def test_exact_on_apache_kafka_while_worker_and_broker_are_killed(
    apache_kafka: ApacheKafka, seed: int, tmp_path: Path
) -> None:
    """kill -9 of the worker twice, and of the broker in the middle of it; 8 partitions. The protocol is drawn, too."""
    protocol: Any = "consumer" if seed % 2 else "classic"
    narrator = Quiet()
    events = 200_000

    def kill_broker() -> None:
        wait_until(lambda: narrator.reached > events // 5 or ended.is_set(), 120, "a fifth of the events")
        apache_kafka.kill()
        time.sleep(1.0)
        apache_kafka.start()

    ended = threading.Event()
    killer = threading.Thread(target=kill_broker)
    killer.start()
    try:
        options = Options(
            events=events, kill=2, seed=seed, brokers=apache_kafka.bootstrap, group_protocol=protocol, keep=tmp_path
        )
        result: Result = run(options, narrator)
    finally:
        ended.set()
        killer.join()
    assert result.ok, result.lines()
    assert len(result.report.proved) == 2
    assert result.report.records == events
