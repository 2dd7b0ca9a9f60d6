"""Metrics: names with units, values per batch, few labels, and a scrape that stays cheap."""

from __future__ import annotations

import inspect
import re

from pipeline.metrics import REBALANCES, Metrics
from pipeline.types import Partition, RejectCode

SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
UNITS = ("seconds", "bytes", "records", "rows", "ids", "info", "batches", "retries", "rebalances", "stops", "budget")


def samples(metrics: Metrics) -> dict[str, float]:
    """name{labels} -> value."""
    text = metrics.exposition("")[0].decode()
    return {f"{name}{{{labels}}}" if labels else name: float(value) for name, labels, value in SAMPLE.findall(text)}


def filled() -> Metrics:
    metrics = Metrics()
    metrics.consumed(1_000, 200_000)
    metrics.inserted("db.orders", 900)
    metrics.duplicates(50)
    metrics.filtered(20)
    metrics.rejected("undecodable", 30)
    metrics.cold(5)
    metrics.recovered(2, 7)
    metrics.sealed("rows", 900, 150_000, 0.7)
    metrics.retried("network")
    metrics.insert_seconds("db.orders", 0.2)
    metrics.commit_seconds(0.004)
    metrics.stage_seconds("decode", 0.5)
    metrics.stage_seconds("decode", 0.25)
    metrics.freshness_seconds(1.2)
    metrics.lag(Partition("orders", 3), 17, 4.5)
    metrics.budget("rows", 900, 1_000_000)
    metrics.claims(900, 36_000, 100)
    metrics.rebalance("assigned")
    metrics.stopped("SinkError")
    return metrics


def test_every_method_shows_in_the_exposition() -> None:
    seen = samples(filled())
    expected = {
        "penstock_records_consumed_total": 1_000,
        "penstock_consumed_bytes_total": 200_000,
        'penstock_rows_inserted_total{table="db.orders"}': 900,
        "penstock_records_duplicate_total": 50,
        "penstock_records_filtered_total": 20,
        'penstock_records_rejected_total{reason="undecodable"}': 30,
        "penstock_records_read_cold_total": 5,
        "penstock_batches_recovered_total": 2,
        "penstock_rows_recovered_total": 7,
        'penstock_batches_sealed_total{trigger="rows"}': 1,
        "penstock_batch_rows_sum": 900,
        "penstock_batch_bytes_sum": 150_000,
        "penstock_batch_age_seconds_sum": 0.7,
        'penstock_retries_total{error_class="network"}': 1,
        'penstock_insert_duration_seconds_sum{table="db.orders"}': 0.2,
        "penstock_commit_duration_seconds_sum": 0.004,
        'penstock_stage_seconds_total{stage="decode"}': 0.75,
        "penstock_freshness_seconds_sum": 1.2,
        'penstock_lag_records{partition="3",topic="orders"}': 17,
        'penstock_lag_seconds{partition="3",topic="orders"}': 4.5,
        'penstock_budget_used{budget="rows"}': 900,
        'penstock_budget_limit{budget="rows"}': 1_000_000,
        "penstock_claims_ids": 900,
        "penstock_claims_bytes": 36_000,
        "penstock_claims_cut_ids_total": 100,
        'penstock_rebalances_total{kind="assigned"}': 1,
        'penstock_stops_total{reason="SinkError"}': 1,
    }
    for name, value in expected.items():
        key = name if name in seen else name.replace('{partition="3",topic="orders"}', '{topic="orders",partition="3"}')
        assert seen[key] == value, name


def test_every_method_is_tried_above() -> None:
    source = inspect.getsource(filled)
    methods = [name for name, value in vars(Metrics).items() if callable(value) and not name.startswith("_")]
    assert [name for name in methods if name != "exposition" and f"metrics.{name}(" not in source] == []


def test_names_begin_alike_tell_their_unit_and_have_a_text() -> None:
    text = filled().exposition("")[0].decode()
    names = re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE)
    ours = [(name, about) for name, about in names if not name.startswith("process_")]
    assert len(ours) > 20
    for name, about in ours:
        assert name.startswith("penstock_")
        assert any(unit in name for unit in UNITS), name
        assert about
    assert "_created" not in text


def test_reasons_are_there_from_the_start_so_that_rates_begin_at_zero() -> None:
    seen = samples(Metrics())
    for code in RejectCode:
        assert seen[f'penstock_records_rejected_total{{reason="{code.value}"}}'] == 0
    for kind in REBALANCES:
        assert seen[f'penstock_rebalances_total{{kind="{kind}"}}'] == 0
    assert seen["penstock_records_consumed_total"] == 0


def test_lag_is_the_only_metric_with_a_partition_label() -> None:
    labelled = {name.partition("{")[0] for name in samples(filled()) if "partition=" in name}
    assert labelled == {"penstock_lag_records", "penstock_lag_seconds"}


def test_lag_of_what_was_given_away_is_forgotten() -> None:
    metrics = Metrics()
    metrics.lag(Partition("orders", 0), 1, 1.0)
    metrics.rebalance("assigned")
    assert any("penstock_lag_records{" in name for name in samples(metrics))
    metrics.rebalance("revoked")
    assert not any("penstock_lag_records{" in name for name in samples(metrics))


def test_two_workers_of_one_process_do_not_mix() -> None:
    one, other = Metrics(), Metrics()
    one.consumed(5, 5)
    assert samples(other)["penstock_records_consumed_total"] == 0


def test_openmetrics_is_spoken_to_whoever_asks() -> None:
    body, content_type = Metrics().exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_a_scrape_has_two_series_a_partition() -> None:
    """The GIL is held for as long as they are written, and there may be hundreds of partitions."""
    metrics = filled()
    before = len(metrics.exposition("")[0].splitlines())
    for number in range(100, 164):
        metrics.lag(Partition("orders", number), number, 1.0)
    assert len(metrics.exposition("")[0].splitlines()) - before == 2 * 64
