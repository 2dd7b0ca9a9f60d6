"""Every metric of a worker, by name, unit and meaning, behind one typed class.

It owns the registry. It is called once per batch, poll or tick, never per record, and it never reads a clock. All methods
may be called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    exposition,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from pipeline.types import Partition, RejectCode
from pipeline.version import VERSION

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_FRESHNESS_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0)
_ROWS = (1, 10, 100, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 350_000, 500_000)
_BYTES = tuple(1024 * 4**power for power in range(10))
_AGE_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
REBALANCES = ("assigned", "revoked", "lost")

M = TypeVar("M", bound=MetricWrapperBase)


class _Children(Generic[M]):
    """The children of a metric with one label, each bound once: asking the metric anew costs four times as much."""

    def __init__(self, metric: M, values: Iterable[str] = ()) -> None:
        self._metric = metric
        self._bound: dict[str, M] = {}
        for value in values:
            self[value]

    def __getitem__(self, value: str) -> M:
        child = self._bound.get(value)
        if child is None:
            child = self._bound[value] = self._metric.labels(value)
        return child


class _Lag(Collector):
    """Lag by partition, the only metric with a partition label: a scrape builds it in one go, without a lock a child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[Partition, tuple[int, float]] = {}

    def set(self, partition: Partition, records: int, seconds: float) -> None:
        with self._lock:
            self._values[partition] = (records, seconds)

    def clear(self) -> None:
        with self._lock:
            self._values.clear()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._lock:
            values = sorted(self._values.items())
        records = GaugeMetricFamily(
            "penstock_lag_records",
            "Records between the position and the end of the partition",
            labels=("topic", "partition"),
        )
        seconds = GaugeMetricFamily(
            "penstock_lag_seconds",
            "Age of the last record read while records are left, else 0",
            labels=("topic", "partition"),
        )
        for (topic, number), (behind, age_s) in values:
            records.add_metric((topic, str(number)), behind)
            seconds.add_metric((topic, str(number)), age_s)
        yield records
        yield seconds


