"""One run of a schedule: the models, the workers, a producer, the faults at their times, and the calm after them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from msgspec.structs import replace

from pipeline.errors import Exit
from pipeline.letter import record_of
from tests.simulation import contracts
from tests.simulation.checkers import Ledger, Produced
from tests.simulation.clickhouse_model import Server, Table
from tests.simulation.faults import Fault, Faults
from tests.simulation.kafka_clients import LETTERS, Machine
from tests.simulation.kafka_model import SESSION_S, Cluster, Place
from tests.simulation.loop import Loop, Process
from tests.simulation.schedule import CHAOS_S, Schedule
from tests.simulation.worker import STALL_MS_MAX, SimWorker, assemble, config_of

MAX_POLL_S = 10.0
"""More than the membership sleeps in vain (`loop.IDLE_S_MAX`)."""
CALM_S = 400.0
STEPS_MAX = 30_000
OTHER_INSERTS_PER_S = 40


@dataclass
class Result:
    """What a run showed."""

    findings: list[str]
    steps: int
    injected: Counter[str]
    passed: Counter[str]
    trace: list[str] = field(default_factory=list)


@dataclass
class Slot:
    """A place in the fleet; whoever dies there is replaced."""

    number: int
    worker: SimWorker | None = None
    wanted: bool = True
    incarnation: int = 0
    version: int = 0


class World:
    def __init__(self, schedule: Schedule, *, traced: bool = False) -> None:
        self.schedule = schedule
        self.random = Random(schedule.seed)
        self.loop = Loop(self.random.random, steps_max=STEPS_MAX)
        self.faults = Faults(schedule.faults)
        self.traced = traced
        self.lines: list[str] = []
        topics = {contracts.TOPIC: schedule.partitions, LETTERS: 1}
        self.cluster = Cluster(self.loop, topics, schedule.protocol)
        self.cluster.subscribe([contracts.TOPIC])
        self.server = Server(self.loop)
        self.server.one_server = schedule.one_server
        self.server.tokens_count = schedule.switches.tokens
        columns = contracts.columns(schedule.lineage)
        self.server.tables[contracts.TABLE] = Table(
            columns,
            partition_by="shard" if schedule.partitioned else "",
            window_blocks=schedule.window_blocks,
            window_s=schedule.window_s,
            refuses=lambda row: 469 if row["n"] in contracts.REFUSED else 0,
            view=Table(columns, window_blocks=schedule.window_blocks) if schedule.view else None,
        )
        self.ledger = Ledger(schedule.dedup_window_s * 1000, schedule.dedup, self.loop)
        # Without this the check of commits would find the switch before anything is lost.
        self.ledger.look_at_commits = schedule.switches.commit_after_insert
        self.server.on_rows = self.ledger.rows_came
        self.server.on_view_rows = self.ledger.view_rows_came
        self.cluster.group.on_stored = self.ledger.offsets_stored
        self.config = config_of(schedule)
        self.slots = [Slot(number) for number in range(schedule.workers)]
        self.machines: list[Machine] = []
        self._workers: dict[Process, SimWorker] = {}
        # Without lineage a refused block must be cut alike, which a record that compaction removed meanwhile, or a copy that
        # another worker let through, prevents: beyond the promise. So is a half that is stored and that the view has missed.
        self._poisons = (70, 950, 200_000) if schedule.lineage and not schedule.view else (70, 200_000)
        self._produced = 0
        self._fillers = 0
        self._retained = False
        self._operator_at_work = 0

    def trace(self, who: str, *words: Any) -> None:
        if self.traced:
            self.lines.append(f"{self.loop.now_s:8.3f} {who:12s} {' '.join(map(str, words))}")

    # The fleet

    def start(self, slot: Slot) -> None:
        if not slot.wanted or slot.worker is not None or self._operator_at_work:
            return
        slot.incarnation += 1
        process = Process(self.loop, f"w{slot.number}.{slot.incarnation}")
        process.version = slot.version
        machine = Machine(
            process, self.cluster, self.faults, self.schedule.switches, trace=self.trace, on_letter=self._letter
        )
        random = Random(self.random.random())
        config = self.config
        if self.schedule.static:
            config = replace(config, kafka=replace(config.kafka, instance_id=f"w{slot.number}"))
        parts = assemble(self.schedule, config, machine, self.server, slot.version, random)
        worker = SimWorker(parts, self._left, self.ledger.find)
        worker.trace = self.trace
        process.on_death.append(lambda: self._died(slot, machine))
        self._workers[process] = worker
        self.machines.append(machine)
        machine.held = worker.held
        slot.worker = worker
        self.trace(process.name, "starts", contracts.VERSIONS[slot.version])
        worker.start()

    def _died(self, slot: Slot, machine: Machine) -> None:
        self.trace(machine.process.name, "is dead")
        slot.worker = None
        self.loop.call_later(SESSION_S, lambda: self._silence(machine))
        self.loop.call_later(0.1 + 2 * self.random.random(), lambda: self.start(slot))

    def _left(self, worker: SimWorker, code: Exit) -> None:
        if code is Exit.TEMPORARY:
            self.ledger.passed["gave up draining"] += 1
        elif self._retained and "cannot be read again" in str(worker.reason):
            self.ledger.passed["stopped at records that retention took"] += 1
        elif self._retained and code is Exit.SOFTWARE and worker.reason is None:
            self.ledger.passed["drained with a partition that is not read"] += 1
        elif code is not Exit.OK:
            self.ledger.find(f"stopped: {worker.process.name}: {worker.reason or code.name}")

    def _silence(self, machine: Machine) -> None:
        """The session of a process that does not heartbeat is over."""
        for consumer in machine.consumers:
            consumer.vanish()

    def _letter(self, headers: Any, process: Process, thread: str) -> Callable[[], None]:
        """A letter is on its way; gives what is to be called when it is written."""
        record = record_of(headers, self.config.name)
        assert record is not None
        place, offset = (record[0].topic, record[0].number), record[1]
        # Recovery may meet a batch that the worker itself is inserting: its partition went and came back.
        writer = process, self._workers[process].held().get(place), thread

        def written() -> None:
            self.trace(process.name, f"letter for {place} offset {offset} is written")
            self.ledger.letter_came(place, offset, writer)

        return written

    # Records

    def _produce_some(self) -> None:
        for _ in range(1 + int(4 * self.random.random())):
            if self._produced < self.schedule.records:
                self._produce_one()
        if self._produced < self.schedule.records:
            pause_s = CHAOS_S / max(1, self.schedule.records) * 2.5
            self.loop.call_later(pause_s * 2 * self.random.random(), self._produce_some)

    def _produce_one(self) -> None:
        schedule, random, ledger = self.schedule, self.random.random, self.ledger
        place = (contracts.TOPIC, int(random() * schedule.partitions))
        log = self.cluster.logs[place]
        if random() < schedule.gaps:
            log.mark()
        self._produced += 1
        serial = self._produced
        timestamp_ms = self.loop.wall_ms() + int(random() * 500)
        event = [serial, 1 + int(random() * 40), int(random() * 3)]
        if ledger.by_id and random() < schedule.duplicates:
            earlier = ledger.by_serial[serial - 1 - int(random() * random() * (serial - 1))]
            # Where a row is a copy for one worker and not for another, ClickHouse must not refuse it (docs/decisions/0007).
            if not earlier.tombstone and earlier.event[1] not in contracts.REFUSED:
                event = earlier.event
        elif random() < schedule.poison:
            event[1] = self._poisons[int(random() * len(self._poisons))]
        tombstone = random() < schedule.poison / 4
        value = None if tombstone else _value(serial, event)
        record = Produced(serial, place, log.high, event[0], timestamp_ms, tombstone, event)
        ledger.produced(record)
        log.append(value, timestamp_ms)

    # Faults

    def _happens(self, fault: Fault) -> None:
        if self.faults.over:
            return
        slot = self.slots[fault.whom % len(self.slots)]
        act = getattr(self, "_" + fault.what.replace(" ", "_").replace("-", "_"))
        if act(fault, slot) is not False:
            self.faults.note(fault)
            self.trace("fault", fault)

    def _crash(self, fault: Fault, slot: Slot) -> bool | None:
        if slot.worker is None:
            return False
        slot.worker.process.kill()
        return None

    def _crash_at_call(self, fault: Fault, slot: Slot) -> bool | None:
        if slot.worker is None:
            return False
        slot.worker.process.fuse = fault.code
        return None

    def _stopped(self, fault: Fault, slot: Slot) -> bool | None:
        if slot.worker is None or slot.worker.process.paused:
            return False
        process = slot.worker.process
        machine = next(machine for machine in self.machines if machine.process is process)
        process.pause()
        if fault.seconds > SESSION_S:
            self.loop.call_later(SESSION_S, lambda: process.paused and self._silence(machine))
        self.loop.call_later(fault.seconds, process.resume)
        return None

    def _hung_data_plane(self, fault: Fault, slot: Slot) -> bool | None:
        """Nothing is read or decided; the group is polled until the worker sees it, and learns of it some time later."""
        if slot.worker is None:
            return False
        process = slot.worker.process
        machine = next(machine for machine in self.machines if machine.process is process)
        process.hang("data-plane", self.loop.now_s + fault.seconds)
        for after_s in range(int(STALL_MS_MAX / 1000), int(fault.seconds), 2):
            self.loop.call_later(after_s, lambda: process.alive and self._leave_unpolled(machine))
        return None

    def _leave_unpolled(self, machine: Machine) -> None:
        """As librdkafka does after `max.poll.interval.ms`."""
        for consumer in machine.consumers:
            if consumer.unpolled_s > MAX_POLL_S:
                consumer.vanish()

    def _rebalance(self, fault: Fault, slot: Slot) -> None:
        self.cluster.group.shuffle()

    def _planned_restart(self, fault: Fault, slot: Slot) -> bool | None:
        worker = slot.worker
        if worker is None or worker.process.paused or worker._draining:
            return False
        worker._drain("SIGTERM")
        return None

    def _scaled_down(self, fault: Fault, slot: Slot) -> bool | None:
        if self._planned_restart(fault, slot) is False:
            return False
        slot.wanted = False
        self.loop.call_later(fault.seconds, lambda: self._scale_up(slot))
        return None

    def _scale_up(self, slot: Slot) -> None:
        slot.wanted = True
        self.start(slot)

    def _contract_changed(self, fault: Fault, slot: Slot) -> None:
        """A deploy: every start from now on has the new version, and one worker is killed so that one starts."""
        for each in self.slots:
            each.version = fault.code % len(contracts.VERSIONS)
        self._crash(fault, slot)

    def _clickhouse_outage(self, fault: Fault, slot: Slot) -> None:
        self.faults.begin_outage("clickhouse", self.loop.now_s + fault.seconds)

    def _dead_letter_outage(self, fault: Fault, slot: Slot) -> None:
        self.faults.begin_outage("letters", self.loop.now_s + fault.seconds)

    def _clock_jump(self, fault: Fault, slot: Slot) -> None:
        self.loop.wall_offset_ms += int(fault.seconds * 1000)

    def _compaction(self, fault: Fault, slot: Slot) -> bool | None:
        places = sorted(self.ledger.by_place)
        if not places:
            return False
        place = places[fault.code % len(places)]
        record = self.ledger.by_place[place][fault.code % len(self.ledger.by_place[place])]
        removed = self.cluster.logs[place].compact(record.offset)
        record.removed = record.removed or removed
        return removed

    def _table_emptied(self, fault: Fault, slot: Slot) -> None:
        """TRUNCATE TABLE, while everybody goes on."""
        self.server.tables[contracts.TABLE].truncate()
        self.ledger.truncated()

    def _retention(self, fault: Fault, slot: Slot) -> bool | None:
        """Takes records that are not committed yet. The operator comes some time later."""
        places = sorted(self.ledger.by_place)
        if not places:
            return False
        place = places[fault.code % len(places)]
        log = self.cluster.logs[place]
        low = min(log.high, self.ledger.committed.get(place, 0) + 1 + fault.code % 4)
        if low <= log.low:
            return False
        log.retain_from(low)
        self._retained = True
        for record in self.ledger.by_place[place]:
            if record.offset < low:
                record.expired = True
                # Where nothing is committed the earliest record there is comes first.
                record.removed = record.removed or place not in self.cluster.group.offsets
        # As the messages say: without the lost records it goes on from the next offset, with empty metadata.
        self.loop.call_later(4.0, lambda: self._stop_all(lambda: self._operator_sets_offsets(place)))
        return None

    def _offsets_lost(self, fault: Fault, slot: Slot) -> None:
        """All workers are away for so long that the group is forgotten, and with it what it has committed."""
        self._stop_all(self._group_is_forgotten)

    def _group_is_forgotten(self) -> None:
        self.cluster.group.offsets.clear()
        self.ledger.offsets_lost()

    def _stop_all(self, meanwhile: Callable[[], None]) -> None:
        self._operator_at_work += 1
        self.trace("operator", "stops all workers")
        for slot in self.slots:
            slot.wanted = False
            if slot.worker is not None:
                slot.worker.process.kill()
        self.loop.call_later(SESSION_S + 0.5, lambda: self._start_all(meanwhile))

    def _start_all(self, meanwhile: Callable[[], None]) -> None:
        meanwhile()
        self._operator_at_work -= 1
        for slot in self.slots:
            self._scale_up(slot)

    def _operator_sets_offsets(self, place: Place) -> None:
        group, low = self.cluster.group, self.cluster.logs[place].low
        for each, (offset, _) in list(group.offsets.items()):
            group.offsets[each] = (max(offset, low) if each == place else offset, "")
        self.trace("operator", "sets offsets", group.offsets)
        self.ledger.committed[place] = max(low, self.ledger.committed.get(place, 0))
        for record in self.ledger.by_place[place]:
            record.removed = record.removed or record.expired

    def _other_writers_fill_the_window(self, fault: Fault, slot: Slot) -> None:
        self._fill_window(self.loop.now_s + fault.seconds)

    def _fill_window(self, until_s: float) -> None:
        table = self.server.tables[contracts.TABLE]
        for _ in range(4):
            self._fillers += 1
            table.remember(f"other-{self._fillers}", self.loop.now_s)
        if self.loop.now_s < until_s:
            self.loop.call_later(4 / OTHER_INSERTS_PER_S, lambda: self._fill_window(until_s))

    # The run

    def run(self) -> Result:
        for fault in self.faults.timed:
            self.loop.call_later(fault.at, lambda fault=fault: self._happens(fault))
        for slot in self.slots:
            self.loop.call_later(0.5 * self.random.random(), lambda slot=slot: self.start(slot))
        self.loop.call_later(0.1, self._produce_some)
        self.loop.run(CHAOS_S + 2)
        if not self.loop.ended:
            self._calm_down()
            if self.loop.run(self.loop.now_s + CALM_S, self._at_rest):
                self.ledger.find(f"stuck: committed {self.ledger.committed}, ends {self._ends()}")
        if self.loop.steps > STEPS_MAX:
            self.ledger.find(f"busy: {self.loop.steps} steps in {self.loop.now_s:.0f} s")
        failed = self.loop.ended
        for slot in self.slots:
            slot.wanted = False
        for process in list(self._workers):
            process.kill()
        if not failed:
            # What is still on its way arrives.
            self.loop.run(self.loop.now_s + 200.0)
            self.ledger.close(view=self.schedule.view)
        findings = list(self.ledger.findings)
        return Result(findings, self.loop.steps, self.faults.injected, self.ledger.passed, self.lines)

    def _calm_down(self) -> None:
        self.trace("world", "no more faults")
        self.faults.over = True
        for slot in self.slots:
            slot.wanted = True
            if slot.worker is not None:
                slot.worker.process.fuse = -1
            self.start(slot)

    def _ends(self) -> dict[Any, int]:
        return {place: log.high for place, log in self.cluster.logs.items() if place[0] == contracts.TOPIC}

    def _at_rest(self) -> bool:
        """Everything produced is committed and nobody holds anything back."""
        if self._produced < self.schedule.records:
            return False
        committed = self.ledger.committed
        for place, log in self.cluster.logs.items():
            if place[0] == contracts.TOPIC and committed.get(place, 0) < log.high:
                return False
        return all(slot.worker is None or slot.worker.at_rest for slot in self.slots)


def _value(serial: int, event: list[int]) -> bytes:
    id, n, shard = event
    return b'{"id":%d,"serial":%d,"n":%d,"shard":%d}' % (id, serial, n, shard)


def run(schedule: Schedule, *, traced: bool = False) -> Result:
    return World(schedule, traced=traced).run()
