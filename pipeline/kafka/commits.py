"""What is known of an offset commit that failed. A pure function of librdkafka's error code."""

from __future__ import annotations

from typing import Literal

from confluent_kafka import KafkaError

CommitOutcome = Literal["refused", "fenced", "denied", "unknown"]

_REFUSED = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.REBALANCE_IN_PROGRESS,
        # The generation has moved on. A member that takes part learns the new one with its next poll; one that was left out
        # learns from the group that its assignment is lost, and nothing of it is committed again.
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)
_FENCED = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.UNRELEASED_INSTANCE_ID,
        KafkaError._FENCED,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._MAX_POLL_EXCEEDED,
    }
)
_DENIED = frozenset(
    {
        KafkaError.OFFSET_METADATA_TOO_LARGE,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.INVALID_COMMIT_OFFSET_SIZE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.GROUP_ID_NOT_FOUND,
        KafkaError._INVALID_ARG,
        KafkaError._UNKNOWN_GROUP,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError._NOT_CONFIGURED,
    }
)


def classify_commit(code: int) -> CommitOutcome:
    """What is known after a commit failed with librdkafka error `code`.

    refused   the coordinator did not take it, and a later try may succeed
    fenced    this member is no longer one: nothing it owned may be committed again
    denied    not taken, and no retry will help: authorization, configuration
    unknown   it may or may not have been taken (timeouts, transport, everything not listed)

    `retriable()` of the error object is no help: it is false even for a rebalance in progress.
    """
    if code in _REFUSED:
        return "refused"
    if code in _FENCED:
        return "fenced"
    if code in _DENIED:
        return "denied"
    return "unknown"
