"""Partitions that the group has left to nobody: what only a static member can cause, and only another rebalance ends.

In the classic protocol a partition that moves belongs to nobody from when its owner is asked for it until that owner, having
let go, joins again. An owner that is killed in between, or joins as a new client, never does so: the group gives whoever comes
by its name (`kafka.instance_id`) what the owner was to keep, and calls that no rebalance (KIP-345). A worker that has come into
the group therefore looks whether every partition is somebody's, and if not, leaves and joins again.
"""

from __future__ import annotations

from collections.abc import Set

from pipeline.clock import Clock
from pipeline.config.schema import Kafka
from pipeline.types import Partition

LOOK_EVERY_S = 5.0


class Unassigned:
    """Not thread-safe. Looks are wanted after each join until one finds nothing."""

    def __init__(self, config: Kafka, clock: Clock) -> None:
        self._possible = bool(config.instance_id) and config.group_protocol == "classic"
        self._clock = clock
        # A partition that is on its way is nobody's for as long as its owner may drain.
        self._moving_s_max = config.revoke_drain_ms_max / 1000 + LOOK_EVERY_S
        self._partitions: Set[Partition] = frozenset()
        self._since_s = 0.0
        self.wanted = self._possible

    def joined(self) -> None:
        """The worker came into the group, or got partitions of it."""
        self.wanted = self._possible
        self._partitions = frozenset()

    def seen(self, found: Set[Partition] | None) -> Set[Partition]:
        """Takes what one look has found, None while a rebalance is under way. Returns what has been nobody's for too long."""
        now_s = self._clock.monotonic_s()
        self.wanted = found is None or bool(found)
        still = self._partitions & (found or frozenset())
        if not still:
            self._since_s = now_s
        self._partitions = still or found or frozenset()
        return still if now_s - self._since_s > self._moving_s_max else frozenset()
