"""Rules of the sections `name` and `kafka`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator

from pipeline.config.facts import Facts, Finding
from pipeline.config.owned import OWNED_KEYS
from pipeline.config.secrets import is_secret_name, without_user_info
from pipeline.config.start import parse_start
from pipeline.config.tree import did_you_mean

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_BROKER = re.compile(r"(?:\w+://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")
_BROKER_OWNED_TIMEOUTS = ("kafka.session_timeout_ms",)
_PASS_THROUGH_SECURITY = ("security.protocol", "sasl.mechanism", "sasl.mechanisms")


def is_topic_name(text: str) -> bool:
    """Kafka's own rule for topic names."""
    return bool(_TOPIC.fullmatch(text)) and text not in (".", "..")


def name(facts: Facts) -> Iterator[Finding]:
    if not _NAME.fullmatch(facts.config.name):
        yield Finding(
            "name",
            "must be 1 to 64 letters, digits, '.', '_' or '-' (it is part of every token and every offset commit)",
            'Choose a short name that never changes, such as name = "orders"',
        )


def brokers(facts: Facts) -> Iterator[Finding]:
    text = facts.config.kafka.brokers
    if "@" in text:
        yield Finding(
            "kafka.brokers",
            "must not hold credentials",
            "Set kafka.sasl.username, and kafka.sasl.password_file or PENSTOCK__KAFKA__SASL__PASSWORD",
            value=without_user_info(text) if "://" in text else "***@" + text.rpartition("@")[2],
        )
        return
    for part in text.split(","):
        match = _BROKER.fullmatch(part.strip())
        if not match or (match[2] and not 0 < int(match[2]) < 65_536):
            yield Finding(
                "kafka.brokers",
                f'"{part.strip()}" is not host:port',
                'Write host:port, several separated by commas: brokers = "kafka-1:9092,kafka-2:9092"',
            )


def group(facts: Facts) -> Iterator[Finding]:
    if not 0 < len(facts.config.kafka.group) <= 249:
        yield Finding(
            "kafka.group", "must have 1 to 249 characters", 'Name the consumer group: group = "penstock-orders"'
        )


def start(facts: Facts) -> Iterator[Finding]:
    try:
        parse_start(facts.config.kafka.start)
    except ValueError as error:
        yield Finding(
            "kafka.start",
            str(error),
            'Write start = "earliest", "latest" or a time with a zone, as "2026-01-31T06:00:00Z"',
        )


def consumer_protocol(facts: Facts) -> Iterator[Finding]:
    """KIP-848: the broker owns the session timeout, and librdkafka refuses the client's keys for it."""
    if facts.config.kafka.group_protocol != "consumer":
        return
    for key in facts.given(_BROKER_OWNED_TIMEOUTS):
        yield Finding(
            key,
            'cannot be set with kafka.group_protocol = "consumer" (the brokers decide it: group.consumer.session.timeout.ms)',
            "Remove the key",
            reads=("kafka.group_protocol",),
        )


def classic_protocol(facts: Facts) -> Iterator[Finding]:
    kafka = facts.config.kafka
    if kafka.group_protocol == "classic" and kafka.session_timeout_ms > kafka.max_poll_interval_ms:
        yield Finding(
            "kafka.session_timeout_ms",
            f"must be at most kafka.max_poll_interval_ms = {kafka.max_poll_interval_ms} (librdkafka refuses it otherwise)",
            f"Set kafka.session_timeout_ms to {kafka.max_poll_interval_ms} or less",
            reads=("kafka.max_poll_interval_ms",),
        )


def static_membership(facts: Facts) -> Iterator[Finding]:
    key = "kafka.instance_id"
    if not (instance := facts.config.kafka.instance_id):
        return
    if not is_topic_name(instance):
        yield Finding(
            key, "must be letters, digits, '.', '_' or '-', at most 249", 'Write it as instance_id = "worker-1"'
        )
    elif key not in facts.origins:
        yield Finding(
            key,
            "comes from the file, and two workers with the same one expel each other",
            "Set PENSTOCK__KAFKA__INSTANCE_ID for each worker when several share this file",
            warning=True,
        )


def isolation(facts: Facts) -> Iterator[Finding]:
    if facts.config.kafka.isolation == "read_uncommitted":
        yield Finding(
            "kafka.isolation",
            "lets in records of transactions that were rolled back",
            'Set isolation = "read_committed" unless no producer uses transactions',
            warning=True,
        )


