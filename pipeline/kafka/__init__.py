"""How this project speaks to Kafka: client properties per role, what a commit's error means, questions about the cluster.

It never reads a record, never joins a group and never commits; those are `source` and `membership`.
"""

from pipeline.kafka.clients import OWNED_KEYS, Role, librdkafka_version, properties, refused_properties
from pipeline.kafka.cluster import Cluster
from pipeline.kafka.commits import CommitOutcome, classify_commit
from pipeline.kafka.inspection import Group, Inspection
from pipeline.kafka.opening import Clients
from pipeline.kafka.resends import Resends
from pipeline.kafka.trouble import (
    ACCESS_CODES,
    CREDENTIAL_CODES,
    Trouble,
    Troubles,
    Unrepeated,
    log,
    trouble_of,
    wait_for_brokers,
)

__all__ = [
    "ACCESS_CODES",
    "CREDENTIAL_CODES",
    "OWNED_KEYS",
    "Clients",
    "Cluster",
    "CommitOutcome",
    "Group",
    "Inspection",
    "Resends",
    "Role",
    "Trouble",
    "Troubles",
    "Unrepeated",
    "classify_commit",
    "librdkafka_version",
    "log",
    "properties",
    "refused_properties",
    "trouble_of",
    "wait_for_brokers",
]
