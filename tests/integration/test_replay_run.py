"""replay on the embedded broker and a real engine: the table afterwards is the table before, whatever was lost of it."""

from __future__ import annotations

import random
import time
from typing import Any

from tests.integration.harness import Feeder, Pipeline, event, wait_until
from tests.integration.replays import Replay, replayed

PARTITIONS = 4
BAD = b"{not json"


def fill(pipeline: Pipeline, rng: random.Random, count: int = 1_000) -> dict[str, int]:
    """Events with copies near and far, rejects and tombstones, in every partition. Returns what must have become of them."""
    totals = {"rows": 0, "copies": 0, "letters": 0, "filtered": 0}
    for partition in range(PARTITIONS):
        values: list[bytes | None] = []
        fresh = iter(range(partition * 100_000, partition * 100_000 + count))
        made: list[int] = []
        for _ in range(count):
            kind = rng.random()
            if kind < 0.05:
                values.append(BAD)
                totals["letters"] += 1
            elif kind < 0.08:
                values.append(None)
                totals["filtered"] += 1
            elif kind < 0.25 and made:
                values.append(event(rng.choice(made)))
                totals["copies"] += 1
            else:
                made.append(next(fresh))
                values.append(event(made[-1]))
                totals["rows"] += 1
        pipeline.produce(values, partition=partition)
    return totals


def everything(pipeline: Pipeline) -> Any:
    return pipeline.rows("_partition, _offset, toString(id), number, name, _timestamp")


def test_nothing_is_written_where_nothing_is_missing(pipeline: Pipeline, rng: random.Random) -> None:
    config = pipeline.config()
    due = fill(pipeline, rng)
    pipeline.run_until_caught_up(config)
    before, committed = everything(pipeline), pipeline.committed(range(PARTITIONS))
    result = replayed(config, "--from", "earliest")
    assert result["ok"]
    assert (result["rows_written"], result["letters_written"]) == (0, 0)
    assert result["rows_there"] == due["rows"] == len(before)
    assert (result["duplicates"], result["letters_there"]) == (due["copies"], due["letters"])
    assert (result["filtered"], result["records"]) == (due["filtered"], sum(due.values()))
    assert everything(pipeline) == before
    assert pipeline.committed(range(PARTITIONS)) == committed, "the pipeline's own group is not touched"
    pipeline.letters(due["letters"])


def test_after_a_truncate_the_table_is_the_same_as_before(pipeline: Pipeline, rng: random.Random) -> None:
    """Twice: the tokens of the first replay must not stand for the second."""
    config = pipeline.config(batch={"rows_max": 1_000, "age_ms_max": 10_000})
    due = fill(pipeline, rng, 1_200)
    pipeline.run_until_caught_up(config)
    before = everything(pipeline)
    for _ in range(2):
        pipeline.client.command(f"TRUNCATE TABLE {pipeline.table}")
        result = replayed(config, "--from", "earliest")
        assert (result["rows_written"], result["duplicates"]) == (due["rows"], due["copies"])
        assert result["letters_written"] == 0
        assert everything(pipeline) == before
        delete(pipeline, "1")
        result = replayed(config, "--from", "earliest")
        assert result["rows_written"] == due["rows"]
        assert everything(pipeline) == before
    pipeline.letters(due["letters"])


def delete(pipeline: Pipeline, where: str) -> None:
    pipeline.client.command(f"ALTER TABLE {pipeline.table} DELETE WHERE {where} SETTINGS mutations_sync = 2")


