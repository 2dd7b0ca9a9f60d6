"""What the configuration of the brokers forbids, and how the deadlines fit together. Pure: facts in, checks out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.config.schema import Config
from pipeline.intent import METADATA_BYTES_MAX
from pipeline.preflight.checks import Check, Status, duration
from pipeline.preflight.tables import OUTAGE_S

NAME = "kafka limits"


def broker_limits(config: Config, settings: Mapping[str, str], outage_s: float = OUTAGE_S) -> Iterator[Check]:
    """What a broker's own configuration forbids. Empty settings could not be read and say nothing."""
    if not settings:
        text = "the brokers' configuration cannot be read (no right to, or not supported)"
        yield Check("broker-settings", NAME, Status.SKIPPED, text)
        return
    found = [
        *_metadata(settings),
        *_protocol(config, settings),
        *_session(config, settings),
        *_offsets_kept(settings, outage_s),
    ]
    yield from found or [Check("broker-settings", NAME, Status.OK, _fitting(settings))]


def _fitting(settings: Mapping[str, str]) -> str:
    room = settings.get("offset.metadata.max.bytes", "?")
    offers = settings.get("group.coordinator.rebalance.protocols", "") or "classic"
    return f"offset metadata up to {room} bytes, group protocols {offers}"


def _metadata(settings: Mapping[str, str]) -> Iterator[Check]:
    room = settings.get("offset.metadata.max.bytes", "")
    if room.isdecimal() and int(room) < METADATA_BYTES_MAX:
        yield Check(
            "offset-metadata",
            NAME,
            Status.PROBLEM,
            f"offset.metadata.max.bytes is {room}, and offset commits carry up to {METADATA_BYTES_MAX} bytes",
            "Set offset.metadata.max.bytes=4096, its default, in server.properties of all brokers, and restart them in turn",
        )


def _protocol(config: Config, settings: Mapping[str, str]) -> Iterator[Check]:
    protocols = settings.get("group.coordinator.rebalance.protocols", "")
    if config.kafka.group_protocol == "consumer" and "consumer" not in protocols:
        yield Check(
            "group-protocol",
            NAME,
            Status.PROBLEM,
            'the brokers do not offer kafka.group_protocol = "consumer"'
            + (f" (they offer {protocols})" if protocols else " (they are older than 4.0)"),
            'Use group_protocol = "classic", or upgrade the brokers to 4.0 or later',
        )


def _session(config: Config, settings: Mapping[str, str]) -> Iterator[Check]:
    session = config.kafka.session_timeout_ms
    low, high = settings.get("group.min.session.timeout.ms", ""), settings.get("group.max.session.timeout.ms", "")
    if config.kafka.group_protocol != "classic" or not (low.isdecimal() and high.isdecimal()):
        return
    if not int(low) <= session <= int(high):
        yield Check(
            "session-timeout",
            NAME,
            Status.PROBLEM,
            f"the brokers take a session timeout from {low} to {high} ms, kafka.session_timeout_ms is {session}",
            f"Set kafka.session_timeout_ms to {low if session < int(low) else high}",
        )


def _offsets_kept(settings: Mapping[str, str], outage_s: float) -> Iterator[Check]:
    """Offsets, and the intents in their metadata, of a group without members are removed after a time."""
    kept_min = settings.get("offsets.retention.minutes", "")
    if kept_min.isdecimal() and int(kept_min) * 60 < outage_s:
        yield Check(
            "offset-retention",
            NAME,
            Status.WARNING,
            f"the offsets of a stopped pipeline are forgotten after {kept_min} minutes (offsets.retention.minutes), and "
            f"outages up to {duration(outage_s)} are to be survived (--outage): it would begin again at kafka.start",
            "Set offsets.retention.minutes=10080, its default, in server.properties of all brokers",
        )


def deadlines(config: Config) -> Check:
    """An insert must end before a worker is taken for hung, and that before the group expels it.

    The configuration is refused otherwise; what is left to tell is how much room there is.
    """
    insert_s = config.clickhouse.insert_timeout_ms / 1000
    stall_s = config.limits.stall_ms_max / 1000
    poll_s = max(config.kafka.max_poll_interval_ms, config.kafka.session_timeout_ms) / 1000
    if not insert_s < stall_s < poll_s:
        return Check(
            "deadlines",
            "deadlines",
            Status.PROBLEM,
            f"clickhouse.insert_timeout_ms = {insert_s * 1000:.0f}, limits.stall_ms_max = {stall_s * 1000:.0f} and "
            f"kafka.max_poll_interval_ms = {poll_s * 1000:.0f} must grow in this order: a worker that waits for an insert "
            "would be expelled from its group",
            "Lower clickhouse.insert_timeout_ms, or raise the others",
            configuration=True,
        )
    text = (
        f"an insert may take {insert_s:g} s, a worker hangs after {stall_s:g} s, the group expels it after {poll_s:g} s"
    )
    return Check("deadlines", "deadlines", Status.OK, text)
