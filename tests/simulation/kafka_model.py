"""A model of a Kafka cluster: logs with gaps, committed offsets, and a group coordinator for each of the two protocols.

It knows nothing of this project. `tests/contract/test_models.py` holds it against librdkafka's mock cluster and Apache Kafka.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, Protocol

from confluent_kafka import KafkaError

from tests.simulation.loop import Loop

Place = tuple[str, int]
"""Topic and partition."""
SESSION_S = 2.5
"""A member that is silent for so long is none any more."""


class Record(NamedTuple):
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Log:
    """One partition. Offsets only grow; not every offset has a record."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.low = 0
        self.high = 0
        self.on_append: list[Callable[[], None]] = []

    def append(
        self,
        value: bytes | None,
        timestamp_ms: int,
        key: bytes | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> int:
        self.records.append(Record(self.high, timestamp_ms, key, value, list(headers)))
        self.high += 1
        for call in self.on_append:
            call()
        return self.high - 1

    def mark(self) -> None:
        """A transaction marker: an offset without a record."""
        self.high += 1
        for call in self.on_append:
            call()

    def read(self, position: int, records_max: int) -> list[Record]:
        at = bisect_left(self.records, (position,))
        return self.records[at : at + records_max]

    def compact(self, offset: int) -> bool:
        """Removes one record; its offset stays taken. False when there is none."""
        at = bisect_left(self.records, (offset,))
        if at == len(self.records) or self.records[at].offset != offset:
            return False
        del self.records[at]
        return True

    def retain_from(self, low: int) -> None:
        """Retention or DeleteRecords: everything before is gone."""
        self.low = max(self.low, min(low, self.high))
        del self.records[: bisect_left(self.records, (self.low,))]

    def offset_for_time(self, time_ms: int) -> int:
        return next((record.offset for record in self.records if record.timestamp_ms >= time_ms), self.high)


class Client(Protocol):
    """What the coordinator tells a member, some time after it decided so."""

    def invited(self) -> None:
        """The group rebalances: join again, with what is owned (classic only)."""

    def assigned(self, generation: int, places: frozenset[Place]) -> None:
        """From now on in this generation, with these partitions in all."""

    def evicted(self) -> None:
        """It is no member any more."""

    def refused(self) -> None:
        """The group has a live member of its name (consumer protocol only)."""


class Nobody:
    """The client of a member whose answer was lost."""

    def invited(self) -> None:
        pass

    def assigned(self, generation: int, places: frozenset[Place]) -> None:
        pass

    def evicted(self) -> None:
        pass

    def refused(self) -> None:
        pass


class Member:
    def __init__(self, number: int, client: Client, instance: str) -> None:
        self.id = f"member-{number}"
        self.client = client
        self.instance = instance
        """The name of a static member; empty for others."""
        self.departed = False
        """Static: it has closed, and may come back."""
        self.given: frozenset[Place] = frozenset()
        """Classic: its assignment in the present generation."""
        self.generation = -1
        self.owned: frozenset[Place] = frozenset()
        """Classic: what it said when it joined. Consumer: what it has, as the coordinator knows."""
        self.joined = False
        self.releasing: frozenset[Place] = frozenset()
        self.told_s = 0.0


class Group:
    """What both coordinators share: members, offsets, fencing."""

    stale_code = KafkaError.ILLEGAL_GENERATION

    def __init__(self, loop: Loop, places: Iterable[Place], heartbeat_s: float = 0.3) -> None:
        self.loop = loop
        self.places = list(places)
        self.heartbeat_s = heartbeat_s
        self.members: dict[str, Member] = {}
        self.generation = 0
        self.offsets: dict[Place, tuple[int, str]] = {}
        self.target: dict[Place, str] = {}
        self._numbers = 0
        self.on_stored: Callable[[dict[Place, tuple[int, str]]], None] = lambda entries: None
        self.on_rebalance: Callable[[], None] = lambda: None
        self.rebalancing = False
        """Classic: not all members have joined again."""

    def enter(self, client: Client, instance: str = "") -> str:
        """A new member, or a static one that comes back; what it gets is told later. Empty when it is refused."""
        before = next((member for member in self.members.values() if instance and member.instance == instance), None)
        if before is not None and self._refuses(before):
            self._later(before, client.refused)
            return ""
        self._numbers += 1
        member = Member(self._numbers, client, instance)
        if before is None:
            self.members[member.id] = member
            self._welcome(member)
        else:
            del self.members[before.id]
            self.members[member.id] = member
            self.target = {place: member.id if id == before.id else id for place, id in self.target.items()}
            self._take_over(before, member)
        return member.id

    def enter_unheard(self, instance: str) -> None:
        """A join whose answer is lost: a member that nobody speaks for."""
        if member_id := self.enter(Nobody(), instance):
            self.loop.call_later(SESSION_S, lambda: self.evict(member_id))

    def depart(self, member_id: str) -> None:
        """A static member closes. It stays a member for the session timeout."""
        if member := self.members.get(member_id):
            member.departed = True
            self.loop.call_later(SESSION_S, lambda: self.evict(member_id))

    def _refuses(self, before: Member) -> bool:
        """Whether a static member that comes back is taken for a second one."""
        return False

    def _welcome(self, member: Member) -> None:
        self._rebalance()

    def _take_over(self, before: Member, member: Member) -> None:
        """A static member has come back, under another id."""
        raise NotImplementedError

    def leave(self, member_id: str) -> None:
        if self.members.pop(member_id, None):
            self._rebalance()

    def evict(self, member_id: str) -> None:
        """Its heartbeats did not come for the session timeout. It learns so when it asks next."""
        if member := self.members.pop(member_id, None):
            self._later(member, member.client.evicted)
            self._rebalance()

    def shuffle(self) -> None:
        """A rebalance for no reason of the members: metadata changed, another assignor, a new coordinator."""
        self.target = {}
        self._rebalance()

    def commit(self, member_id: str, generation: int, entries: dict[Place, tuple[int, str]]) -> int:
        """Checks member and generation, but not who owns what, like a broker; 0 or an error code for all entries."""
        member = self.members.get(member_id)
        if member is None:
            return int(KafkaError.UNKNOWN_MEMBER_ID)
        if generation != self._generation_of(member):
            return int(self.stale_code)
        self.offsets |= entries
        self.on_stored(entries)
        return 0

    def _generation_of(self, member: Member) -> int:
        raise NotImplementedError

    def _rebalance(self) -> None:
        raise NotImplementedError

    def released(self, member_id: str, owned: frozenset[Place]) -> None:
        """A member has given up what it was asked to."""
        raise NotImplementedError

    def _later(self, member: Member, call: Callable[[], None]) -> None:
        """With a heartbeat of the member, in the order in which it was decided."""
        member.told_s = max(member.told_s, self.loop.now_s + self.loop.jitter(self.heartbeat_s))
        self.loop.call_at(member.told_s, call)

    def _retarget(self) -> None:
        """Mostly sticky and balanced, now and then anything."""
        ids = sorted(self.members)
        if not ids:
            self.target = {}
            return
        share = -(-len(self.places) // len(ids))
        counts = dict.fromkeys(ids, 0)
        target: dict[Place, str] = {}
        chaos = self.loop.random() < 0.15
        for place in self.places:
            before = self.target.get(place)
            if before in counts and counts[before] < share and not chaos:
                target[place] = before
                counts[before] += 1
        for place in self.places:
            if place not in target:
                least = min(counts.values())
                choice = [id for id in ids if chaos or counts[id] == least]
                target[place] = choice[int(self.loop.random() * len(choice))]
                counts[target[place]] += 1
        self.target = target


class ClassicGroup(Group):
    """The classic protocol with cooperative rebalancing.

    A rebalance is complete when every member has joined again. A partition that moves is given to nobody in the generation
    that takes it away, and to its new owner in the next one, which the old owner asks for when it has let go.
    """

    def join(self, member_id: str, owned: frozenset[Place]) -> bool:
        """A member joins again; False when it is none."""
        member = self.members.get(member_id)
        if member is None:
            return False
        member.owned = owned
        member.joined = True
        if not self.rebalancing:
            self._rebalance()
        else:
            self._complete_if_all_joined()
        return True

    def released(self, member_id: str, owned: frozenset[Place]) -> None:
        self.join(member_id, owned)

    def _generation_of(self, member: Member) -> int:
        return member.generation

    def _welcome(self, member: Member) -> None:
        member.joined = True
        self._rebalance()

    def _take_over(self, before: Member, member: Member) -> None:
        """It gets what it had, in the same generation, and nobody else hears of it, unless a rebalance is under way.

        A partition that was on its way comes to nobody, unless somebody else asks for another rebalance.
        """
        if self.rebalancing:
            self._welcome(member)
            return
        member.generation, member.given = self.generation, before.given
        self._tell(member, member.given)

    def _rebalance(self) -> None:
        self.on_rebalance()
        if not self.rebalancing:
            self.rebalancing = True
            for member in self.members.values():
                if not member.joined:
                    self._later(member, member.client.invited)
        self._complete_if_all_joined()

    def _complete_if_all_joined(self) -> None:
        if not self.rebalancing or not all(member.joined for member in self.members.values()):
            return
        self.rebalancing = False
        self.generation += 1
        self._retarget()
        owners: dict[Place, list[str]] = {}
        for member in self.members.values():
            for place in member.owned:
                owners.setdefault(place, []).append(member.id)
        for member in self.members.values():
            member.joined = False
            member.generation = self.generation
            given = frozenset(
                place
                for place, target in self.target.items()
                if target == member.id and (place not in owners or owners[place] == [member.id])
            )
            member.given = given
            self._tell(member, given)

    def _tell(self, member: Member, given: frozenset[Place]) -> None:
        generation = self.generation
        self._later(member, lambda: member.client.assigned(generation, given))


class ConsumerGroup(Group):
    """The consumer protocol (KIP-848): each member goes to the target assignment by itself.

    A member first gives up what is no longer its own, then gets the group's epoch and what nobody holds.
    """

    stale_code = KafkaError.STALE_MEMBER_EPOCH

    def _generation_of(self, member: Member) -> int:
        return member.generation

    def _rebalance(self) -> None:
        self.on_rebalance()
        self.generation += 1
        self._retarget()
        self._reconcile_all()

    def _refuses(self, before: Member) -> bool:
        return not before.departed

    def _take_over(self, before: Member, member: Member) -> None:
        member.owned = before.owned
        self._reconcile_all()

    def released(self, member_id: str, owned: frozenset[Place]) -> None:
        if member := self.members.get(member_id):
            member.owned = owned
            member.releasing = frozenset()
            self._reconcile_all()

    def _reconcile_all(self) -> None:
        for member in self.members.values():
            self._later(member, partial(self._heartbeat, member.id))

    def _heartbeat(self, member_id: str) -> None:
        """The answer to one heartbeat of a member."""
        member = self.members.get(member_id)
        if member is None or member.releasing or member.departed:
            return
        wanted = frozenset(place for place, target in self.target.items() if target == member_id)
        if member.generation < 0 and not member.owned <= wanted:
            # It comes back, and has nothing yet of what is held for it.
            member.owned &= wanted
            self._reconcile_all()
        leaving = member.owned - wanted
        if leaving:
            member.releasing = leaving
            self._tell(member, member.owned - leaving)
            return
        held = {place for other in self.members.values() for place in other.owned}
        free = frozenset(place for place in wanted - member.owned if place not in held)
        if free or member.generation != self.generation:
            member.generation = self.generation
            member.owned |= free
            self._tell(member, member.owned)

    def _tell(self, member: Member, given: frozenset[Place]) -> None:
        generation = member.generation
        member.client.assigned(generation, given)


class Cluster:
    """Topics, the group and the dead-letter topic."""

    def __init__(self, loop: Loop, topics: dict[str, int], protocol: str = "classic", heartbeat_s: float = 0.3) -> None:
        self.loop = loop
        self.logs: dict[Place, Log] = {}
        self.partitions = dict(topics)
        for topic, count in topics.items():
            for number in range(count):
                self.logs[topic, number] = Log()
        kind = ClassicGroup if protocol == "classic" else ConsumerGroup
        self.group: Group = kind(loop, [], heartbeat_s)

    def subscribe(self, topics: Iterable[str]) -> None:
        """Which topics the group is about."""
        self.group.places = [place for place in self.logs if place[0] in set(topics)]
