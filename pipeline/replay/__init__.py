"""Reads a stretch of the topics again and writes what the tables do not have: the worker's own flow, with an end.

Owns the bounds of that flow, its group, and its report. The flow, the protocol and the delivery are those of every worker.
"""

from pipeline.replay.job import dry_run, replay
from pipeline.replay.report import Report

__all__ = ["Report", "dry_run", "replay"]