def test_after_a_delete_only_the_stretch_comes_back(pipeline: Pipeline, rng: random.Random) -> None:
    """Of a copy whose original lies before the stretch, nothing is written; and what was lost outside stays lost."""
    config = pipeline.config()
    fill(pipeline, rng)
    pipeline.run_until_caught_up(config)
    before = everything(pipeline)
    delete(pipeline, "_partition = 1 AND _offset % 3 = 0 AND _offset >= 300 AND _offset < 700 OR _partition = 2")
    left = everything(pipeline)
    inside = [row for row in before if row[0] == 1 and row[1] % 3 == 0 and 300 <= row[1] < 700]
    words = ("--from", f"{pipeline.topic}/1:300", "--to", f"{pipeline.topic}/1:700")
    dry = replayed(config, *words, "--dry-run")
    assert (dry["dry_run"], dry["rows_written"], dry["records"]) == (True, len(inside), 400)
    assert everything(pipeline) == left
    result = replayed(config, *words)
    assert (result["rows_written"], result["records"], result["offsets"]) == (len(inside), 400, 400)
    assert {key: result[key] for key in ("duplicates", "rows_there")} == {
        key: dry[key] for key in ("duplicates", "rows_there")
    }
    assert everything(pipeline) == sorted([*left, *inside], key=lambda row: row[:2])


def test_a_copy_takes_the_place_of_an_original_that_is_lost(pipeline: Pipeline) -> None:
    """Where the original lies outside the stretch; replayed later itself, it finds its id taken."""
    config = pipeline.config()
    pipeline.produce([event(number) for number in [*range(100), *range(50, 100)]])
    pipeline.run_until_caught_up(config)
    delete(pipeline, "_offset >= 40 AND _offset < 60")
    result = replayed(config, "--from", f"{pipeline.topic}/0:100")
    assert (result["rows_written"], result["duplicates"]) == (10, 40)
    result = replayed(config, "--from", f"{pipeline.topic}/0:0", "--to", f"{pipeline.topic}/0:100")
    assert (result["rows_written"], result["duplicates"]) == (10, 10)
    assert pipeline.rows("count(), uniqExact(id)", "") == [(100, 100)]


def test_a_replay_killed_half_way_goes_on_exactly_there(pipeline: Pipeline, rng: random.Random) -> None:
    config = pipeline.config(batch={"rows_max": 100, "age_ms_max": 100})
    due = fill(pipeline, rng, 2_000)
    pipeline.run_until_caught_up(config)
    before = everything(pipeline)
    pipeline.client.command(f"TRUNCATE TABLE {pipeline.table}")
    words = ("--from", "earliest")
    for _ in range(2):
        replay = Replay(config, *words, "--rate", "1500")
        rows = pipeline.count()
        wait_until(lambda rows=rows: pipeline.count() > rows + 300, 60, "rows written again")  # type: ignore[misc]
        replay.kill()
    assert pipeline.count() < len(before)
    code, result, err = Replay(config, *words).finish()
    assert code == 0, err
    assert "going on with an earlier run" in err
    assert result["resumed"]
    assert 0 < result["offsets_before"] < result["offsets"]
    assert result["records"] <= result["offsets"] - result["offsets_before"]
    assert everything(pipeline) == before
    assert due["rows"] == len(before)
    again = replayed(config, *words)
    assert not again["resumed"], "a finished replay leaves no progress behind"
    assert again["rows_there"] == len(before)


def test_a_stopped_replay_says_so_and_can_begin_anew(pipeline: Pipeline) -> None:
    config = pipeline.config()
    pipeline.produce([event(number) for number in range(3_000)])
    pipeline.run_until_caught_up(config)
    pipeline.client.command(f"TRUNCATE TABLE {pipeline.table}")
    words = ("--from", f"{pipeline.topic}/0:0")
    replay = Replay(config, *words, "--rate", "500")
    wait_until(lambda: pipeline.count() > 300, 60, "rows written again")
    replay.process.terminate()
    code, result, _ = replay.finish()
    assert (code, result["ok"], result["finished"]) == (75, False, False)
    stopped_at = pipeline.count()
    assert 300 < stopped_at == result["rows_written"] < 3_000
    pipeline.client.command(f"TRUNCATE TABLE {pipeline.table}")
    result = replayed(config, *words, "--restart")
    assert (result["resumed"], result["rows_written"]) == (False, 3_000)
    assert pipeline.count() == 3_000


