"""Group membership: holds the partitions, heartbeats, and commits offsets. It never reads a record.

A consumer of its own, in a thread of its own, whose partitions stay paused. Everything it learns is posted as an event, in
the order it happened; everything asked of it is queued and carried out by the same thread, so that a commit and a
rebalance never overlap. It knows which partitions are held under which epoch, and refuses to commit any other.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from pipeline import kafka
from pipeline.clock import Clock
from pipeline.commands import Assigned, Commit, CommitOutcome
from pipeline.config.schema import Kafka
from pipeline.errors import DependencyDown, PenstockError, PipelineStopped
from pipeline.threads import Threads
from pipeline.types import Partition

log = logging.getLogger(__name__)

POLL_S = 0.05
"""How often the group is asked for what it wants, at least; requests of this worker are carried out as they come."""
POLL_WAIT_S = 0.001
"""A poll that may wait is one in progress to librdkafka, however long a callback inside it takes; one that may not is over."""
UNPOLLED_SHARE_MAX = 0.9
"""Of `max.poll.interval.ms`. Whoever was not polled for so long may have left the group, and come back to the same partitions
without a word though another had them meanwhile: a client that left in the middle of a rebalance does that."""
COMMITTED_TIMEOUT_S = 10.0
LEAVE_S = 0.5
"""For what is given back, and for the request to leave that follows; nothing tells when it has been sent."""
RENEW_WAIT_S = 1.0
"""Between a client that librdkafka has given up and the one that takes its place."""
RENEW_S_MAX = 120.0
"""So long without an assignment; the broker forgets a member after 45 s of silence unless told otherwise."""
EXPELLED_MAX = 3
EXPELLED_S = 60.0
"""Expelled so often in so short a time: two workers go by one name and expel each other."""


@dataclass(frozen=True, slots=True)
class PartitionsAssigned:
    partitions: Mapping[Partition, Assigned]


@dataclass(frozen=True, slots=True)
class PartitionsRevoking:
    """The group wants these back; the membership waits, up to its limit, until it is told that they may go."""

    partitions: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class PartitionsRevoked:
    partitions: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class MembershipLost:
    reason: str


@dataclass(frozen=True, slots=True)
class CommitDone:
    number: int
    outcome: CommitOutcome
    seconds: float
    detail: str


@dataclass(frozen=True, slots=True)
class MembershipFault:
    error: PenstockError


Event = PartitionsAssigned | PartitionsRevoking | PartitionsRevoked | MembershipLost | CommitDone | MembershipFault


class Membership:
    """One member of the consumer group. `post` is called from this object's thread; the other methods from any thread.

    `alive` says whether the data plane makes progress: while it does not, the group is not polled, so that a hung worker
    loses its partitions after `max.poll.interval.ms`, as Kafka intends.
    """

    def __init__(
        self,
        config: Kafka,
        topics: Sequence[str],
        post: Callable[[Event], None],
        clock: Clock,
        alive: Callable[[], bool],
        threads: Threads,
        clients: kafka.Clients,
    ) -> None:
        self._config = config
        self._topics = list(topics)
        self._post = post
        self._clock = clock
        self._alive = alive
        self._threads = threads
        self._open_consumer = clients.consumer
        self._requests: queue.SimpleQueue[Callable[[], None]] = threads.queue()
        self._epochs: dict[Partition, int] = {}
        self._epoch = 0
        self._fresh: list[TopicPartition] = []
        """Assigned, but not yet paused and looked up."""
        self._may_go: frozenset[Partition] = frozenset()
        self._leaving = False
        self._rejoin_reason = ""
        """Why to leave and join again as soon as no callback is running; empty when there is no need."""
        self._rebalance_wanted = False
        self._resends = kafka.Resends()
        self._unsure: CommitDone | None = None
        """Answered, but perhaps not for the last time."""
        self._revoking = False
        self._polled_s = 0.0
        self._given_up_s: float | None = None
        """When librdkafka first gave up a client since the last assignment."""
        self._expelled_s: deque[float] = deque(maxlen=EXPELLED_MAX)
        self._stopping = threads.event()
        self._thread: threading.Thread | None = None
        self._consumer: Consumer | None = None

    def start(self) -> None:
        """Joins the group."""
        self._thread = self._threads.start(self._run, "membership")

    def commit(self, command: Commit) -> None:
        """Queues a commit; answered by one `CommitDone` with its number."""
        self._requests.put(lambda: self._commit(command))

    def may_go(self, partitions: frozenset[Partition]) -> None:
        """Ends the wait of the revoke of these partitions."""
        self._requests.put(lambda: self._let_go(partitions))

    def rejoin(self, reason: str, *, rebalance: bool = False) -> None:
        """Leaves the group and joins it as a new member: commits still on their way are fenced by the new generation.

        The group goes on as if nothing had happened when a static member does that, unless with `rebalance`.
        """
        self._requests.put(lambda: self._want_rejoin(reason, rebalance=rebalance))

    def stop(self, timeout_s: float) -> bool:
        """Leaves the group (a static member just goes) and ends the thread; False when it did not end in time."""
        self._stopping.set()
        self._requests.put(lambda: None)
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # The thread

    def _run(self) -> None:
        try:
            self._consumer = self._join()
            while not self._stopping.is_set():
                self._serve(POLL_S)
                if self._rejoin_reason:
                    self._rejoin()
                if self._alive():
                    self._poll()
            self._close()
        except PenstockError as error:
            self._post(MembershipFault(error))
        except Exception as error:
            log.exception("membership thread failed")
            self._post(MembershipFault(PipelineStopped(f"membership: {type(error).__name__}: {error}")))

    def _join(self) -> Consumer:
        callbacks = {"error_cb": self._on_error, "stats_cb": self._on_statistics}
        consumer = self._open_consumer(kafka.properties(self._config, "membership") | callbacks, logger=log)
        self._resends = kafka.Resends()
        self._polled_s = self._clock.monotonic_s()
        consumer.subscribe(self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        return consumer

    def _close(self) -> None:
        self._give_up_unsure()
        self._leaving = True
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        self._epochs.clear()
        self._fresh.clear()
        self._leaving = False

    def _serve(self, timeout_s: float) -> None:
        """Carries out what is queued; waits up to `timeout_s` for the first request."""
        try:
            request = self._requests.get(timeout=timeout_s)
            while True:
                request()
                request = self._requests.get_nowait()
        except queue.Empty:
            return

    def _poll(self) -> None:
        assert self._consumer is not None
        unpolled_s = self._clock.monotonic_s() - self._polled_s
        if unpolled_s > UNPOLLED_SHARE_MAX * self._config.max_poll_interval_ms / 1000:
            # What the client did while it was not polled cannot be told from here: it joins anew.
            self._want_rejoin(f"not polled for {unpolled_s:.0f} s")
            return
        message = self._consumer.poll(POLL_WAIT_S)
        self._polled_s = self._clock.monotonic_s()
        if message is None:
            self._resends.polled()
        elif (error := message.error()) is not None:
            self._on_error(error)
        if self._fresh:
            self._look_up(self._fresh)

    def _look_up(self, fresh: list[TopicPartition]) -> None:
        """Pauses what was just assigned and reads what is committed for it. Tried again with the next poll if Kafka is away.

        Pausing inside the callback lets a record through; pausing after the poll that delivered the assignment does not.
        """
        assert self._consumer is not None
        try:
            self._consumer.pause(fresh)
            found = self._consumer.committed(fresh, timeout=COMMITTED_TIMEOUT_S)
            for entry in found:
                if entry.error is not None:
                    raise KafkaException(entry.error)
        except KafkaException as error:
            self._on_error(error.args[0])
            log.warning("cannot read committed offsets yet: %s", error.args[0].name())
            return
        self._fresh = []
        partitions: dict[Partition, Assigned] = {}
        for entry in found:
            partition = Partition(entry.topic, entry.partition)
            if partition in self._epochs:
                offset = entry.offset if entry.offset >= 0 else None
                partitions[partition] = Assigned(self._epochs[partition], offset, entry.metadata or "")
        self._given_up_s = None
        self._post(PartitionsAssigned(partitions))

    # Rebalance callbacks: called inside poll() and close(), by this thread. An exception here would surface elsewhere.

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for entry in partitions:
            # Reading nothing begins with fetching nothing: the end has no records yet.
            entry.offset = OFFSET_END
            self._epoch += 1
            self._epochs[Partition(entry.topic, entry.partition)] = self._epoch
        consumer.incremental_assign(partitions)
        self._fresh = [*self._fresh, *partitions]
        log.info("assigned %d partitions", len(partitions))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._give_up_unsure()
        leaving = frozenset(Partition(entry.topic, entry.partition) for entry in partitions)
        if not self._leaving:
            self._wait_for_drain(leaving)
        self._drop(consumer, partitions, leaving)
        if not self._leaving:
            self._post(PartitionsRevoked(leaving))
        log.info("revoked %d partitions", len(partitions))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._give_up_unsure()
        self._drop(consumer, partitions, frozenset(Partition(entry.topic, entry.partition) for entry in partitions))
        if not self._leaving:
            self._post(MembershipLost("the group went on without this worker"))
        log.warning("lost %d partitions", len(partitions))

    def _drop(self, consumer: Consumer, partitions: list[TopicPartition], leaving: frozenset[Partition]) -> None:
        for partition in leaving:
            self._epochs.pop(partition, None)
        self._fresh = [entry for entry in self._fresh if Partition(entry.topic, entry.partition) not in leaving]
        consumer.incremental_unassign(partitions)

    def _wait_for_drain(self, leaving: frozenset[Partition]) -> None:
        """Lets declared batches finish and commit, for a bounded time. The heartbeat goes on by itself meanwhile."""
        self._may_go = frozenset()
        self._post(PartitionsRevoking(leaving))
        self._revoking = True
        self._serve_until_may_go(leaving)
        self._revoking = False

    def _serve_until_may_go(self, leaving: frozenset[Partition]) -> None:
        deadline_s = self._clock.monotonic_s() + self._config.revoke_drain_ms_max / 1000
        while not leaving <= self._may_go and not self._stopping.is_set() and not self._rejoin_reason:
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                log.info("batches in flight outlast the revoke; the next owner recovers them")
                return
            self._serve(min(left_s, 0.1))

    # Requests

    def _let_go(self, partitions: frozenset[Partition]) -> None:
        self._may_go |= partitions

    def _want_rejoin(self, reason: str, *, rebalance: bool = False) -> None:
        """Asked for inside a revoke it must wait: the consumer cannot be closed by its own callback."""
        self._rejoin_reason = reason
        self._rebalance_wanted |= rebalance

    def _rejoin(self) -> None:
        reason = self._rejoin_reason
        log.warning("leaving the group and joining again: %s", reason)
        if self._rebalance_wanted:
            self._unsubscribe()
        self._close()
        self._post(MembershipLost(reason))
        if self._given_up_s is not None:
            self._stopping.wait(RENEW_WAIT_S)
        self._rejoin_reason, self._rebalance_wanted = "", False
        self._consumer = self._join()

    def _unsubscribe(self) -> None:
        """A static member that closes stays a member until its session ends; one that subscribes to nothing leaves."""
        assert self._consumer is not None
        self._leaving = True
        self._consumer.unsubscribe()
        self._consumer.poll(LEAVE_S)

    def _commit(self, command: Commit) -> None:
        started_s = self._clock.monotonic_s()
        outcome, detail = self._try_commit(command)
        seconds = self._clock.monotonic_s() - started_s
        done = CommitDone(command.number, outcome, seconds, detail)
        once = self._resends.ended(seconds, accepted=outcome is CommitOutcome.ACCEPTED)
        if once or outcome not in (CommitOutcome.ACCEPTED, CommitOutcome.REFUSED):
            self._post(done)
            return
        self._unsure = done
        if self._revoking:
            # The counters come with a poll, and this is inside one.
            self._give_up_unsure()

    def _on_statistics(self, text: str) -> None:
        answered = self._resends.told(text)
        if answered is None or self._unsure is None:
            return
        if answered:
            done, self._unsure = self._unsure, None
            self._post(done)
        else:
            self._give_up_unsure()

    def _give_up_unsure(self) -> None:
        """A copy that librdkafka sent before may be stored after what is committed next: only a new generation forbids it."""
        if self._unsure is not None:
            done, self._unsure = self._unsure, None
            self._post(replace(done, outcome=CommitOutcome.UNKNOWN, detail="it may have been sent more than once"))

    def _try_commit(self, command: Commit) -> tuple[CommitOutcome, str]:
        owned = all(self._epochs.get(p) == entry.epoch for p, entry in command.entries.items())
        if self._rejoin_reason or self._consumer is None or not owned:
            return CommitOutcome.STALE, "a partition is no longer held"
        offsets = [
            TopicPartition(partition.topic, partition.number, entry.offset, entry.metadata)
            for partition, entry in command.entries.items()
        ]
        try:
            answers = self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            return _outcome(error.args[0])
        errors = [answer.error for answer in answers if answer.error is not None]
        if not errors:
            return CommitOutcome.ACCEPTED, ""
        if len(errors) < len(answers):
            # Stored for some partitions only: what stands where is known after the next assignment.
            return CommitOutcome.UNKNOWN, f"refused in part: {errors[0].name()}"
        return _outcome(errors[0])

    def _on_error(self, error: KafkaError) -> None:
        """Errors outside a request: those that no waiting mends stop the worker, the rest is librdkafka's to retry."""
        trouble = kafka.trouble_of(error)
        if trouble.lasting:
            self._post(MembershipFault(DependencyDown(trouble.message(self._config.brokers))))
        elif error.code() == KafkaError._FATAL or error.fatal():
            self._renew(trouble.reason)
        else:
            log.warning("kafka: %s: %s", trouble.name, trouble.reason)

    def _renew(self, reason: str) -> None:
        """This client is of no use any more. Another one is, unless another worker goes by the same name.

        A static member can be refused, or expelled, on its own account: a join whose answer was lost is sent again as if by
        somebody else, and a request from before that is answered as if from him.
        """
        now_s = self._clock.monotonic_s()
        if self._given_up_s is None:
            self._given_up_s = now_s
        if _EXPELLED in reason:
            self._expelled_s.append(now_s)
        expelled = len(self._expelled_s) == EXPELLED_MAX and now_s - self._expelled_s[0] < EXPELLED_S
        if not expelled and now_s - self._given_up_s < RENEW_S_MAX:
            self._rejoin_reason = reason
            return
        fix = "See the log of the worker and of the group's coordinator"
        if self._config.instance_id:
            fix = f"Another worker uses kafka.instance_id = {self._config.instance_id!r}; give each worker its own"
        self._post(MembershipFault(PipelineStopped(f"this member does not come back: {reason}. {fix}")))


_EXPELLED = KafkaError(KafkaError.FENCED_INSTANCE_ID).str()
"""librdkafka's words: it reports a fatal error by a code that hides the cause."""
_OUTCOMES = {
    "refused": CommitOutcome.REFUSED,
    "fenced": CommitOutcome.FENCED,
    "denied": CommitOutcome.DENIED,
    "unknown": CommitOutcome.UNKNOWN,
}


def _outcome(error: KafkaError) -> tuple[CommitOutcome, str]:
    return _OUTCOMES[kafka.classify_commit(error.code())], f"{error.name()} ({error.code()})"
