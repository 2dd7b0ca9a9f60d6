"""One worker process: wires the stages together, drives the engine with their events and carries out its commands.

The control plane is an asyncio loop; membership and data plane are one thread each; inserts run in a small pool. All events
reach the engine on the loop, one at a time, in the order they were posted.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

from pipeline import flow as data_plane
from pipeline import membership as group
from pipeline.assembly import Assembly
from pipeline.batch import SealedBatch
from pipeline.clock import Clock
from pipeline.commands import (
    Command,
    Commit,
    Discard,
    Drained,
    Insert,
    Prepare,
    Read,
    Rejoin,
    Release,
    RevokeReady,
    Stop,
)
from pipeline.engine import Engine
from pipeline.errors import Exit, PenstockError, PipelineStopped
from pipeline.http import HttpServer
from pipeline.patience import Stopping
from pipeline.types import Partition
from pipeline.unassigned import LOOK_EVERY_S, Unassigned

log = logging.getLogger(__name__)

TICK_S = 0.05
LAG_EVERY_S = 5.0
LIVE_TICK_AGE_S_MAX = 10.0
IDLE_MEMBER_S = 30.0
"""With --until-caught-up: how long a member without partitions waits for some before it takes the others to have them."""
STOP_S_MAX = 10.0
GC_THRESHOLDS = (50_000, 20, 50)


class Worker:
    """A member of the fleet. `run` returns the exit code when the worker has stopped."""

    def __init__(self, assembly: Assembly, *, until_caught_up: bool = False) -> None:
        self._parts = assembly
        self._config = assembly.config
        self._clock: Clock = assembly.clock
        self._metrics = assembly.metrics
        self._until_caught_up = until_caught_up
        self._stopping = assembly.stopping
        self._engine = Engine(
            assembly.identity,
            assembly.config_digest,
            assembly.clock,
            advance_ms_max=self._config.batch.age_ms_max,
            salt=assembly.salt,
        )
        self._flow = assembly.flow(self._post)
        self._membership = group.Membership(
            self._config.kafka,
            assembly.topics,
            self._post,
            assembly.clock,
            self._data_plane_is_alive,
            assembly.threads,
            assembly.clients,
        )
        self._unassigned = Unassigned(self._config.kafka, assembly.clock)
        self._pool = ThreadPoolExecutor(self._config.clickhouse.insert_threads, thread_name_prefix="insert")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finished: asyncio.Future[Exit] | None = None
        self._tick_s = assembly.clock.monotonic_s()
        self._started_s = self._tick_s
        self._draining = False
        self._stall_reported = False
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> Exit:
        """Works until a signal, until caught up, or until something stops it."""
        self._loop = asyncio.get_running_loop()
        self._finished = self._loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, signal.Signals(number).name)
        http = HttpServer(self._config.http, self._metrics, self._is_live, self._is_ready)
        http.start()
        # What the start has made stays; what a batch makes dies by reference counts. Looking for cycles in it costs percents.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._flow.start()
        self._membership.start()
        self._spawn(self._keep_ticking())
        self._spawn(self._keep_measuring_lag())
        self._spawn(self._keep_looking_for_unassigned())
        try:
            return await self._finished
        finally:
            await self._shut_down(http)

    async def _shut_down(self, http: HttpServer) -> None:
        self._stopping.set()
        for task in self._background:
            task.cancel()
        assert self._loop is not None
        await self._loop.run_in_executor(None, self._membership.stop, STOP_S_MAX)
        await self._loop.run_in_executor(None, self._flow.join, STOP_S_MAX)
        self._pool.shutdown(wait=False, cancel_futures=True)
        await self._loop.run_in_executor(None, self._parts.close)
        http.stop()

    # Events and commands

    def _post(self, event: group.Event | data_plane.Event) -> None:
        """Called from the threads of membership and data plane."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._on_event, event)

    def _on_event(self, event: group.Event | data_plane.Event) -> None:
        self._guarded(lambda: self._engine_answer(event))

    def _guarded(self, answer: Callable[[], list[Command]]) -> None:
        """Runs one step of the engine and carries out what it asks for. The outermost edge: any error stops the worker."""
        assert self._finished is not None
        if self._finished.done():
            return
        try:
            for command in answer():
                self._carry_out(command)
        except PenstockError as error:
            self._stop(error)
        except Exception as error:
            log.exception("control plane failed")
            self._stop(_bug(error))

    def _engine_answer(self, event: group.Event | data_plane.Event) -> list[Command]:
        engine, metrics = self._engine, self._metrics
        match event:
            case group.PartitionsAssigned(partitions):
                metrics.rebalance("assigned")
                self._unassigned.joined()
                return engine.assigned(partitions)
            case group.PartitionsRevoking(partitions):
                return engine.revoking(partitions)
            case group.PartitionsRevoked(partitions):
                metrics.rebalance("revoked")
                return engine.revoked(partitions)
            case group.MembershipLost():
                metrics.rebalance("lost")
                self._unassigned.joined()
                return engine.lost()
            case group.CommitDone(number, outcome, seconds, detail):
                metrics.commit_seconds(seconds)
                return engine.commit_done(number, outcome, detail)
            case data_plane.PartitionsPrepared(prepared):
                metrics.recovered(prepared.batches, prepared.rows)
                return engine.prepared(prepared.epochs, prepared.positions)
            case data_plane.BatchSealed(batch):
                metrics.consumed(batch.counts.records, batch.counts.nbytes)
                return engine.sealed(batch.spans, batch, empty=batch.empty, flow_epoch=batch.flow_epoch)
            case data_plane.FlowDrained():
                return engine.drain()
            case group.MembershipFault(error) | data_plane.FlowFault(error):
                return engine.failed(error)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Prepare() | Read() | Discard():
                self._flow.tell(command)
            case Release(payload):
                assert isinstance(payload, SealedBatch)
                self._flow.tell(command)
            case Commit():
                self._membership.commit(command)
            case Insert():
                self._spawn(self._insert(command))
            case RevokeReady(partitions):
                self._membership.may_go(partitions)
            case Rejoin(reason):
                self._membership.rejoin(reason)
            case Drained():
                self._finish(Exit.SOFTWARE if self._flow.halted else Exit.OK)
            case Stop(error):
                self._stop(error)

    async def _insert(self, command: Insert) -> None:
        batch = command.payload
        assert isinstance(batch, SealedBatch)
        assert self._loop is not None
        try:
            refused = await self._loop.run_in_executor(self._pool, self._deliver, command, batch)
        except Stopping:
            return
        except PenstockError as error:
            failure = error
            self._guarded(lambda: self._engine.failed(failure))
            return
        self._count(batch, refused)
        self._guarded(lambda: self._engine.inserted(command.batch))

    def _deliver(self, command: Insert, batch: SealedBatch) -> int:
        salt = self._parts.salt
        return self._parts.delivery.deliver(
            command.spans, batch.blocks, batch.letters, self._raise_if_stopping, salt=salt
        )

    def _raise_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise Stopping("the worker is stopping")

    def _count(self, batch: SealedBatch, refused: int) -> None:
        self._metrics.duplicates(batch.counts.duplicates)
        self._metrics.filtered(batch.counts.filtered)
        for code, number in batch.counts.rejects.items():
            self._metrics.rejected(code, number)
        if refused:
            self._metrics.rejected("refused", refused)
        if batch.oldest_ms > 0:
            self._metrics.freshness_seconds(max(0.0, (self._clock.wall_ms() - batch.oldest_ms) / 1000))

    # Time

    async def _keep_ticking(self) -> None:
        while True:
            self._tick()
            await asyncio.sleep(TICK_S)

    def _tick(self) -> None:
        self._tick_s = self._clock.monotonic_s()
        self._guarded(self._engine.tick)
        self._report_stall()
        if self._until_caught_up and not self._draining and self._caught_up():
            self._drain("caught up")

    async def _keep_measuring_lag(self) -> None:
        assert self._loop is not None
        while True:
            await asyncio.sleep(LAG_EVERY_S)
            try:
                marks = await self._loop.run_in_executor(None, self._parts.cluster.watermarks, self._flow.positions())
            except PenstockError as error:
                log.warning("cannot measure the lag: %s", error)
                continue
            self._report_lag(marks)

    def _report_lag(self, marks: dict[Partition, tuple[int, int]]) -> None:
        now_ms = self._clock.wall_ms()
        for partition, position in self._flow.positions().items():
            records = max(0, marks.get(partition, (0, position))[1] - position)
            seen_ms = self._flow.last_timestamp_ms.get(partition, now_ms)
            self._metrics.lag(partition, records, max(0.0, (now_ms - seen_ms) / 1000) if records else 0.0)

    async def _keep_looking_for_unassigned(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._unassigned.wanted:
                await self._look_for_unassigned()

    async def _look_for_unassigned(self) -> None:
        assert self._loop is not None
        try:
            found = await self._loop.run_in_executor(None, self._parts.cluster.unassigned, self._parts.topics)
        except PenstockError as error:
            log.warning("cannot tell whether every partition is assigned: %s", error)
            return
        if lasting := self._unassigned.seen(found):
            names = ", ".join(str(partition) for partition in sorted(lasting))
            self._membership.rejoin(f"the group has left partitions to nobody: {names}", rebalance=True)

    def _caught_up(self) -> bool:
        held = set(self._engine.held)
        if not held:
            return self._clock.monotonic_s() - self._started_s > IDLE_MEMBER_S
        return held <= self._flow.at_end | self._flow.halted.keys()

    # Health

    def _data_plane_is_alive(self) -> bool:
        return self._flow.stalled_s() * 1000 < self._config.limits.stall_ms_max

    def _report_stall(self) -> None:
        """Says once, half-way to giving up the membership, where every thread stands."""
        stalled = self._flow.stalled_s() * 2_000 > self._config.limits.stall_ms_max
        if stalled and not self._stall_reported:
            stacks = {name: traceback.format_stack(frame) for name, frame in _frames().items()}
            log.error(
                "the data plane has made no progress for %.0f s", self._flow.stalled_s(), extra={"stacks": stacks}
            )
        self._stall_reported = stalled

    def _is_live(self) -> bool:
        return self._clock.monotonic_s() - self._tick_s < LIVE_TICK_AGE_S_MAX

    def _is_ready(self) -> tuple[bool, list[str]]:
        reasons = [f"{partition} is not read: {why}" for partition, why in dict(self._flow.halted).items()]
        reasons += self._parts.waiting()
        if not self._data_plane_is_alive():
            reasons.append(f"the data plane has made no progress for {self._flow.stalled_s():.0f} s")
        if self._draining:
            reasons.append("draining")
        return not reasons, reasons

    # The end

    def _on_signal(self, name: str) -> None:
        if self._draining:
            log.warning("%s again: stopping at once; the next worker recovers what is in flight", name)
            self._finish(Exit.TEMPORARY)
        else:
            self._drain(name)

    def _drain(self, reason: str) -> None:
        log.info("draining: %s", reason)
        self._draining = True
        self._flow.tell(data_plane.Drain())
        assert self._loop is not None
        self._loop.call_later(self._config.limits.drain_ms_max / 1000, self._drain_is_late)

    def _drain_is_late(self) -> None:
        assert self._finished is not None
        if not self._finished.done():
            log.error(
                "%d batches are not finished after limits.drain_ms_max = %d; the next worker recovers them",
                self._engine.batches_in_flight,
                self._config.limits.drain_ms_max,
            )
            self._finish(Exit.TEMPORARY)

    def _stop(self, error: PenstockError) -> None:
        log.error("stopped: %s", error)
        self._metrics.stopped(type(error).__name__)
        self._finish(error.exit_code)

    def _finish(self, code: Exit) -> None:
        assert self._finished is not None
        if not self._finished.done():
            self._finished.set_result(code)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        """A task that ends with an error nobody expected stops the worker: what it was to do would never be done."""
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the control plane failed", exc_info=error)
            self._stop(_bug(error))


def _bug(error: BaseException) -> PipelineStopped:
    return PipelineStopped(
        f"{type(error).__name__}: {error}. This is a bug in penstock; nothing past the last commit is lost"
    )


def _frames() -> dict[str, FrameType]:
    """The current frame of each thread, by its name."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {names.get(ident, str(ident)): frame for ident, frame in sys._current_frames().items()}
