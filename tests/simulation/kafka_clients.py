"""Clients of the Kafka model with the interfaces this project uses of confluent-kafka's, and its `Source`.

Everything that leaves a process goes through `Process.touch`, where it may be killed, and meets the faults of the schedule.
"""

from __future__ import annotations

import json
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from pipeline.intent import decode
from pipeline.types import Partition, PartitionEnd, SourceEvent, SourceFault
from tests.simulation import contracts
from tests.simulation.faults import Fault, Faults
from tests.simulation.kafka_model import ClassicGroup, Cluster, ConsumerGroup, Place, Record
from tests.simulation.loop import IDLE_S_MIN, Process
from tests.simulation.schedule import Switches

COMMIT_TIMEOUT_S = 4.0
NETWORK_S = 0.004
POLL_S_MIN = 2.0
"""How long a poll sleeps in vain at first when all that is looked for wakes it."""
RUN_RECORDS_MAX = 8
LETTERS = "letters"


@dataclass
class Machine:
    """What a client needs: the process it lives in, the cluster it speaks to, and what goes wrong on the way."""

    process: Process
    cluster: Cluster
    faults: Faults
    switches: Switches
    consumers: list[SimConsumer] = field(default_factory=list)
    trace: Callable[..., None] = lambda *words: None
    held: Callable[[], dict[Place, int]] = dict
    in_hurry: Callable[[], bool] = lambda: False
    """Whether the data plane has a batch open, which it closes when it is old enough."""
    on_letter: Callable[[Any, Process, str], Callable[[], None]] = lambda headers, process, thread: lambda: None

    @property
    def loop(self) -> Any:
        return self.process.loop

    def call(self, scale_s: float = NETWORK_S) -> None:
        """The way to a broker and back, when nothing goes wrong."""
        self.process.touch()
        self.loop.sleep(self.loop.jitter(scale_s))
        self.process.touch()


def _raise(code: int, text: str = "") -> None:
    raise KafkaException(KafkaError(code, text))


def _place(entry: Any) -> Place:
    return entry.topic, entry.partition


def _entry(place: Place, offset: int = -1001, metadata: str = "", error: Any = None) -> Any:
    return SimpleNamespace(topic=place[0], partition=place[1], offset=offset, metadata=metadata, error=error)


