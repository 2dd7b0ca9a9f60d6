"""The librdkafka properties of each kind of client, and whether librdkafka takes them. It connects to nothing."""

from __future__ import annotations

import logging
from typing import Any, Literal

from confluent_kafka import Consumer, KafkaException, Producer, libversion

from pipeline.config import owned
from pipeline.config.memory import FETCH_BYTES_MAX, SOURCE_QUEUE_BYTES_MAX
from pipeline.config.schema import Kafka, Tls
from pipeline.errors import Problem
from pipeline.kafka.resends import RETRY_BACKOFF_MS, STATISTICS_MS

Role = Literal["membership", "source", "producer", "admin"]
Property = str | int | float | bool

OWNED_KEYS: frozenset[str] = frozenset(owned.OWNED_KEYS)
"""librdkafka keys that the pass-through (`kafka.librdkafka`) may not set; why is told in `config.owned`."""

HEARTBEAT_MS_MAX = 1_000
"""Partitions of a dead member wait for the session timeout and then for a heartbeat of every other member; librdkafka's default
is three seconds."""

_CONSUMER_ONLY: tuple[str, ...] = (
    "fetch.",
    "max.partition.fetch",
    "queued.",
    "consume.",
    "heartbeat.interval",
    "coordinator.query",
)
_PRODUCER_ONLY: tuple[str, ...] = (
    "linger.",
    "batch.",
    "compression.",
    "queue.buffering.",
    "message.timeout",
    "delivery.",
    "partitioner",
    "sticky.",
    "retries",
    "message.send.max.retries",
    "max.in.flight",
)


def properties(config: Kafka, role: Role) -> dict[str, Property]:
    """The librdkafka properties of one client. The pass-through is applied before the keys the pipeline owns."""
    result: dict[str, Property] = {"client.id": f"penstock-{role}", "socket.keepalive.enable": True}
    result |= _security(config)
    foreign = _PRODUCER_ONLY if role in ("membership", "source") else _CONSUMER_ONLY
    foreign = foreign + _PRODUCER_ONLY if role == "admin" else foreign
    result |= {key: value for key, value in config.librdkafka.items() if not key.startswith(foreign)}
    result |= {"bootstrap.servers": config.brokers, "allow.auto.create.topics": False}
    match role:
        case "membership":
            result |= _membership(config)
        case "source":
            result |= _source(config)
        case "producer":
            # `message.max.bytes` at librdkafka's maximum: only the broker decides what is too large for a topic.
            result |= {"enable.idempotence": True, "acks": "all", "message.max.bytes": 1_000_000_000}
            result.setdefault("compression.type", "lz4")
        case "admin":
            pass
    return result


def _security(config: Kafka) -> dict[str, Property]:
    tls, sasl = config.tls, config.sasl
    result: dict[str, Property] = {
        "security.protocol": ("SASL_" if sasl.mechanism else "") + ("SSL" if tls.enabled else "PLAINTEXT")
    }
    if tls.enabled:
        result |= _tls(tls)
    if sasl.mechanism:
        result |= {"sasl.mechanism": sasl.mechanism, "sasl.username": sasl.username, "sasl.password": sasl.password}
    return result


def _tls(tls: Tls) -> dict[str, Property]:
    files = {
        "ssl.ca.location": tls.ca_file,
        "ssl.certificate.location": tls.certificate_file,
        "ssl.key.location": tls.key_file,
    }
    result: dict[str, Property] = {key: value for key, value in files.items() if value}
    if not tls.verify:
        result |= {"enable.ssl.certificate.verification": False, "ssl.endpoint.identification.algorithm": "none"}
    return result


def _consumer(config: Kafka) -> dict[str, Property]:
    return {
        "group.id": config.group,
        # Automatic commits carry no metadata and would wipe the intents.
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": config.isolation,
    }


def _membership(config: Kafka) -> dict[str, Property]:
    """Group membership only: partitions stay paused, so the position that `earliest` would choose is never read from."""
    result = _consumer(config) | {
        "auto.offset.reset": "earliest",
        "enable.partition.eof": False,
        "group.protocol": config.group_protocol,
        "max.poll.interval.ms": max(config.max_poll_interval_ms, config.session_timeout_ms),
        # A commit waits for its answer as long as any request does.
        "socket.timeout.ms": config.commit_timeout_ms,
        # These three tell whether a commit was sent more than once.
        "retry.backoff.ms": RETRY_BACKOFF_MS,
        "retry.backoff.max.ms": 2 * RETRY_BACKOFF_MS,
        "statistics.interval.ms": STATISTICS_MS,
        "queued.max.messages.kbytes": 1_024,
        "fetch.max.bytes": FETCH_BYTES_MAX,
    }
    if config.group_protocol == "classic":
        # With `group.protocol=consumer` these two belong to the broker and librdkafka refuses them.
        result |= {"session.timeout.ms": config.session_timeout_ms}
        # With a heartbeat a member also learns that the group wants to rebalance, as when another member has died.
        if "heartbeat.interval.ms" not in config.librdkafka:
            result["heartbeat.interval.ms"] = min(HEARTBEAT_MS_MAX, config.session_timeout_ms // 6)
        result |= {"partition.assignment.strategy": "cooperative-sticky"}
    if config.instance_id:
        result["group.instance.id"] = config.instance_id
    return result


def _source(config: Kafka) -> dict[str, Property]:
    """Manual assignment. It names the group because librdkafka wants one, but never subscribes, so it never joins."""
    result = _consumer(config) | {
        # A position outside the log is an error, not a jump: the operator decides what is lost.
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "check.crcs": True,
        # Not polling is our backpressure; it must not look like a hung consumer.
        "max.poll.interval.ms": 86_400_000,
        "queued.max.messages.kbytes": SOURCE_QUEUE_BYTES_MAX // 1_024,
        "fetch.max.bytes": FETCH_BYTES_MAX,
    }
    # One second by default: a partition whose queue was full for a moment would not be fetched for that long.
    backoff = {"fetch.queue.backoff.ms": 10, "fetch.wait.max.ms": 100}
    return result | {key: value for key, value in backoff.items() if key not in config.librdkafka}


def refused_properties(config: Kafka) -> list[Problem]:
    """What librdkafka refuses of the configuration: unknown keys, values out of range, unreadable certificates.

    Each client is made once without brokers, so nothing connects; without this the first sign would be a client that
    cannot be made in the middle of a start.
    """
    found: dict[str, Problem] = {}
    clients: dict[Role, Any] = {"membership": Consumer, "source": Consumer, "producer": Producer}
    for role, make in clients.items():
        conf = {key: value for key, value in properties(config, role).items() if key != "bootstrap.servers"}
        try:
            client = make(conf, logger=_silent)
        except KafkaException as exception:
            text = exception.args[0].str().strip().removeprefix("Failed to create consumer: ")
            found.setdefault(
                text, Problem("kafka", "", f"is refused by librdkafka: {text}", _property_fix(config, text))
            )
        else:
            if make is Consumer:
                client.close()
    return list(found.values())


def _property_fix(config: Kafka, text: str) -> str:
    named = [key for key in config.librdkafka if f'"{key}"' in text or f"`{key}`" in text or key in text]
    if named:
        return f'Correct or remove "{named[0]}" under [kafka.librdkafka]'
    return "Correct it under [kafka.tls], [kafka.sasl] or [kafka.librdkafka]"


_silent = logging.getLogger("penstock.kafka.trial")
_silent.disabled = True


def librdkafka_version() -> str:
    """The version of the library under confluent-kafka."""
    return str(libversion()[0])