def test_a_rate_holds_it_back(pipeline: Pipeline) -> None:
    config = pipeline.config()
    pipeline.produce([event(number) for number in range(900)])
    pipeline.run_until_caught_up(config)
    started_s = time.monotonic()
    result = replayed(config, "--from", f"{pipeline.topic}/0:0", "--rate", "300")
    assert result["records"] == 900
    assert time.monotonic() - started_s > 2.0


def test_beside_workers_that_run(pipeline: Pipeline, rng: random.Random) -> None:
    """Rows deleted behind live workers come back, and neither disturbs the other."""
    config = pipeline.config(batch={"age_ms_max": 50})
    worker = pipeline.start(config)
    with Feeder(pipeline, rng, per_second=2_000) as feeder:
        wait_until(lambda: pipeline.count() > 4_000, 60, "rows")
        pipeline.client.command(f"ALTER TABLE {pipeline.table} DELETE WHERE number < 3000 SETTINGS mutations_sync = 2")
        result = replayed(config, "--from", "earliest")
        assert result["rows_written"] == 3_000, result
    wait_until(lambda: pipeline.count() >= feeder.unique, 60, "all rows")
    assert worker.terminate() == 0
    assert pipeline.count() == feeder.unique == int(pipeline.rows("uniqExact(id)", "")[0][0])
    assert "lost" not in worker.text()
    assert worker.text().count("revoked") <= 1


def test_a_copy_is_not_written_for_an_original_that_is_stored_elsewhere(pipeline: Pipeline) -> None:
    """In a later offset, or in another partition: only the table knows that the id is taken."""
    config = pipeline.config()
    pipeline.produce([event(number) for number in range(50)], partition=0)
    pipeline.produce([event(number) for number in range(40, 60)], partition=1)
    pipeline.run_until_caught_up(config)
    assert pipeline.count() == 60
    where = "_partition = 0" if pipeline.rows("count()", "WHERE _partition = 0")[0][0] == 40 else "_partition = 1"
    result = replayed(config, "--from", "0", "--partition", where[-1])
    assert (result["rows_written"], result["duplicates"]) == (0, 10)
    assert pipeline.count() == 60


def test_ids_that_are_record_keys(pipeline: Pipeline, rng: random.Random) -> None:
    """They are in Kafka only: the window before the stretch is read there."""
    config = pipeline.config(dedup={"key": ["@key"]})
    for number in range(400):
        known = str(number if number < 200 else rng.randrange(200)).encode()
        pipeline.produce([event(number)], key=known)
    pipeline.run_until_caught_up(config)
    before = everything(pipeline)
    assert len(before) == 200
    pipeline.client.command(f"TRUNCATE TABLE {pipeline.table}")
    result = replayed(config, "--from", f"{pipeline.topic}/0:100")
    assert (result["rows_written"], result["duplicates"]) == (100, 200)
    result = replayed(config, "--from", f"{pipeline.topic}/0:0")
    assert result["rows_written"] == 100
    assert everything(pipeline) == before


def test_rejects_get_letters_only_where_there_are_none(pipeline: Pipeline) -> None:
    config = pipeline.config(dead_letters={"topic": None, "on_reject": "drop"})
    pipeline.produce([event(1), BAD, event(2), BAD])
    pipeline.run_until_caught_up(config)
    config = pipeline.config()
    words = ("--from", f"{pipeline.topic}/0:0")
    assert replayed(config, *words, "--dry-run")["letters_written"] == 2
    pipeline.letters(0, timeout_s=3)
    assert replayed(config, *words)["letters_written"] == 2
    pipeline.letters(2)
    result = replayed(config, *words)
    assert (result["letters_written"], result["letters_there"], result["rows_there"]) == (0, 2, 2)
    pipeline.letters(2)
