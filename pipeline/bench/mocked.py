"""Two workers on two cores against one, with broker and engine mocked away: what the workers themselves cost each other.

`python -m pipeline.bench.mocked SECONDS RECORDS PLACE` is one worker: the real data plane with everything on, a source that
gives the same runs out of memory again and again, and a sink that acknowledges. It prints "ready", waits for a line, works
for a third of that time to touch the memory it uses, then for that long, and prints one JSON object. It keeps to one core,
that of its place among the workers, where the system can hold it there: a worker alone would use a part of the second core
for its sink, and leave two workers less to gain. Each pass over the records is an hour later than the one before, so the
window has passed and their ids are new again.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from pipeline import workload
from pipeline.bench import canned
from pipeline.bench.rounds import Narrate
from pipeline.bench.stage import answer, let_go, waiting_child
from pipeline.bench.steady import cpu_s
from pipeline.clock import SystemClock
from pipeline.commands import Read, Release
from pipeline.dedup import Dedup
from pipeline.flow import BatchSealed, Drain, Event, Flow, FlowDrained, FlowFault
from pipeline.metrics import Metrics
from pipeline.recovery import Recovery
from pipeline.threads import Threads
from pipeline.types import Partition, PartitionEnd, SourceEvent
from pipeline.worker import GC_THRESHOLDS

PARTITION = Partition(canned.TOPIC, 0)
RUN_RECORDS = 10_000
WAIT_S_MAX = 120.0
WARM_SHARE = 1 / 3


class Sizes(NamedTuple):
    """How long each worker works in a round, and how many different records it has."""

    seconds: float = 3.0
    records: int = 200_000

    def scaled(self, share: float) -> Sizes:
        return Sizes(max(0.5, self.seconds * share), max(RUN_RECORDS, int(self.records * share)))


class Replay:
    """A source that never ends."""

    def __init__(self, runs: Sequence[list[bytes | None]], pass_ms: int) -> None:
        self._runs = runs
        self._pass_ms = pass_ms
        self._number = 0
        self._offset = 0

    def assign(self, positions: dict[Partition, int]) -> None:
        """There is one partition, read from its start."""

    def poll(self, records_max: int, timeout_s: float) -> list[SourceEvent]:  # noqa: ARG002
        round_, index = divmod(self._number, len(self._runs))
        time_ms = canned.time_of(0) + round_ * self._pass_ms
        run = canned.ListRecords(PARTITION, self._offset, time_ms, self._runs[index])
        self._number += 1
        self._offset = run.next_offset
        # An end after each pass: the window does not wait for a partition that has nothing to read, and goes on with the next.
        return [run] if index < len(self._runs) - 1 else [run, PartitionEnd(PARTITION, run.next_offset)]

    def close(self) -> None:
        """Holds nothing."""


class Sink:
    """Acknowledges every batch once its blocks were made, as a delivery makes them, in a thread of its own."""

    def __init__(self) -> None:
        self.rows = 0
        self.records = 0
        self.error: Exception | None = None
        self.drained = threading.Event()
        self._flow: Flow | None = None
        self._batches: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="sink")

    def start(self, flow: Flow) -> None:
        self._flow = flow
        self._thread.start()

    def post(self, event: Event) -> None:
        """Called from the data plane."""
        self._batches.put(event)

    def stop(self) -> None:
        self._batches.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (event := self._batches.get()) is not None:
            if isinstance(event, FlowFault):
                self.error = event.error
                self.drained.set()
            elif isinstance(event, FlowDrained):
                self.drained.set()
            elif isinstance(event, BatchSealed):
                for block in event.batch.blocks:
                    block.block.framed(b"")
                self.rows += event.batch.counts.rows
                self.records += event.batch.counts.records
                assert self._flow is not None
                self._flow.tell(Release(event.batch))


def work(seconds: float, count: int, place: int) -> dict[str, Any]:
    """One worker's share; begins when a line arrives on stdin."""
    _keep_to_core(place)
    shape = workload.shape("flat")
    config = canned.config_of(shape)
    runs = canned.runs_of(canned.values_of(shape, 1, count), RUN_RECORDS)
    dedup, sink, stopping = Dedup(config.dedup), Sink(), threading.Event()
    dedup.open(PARTITION)
    lanes = {canned.TOPIC: canned.lane_of(config, canned.contract_of(config), dedup)}
    source = Replay(runs, 2 * config.dedup.window_s * 1000)
    nothing_to_recover = cast(Recovery, None)
    flow = Flow(
        config,
        lanes,
        dedup,
        nothing_to_recover,
        lambda: source,
        sink.post,
        Metrics(),
        SystemClock(),
        stopping,
        Threads(),
    )
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    print("ready", flush=True)
    sys.stdin.readline()
    sink.start(flow)
    flow.tell(Read({PARTITION: 0}, 0))
    flow.start()
    time.sleep(seconds * WARM_SHARE)
    before = _reached(flow)
    time.sleep(seconds)
    after = _reached(flow)
    flow.tell(Drain())
    sink.drained.wait(WAIT_S_MAX)
    stopping.set()
    flow.join(30.0)
    sink.stop()
    if sink.error is not None or sink.rows != sink.records:
        raise SystemExit(f"{sink.rows} of {sink.records} records became rows: {sink.error}")
    return {key: after[key] - before[key] for key in after}


def _reached(flow: Flow) -> dict[str, float]:
    """Records read, CPU and wall time until now."""
    return {"records": flow.positions().get(PARTITION, 0), "cpu_s": cpu_s(), "wall_s": time.monotonic()}


def _keep_to_core(place: int) -> None:
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[place % len(cores)]})


def measure(sizes: Sizes, rounds: int, narrate: Narrate) -> dict[str, Any]:
    """One worker, then two at once, in turn. By wall time, which another load on the machine spoils; by CPU beside it."""
    by_wall, by_cpu, alone = [], [], []
    for number in range(rounds):
        one = _together(1, sizes)
        two = _together(2, sizes)
        by_wall.append(two["per_s"] / one["per_s"])
        by_cpu.append(2 * one["cpu_us"] / two["cpu_us"])
        alone.append(one["per_s"])
        narrate(f"scaling: round {number + 1} of {rounds}: {one['per_s']:,.0f} and {two['per_s']:,.0f} records/s")
    return {
        "scaling_two_workers": round(statistics.median(by_wall), 3),
        "scaling_two_workers_cpu": round(statistics.median(by_cpu), 3),
        "one_worker_per_second": round(statistics.median(alone)),
        "spread": {
            "scaling_two_workers": [round(min(by_wall), 3), round(max(by_wall), 3)],
            "scaling_two_workers_cpu": [round(min(by_cpu), 3), round(max(by_cpu), 3)],
        },
    }


def _together(workers: int, sizes: Sizes) -> dict[str, float]:
    """Records per second of all, and CPU microseconds per record."""
    arguments = ("pipeline.bench.mocked", str(sizes.seconds), str(sizes.records))
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(waiting_child(*arguments, str(place))) for place in range(workers)]
        for process in processes:
            let_go(process)
        told = [answer(process, WAIT_S_MAX) for process in processes]
    records = sum(one["records"] for one in told)
    return {
        "per_s": sum(one["records"] / one["wall_s"] for one in told),
        "cpu_us": sum(one["cpu_s"] for one in told) / records * 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(work(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
