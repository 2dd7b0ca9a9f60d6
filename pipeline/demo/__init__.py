"""The demo: a workload through real workers, some killed in the middle of it, and the proof that nothing was lost or doubled.

It starts and stops everything it needs. It is a user of the pipeline like any other: it configures, runs and verifies.
"""

from pipeline.demo.options import Options
from pipeline.demo.result import Result
from pipeline.demo.show import run

__all__ = ["Options", "Result", "run"]
