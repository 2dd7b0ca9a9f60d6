"""Why the brokers cannot be used: credentials, rights, certificates or the network, told once and in words for an operator."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException

from pipeline.errors import DependencyDown

log = logging.getLogger("penstock.kafka")


class Unrepeated(logging.Filter):
    """Lets a message through once in `interval_s`, numbers aside: an unreachable broker would be logged 20 times a second."""

    def __init__(self, interval_s: float = 10.0, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._now = now
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        kind = _DIGITS.sub("", text)
        now = self._now()
        last, dropped = self._seen.get(kind, (-self._interval_s, 0))
        if now - last < self._interval_s:
            self._seen[kind] = (last, dropped + 1)
            return False
        if len(self._seen) >= 256:
            self._seen.clear()
        self._seen[kind] = (now, 0)
        if dropped:
            record.msg, record.args = f"{text} ({dropped} more of the kind in between)", ()
        return True


_DIGITS = re.compile(r"\d+")
log.addFilter(Unrepeated())

CREDENTIAL_CODES = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)
ACCESS_CODES = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.DELEGATION_TOKEN_AUTHORIZATION_FAILED,
    }
)


class Trouble(NamedTuple):
    """Why the brokers cannot be used, in words for an operator."""

    code: int
    name: str
    reason: str

    @property
    def lasting(self) -> bool:
        """Waiting will not cure it: credentials, rights or certificates."""
        return self.code in CREDENTIAL_CODES or self.code in ACCESS_CODES or self.code == KafkaError._SSL

    def message(self, brokers: str) -> str:
        if self.code in CREDENTIAL_CODES:
            return (
                f"the brokers at {brokers} refuse our credentials ({self.name}: {self.reason}). "
                "Check kafka.sasl.mechanism, kafka.sasl.username and the password"
            )
        if self.code in ACCESS_CODES:
            return f"the brokers at {brokers} refuse access ({self.name}: {self.reason}). Grant the right to this user"
        if self.code == KafkaError._SSL:
            return f"TLS to {brokers} fails ({self.reason}). Check kafka.tls and the brokers' certificates"
        return (
            f"no broker at {brokers} can be reached ({self.name}: {self.reason}). "
            "Check kafka.brokers, the network, and that the listener speaks what kafka.tls and kafka.sasl say"
        )


def trouble_of(error: KafkaError) -> Trouble:
    return Trouble(error.code(), error.name(), error.str())


class Troubles:
    """Collects what librdkafka reports through `error_cb`, so that a timeout can be explained by its cause."""

    def __init__(self) -> None:
        self.last: Trouble | None = None

    def __call__(self, error: KafkaError) -> None:
        self.note(trouble_of(error))

    def note(self, trouble: Trouble) -> None:
        # "All brokers down" follows the message that says why; it must not hide it.
        if self.last is None or trouble.code != KafkaError._ALL_BROKERS_DOWN:
            self.last = trouble


def wait_for_brokers(
    list_topics: Callable[[float], Any],
    poll: Callable[[], object],
    troubles: Troubles,
    brokers: str,
    deadline_s: float,
) -> Any:
    """Returns the cluster's metadata, or raises `DependencyDown` at the deadline, or at once when waiting cannot help."""
    end = time.monotonic() + deadline_s
    while True:
        left = end - time.monotonic()
        try:
            metadata = list_topics(max(0.05, min(0.5, left)))
            troubles.last = None
            return metadata
        except KafkaException as exception:
            failure = trouble_of(exception.args[0])
        poll()
        trouble = troubles.last or failure
        if trouble.lasting or time.monotonic() >= end:
            raise DependencyDown(trouble.message(brokers)) from None
