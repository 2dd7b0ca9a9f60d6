"""Kills a worker when it has batches in flight: declared in the committed metadata, not passed by the committed offset.

Which worker a declared batch belongs to is nowhere written down. But all partitions of a batch belong to one worker, so
batches that share partitions form one group a worker. When, with the victim stopped, there are as many groups in flight as
there are workers that read, one of them is the victim's. What it was is told afterwards: what does not move any more.

The best moment is between the declare and the insert. A batch that has no row in ClickHouse although everybody else had
time to go on is such a batch of the victim; the hunt looks for one a while before it takes any batch in flight.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from pipeline import intent as intents
from pipeline.demo.result import Kill
from pipeline.demo.workers import Worker
from pipeline.errors import PenstockError
from pipeline.intent import Identity, Intent
from pipeline.kafka import Cluster
from pipeline.types import Partition, Span
from pipeline.verify.tables import Tables

STILL_S = 1.0
"""What a live worker has in flight moves on within this time; well below the session timeout."""
SETTLE_S = 0.04
"""How long the victim stays stopped before its batches are looked at: others go on, and commits on their way arrive."""
LOOK_S = 0.002
ASK_S = 0.5
"""How often each worker is asked whether it reads."""
PICKY_S = 8.0
"""How long only a batch without rows will do."""
HUNT_S_MAX = 90.0

Flights = Mapping[Partition, tuple[int, tuple[Intent, ...]]]
"""Partition -> committed offset, and the declared batches that reach beyond it; partitions without one are left out."""


class Hunt:
    """Kills one worker of a fleet, several times over a demo."""

    def __init__(
        self, cluster: Cluster, tables: Tables, pipeline: str, partitions: Sequence[Partition], seed: int
    ) -> None:
        self._cluster = cluster
        self._tables = tables
        self._identity = Identity(pipeline, "", {})
        self._partitions = partitions
        self._random = random.Random(seed)

    def kill(
        self,
        fleet: Sequence[Worker],
        victim: Worker,
        progress: Callable[[], float],
        look: Callable[[], None],
        flow: Callable[[], None],
    ) -> Kill:
        """Waits for a good moment, kills, and finds out what was hit.

        `look` and `flow` are called while waiting, let events through and may raise: `look` until the victim reads, `flow`
        from then on.
        """
        deadline_s = time.monotonic() + HUNT_S_MAX
        while victim.consumed() == 0 and time.monotonic() < deadline_s:
            look()
            time.sleep(0.1)
        # Not always the first batch after something.
        end_s = time.monotonic() + self._random.uniform(0.0, 0.3)
        while time.monotonic() < end_s:
            flow()
            time.sleep(LOOK_S)
        before = self._stop_in_flight(fleet, victim, deadline_s, flow)
        share = progress()
        victim.kill()
        return self._look(victim.number, before, share)

    def _stop_in_flight(
        self, fleet: Sequence[Worker], victim: Worker, deadline_s: float, flow: Callable[[], None]
    ) -> Flights:
        """Leaves the victim stopped; gives what was in flight then, nothing when there was no such moment."""
        seen: set[object] = set()
        reading, asked_s = len(fleet), -1.0
        picky_until_s = time.monotonic() + PICKY_S
        while (now_s := time.monotonic()) < deadline_s:
            flow()
            if now_s - asked_s > ASK_S:
                reading, asked_s = sum(worker.consumed() > 0 for worker in fleet), now_s
            flights = self.flights()
            new = {intent.identity for _, found in flights.values() for intent in found} - seen
            if new and groups(flights.values()) >= reading:
                victim.freeze()
                time.sleep(SETTLE_S)
                flights = self.flights()
                if groups(flights.values()) >= reading and (now_s > picky_until_s or self._unwritten(flights)):
                    return flights
                victim.thaw()
            seen |= new
            time.sleep(LOOK_S)
        victim.freeze()
        return {}

    def _unwritten(self, flights: Flights) -> list[Intent]:
        """The batches in flight that have no row in any table."""
        batches = {intent.identity: intent for _, found in flights.values() for intent in found}
        return [intent for intent in batches.values() if not self._rows(intent.spans)]

    def _rows(self, spans: Iterable[Span]) -> int:
        return sum(len(self._tables.stored(span.partition, span.first, span.next).offsets) for span in spans)

    def flights(self) -> Flights:
        """What is declared and not passed; nothing while the brokers do not answer."""
        found = {}
        try:
            committed = self._cluster.committed(self._partitions)
        except PenstockError:
            return {}
        for partition, (offset, metadata) in committed.items():
            open_ = tuple(
                one
                for one in intents.decode(metadata, self._identity, partition)
                if any(span.partition == partition and span.next > offset for span in one.spans)
            )
            if open_:
                found[partition] = (offset, open_)
        return found

    def _look(self, number: int, before: Flights, progress: float) -> Kill:
        time.sleep(STILL_S)
        after = self.flights()
        still = {partition: found for partition, found in before.items() if after.get(partition) == found}
        batches = {intent.identity: intent for _, found in still.values() for intent in found}
        records = sum(span.next - span.first for intent in batches.values() for span in intent.spans)
        return Kill(number, len(batches), records, len(self._unwritten(still)), progress)


def groups(flights: Iterable[tuple[int, tuple[Intent, ...]]]) -> int:
    """How many sets of batches there are that share no partition with each other."""
    sets: list[set[Partition]] = []
    for _, found in flights:
        for intent in found:
            one = {span.partition for span in intent.spans}
            for other in [other for other in sets if other & one]:
                sets.remove(other)
                one |= other
            sets.append(one)
    return len(sets)
