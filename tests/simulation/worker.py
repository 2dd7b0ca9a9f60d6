"""One simulated worker: the project's `Worker` with all its parts, over the models, in virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from contextvars import ContextVar
from random import Random
from typing import Any

from pipeline.assembly import Assembly
from pipeline.batch import SealedBatch
from pipeline.commands import Insert, Prepare
from pipeline.config import memory_plan, schema
from pipeline.deadletter import DeadLetters
from pipeline.dedup import Dedup
from pipeline.delivery import Delivery
from pipeline.engine import Status
from pipeline.errors import Exit, PenstockError
from pipeline.flow import BatchSealed
from pipeline.kafka import Clients
from pipeline.lane import Lane
from pipeline.offsets import Offsets
from pipeline.patience import Patience
from pipeline.recovery import Prepared, Recovery
from pipeline.sink import Sink
from pipeline.unassigned import LOOK_EVERY_S
from pipeline.ways import Ways
from pipeline.worker import Worker
from tests.simulation import contracts
from tests.simulation.clickhouse_model import Server, SimClickHouse
from tests.simulation.kafka_clients import (
    LETTERS,
    Machine,
    SimCluster,
    SimConsumer,
    SimLetterReader,
    SimProducer,
    SimSource,
)
from tests.simulation.loop import SimQueue, SimThreads, Task
from tests.simulation.schedule import Schedule

TICK_S = 0.5
INSERT_THREADS = 2
RETRY_WAIT_MS_MAX = 2_500
RECORD_BYTES_MAX = 100
PAGE_OFFSETS = 5
STALL_MS_MAX = 12_000
"""More than a loop of the data plane sleeps in vain (`loop.IDLE_S_MAX`)."""
_held_at_delivery: ContextVar[dict[tuple[str, int], int] | None] = ContextVar("held at delivery", default=None)


class Silent:
    """Metrics that nobody reads."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        setattr(self, name, _nothing)
        return _nothing


def _nothing(*_: object, **__: object) -> None:
    pass


SILENT = Silent()


class SimAssembly(Assembly):
    machine: Machine

    def open_source(self) -> Any:
        return SimSource(self.machine)

    def _lanes(self, dedup: Dedup) -> dict[str, Lane]:
        """Lanes are dear to build: those of a process that has ended serve another one."""
        idle = _IDLE_LANES.setdefault((id(self.contracts[contracts.TOPIC]), dedup.key_is_column), [])
        lanes = idle.pop() if idle else super()._lanes(dedup)
        for lane in lanes.values():
            lane._dedup = dedup
            lane.ways = Ways(contracts.TOPIC)
            for target in lane.targets:
                target.discard()
        self.machine.process.on_death.append(lambda: idle.append(lanes))
        return lanes


_IDLE_LANES: dict[tuple[int, bool], list[dict[str, Lane]]] = {}


def config_of(schedule: Schedule) -> schema.Config:
    return schema.Config(
        name="sim",
        kafka=schema.Kafka(brokers="sim:1", group="g", group_protocol=schedule.protocol, revoke_drain_ms_max=1_500),  # type: ignore[arg-type]
        clickhouse=schema.ClickHouse(
            urls=["http://sim:1"], retry_wait_ms_max=RETRY_WAIT_MS_MAX, insert_threads=INSERT_THREADS
        ),
        routes=[schema.Route(topic=contracts.TOPIC, table=contracts.TABLE)],
        dedup=schema.Dedup(
            key=["id"] if schedule.dedup else [],
            window_s=schedule.dedup_window_s,
            ids_max=1_000,
            rebuild=schedule.rebuild,  # type: ignore[arg-type]
        ),
        batch=schema.Batch(
            rows_max=schedule.rows_max,
            bytes_max=schedule.batch_bytes_max,
            age_ms_max=200,
            partitions_max=schedule.partitions_max,
        ),
        limits=schema.Limits(
            batches_in_flight_max=3,
            rows_in_flight_max=4 * schedule.rows_max,
            bytes_in_flight_max=2 * schedule.batch_bytes_max,
            record_bytes_max=RECORD_BYTES_MAX,
            poll_records_max=schedule.poll_records_max,
            stall_ms_max=STALL_MS_MAX,
        ),
        dead_letters=schema.DeadLetters(topic=LETTERS, ratio_max=1.0),
    )


