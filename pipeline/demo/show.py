"""The order of a demo: servers, workers, producer, kills, catching up, drain, proof. Cleans up whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Protocol

from pipeline.assembly import load_contracts
from pipeline.clickhouse import ClickHouse
from pipeline.demo.hunt import Hunt
from pipeline.demo.options import Options
from pipeline.demo.result import Kill, Result
from pipeline.demo.servers import Servers
from pipeline.demo.workers import Worker
from pipeline.errors import GaveUp, PenstockError
from pipeline.kafka import Cluster
from pipeline.types import Partition
from pipeline.verify import verify
from pipeline.verify.oracle import Oracle
from pipeline.verify.tables import Tables
from pipeline.workload import Generator, Mix, shape
from pipeline.workload.produce import Feed, Pace, Produced, shares
from pipeline.workload.sender import Sender

LOOK_S = 0.1
FLOW_SHARE_PER_S = 0.1
"""Share of all events that is let through in a second while a kill waits for its moment."""
GATE_SHARE_MAX = 0.98
DRAIN_S_MAX = 60.0
MISSES_MAX = 3
"""A kill that hit no batch in flight is made up for this often."""


class Narrator(Protocol):
    """Who is told how it goes."""

    def note(self, text: str) -> None: ...

    def reach(self, number: int) -> None: ...


class Gate:
    """Holds back the last part of every partition, so that there is something left to read after each kill."""

    def __init__(self, ends: Mapping[int, int], pace: Pace | None) -> None:
        self._ends = ends
        self._pace = pace
        self.share = 1.0

    def __call__(self) -> Mapping[int, int]:
        gated = {number: int(end * self.share) if self.share < 1 else end for number, end in self._ends.items()}
        if self._pace is None:
            return gated
        paced = self._pace()
        return {number: min(end, paced[number]) for number, end in gated.items()}


class Flow:
    """Opens a gate steadily up to `limit`; beyond it only a little whenever all that came through is committed."""

    def __init__(self, gate: Gate, share_per_s: float, limit: float) -> None:
        self._gate = gate
        self._share_per_s = share_per_s
        self._limit = max(limit, gate.share)
        self._last_s = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._last_s > LOOK_S / 2

    def open(self, committed: float) -> None:
        now_s = time.monotonic()
        more = self._share_per_s * (now_s - self._last_s)
        self._last_s = now_s
        if self._gate.share < self._limit:
            self._gate.share = min(self._limit, self._gate.share + more)
        elif committed > self._gate.share - 0.005:
            self._gate.share = min(GATE_SHARE_MAX, self._gate.share + 0.005)


class Demo:
    """One run: what is shared by its steps."""

    def __init__(self, options: Options, servers: Servers, stack: ExitStack, narrator: Narrator) -> None:
        self._options = options
        self._narrator = narrator
        self._stack = stack
        self._config = servers.config
        self._partitions = [Partition(servers.config.routes[0].topic, number) for number in range(options.partitions)]
        self._cluster = Cluster(servers.config.kafka)
        stack.callback(self._cluster.close)
        self._ends = shares(options.events, dict.fromkeys(range(options.partitions), 0))
        self.fleet = [Worker(number + 1, servers.config_file, servers.directory) for number in range(options.workers)]
        for worker in self.fleet:
            stack.callback(worker.abandon)
        self._pace = self._open_pace(servers.records_ahead)
        self._gate = Gate(self._ends, self._pace)
        self._committed = 0
        self._moved_s = time.monotonic()

    def start_workers(self) -> None:
        for worker in self.fleet:
            worker.start()
        for worker in self.fleet:
            worker.wait_until_ready()

    def ingest(self, generator: Generator) -> tuple[Produced, list[Kill], float]:
        """From the first record sent to the last one committed, and how long that took."""
        feed = Feed(
            self._config.kafka,
            self._partitions[0].topic,
            generator,
            horizon=self._gate,
            timeout_s=300.0,
        )
        self._gate.share = 0.0 if self._options.kill else 1.0
        start_s = time.monotonic()
        sender = self._stack.enter_context(Sender(feed, self._ends))
        kills = self._kill_some(sender)
        self._gate.share = 1.0
        self._wait(sender, self._options.events)
        return sender.result(), kills, time.monotonic() - start_s

    def drain(self) -> tuple[int, ...]:
        """SIGTERM to all; their exit codes."""
        for worker in self.fleet:
            worker.ask_to_stop()
        return tuple(worker.join(DRAIN_S_MAX) for worker in self.fleet)

    def _kill_some(self, sender: Sender) -> list[Kill]:
        """Each kill in the middle of a part of the events, always of the same worker."""
        wanted = self._options.kill
        if not wanted:
            return []
        hunt = Hunt(self._cluster, self._tables(), self._config.name, self._partitions, self._options.seed)
        victim = self.fleet[self._options.seed % len(self.fleet)]
        kills: list[Kill] = []
        hits = 0
        while hits < wanted and len(kills) < wanted + MISSES_MAX:
            part = 1 / (wanted + 1)
            self._gate.share = max(self._gate.share, (hits + 0.4) * part)
            self._wait(sender, int(self._options.events * (hits + 0.3) * part))
            slowly = Flow(self._gate, 0.0, self._gate.share)
            steadily = Flow(self._gate, FLOW_SHARE_PER_S, (hits + 1) * part)
            look, let_through = partial(self._flow, sender, slowly), partial(self._flow, sender, steadily)
            kills.append(hunt.kill(self.fleet, victim, self._progress, look, let_through))
            hits += kills[-1].batches > 0
            self._narrator.note(f"worker {victim.number} killed; started again")
            victim.start()
        return kills

    def _progress(self) -> float:
        return self._committed / self._options.events

    def _flow(self, sender: Sender, flow: Flow) -> None:
        """Lets events through steadily while a hunt goes on."""
        if flow.is_due():
            self._look(sender)
            flow.open(self._committed / self._options.events)

    def _wait(self, sender: Sender, events: int) -> None:
        while self._committed < events:
            self._look(sender)
            time.sleep(LOOK_S)

    def _look(self, sender: Sender) -> None:
        """Asks for the committed offsets; raises when something died, or nothing moves any more."""
        sender.check()
        for worker in self.fleet:
            worker.check()
        try:
            found = self._cluster.committed(self._partitions)
            committed = sum(max(0, offset) for offset, _ in found.values())
        except PenstockError as error:
            # Brokers may be away for a while; that is no reason to end.
            committed = self._committed
            self._narrator.note(f"waiting for Kafka: {error}")
        now_s = time.monotonic()
        if committed != self._committed:
            self._committed, self._moved_s = committed, now_s
        elif now_s - self._moved_s > self._options.stall_s_max:
            raise GaveUp(f"nothing was committed for {self._options.stall_s_max:.0f} s at {committed:,} events")
        self._narrator.reach(committed)

    def _tables(self) -> Tables:
        clickhouse = ClickHouse(self._config.clickhouse)
        self._stack.callback(clickhouse.close)
        return Tables(clickhouse, load_contracts(self._config, clickhouse, self._cluster))

    def _open_pace(self, ahead: int | None) -> Pace | None:
        if ahead is None:
            return None
        return Pace(self._cluster, self._partitions, ahead)


def run(options: Options, narrator: Narrator, *, phase: Callable[[str], None] = lambda _: None) -> Result:
    """The whole demo. Everything it started is gone afterwards, also after an exception or Ctrl-C."""
    options.check()
    made = shape(options.workload)
    generator = Generator(made, options.seed, Mix(duplicates=options.duplicates, poison=options.poison))
    with ExitStack() as stack:
        phase("starting Kafka and ClickHouse" if not options.brokers else "preparing topics and tables")
        servers = stack.enter_context(Servers(options, made))
        demo = Demo(options, servers, stack, narrator)
        phase(f"starting {options.workers} workers")
        demo.start_workers()
        phase("ingesting")
        produced, kills, seconds = demo.ingest(generator)
        phase("draining the workers")
        codes = demo.drain()
        phase("verifying")
        oracle = Oracle(servers.config.routes[0].topic, generator)
        report = verify(servers.config, oracle=oracle)
        return Result(
            options=options,
            produced=produced.events,
            seconds=seconds,
            worker_cpu_s=sum(worker.cpu_s for worker in demo.fleet),
            worker_start_cpu_s=sum(worker.start_cpu_s * worker.starts for worker in demo.fleet),
            exit_codes=codes,
            kills=tuple(kills),
            latency=produced.latency,
            report=report,
            oracle=oracle,
            kept=str(servers.directory) if options.keep is not None else "",
        )
