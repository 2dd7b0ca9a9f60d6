"""The consumer group: whose offsets and members it has, and what the next worker will have to finish. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pipeline.config.schema import Config
from pipeline.intent import ForeignIntent, Identity, decode
from pipeline.preflight.checks import Check, Status, plural
from pipeline.types import Partition

if TYPE_CHECKING:
    from pipeline.kafka import Group


def committed_check(config: Config, identity: Identity, committed: Mapping[Partition, tuple[int, str]]) -> Check:
    """Whether what the group has committed is ours, and how many batches are in flight."""
    name = f"group {config.kafka.group}"
    declared = set()
    for partition, (_, metadata) in committed.items():
        try:
            declared |= {intent.identity for intent in decode(metadata, identity, partition)}
        except ForeignIntent as error:
            text, _, fix = str(error).partition(". ")
            return Check("group", name, Status.PROBLEM, text, fix)
    positions = sum(offset >= 0 for offset, _ in committed.values())
    text = f"has committed {positions} of {len(committed)} partitions"
    if declared:
        text += f", {plural(len(declared), 'batch', 'es')} declared and not finished"
    return Check("group", name, Status.OK, text)


def member_checks(
    config: Config, group: Group, partitions: int, client_id: str, settings: Mapping[str, str]
) -> Iterator[Check]:
    """Whether workers can be, and are, in the group together. `settings` are a broker's, empty where not known."""
    name = f"group {config.kafka.group}"
    strangers = sorted({member for member in group.client_ids if member != client_id})
    if strangers:
        yield Check(
            "group-members",
            name,
            Status.PROBLEM,
            f"has members that are not penstock's: {', '.join(strangers)}; they take partitions, and commit without intents",
            "Give the pipeline a group of its own (kafka.group)",
        )
    yield from _migration(config, group, settings)
    workers = len(group.client_ids)
    if strangers or not workers:
        return
    if workers > partitions:
        yield Check(
            "group-members",
            name,
            Status.WARNING,
            f"has {workers} workers for {plural(partitions, 'partition')}: {workers - partitions} without work",
            "Stop them, or give the topics more partitions",
        )
    else:
        yield Check("group-members", name, Status.OK, f"{plural(workers, 'worker')}, {group.protocol} protocol")


def _migration(config: Config, group: Group, settings: Mapping[str, str]) -> Iterator[Check]:
    """A group with members of one protocol takes those of the other only where the brokers migrate."""
    wanted = config.kafka.group_protocol
    if not group.client_ids or not group.protocol or group.protocol == wanted:
        return
    policy = settings.get("group.consumer.migration.policy", "bidirectional")
    if policy not in ("bidirectional", "upgrade" if wanted == "consumer" else "downgrade"):
        yield Check(
            "group-protocol",
            f"group {config.kafka.group}",
            Status.PROBLEM,
            f"its members use the {group.protocol} protocol, and group.consumer.migration.policy = {policy} keeps workers with "
            f'kafka.group_protocol = "{wanted}" out',
            "Stop all workers before the change, or set group.consumer.migration.policy=bidirectional on the brokers",
        )