class Metrics:
    """The worker's metrics in a registry of their own, so that several workers of one process do not mix."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        # Otherwise each counter and histogram has a second series, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        ProcessCollector(registry=self.registry)
        self._gauge("penstock_build_info", "Constant 1 with the version as a label", "version").labels(VERSION).set(1)
        self._make_counts()
        self._make_batches()
        self._make_durations()
        self._make_states()

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics as text, and its content type. `accept` is the header of the scrape."""
        encode, content_type = exposition.choose_encoder(accept)
        return encode(self.registry), content_type

    # What happened to records

    def consumed(self, records: int, nbytes: int) -> None:
        """Records read, and the bytes of their values."""
        self._records_consumed.inc(records)
        self._bytes_consumed.inc(nbytes)

    def inserted(self, table: str, rows: int) -> None:
        """Rows that ClickHouse acknowledged."""
        self._rows_inserted[table].inc(rows)

    def duplicates(self, records: int) -> None:
        self._duplicates.inc(records)

    def filtered(self, records: int) -> None:
        self._filtered.inc(records)

    def rejected(self, code: str, records: int) -> None:
        """Rejects, by `RejectCode`; with a dead-letter topic each of them is an acknowledged dead letter."""
        self._rejected[code].inc(records)

    def cold(self, records: int) -> None:
        """Records read while the dedup window of their partition was not rebuilt."""
        self._cold.inc(records)

    def recovered(self, batches: int, rows: int) -> None:
        """Declared batches of an earlier assignment that were finished, and the rows that were still missing."""
        self._batches_recovered.inc(batches)
        self._rows_recovered.inc(rows)

    # What happened to batches

    def sealed(self, trigger: str, rows: int, nbytes: int, age_s: float) -> None:
        self._sealed[trigger].inc()
        self._batch_rows.observe(rows)
        self._batch_bytes.observe(nbytes)
        self._batch_age.observe(age_s)

    def retried(self, error_class: str) -> None:
        """One attempt that failed and is made again."""
        self._retries[error_class].inc()

    # How long things take

    def insert_seconds(self, table: str, seconds: float) -> None:
        """One attempt to insert a block, whatever became of it."""
        self._insert[table].observe(seconds)

    def commit_seconds(self, seconds: float) -> None:
        self._commit.observe(seconds)

    def stage_seconds(self, stage: str, seconds: float) -> None:
        self._stages[stage].inc(max(0.0, seconds))

    def freshness_seconds(self, seconds: float) -> None:
        """Record timestamp to acknowledged insert, of the oldest record of a batch."""
        self._freshness.observe(seconds)

    # How things stand

    def lag(self, partition: Partition, records: int, seconds: float) -> None:
        self._lag.set(partition, records, seconds)

    def budget(self, name: str, used: int, limit: int) -> None:
        """Use of a budget; the name is its unit: rows, bytes, batches."""
        self._budget_used[name].set(used)
        self._budget_limit[name].set(limit)

    def claims(self, ids: int, nbytes: int, cut: int) -> None:
        """Ids held, the memory they take, and how many more were dropped before the window had passed them."""
        self._claims_ids.set(ids)
        self._claims_bytes.set(nbytes)
        self._claims_cut.inc(cut)

    def rebalance(self, kind: str) -> None:
        """`assigned`, `revoked` or `lost`. Lag is forgotten with what was given away; the next measurement brings the rest."""
        self._rebalances[kind].inc()
        if kind != "assigned":
            self._lag.clear()

    def stopped(self, reason: str) -> None:
        """A partition, or the worker, cannot go on without an operator."""
        self._stops[reason].inc()

    # Their names

    def _make_counts(self) -> None:
        self._records_consumed = self._counter("penstock_records_consumed", "Records read from Kafka")
        self._bytes_consumed = self._counter(
            "penstock_consumed_bytes", "Bytes of the values of records read from Kafka"
        )
        rows = self._counter("penstock_rows_inserted", "Rows acknowledged by ClickHouse", "table")
        self._rows_inserted = _Children(rows)
        self._duplicates = self._counter("penstock_records_duplicate", "Records dropped as duplicates")
        self._filtered = self._counter(
            "penstock_records_filtered", "Records dropped by a filter (tombstones, ignored types)"
        )
        rejected = self._counter(
            "penstock_records_rejected", "Records proven bad: dead letters, or drops, by reason", "reason"
        )
        self._rejected = _Children(rejected, RejectCode)
        self._cold = self._counter("penstock_records_read_cold", "Records read before the dedup window was rebuilt")
        self._batches_recovered = self._counter(
            "penstock_batches_recovered", "Declared batches finished after an assignment"
        )
        self._rows_recovered = self._counter(
            "penstock_rows_recovered", "Rows of recovered batches that were still missing"
        )

    def _make_batches(self) -> None:
        self._sealed = _Children(
            self._counter("penstock_batches_sealed", "Batches sealed, by what sealed them", "trigger")
        )
        self._batch_rows = self._histogram("penstock_batch_rows", "Rows of a sealed batch", _ROWS)
        self._batch_bytes = self._histogram("penstock_batch_bytes", "Bytes of the blocks of a sealed batch", _BYTES)
        self._batch_age = self._histogram("penstock_batch_age_seconds", "First record to seal of a batch", _AGE_SECONDS)
        self._retries = _Children(
            self._counter("penstock_retries", "Attempts that failed and were repeated", "error_class")
        )

    def _make_durations(self) -> None:
        insert = self._histogram("penstock_insert_duration_seconds", "One insert attempt", _SECONDS, "table")
        self._insert = _Children(insert)
        self._commit = self._histogram("penstock_commit_duration_seconds", "One offset commit", _SECONDS)
        self._stages = _Children(self._counter("penstock_stage_seconds", "Time spent in a stage", "stage"))
        self._freshness = self._histogram(
            "penstock_freshness_seconds",
            "Timestamp of a batch's oldest record to its acknowledged insert",
            _FRESHNESS_SECONDS,
        )

    def _make_states(self) -> None:
        self._lag = _Lag()
        self.registry.register(self._lag)
        self._budget_used = _Children(
            self._gauge("penstock_budget_used", "In flight, in the unit of the label", "budget")
        )
        self._budget_limit = _Children(
            self._gauge("penstock_budget_limit", "Allowed in flight, in the unit of the label", "budget")
        )
        self._claims_ids = self._gauge("penstock_claims_ids", "Event ids held by the dedup window")
        self._claims_bytes = self._gauge("penstock_claims_bytes", "Memory of the dedup window")
        self._claims_cut = self._counter(
            "penstock_claims_cut_ids", "Event ids dropped before dedup.window_s had passed: dedup.ids_max is too small"
        )
        self._rebalances = _Children(
            self._counter("penstock_rebalances", "Changes of the assignment", "kind"), REBALANCES
        )
        self._stops = _Children(
            self._counter("penstock_stops", "Partitions or workers that stopped for an operator", "reason")
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
