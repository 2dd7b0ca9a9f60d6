"""verify against a mock Kafka and the embedded ClickHouse: every kind of fault is found, and nothing else is called one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.cli import main
from pipeline.embedded.mock_kafka import MockKafka
from pipeline.errors import ConfigurationError, DependencyDown
from pipeline.kafka import Cluster
from pipeline.selection import Moment, Selection
from pipeline.types import Partition
from pipeline.verify import Report, account, candidates, verify
from pipeline.verify.oracle import Oracle
from pipeline.workload import Mix, Outcome
from tests.integration.ingest import EVENTS, Ingest

MIX = Mix(duplicates=0.1, poison=0.05, unknown_version=0.02, tombstones=0.02)
N = 6_000


def places(report: Report, kind: str) -> list[tuple[int, int]]:
    return [(one.partition, one.offset) for one in report.examples[kind]]  # type: ignore[index]


def test_everything_is_accounted_for(ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest()
    generator = one.generate(N, seed, MIX)
    one.ingest()
    oracle = Oracle(EVENTS, generator)
    report = verify(one.config, oracle=oracle)
    assert report.ok, report.lines()
    assert report.records == N == oracle.offsets
    assert report.rows == oracle.expected[Outcome.ROW]
    assert report.duplicates == oracle.expected[Outcome.DUPLICATE]
    assert report.dead_letters == oracle.expected[Outcome.LETTER]
    assert report.filtered == oracle.expected[Outcome.FILTERED]
    assert (report.missing, report.doubled, report.unexpected, report.partitions) == (0, 0, 0, 3)
    assert len(report.proved) == 2
    assert not report.not_proved


def test_small_windows_give_the_same_account(
    ingest: Callable[..., Ingest], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "WINDOW_OFFSETS", 97)
    monkeypatch.setattr(candidates, "CANDIDATES_MAX", 13)
    one = ingest()
    generator = one.generate(1_000, seed, MIX)
    one.ingest()
    report = verify(one.config, oracle=Oracle(EVENTS, generator))
    assert report.ok, report.lines()
    assert report.records == 1_000


def test_missing_rows_and_letters_are_listed(ingest: Callable[..., Ingest], seed: int, tmp_path: Path) -> None:
    """Also the duplicate of a record that is missing is missing: its id is not stored."""
    one = ingest()
    generator = one.generate(N, seed, MIX)
    fates = {(p, o): f for p in range(3) for o, f in generator.fates(p, 0, N // 3).items()}
    repeated = next((p, f.origin) for (p, _), f in fates.items() if f.outcome is Outcome.DUPLICATE)
    letter = next(place for place, fate in fates.items() if fate.outcome is Outcome.LETTER)
    origins = {(p, f.origin) for (p, _), f in fates.items() if f.outcome is Outcome.DUPLICATE}
    row = next((1, o) for o in range(500, 600) if (1, o) not in fates and (1, o) not in origins)
    copies = {(p, o) for (p, o), f in fates.items() if (p, f.origin) == repeated}
    gone = {repeated, letter, row} | copies
    one.ingest(skip=gone)
    report = verify(one.config)
    assert not report.ok
    assert set(places(report, "missing")) == gone
    assert report.doubled == 0
    assert not report.proved
    why = {(one.partition, one.offset): one.why for one in report.examples["missing"]}
    assert "is not stored" in why[row]
    assert "is a reject" in why[letter]


def test_a_duplicate_stored_instead_of_its_original_is_accounted_for(ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest()
    generator = one.generate(N, seed, MIX)
    fates = generator.fates(0, 0, N // 3)
    origin = next(f.origin for f in fates.values() if f.outcome is Outcome.DUPLICATE)
    one.ingest(skip={(0, origin)})
    report = verify(one.config, oracle=Oracle(EVENTS, generator))
    assert (report.missing, report.doubled) == (0, 0)
    assert report.unexpected == 2
    assert not report.ok


def test_doubled_rows_are_found(ingest: Callable[..., Ingest], seed: int, tmp_path: Path, capsys: Any) -> None:
    one = ingest()
    generator = one.generate(N, seed, MIX)
    one.ingest()
    twice = one.offsets(1)[10]
    one.clickhouse.command(f"INSERT INTO flat_0 SELECT * FROM flat_0 WHERE _partition = 1 AND _offset = {twice}")
    lettered = one.offsets(2)[20]
    one.letter(2, lettered)
    again = next(o for o, f in generator.fates(0, 0, N // 3).items() if f.outcome is Outcome.LETTER)
    one.letter(0, again)
    one.letter(0, again)
    one.producer.flush()
    config = one.write_config(tmp_path)
    assert main(["verify", "-c", str(config), "--json"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["doubled"] == 2
    assert found["missing"] == 0
    assert {(e["partition"], e["offset"], e["why"]) for e in found["examples"]["doubled"]} == {
        (1, twice, "2 rows"),
        (2, lettered, "a row and a dead letter"),
    }
    assert found["dead_letters_repeated"] == 2
    assert main(["verify", "-c", str(config), "--list", "1"]) == 1
    text = capsys.readouterr().out
    assert "NOT exactly once" in text
    assert "doubled: and 1 more" in text


def test_a_union_with_a_table_a_tag(ingest: Callable[..., Ingest], seed: int, tmp_path: Path, capsys: Any) -> None:
    one = ingest(workload="commerce")
    one.generate(3_000, seed, MIX)
    one.ingest()
    words = ["--generated", "--workload", "commerce", "--seed", str(seed), "--duplicates", "0.1", "--poison", "0.05"]
    words += ["--unknown-version", "0.02", "--tombstones", "0.02"]
    assert main(["verify", "-c", str(one.write_config(tmp_path)), *words]) == 0
    assert "exactly once" in capsys.readouterr().out


def test_ids_that_are_record_keys_are_looked_for_in_kafka(ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest(key=["@key"])
    generator = one.generate(N, seed, Mix(duplicates=0.1, keys=True))
    row = next((2, o) for o in range(300, 400) if o not in generator.fates(2, 0, N // 3))
    copies = {(2, o) for o, f in generator.fates(2, 0, N // 3).items() if f.origin == row[1]}
    one.ingest(skip={row} | copies)
    report = verify(one.config)
    assert set(places(report, "missing")) == {row} | copies
    assert report.duplicates + report.rows + report.missing == N
    assert report.duplicates > 500


def test_without_dedup_and_with_drops(ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest(key=[], on_reject="drop")
    generator = one.generate(N, seed, Mix(poison=0.05, tombstones=0.02))
    one.ingest(skip={(0, 7)} if 7 not in generator.fates(0, 0, 8) else {(0, 6)})
    report = verify(one.config)
    assert report.missing == 1
    assert report.dropped > 200
    assert report.rows + report.dropped + report.filtered + 1 == N


def test_what_kafka_dropped_is_said_and_left_to_the_oracle(
    mock_kafka: MockKafka, ingest: Callable[..., Ingest], seed: int
) -> None:
    one = ingest()
    generator = one.generate(N, seed, MIX)
    gone = next(o for o in range(100, 200) if o not in generator.fates(1, 0, N // 3))
    copies = [o for o, f in generator.fates(1, 0, N // 3).items() if f.origin == gone]
    one.ingest(skip={(1, gone)} | {(1, o) for o in copies})
    one.clickhouse.command("INSERT INTO flat_0 SELECT * FROM flat_0 WHERE _partition = 1 ORDER BY _offset LIMIT 1")
    mock_kafka.delete_records(EVENTS, 1, N // 3)
    report = verify(one.config)
    assert report.unreadable == N // 3
    assert report.missing == 0
    assert report.doubled == 1
    assert any("no longer in Kafka" in text for text in report.not_proved)
    told = verify(one.config, oracle=Oracle(EVENTS, generator))
    assert {(1, gone)} <= set(places(told, "missing"))
    assert told.missing == 1


def test_rows_beyond_the_committed_offsets_are_no_fault(ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest()
    one.generate(N, seed, Mix())
    one.ingest(commit=False)
    assert verify(one.config).records == 0
    one.commit({0: 100, 1: 200})
    report = verify(one.config)
    assert report.ok
    assert (report.records, report.rows_beyond) == (300, N // 3 - 100 + N // 3 - 200)
    assert any("beyond the committed offsets" in text for text in report.not_proved)
    assert any("1 of 3 partitions" in text for text in report.not_proved)


def test_servers_that_are_away_and_tables_without_lineage(
    mock_kafka: MockKafka, ingest: Callable[..., Ingest], seed: int, tmp_path: Path
) -> None:
    one = ingest()
    one.generate(30, seed, Mix())
    one.ingest()
    config = one.write_config(tmp_path)
    one.clickhouse.command("ALTER TABLE flat_0 DROP INDEX _offset_minmax, DROP COLUMN _offset")
    with pytest.raises(ConfigurationError, match="no lineage columns"):
        verify(one.config)
    assert main(["verify", "-c", str(config)]) == 78
    mock_kafka.broker_down()
    with pytest.raises(DependencyDown):
        verify(one.config, wait_s=1.0)
    assert main(["verify", "-c", str(config), "--wait", "1"]) == 69


def test_the_same_id_under_another_topic_is_another_event(ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest()
    generator = one.generate(N, seed, Mix())
    one.ingest()
    offset = one.offsets(0)[50]
    where = f"_partition = 0 AND _offset = {offset}"
    one.clickhouse.command(f"INSERT INTO flat_0 SELECT * REPLACE ('other' AS _topic) FROM flat_0 WHERE {where}")
    one.clickhouse.command(f"DELETE FROM flat_0 WHERE {where} AND _topic = '{EVENTS}'")
    report = verify(one.config, oracle=Oracle(EVENTS, generator))
    assert places(report, "missing") == [(0, offset)]


@pytest.mark.parametrize("workload", ["logs", "wide", "nested"])
def test_every_workload_fits_its_tables(workload: str, ingest: Callable[..., Ingest], seed: int) -> None:
    one = ingest(workload=workload)
    generator = one.generate(1_500, seed, MIX)
    one.ingest()
    report = verify(one.config, oracle=Oracle(EVENTS, generator))
    assert report.ok, report.lines()
    assert report.records == 1_500


def test_where_the_account_begins(ingest: Callable[..., Ingest], seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a given time, at the time `kafka.start` names, or with "latest" at the first row.

    The mock cluster cannot look up times; tests of the cluster questions do it on a real broker.
    """
    asked: list[int] = []
    monkeypatch.setattr(Cluster, "is_mock", lambda _: False)

    def offsets_for_times(_: Cluster, times_ms: dict[Partition, int]) -> dict[Partition, int]:
        asked.extend(times_ms.values())
        return dict.fromkeys(times_ms, 30)

    monkeypatch.setattr(Cluster, "offsets_for_times", offsets_for_times)
    one = ingest()
    one.generate(300, seed, Mix())
    one.ingest(skip={(number, offset) for number in range(3) for offset in range(40)})
    assert verify(one.config).missing == 120
    since = verify(one.config, selection=Selection(begin=Moment(1_700_000_000_000)))
    assert (since.records, since.missing, set(asked)) == (210, 30, {1_700_000_000_000})
    for start, expected in (("2026-01-01T00:00:00Z", (210, 30)), ("latest", (180, 0))):
        kafka = msgspec.structs.replace(one.config.kafka, start=start)
        report = verify(msgspec.structs.replace(one.config, kafka=kafka))
        assert (report.records, report.missing) == expected
    assert asked[-1] == 1_767_225_600_000
    assert any("latest" in text for text in report.not_proved)
