"""What of a topic loses records before they are read, or letters before they are looked at. Pure: facts in, checks out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline.config.schema import Config
from pipeline.preflight.checks import Check, Status, duration, plural

AGE_SHARES = (0.5, 0.9)
"""Unread records older than these shares of `retention.ms` are a warning and a problem."""
ROOM_SHARE_FEW = 0.1
"""Of a log that is kept by size: fewer records than this share of it lie between its removed end and the next unread one."""


class Backlog(NamedTuple):
    """Where the group stands in one partition. `aged` are the first offsets that are younger than each of `AGE_SHARES` of
    the retention time, or empty where records are not removed by time."""

    number: int
    committed: int
    """-1: nothing is committed."""
    first: int
    next: int
    aged: Sequence[int] = ()


def topic_check(topic: str, partitions: int, key: str) -> Check:
    """Whether a topic is there; `key` names it in the configuration."""
    name = f"topic {topic}"
    if partitions:
        return Check("topic", name, Status.OK, plural(partitions, "partition"))
    fix = f"Create it, or correct {key}; topics are never created by themselves"
    return Check("topic", name, Status.PROBLEM, "does not exist", fix)


def alter(config: Config, topic: str, setting: str) -> str:
    """The command that changes a topic's configuration."""
    where = f"--bootstrap-server {config.kafka.brokers} --entity-type topics --entity-name {topic}"
    return f"kafka-configs.sh {where} --alter --add-config {setting}"


def unread_settings(unread: Sequence[str]) -> Iterator[Check]:
    """What cannot be said of topics whose configuration cannot be read."""
    if unread:
        text = (
            f"the configuration of {', '.join(unread)} cannot be read (no right to, or not supported): compaction, retention "
            "and sizes are not known"
        )
        yield Check("topic-settings", "topics", Status.SKIPPED, text)


def compaction_checks(config: Config, topic: str, settings: Mapping[str, str], *, letters: bool) -> Iterator[Check]:
    """Compaction removes all but the last record of a key."""
    policy = settings.get("cleanup.policy", "")
    if "compact" not in policy:
        return
    name, fix = f"topic {topic}", alter(config, topic, "cleanup.policy=delete")
    if letters:
        text = f"is compacted (cleanup.policy={policy}): a dead letter removes older ones with its key, and takes none without"
        yield Check("compaction", name, Status.PROBLEM, text, fix)
    else:
        text = (
            f"is compacted (cleanup.policy={policy}): events that are not read in time are removed by later ones with their "
            "key, unnoticed"
        )
        yield Check("compaction", name, Status.WARNING, text, fix)


def letter_size_checks(config: Config, topic: str, settings: Mapping[str, str]) -> Iterator[Check]:
    """Whether the largest record fits into the dead-letter topic."""
    limit = settings.get("max.message.bytes", "")
    if limit.isdecimal() and int(limit) < config.limits.record_bytes_max:
        yield Check(
            "dead-letter-size",
            f"topic {topic}",
            Status.WARNING,
            f"takes records up to {limit} bytes, limits.record_bytes_max is {config.limits.record_bytes_max}: of a larger "
            "reject only a pointer to the original is kept, without its bytes",
            # Headers and the batch's own come on top.
            alter(config, topic, f"max.message.bytes={config.limits.record_bytes_max + 65_536}"),
        )


def retention_ms(settings: Mapping[str, str]) -> int | None:
    """How long a topic keeps records; None: for ever, or not known."""
    text = settings.get("retention.ms", "")
    return int(text) if text.isdecimal() and "delete" in settings.get("cleanup.policy", "delete") else None


def retention_checks(
    config: Config, topic: str, settings: Mapping[str, str], backlogs: Sequence[Backlog]
) -> Iterator[Check]:
    """Whether records are removed before they are read."""
    found = [
        *_lost(config, topic, backlogs),
        *_soon(config, topic, settings, backlogs),
        *_rebuild(config, topic, settings),
    ]
    yield from found
    kept = retention_ms(settings)
    if not found and settings:
        lag = sum(max(0, one.next - max(one.committed, one.first)) for one in backlogs if one.committed >= 0)
        text = f"kept {duration(kept / 1000)}" if kept is not None else "kept without a limit of time"
        yield Check("retention", f"topic {topic}", Status.OK, f"{text}, lag {lag:,}")


def _lost(config: Config, topic: str, backlogs: Sequence[Backlog]) -> Iterator[Check]:
    for one in backlogs:
        if 0 <= one.committed < one.first:
            yield Check(
                "retention",
                f"topic {topic}",
                Status.PROBLEM,
                f"partition {one.number}: offsets {one.committed} to {one.first - 1} were removed before they were read; the "
                "partition stands still",
                "To go on without them, stop the workers and run: kafka-consumer-groups.sh --bootstrap-server "
                f"{config.kafka.brokers} --group {config.kafka.group} --topic {topic}:{one.number} --reset-offsets "
                "--to-earliest --execute",
            )


def _soon(config: Config, topic: str, settings: Mapping[str, str], backlogs: Sequence[Backlog]) -> Iterator[Check]:
    unread = [one for one in backlogs if one.first <= one.committed < one.next]
    kept = retention_ms(settings)
    if kept is not None:
        fix = f"Add workers; to win time: {alter(config, topic, f'retention.ms={2 * kept}')}"
        for share, status in ((AGE_SHARES[1], Status.PROBLEM), (AGE_SHARES[0], Status.WARNING)):
            at = AGE_SHARES.index(share)
            late = [one.number for one in unread if one.aged and one.committed < one.aged[at]]
            if late:
                text = f"unread records are older than {share:.0%} of retention.ms = {kept} ({_numbers(late)})"
                yield Check("retention", f"topic {topic}", status, text, fix)
                return
    kept_bytes = settings.get("retention.bytes", "")
    if kept_bytes.isdecimal():
        # Only a log that has lost records to its size (or age) already tells how many fit into it.
        near = [one.number for one in unread if one.first and one.committed - one.first < _few(one)]
        if near:
            text = f"the next record to read is among the oldest in a log of retention.bytes = {kept_bytes} ({_numbers(near)})"
            fix = f"Add workers; to win time: {alter(config, topic, f'retention.bytes={2 * int(kept_bytes)}')}"
            yield Check("retention", f"topic {topic}", Status.WARNING, text, fix)


def _few(one: Backlog) -> float:
    return ROOM_SHARE_FEW * (one.next - one.first)


def _rebuild(config: Config, topic: str, settings: Mapping[str, str]) -> Iterator[Check]:
    kept, needed_ms = retention_ms(settings), config.dedup.window_s * 1000
    if config.dedup.key and config.dedup.rebuild == "kafka" and kept is not None and kept < needed_ms:
        yield Check(
            "retention",
            f"topic {topic}",
            Status.WARNING,
            f'keeps records for {kept} ms, and dedup.rebuild = "kafka" reads back dedup.window_s = {config.dedup.window_s}',
            alter(config, topic, f"retention.ms={2 * needed_ms}"),
        )


def _numbers(partitions: Sequence[int]) -> str:
    shown = ", ".join(map(str, partitions[:8]))
    more = f" and {len(partitions) - 8} more" if len(partitions) > 8 else ""
    return f"{'partition' if len(partitions) == 1 else 'partitions'} {shown}{more}"