class SimConsumer:
    """A member of the group: `subscribe`, `poll` with its callbacks, `committed`, `commit`. It never hands out a record."""

    def __init__(self, machine: Machine, conf: Mapping[str, Any]) -> None:
        self._machine = machine
        self._conf = conf
        self._instance = conf.get("group.instance.id", "")
        self._group = machine.cluster.group
        self._loop = machine.loop
        self._events: deque[Callable[[], None]] = deque()
        self._poller: Any = None
        self._polled_s = machine.loop.now_s
        self._closed = False
        self.member_id = ""
        self.generation = -1
        self._joined_after = -1
        """The generation in which it joined last: an assignment of that or an earlier one is void, as it is for librdkafka."""
        self.owned: frozenset[Place] = frozenset()
        self._told_s = self._loop.now_s
        self._sent = {"tx": 0, "rx": 0}
        """Offset commits sent to the coordinator, and their answers; nothing else is counted."""
        self._statistics: deque[str] = deque()
        machine.consumers.append(self)

    def subscribe(self, topics: list[str], on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost
        self._machine.cluster.subscribe(topics)
        self._enter()

    def _enter(self) -> None:
        # With the consumer protocol a client names itself: one that is not static just says it again.
        names_itself = isinstance(self._group, ConsumerGroup) and not self._instance
        if self._machine.faults.next("join") and not names_itself:
            self._group.enter_unheard(self._instance)
        self.member_id = self._group.enter(self, self._instance)

    # What the coordinator says; it is looked at in `poll`.

    def invited(self) -> None:
        self._put(self._join_again)

    def assigned(self, generation: int, places: frozenset[Place]) -> None:
        # librdkafka knows the generation from the answer on, before the application has seen the assignment.
        self.generation = generation
        self._put(lambda: self._take(generation, places))

    def evicted(self) -> None:
        if not self._closed:
            self.member_id, self.generation = "", -1
            self._put(self._lose)

    def refused(self) -> None:
        """librdkafka gives up then."""
        reason = KafkaError(KafkaError.UNRELEASED_INSTANCE_ID).str()
        self._put(lambda: self._conf["error_cb"](KafkaError(KafkaError._FATAL, f"Fatal error: Broker: {reason}", True)))

    def _put(self, event: Callable[[], None]) -> None:
        self._events.append(event)
        self._loop.wake(self._poller)

    # What the application calls

    @property
    def unpolled_s(self) -> float:
        return float(self._loop.now_s - self._polled_s)

    def poll(self, timeout_s: float) -> None:
        self._machine.process.touch()
        self._polled_s = self._loop.now_s
        self._poller = self._loop.current()
        if not self._events and timeout_s:
            self._loop.idle(timeout_s, POLL_S_MIN)
        self._count()
        while self._statistics and not self._closed:
            self._conf["stats_cb"](self._statistics.popleft())
        while self._events and not self._closed:
            self._events.popleft()()

    def _count(self, **more: int) -> None:
        """Counts what goes out and comes in, once the statistics that were due before are made."""
        interval_s = int(self._conf.get("statistics.interval.ms", 0)) / 1000
        if interval_s and self._loop.now_s >= self._told_s + interval_s:
            self._told_s = self._loop.now_s
            coordinator = {**self._sent, "waitresp_cnt": 0, "req": {"OffsetCommit": self._sent["tx"]}}
            self._statistics.append(json.dumps({"brokers": {"GroupCoordinator": coordinator}}))
        for name, number in more.items():
            self._sent[name] += number

    def _join_again(self) -> None:
        if self.member_id and isinstance(self._group, ClassicGroup):
            self._joined_after = self._group.generation
            self._group.join(self.member_id, self.owned)

    def _take(self, generation: int, places: frozenset[Place]) -> None:
        if not self.member_id or generation <= self._joined_after:
            return
        revoked = self.owned - places
        if revoked:
            self._on_revoke(self, [_entry(place) for place in sorted(revoked)])
        added = places - self.owned
        if added and self.member_id:
            self._on_assign(self, [_entry(place) for place in sorted(added)])
        if not revoked or not self.member_id:
            return
        if isinstance(self._group, ClassicGroup):
            self._join_again()
        else:
            self._group.released(self.member_id, self.owned)

    def _lose(self) -> None:
        if self.owned:
            self._on_lost(self, [_entry(place) for place in sorted(self.owned)])
        self._events.clear()
        if not self._closed:
            self._enter()

    def incremental_assign(self, entries: Iterable[Any]) -> None:
        self.owned |= {_place(entry) for entry in entries}

    def incremental_unassign(self, entries: Iterable[Any]) -> None:
        self.owned -= {_place(entry) for entry in entries}

    def assignment(self) -> list[Any]:
        return [_entry(place) for place in sorted(self.owned)]

    def pause(self, entries: Iterable[Any]) -> None:
        pass

    def committed(self, entries: list[Any], timeout: float) -> list[Any]:
        machine = self._machine
        machine.call()
        if machine.faults.next("committed"):
            self._loop.sleep(timeout)
            _raise(KafkaError._TIMED_OUT)
        found = [_entry(_place(e), *self._group.offsets.get(_place(e), (-1001, ""))) for e in entries]
        machine.call()
        return found

    def commit(self, offsets: list[Any], asynchronous: bool = False) -> list[Any]:
        machine, loop = self._machine, self._loop
        machine.process.touch()
        fault = machine.faults.next("commit") or Fault("commit", 0, "none")
        entries = {_place(entry): self._written(entry) for entry in offsets}
        member_id, generation = self.member_id, self.generation
        if fault.what == "refused":
            loop.sleep(loop.jitter(NETWORK_S))
            _raise(int(fault.code))
        answer: list[int] = []
        way_s = loop.jitter(NETWORK_S) if fault.what not in ("late", "sent_twice") else fault.seconds
        caller = loop.current()
        self._count(tx=1)
        # A declare that stands for some of its partitions only is beyond the promise (docs/decisions/0007).
        in_part = fault.what == "in_part" and not any(metadata for _, metadata in entries.values())
        refused = set(sorted(entries)[len(entries) // 2 :]) if in_part else set()

        def arrive(*, answered: bool) -> None:
            stored = {place: entry for place, entry in entries.items() if place not in refused}
            code = self._group.commit(member_id, generation, stored)
            machine.trace("broker", f"commit of {member_id}@{generation}", stored, "refused" if code else "stored")
            if answered:
                answer.append(code)
                loop.wake(caller, loop.jitter(2 * NETWORK_S))

        if fault.what != "request_lost":
            loop.call_later(way_s, lambda: arrive(answered=fault.what not in ("reply_lost", "late", "sent_twice")))
        if fault.what == "sent_twice":
            # The connection broke; the first copy is worked off when the broker comes to it.
            backoff_s = int(self._conf["retry.backoff.ms"]) / 1000
            loop.sleep(loop.jitter(NETWORK_S) + backoff_s * (0.8 + 0.4 * loop.random()))
            self._count(tx=1)
            loop.call_later(loop.jitter(NETWORK_S), lambda: arrive(answered=True))
        deadline_s = loop.now_s + COMMIT_TIMEOUT_S
        while not answer and loop.now_s < deadline_s:
            loop.park(deadline_s - loop.now_s)
        machine.process.touch()
        if not answer:
            _raise(KafkaError._TIMED_OUT)
        self._count(rx=1)
        if answer[0]:
            _raise(answer[0])
        error = KafkaError(int(fault.code)) if refused else None
        return [_entry(place, error=error if place in refused else None) for place in entries]

    def _written(self, entry: Any) -> tuple[int, str]:
        """What is committed: as the engine says, but for the test-only switches."""
        switches = self._machine.switches
        if not switches.commit_after_insert:
            intents = decode(entry.metadata, contracts.IDENTITY, Partition(*_place(entry)))
            spans = [span for intent in intents for span in intent.spans if tuple(span.partition) == _place(entry)]
            return max([entry.offset, *(span.next for span in spans)]), ""
        return entry.offset, entry.metadata if switches.intents else ""

    def unsubscribe(self) -> None:
        """A static member leaves, too; what it has is given up in the next poll."""
        self._put(self._leave)

    def _leave(self) -> None:
        if self.owned:
            self._on_revoke(self, self.assignment())
        if self.member_id:
            self._group.leave(self.member_id)
            self.member_id, self.generation = "", -1

    def close(self) -> None:
        """Leaves the group, after the application has given up what it has."""
        if self._closed or not self._machine.process.alive:
            return
        self._closed = True
        if self.owned:
            callback = self._on_revoke if self.member_id else self._on_lost
            callback(self, self.assignment())
        if self.member_id:
            (self._group.depart if self._instance else self._group.leave)(self.member_id)
        self._machine.consumers.remove(self)

    def vanish(self) -> None:
        """The process is dead or stopped: the coordinator hears nothing any more."""
        if self.member_id:
            self._group.evict(self.member_id)


class SimRecords:
    """A run of records, as `pipeline.types.Records` asks for it."""

    def __init__(self, place: Place, records: list[Record]) -> None:
        self.partition = Partition(*place)
        self._records = records
        self.offsets = array("q", [record.offset for record in records])
        self.timestamps = array("q", [record.timestamp_ms for record in records])
        self.values = [record.value for record in records]
        self.next_offset = records[-1].offset + 1
        lengths = [len(record.value) for record in records if record.value]
        self.nbytes = sum(lengths)
        self.largest_bytes = max(lengths, default=0)
        self.oldest_ms = min(self.timestamps)

    def __len__(self) -> int:
        return len(self._records)

    def value(self, index: int) -> bytes | None:
        return self.values[index]

    def key(self, index: int) -> bytes | None:
        return self._records[index].key

    def headers(self, index: int) -> list[tuple[str, bytes | None]]:
        return self._records[index].headers


class SimSource:
    """`pipeline.types.Source` over the model's logs."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._positions: dict[Place, int] = {}
        self._told: set[Place] = set()
        self._poller: Any = None
        self._watched: set[Place] = set()

    def assign(self, positions: dict[Partition, int]) -> None:
        self._positions = {(p.topic, p.number): position for p, position in positions.items()}
        self._told.clear()

    def poll(self, records_max: int, timeout_s: float) -> list[SourceEvent]:
        machine = self._machine
        machine.process.touch()
        loop = machine.loop
        self._poller = loop.current()
        events = self._events(records_max)
        if events:
            if self._poller is not None:
                self._poller.vain = 1
            loop.sleep(loop.jitter(NETWORK_S))
        else:
            self._watch()
            loop.idle(timeout_s, IDLE_S_MIN if machine.in_hurry() else POLL_S_MIN)
            events = self._events(records_max)
        machine.process.touch()
        return events

    def _watch(self) -> None:
        for place in self._positions:
            if place not in self._watched:
                self._watched.add(place)
                self._machine.cluster.logs[place].on_append.append(self._wake)

    def _wake(self) -> None:
        self._machine.loop.wake(self._poller)

    def _events(self, records_max: int) -> list[SourceEvent]:
        """What is there, as the project's sources hand it over: some runs, then each end and fault once."""
        loop, logs = self._machine.loop, self._machine.cluster.logs
        events: list[SourceEvent] = []
        ends: list[SourceEvent] = []
        for place, position in self._positions.items():
            if records_max <= 0:
                break
            log = logs[place]
            if position == log.high and place in self._told:
                continue
            if position < log.low or position > log.high:
                if place not in self._told:
                    self._told.add(place)
                    code = KafkaError._AUTO_OFFSET_RESET
                    detail = f"offset {position} is out of range {log.low} to {log.high}"
                    ends.append(SourceFault(Partition(*place), position, code, "_AUTO_OFFSET_RESET", detail))
                continue
            if loop.random() < 0.2 and place not in self._told:
                continue  # Its fetch has not been answered yet.
            records = log.read(position, min(records_max, 1 + int(RUN_RECORDS_MAX * loop.random())))
            records_max -= len(records)
            if records:
                events.append(SimRecords(place, records))
                self._positions[place] = records[-1].offset + 1
                self._told.discard(place)
            elif position < log.high or place not in self._told:
                ends.append(PartitionEnd(Partition(*place), log.high))
                self._positions[place] = log.high
                self._told.add(place)
        return [*events, *ends]

    def close(self) -> None:
        for place in self._watched:
            calls = self._machine.cluster.logs[place].on_append
            if self._wake in calls:
                calls.remove(self._wake)


class SimCluster:
    """`pipeline.kafka.Cluster`: the questions this project asks while it runs."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def topic_partitions(self, topic: str) -> int:
        return self._machine.cluster.partitions.get(topic, 0)

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        return dict.fromkeys(topics, "id")

    def cluster_id(self) -> str:
        return "sim"

    def watermarks(self, partitions: Iterable[Partition]) -> dict[Partition, tuple[int, int]]:
        self._machine.call()
        logs = self._machine.cluster.logs
        return {p: (logs[p.topic, p.number].low, logs[p.topic, p.number].high) for p in partitions}

    def unassigned(self, topics: Iterable[str]) -> frozenset[Partition] | None:
        self._machine.call()
        group = self._machine.cluster.group
        if group.rebalancing:
            return None
        assigned = {place for member in group.members.values() for place in member.given}
        return frozenset(Partition(*place) for place in group.places if place not in assigned)

    def offsets_for_times(self, times_ms: Mapping[Partition, int]) -> dict[Partition, int]:
        self._machine.call()
        logs = self._machine.cluster.logs
        return {p: logs[p.topic, p.number].offset_for_time(time_ms) for p, time_ms in times_ms.items()}

    def close(self) -> None:
        pass


class SimMessage:
    """A message of the dead-letter topic, or its end."""

    def __init__(self, place: Place, record: Record | None, end: int) -> None:
        self._place, self._record, self._end = place, record, end

    def partition(self) -> int:
        return self._place[1]

    def offset(self) -> int:
        return self._end if self._record is None else self._record.offset

    def error(self) -> KafkaError | None:
        return KafkaError(KafkaError._PARTITION_EOF) if self._record is None else None

    def headers(self) -> list[tuple[str, bytes | None]]:
        return [] if self._record is None else self._record.headers


class SimLetterReader:
    """The consumer with which the dead-letter topic is searched."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._positions: dict[Place, int] = {}

    def assign(self, entries: Iterable[Any]) -> None:
        self._positions = {_place(entry): entry.offset for entry in entries}

    def consume(self, count: int, timeout_s: float) -> list[SimMessage]:
        self._machine.call()
        found = []
        for place, position in list(self._positions.items()):
            log = self._machine.cluster.logs[place]
            found += [SimMessage(place, record, log.high) for record in log.read(position, count)]
            found.append(SimMessage(place, None, log.high))
            self._positions[place] = log.high
        return found

    def close(self) -> None:
        pass


class SimProducer:
    """The idempotent producer of dead letters: what it was given is acknowledged, given back, or both is open."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._waiting: list[tuple[str, dict[str, Any], Any, str]] = []

    def produce(self, topic: str, on_delivery: Any, **message: Any) -> None:
        self._machine.process.touch()
        task = self._machine.loop.current()
        self._waiting.append((topic, message, on_delivery, task.name if task else ""))

    def __len__(self) -> int:
        return len(self._waiting)

    def poll(self, timeout_s: float) -> None:
        machine = self._machine
        machine.process.touch()
        if not self._waiting:
            machine.loop.sleep(timeout_s)
            return
        topic, message, on_delivery, thread = self._waiting.pop(0)
        fault = machine.faults.next("letter") or Fault("letter", 0, "none")
        way_s = machine.loop.jitter(NETWORK_S)
        outage_s = machine.faults.outage_s("letters", machine.loop.now_s)
        if outage_s > 0:
            # librdkafka tries again by itself for as long as it takes.
            way_s += outage_s
        written = fault.what in ("none", "written_but_unknown")
        if written:
            # On its way whatever becomes of the process.
            written = machine.on_letter(message["headers"], machine.process, thread)
            machine.loop.call_later(way_s, lambda: self._write(topic, message, written))
        machine.loop.sleep(way_s + 0.001)
        machine.process.touch()
        codes = {
            "written_but_unknown": KafkaError._MSG_TIMED_OUT,
            "lost_and_unknown": KafkaError._MSG_TIMED_OUT,
            "missing_topic": KafkaError.UNKNOWN_TOPIC_OR_PART,
        }
        on_delivery(KafkaError(codes[fault.what]) if fault.what in codes else None, None)

    def _write(self, topic: str, message: dict[str, Any], written: Callable[[], None]) -> None:
        cluster = self._machine.cluster
        cluster.logs[topic, 0].append(message["value"], cluster.loop.wall_ms(), message["key"], message["headers"])
        written()

    def purge(self) -> None:
        self._waiting.clear()

    def flush(self, timeout_s: float) -> int:
        return len(self._waiting)
