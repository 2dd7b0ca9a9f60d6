"""Says what became of one record: asks Kafka and ClickHouse as `verify` does, about one place or one event id.

Owns the question and its answers. It changes nothing in either system, and shows nothing of a record's payload.
"""

from pipeline.explain.answer import Answer, Outcome
from pipeline.explain.job import explain_id, explain_place

__all__ = ["Answer", "Outcome", "explain_id", "explain_place"]
