"""One replay from a configuration: plans it, runs the worker, and says whether the whole stretch is done."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable

import msgspec
import uvloop

from pipeline.assembly import STARTUP_S_MAX, assemble
from pipeline.config.schema import Config
from pipeline.errors import Exit, PipelineStopped
from pipeline.kafka import Cluster
from pipeline.replay.dry import look_through
from pipeline.replay.plan import Plan, plan
from pipeline.replay.report import Report
from pipeline.replay.stretch import Stretch
from pipeline.replay.worker import Replayer
from pipeline.selection import Selection
from pipeline.verify.account import Pace

Begin = Callable[[Plan], None]
Progress = Callable[[int], None]


def replay(
    config: Config,
    selection: Selection,
    *,
    rate: float = 0.0,
    restart: bool = False,
    wait_s: float = STARTUP_S_MAX,
    begin: Begin = lambda _: None,
    progress: Progress = lambda _: None,
) -> tuple[Report, Exit]:
    """Writes what the tables do not have of the stretch. Returns the report, and how the worker ended.

    Goes on where an earlier run of the same selection was stopped, unless `restart`. `begin` is told the plan, `progress` how
    many offsets of it are done. Raises what `assemble` and `plan` raise.
    """
    started_s = time.monotonic()
    planned = _planned(config, selection, wait_s)
    report = _report(planned)
    mine = _own_group(config, planned.group)
    if restart:
        planned = _anew(planned)
    report.resumed = planned.begun
    report.offsets_before = planned.offsets_before
    begin(planned)
    code = Exit.OK
    if planned.offsets:
        assembly = assemble(mine, wait_s=wait_s)
        stretch = Stretch(assembly, planned.spans, rate)
        worker = Replayer(assembly, stretch, report, progress, anew=restart)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(worker.run())
        report.rows_there = stretch.rows_there
        report.duplicates += stretch.duplicates
    else:
        report.finished = True
    report.seconds = round(time.monotonic() - started_s, 3)
    return report, code


def dry_run(
    config: Config,
    selection: Selection,
    *,
    rate: float = 0.0,
    wait_s: float = STARTUP_S_MAX,
    begin: Begin = lambda _: None,
    progress: Progress = lambda _: None,
) -> Report:
    """What `replay` would do, from the beginning of the stretch. Writes nothing: no group, no row, no letter."""
    started_s = time.monotonic()
    planned = _planned(config, selection, wait_s)
    report = _report(planned)
    report.dry_run = True
    begin(planned)
    if planned.offsets:
        assembly = assemble(_own_group(config, planned.group), wait_s=wait_s)
        try:
            stretch = Stretch(assembly, planned.spans, 0.0)
            assembly.bind(stretch)
            look_through(assembly, stretch, planned.spans, report, Pace(rate), progress)
        finally:
            assembly.close()
    report.finished = True
    report.seconds = round(time.monotonic() - started_s, 3)
    return report


def _planned(config: Config, selection: Selection, wait_s: float) -> Plan:
    cluster = Cluster(config.kafka)
    try:
        cluster.wait(wait_s)
        return plan(config, cluster, selection)
    finally:
        cluster.close()


def _report(planned: Plan) -> Report:
    return Report(
        group=planned.group,
        offsets=planned.offsets,
        notes=list(planned.notes),
        stretch=[
            {"topic": topic, "partition": number, "first": first, "next": next_}
            for (topic, number), first, next_ in planned.spans.values()
            if first < next_
        ],
    )


def _own_group(config: Config, group: str) -> Config:
    """The configuration of the worker: a group of its own, one insert at a time so that each sees the rows of those before,
    and no window rebuilt from the end of the table."""
    replace = msgspec.structs.replace
    key = config.dedup.key
    in_kafka = bool(key) and key[0].startswith("@")
    return replace(
        config,
        kafka=replace(config.kafka, group=group, instance_id=""),
        clickhouse=replace(config.clickhouse, insert_threads=1),
        dedup=replace(config.dedup, rebuild="kafka" if in_kafka else "cold"),
        http=replace(config.http, enabled=False),
    )


def _anew(planned: Plan) -> Plan:
    """The plan without what an earlier run has done."""
    if planned.in_flight:
        raise PipelineStopped(
            f"an earlier run of this replay was stopped with batches in flight (group {planned.group}). Run it once without "
            "--restart, which finishes them; after that every run begins anew"
        )
    return dataclasses.replace(planned, committed={})
