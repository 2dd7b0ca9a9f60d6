"""Whether a configuration can work: against itself, against the contracts, and against Kafka and ClickHouse as they are now.

It looks and never changes anything: no topic, table, group or offset. What it finds is a list of checks, each with the fix.

    checks                    what a check is
    tables views rates        the target tables: definition, views, traffic
    servers clocks            ClickHouse's settings and clock, the timestamps of records
    brokers topics groups     Kafka: limits and deadlines, retention and compaction, offsets and members
    privileges                the least rights, and which are missing
    contracts starting live   the order: without servers, at a worker's start, against the live systems
    ask_clickhouse            reads the facts (those of Kafka: `pipeline.kafka.Inspection`)

Every check but those of the last two lines is a pure function of facts. `docs/doctor.md` lists them.
"""

from pipeline.preflight.brokers import broker_limits, deadlines
from pipeline.preflight.checks import Check, Status, exit_code, of_problem
from pipeline.preflight.contracts import offline
from pipeline.preflight.live import Terms, clickhouse, kafka
from pipeline.preflight.starting import definition_checks
from pipeline.preflight.tables import OUTAGE_S, table_checks, tables_of

__all__ = [
    "OUTAGE_S",
    "Check",
    "Status",
    "Terms",
    "broker_limits",
    "clickhouse",
    "deadlines",
    "definition_checks",
    "exit_code",
    "kafka",
    "of_problem",
    "offline",
    "table_checks",
    "tables_of",
]
