"""verify of a stretch: what lies outside is not looked at, what lies inside is found, and nobody is disturbed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.embedded.mock_kafka import MockKafka
from pipeline.selection import Selection, parse
from pipeline.types import Partition
from pipeline.verify import candidates, verify
from pipeline.verify.oracle import Oracle
from pipeline.workload import Mix, Outcome
from tests.integration.ingest import EVENTS, Ingest

MIX = Mix(duplicates=0.1, poison=0.05, tombstones=0.02)
N = 3_000


def test_only_the_stretch_is_accounted_for(ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest()
    generator = one.generate(N, seed, MIX)
    plain = [o for o in range(N // 3) if o not in generator.fates(1, 0, N // 3)]
    once = [o for o in plain if all(f.origin != o for f in generator.fates(1, 0, N // 3).values())]
    before, inside, after = once[5], next(o for o in once if o > 300), once[-5]
    one.ingest(skip={(1, before), (1, inside), (1, after)})
    for offset in (once[6], next(o for o in once if o > 310), once[-6]):
        one.clickhouse.command(f"INSERT INTO flat_0 SELECT * FROM flat_0 WHERE _partition = 1 AND _offset = {offset}")
    report = verify(one.config, selection=parse(f"{EVENTS}/1:200", f"{EVENTS}/1:600"))
    assert (report.records, report.partitions) == (400, 1)
    assert [(e.partition, e.offset) for e in report.examples["missing"]] == [(1, inside)]
    assert [(e.partition, e.offset) for e in report.examples["doubled"]] == [(1, next(o for o in once if o > 310))]
    assert [(s.topic, s.partition, s.first, s.next) for s in report.stretch] == [(EVENTS, 1, 200, 600)]
    assert not report.not_proved, "what lies outside was not asked for"
    clean = Oracle(EVENTS, generator)
    report = verify(one.config, oracle=clean, selection=parse("400", None, ["0", "2"]))
    assert report.ok, report.lines()
    assert report.records == clean.offsets == 2 * (N // 3 - 400)
    assert report.duplicates == clean.expected[Outcome.DUPLICATE]


def test_the_original_of_a_copy_may_lie_outside(
    ingest: Callable[..., Ingest], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where ids are record keys, which are looked for in Kafka, a few at a time."""
    monkeypatch.setattr(candidates, "KEYS_MAX", 7)
    one = ingest(key=["@key"])
    generator = one.generate(N, seed, Mix(duplicates=0.2, keys=True))
    one.ingest()
    first = N // 3 - 200
    copies = [f for o, f in generator.fates(0, 0, N // 3).items() if o >= first]
    assert any(fate.origin is not None and fate.origin < first for fate in copies)
    report = verify(one.config, selection=parse(f"{EVENTS}/0:{first}", None))
    assert report.ok, report.lines()
    assert (report.records, report.duplicates) == (200, len(copies))


def test_what_is_beyond_the_commit_or_gone_is_said(
    mock_kafka: MockKafka, ingest: Callable[..., Ingest], seed: int
) -> None:
    one = ingest()
    one.generate(N, seed, Mix())
    one.ingest(commit=False)
    one.commit({0: 500, 1: 500, 2: 500})
    mock_kafka.delete_records(EVENTS, 0, 100)
    report = verify(one.config, selection=Selection(begin={Partition(EVENTS, 0): 50}, end={Partition(EVENTS, 0): 600}))
    assert report.ok
    assert (report.records, report.unreadable, report.unreadable_rows, report.rows_beyond) == (400, 50, 50, 0)
    said = "\n".join(report.not_proved)
    assert "100 offsets of the stretch are not committed yet" in said
    assert "50 consumed offsets are no longer in Kafka" in said
    assert report.stretch[0].readable_from == 100


def test_a_rate_holds_it_back(ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest()
    one.generate(300, seed, Mix())
    one.ingest()
    started_s = time.monotonic()
    report = verify(one.config, rate=200)
    assert report.records == 300
    assert time.monotonic() - started_s >= 1.4


def test_the_command(ingest: Callable[..., Ingest], seed: int, tmp_path: Path, capsys: Any) -> None:
    one = ingest()
    one.generate(N, seed, MIX)
    one.ingest()
    config = str(one.write_config(tmp_path))
    assert main(["verify", "-c", config, "--from", "100", "--to", "200", "--partition", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["ok"], found["records"]) == (True, 100)
    assert found["stretch"] == [{"topic": EVENTS, "partition": 1, "first": 100, "next": 200, "readable_from": 100}]
    assert main(["verify", "-c", config, "--from", "100"]) == 2
    assert "needs --partition" in capsys.readouterr().err
    assert main(["verify", "-c", config, "--from", "2026-01-01T00:00:00Z"]) == 78
    assert "cannot look up offsets by time" in capsys.readouterr().err
