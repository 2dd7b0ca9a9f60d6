"""Shows from Kafka and ClickHouse alone that every consumed record became exactly one of: a row, a dead letter, a counted drop.

Owns the account and its report. It changes nothing in either system, and it is no part of the flow.
"""

from pipeline.verify.account import Accountant
from pipeline.verify.job import verify
from pipeline.verify.reach import Reach
from pipeline.verify.report import Example, Report

__all__ = ["Accountant", "Example", "Reach", "Report", "verify"]