def assemble(
    schedule: Schedule, config: schema.Config, machine: Machine, server: Server, version: int, random: Random
) -> SimAssembly:
    """What `pipeline.assembly.assemble` builds, over the models."""
    process = machine.process
    loop: Any = machine.loop
    contract = contracts.load(version, schedule.lineage, tuple(config.dedup.key))
    threads = SimThreads(process)
    stopping: Any = threads.event()
    metrics: Any = SILENT
    clickhouse: Any = SimClickHouse(server, process, machine.faults, machine.trace, lambda: machine.held())  # noqa: PLW0108
    cluster: Any = SimCluster(machine)
    clients = Clients(
        consumer=lambda conf, logger: (
            SimLetterReader(machine) if conf["client.id"] == "penstock-source" else SimConsumer(machine, conf)
        ),
        producer=lambda conf, logger: SimProducer(machine),
        cluster=lambda kafka, **_: SimCluster(machine),
    )  # type: ignore[arg-type]
    sink = Sink(clickhouse, config.clickhouse, loop, stopping, metrics, random)
    letters = DeadLetters(
        config.kafka,
        LETTERS,
        loop,
        metrics,
        pipeline=config.name,
        stopping=stopping,
        random=random,
        clients=clients,
        wait_ms_max=RETRY_WAIT_MS_MAX,
    )
    parts = SimAssembly(
        config=config,
        clock=loop,
        metrics=metrics,
        stopping=stopping,
        cluster=cluster,
        offsets=Offsets(cluster, Patience(loop, stopping, random, metrics, wait_ms_max=RETRY_WAIT_MS_MAX)),
        clickhouse=clickhouse,
        identity=contracts.IDENTITY,
        contracts={contracts.TOPIC: contract},
        sink=sink,
        dead_letters=letters,
        delivery=None,  # type: ignore[arg-type]
        config_digest=contracts.digest_of(version, schedule.lineage, tuple(config.dedup.key)),
        threads=threads,  # type: ignore[arg-type]
        clients=clients,
    )
    parts.machine = machine
    lanes = parts._lanes(_NO_DEDUP)
    parts.delivery = Delivery(
        contracts.IDENTITY, sink, letters, lanes.__getitem__, parts.open_source, on_reject="letter"
    )
    return parts


class _NoDedup:
    key_is_column = False


_NO_DEDUP: Any = _NoDedup()


class _Answer:
    """What an executor gives back, when the work is done already."""

    def __init__(self, value: Any, error: BaseException | None) -> None:
        self._value, self._error = value, error

    def __await__(self) -> Iterator[Any]:
        if self._error is not None:
            raise self._error
        return self._value
        yield


class _EventLoop:
    """What the worker uses of asyncio: executors and timers. Work runs in the task that asks for it."""

    def __init__(self, worker: SimWorker) -> None:
        self._worker = worker
        self._inserting = 0
        self._queued: deque[Task] = deque()

    def run_in_executor(self, pool: Any, call: Callable[..., Any], *args: Any) -> _Answer:
        loop = self._worker.process.loop
        limited = pool is not None
        while limited and self._inserting >= INSERT_THREADS:
            self._queued.append(loop.current())
            loop.park(60.0)
        self._inserting += limited
        try:
            return _Answer(call(*args), None)
        except Exception as error:
            return _Answer(None, error)
        finally:
            self._inserting -= limited
            while limited and self._queued:
                loop.wake(self._queued.popleft())

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        def wait() -> None:
            self._worker.process.loop.sleep(delay_s)
            call()

        self._worker.process.start(wait, "timer")


class _Finished:
    """The future that `run` would wait for."""

    def __init__(self, on_exit: Callable[[Exit], None]) -> None:
        self._code: Exit | None = None
        self._on_exit = on_exit

    def done(self) -> bool:
        return self._code is not None

    def set_result(self, code: Exit) -> None:
        self._code = code
        self._on_exit(code)


class _InPages:
    """A recovery that is asked for what is stored beyond a position a few records at a time: runs are short."""

    def __init__(self, recovery: Recovery) -> None:
        self._recovery = recovery

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recovery, name)

    def prepare(self, command: Prepare) -> Prepared:
        prepared = self._recovery.prepare(command)
        for beyond in prepared.beyond.values():
            beyond.page_offsets = PAGE_OFFSETS
        return prepared


class _NoHttp:
    def stop(self) -> None:
        pass