def sasl(facts: Facts) -> Iterator[Finding]:
    kafka = facts.config.kafka
    if not kafka.sasl.mechanism:
        for key in ("username", "password"):
            if getattr(kafka.sasl, key):
                yield Finding(
                    f"kafka.sasl.{key}",
                    "has no effect without kafka.sasl.mechanism",
                    'Set mechanism = "SCRAM-SHA-512" (or what the brokers offer)',
                    reads=("kafka.sasl.mechanism",),
                )
        return
    if not kafka.sasl.username:
        yield Finding("kafka.sasl.username", f"is needed for {kafka.sasl.mechanism}", "Set username under [kafka.sasl]")
    if not kafka.sasl.password:
        yield Finding(
            "kafka.sasl.password",
            f"is needed for {kafka.sasl.mechanism}",
            "Set kafka.sasl.password_file, or PENSTOCK__KAFKA__SASL__PASSWORD",
            reads=("kafka.sasl.password_file",),
        )
    if not kafka.tls.enabled:
        yield Finding(
            "kafka.sasl.mechanism",
            "is used without TLS: the network can read "
            + (
                "the password and the records"
                if kafka.sasl.mechanism == "PLAIN"
                else "the records and attack the password"
            ),
            "Set enabled = true under [kafka.tls]",
            reads=("kafka.tls.enabled",),
            warning=True,
        )


def tls(facts: Facts) -> Iterator[Finding]:
    settings = facts.config.kafka.tls
    for key in ("ca_file", "certificate_file", "key_file"):
        path = getattr(settings, key)
        if not path:
            continue
        if not settings.enabled:
            yield Finding(
                f"kafka.tls.{key}",
                "has no effect while kafka.tls.enabled is false",
                "Set enabled = true under [kafka.tls], or remove the key",
                reads=("kafka.tls.enabled",),
            )
        elif not os.access(path, os.R_OK):
            yield Finding(f"kafka.tls.{key}", "cannot be read", "Check the path and who may read the file")
    for key, other in (("certificate_file", "key_file"), ("key_file", "certificate_file")):
        if getattr(settings, key) and not getattr(settings, other):
            yield Finding(
                f"kafka.tls.{other}",
                f"is needed with kafka.tls.{key}",
                "A client certificate is a pair of files: set both",
            )
    if settings.enabled and not settings.verify:
        yield Finding(
            "kafka.tls.verify",
            "accepts any certificate, so anyone in between can read and change the records",
            "Set verify = true and name the authority with ca_file",
            warning=True,
        )


def pass_through(facts: Facts) -> Iterator[Finding]:
    prefix = "kafka.librdkafka"
    for key in facts.config.kafka.librdkafka:
        dotted = f"{prefix}.{key}"
        if key in OWNED_KEYS:
            instead = OWNED_KEYS[key]
            yield Finding(
                dotted,
                "is set by penstock itself",
                f"Remove it; set {instead} instead"
                if instead
                else "Remove it; exactly-once or the memory plan rests on its value",
                reads=(prefix,),
            )
        elif key.replace("_", ".") in OWNED_KEYS:
            yield Finding(dotted, "is no librdkafka key; they are written with dots", "Remove it", reads=(prefix,))
        elif key in _PASS_THROUGH_SECURITY and facts.config.kafka.sasl.mechanism:
            yield Finding(dotted, "contradicts kafka.sasl.mechanism", "Keep one of the two", reads=(prefix,))
        elif is_secret_name(key) and prefix not in facts.origins:
            yield Finding(
                dotted,
                "is a secret, and secrets do not belong in the file",
                f'Set the whole table from the environment: PENSTOCK__KAFKA__LIBRDKAFKA=\'{{"{key}": "..."}}\'',
                value="***",
                reads=(prefix,),
            )
        elif key != key.lower() or ("." not in key and did_you_mean(key, OWNED_KEYS)):
            yield Finding(
                dotted,
                "is no librdkafka key",
                "Their names are lower case with dots, such as socket.timeout.ms",
                reads=(prefix,),
            )


RULES: tuple[Callable[[Facts], Iterable[Finding]], ...] = (
    name,
    brokers,
    group,
    start,
    consumer_protocol,
    classic_protocol,
    static_membership,
    isolation,
    sasl,
    tls,
    pass_through,
)