class SimWorker(Worker):
    """The project's worker, whose asyncio loop is a task like its other threads."""

    def __init__(
        self, parts: SimAssembly, on_exit: Callable[[SimWorker, Exit], None], find: Callable[[str], None]
    ) -> None:
        self.process = parts.machine.process
        self._mail = SimQueue(self.process.loop)
        self._find = find
        self._waiting: list[Coroutine[Any, Any, None]] = []
        self.process.on_death.append(lambda: [work.close() for work in self._waiting])
        self._on_exit = on_exit
        self.reason: PenstockError | None = None
        super().__init__(parts)
        self._flow._recovery = _InPages(self._flow._recovery)  # type: ignore[assignment]
        self._plan = {line.name: line.nbytes for line in memory_plan(parts.config)}
        self._loop = _EventLoop(self)  # type: ignore[assignment]
        self._finished = _Finished(self._leave)  # type: ignore[assignment]
        self._ticker: Any = None
        self._rests = True
        """Nothing is to be done at any time, so the next tick is far away."""

    def start(self) -> None:
        self._parts.machine.in_hurry = lambda: self._flow._batch.started  # type: ignore[attr-defined]
        self.process.start(self._control, "control")
        self._ticker = self.process.start(self._tick_on, "ticks")
        self.process.start(self._look_on, "looks")
        self._flow.start()
        self._membership.start()

    def held(self) -> dict[tuple[str, int], int]:
        """The partitions that are held and ready, and what names their assignment: the present one, or in the thread that
        delivers a batch that of the time when it began. An insert may be repeated for longer than a partition stays away."""
        began = _held_at_delivery.get()
        return self._held_now() if began is None else began

    def _held_now(self) -> dict[tuple[str, int], int]:
        held = self._engine._held
        return {tuple(p): one.epoch for p, one in held.items() if one.ready}  # type: ignore[misc]

    @property
    def at_rest(self) -> bool:
        return self._engine.idle

    # The asyncio loop

    def _control(self) -> None:
        while True:
            try:
                event = self._mail.get(timeout=60)
            except Exception:
                continue
            self._on_event(event)
            self._check_memory()

    def _post(self, event: Any) -> None:
        if isinstance(event, BatchSealed):
            self._check_budget(event.batch)
        self._mail.put(event)

    def _guarded(self, answer: Callable[[], list[Any]]) -> None:
        super()._guarded(answer)
        if self._rests and self._awaits_tick():
            self.process.loop.wake(self._ticker)

    def _awaits_tick(self) -> bool:
        """Something is to be committed: at the next tick, when nothing else comes before."""
        batches = self._engine._batches.values()
        return self._engine._dirty_since_s is not None or any(batch.status is Status.SEALED for batch in batches)

    def _tick_on(self) -> None:
        loop = self.process.loop
        while True:
            self._tick()
            self._rests = not self._awaits_tick()
            loop.park(30.0 if self._rests else TICK_S)

    def _look_on(self) -> None:
        while True:
            self.process.loop.sleep(LOOK_EVERY_S)
            if self._unassigned.wanted:
                self._spawn(self._look_for_unassigned())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        def run() -> None:
            self._waiting.remove(work)
            try:
                work.send(None)
            except StopIteration:
                return
            raise AssertionError("a coroutine of the worker waited for something else than an executor")

        self._waiting.append(work)
        self.process.start(run, work.__name__)

    def _deliver(self, command: Insert, batch: SealedBatch) -> int:
        began = _held_at_delivery.set(self._held_now())
        try:
            refused = super()._deliver(command, batch)
        finally:
            _held_at_delivery.reset(began)
        # Between the acknowledgement and the moment the control plane hears of it.
        self.process.loop.sleep(self.process.loop.jitter(0.002))
        return refused

    def _stop(self, error: PenstockError) -> None:
        self.reason = self.reason or error
        super()._stop(error)

    def _leave(self, code: Exit) -> None:
        def shut_down() -> None:
            work = self._shut_down(_NoHttp())  # type: ignore[arg-type]
            with suppress(StopIteration):
                work.send(None)
            self._on_exit(self, code)
            self.process.kill()

        self.process.start(shut_down, "shutdown")

    # Checks

    def _check_budget(self, sealed: SealedBatch) -> None:
        """No budget was used up when the batch that was just sealed took its last records, and it is not over-full."""
        budget, limits, rows_max = self._flow._budget, self._config.limits, self._config.batch.rows_max
        if sealed.counts.rows > rows_max:
            self._find(f"budget: a batch of {sealed.counts.rows} rows, {rows_max} are allowed")
        before = {
            "batches": (budget.batches - 1, limits.batches_in_flight_max),
            "rows": (budget.rows - sealed.counts.rows, limits.rows_in_flight_max),
            "bytes": (budget.nbytes - sealed.nbytes, limits.bytes_in_flight_max),
        }
        for name, (used, used_max) in before.items():
            if used >= used_max:
                self._find(f"budget: {used} {name} in flight, and another batch was read")

    def _check_memory(self) -> None:
        """What is held, counted anew where it is held, is within the memory plan."""
        on_their_way = [one.payload for one in self._engine._batches.values() if isinstance(one.payload, SealedBatch)]
        flow, plan = self._flow, self._plan
        held = {
            "open_batch": flow._batch.nbytes,
            "waiting_records": flow._waiting.nbytes,
            # The last of them was open when the others used up the budget.
            "blocks_in_flight": sum(sorted(batch.nbytes for batch in on_their_way)[:-1]),
            "claims": flow._dedup.claims.nbytes if flow._dedup.claims is not None else 0,
        }
        for name, nbytes in held.items():
            if nbytes > plan[name]:
                self._find(f"memory: {name} takes {nbytes} bytes, the plan says {plan[name]}")
