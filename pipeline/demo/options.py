"""What a demo is asked to do. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigurationError, Problem


@dataclass(frozen=True)
class Options:
    """`brokers` and `clickhouse` name servers that exist; empty ones are started for the demo."""

    events: int = 500_000
    partitions: int = 8
    workers: int = 2
    duplicates: float = 0.05
    poison: float = 0.001
    kill: int = 2
    seed: int = 1
    workload: str = "flat"
    keep: Path | None = None
    """Configuration, logs and the embedded ClickHouse's data stay here."""
    brokers: str = ""
    clickhouse: str = ""
    group_protocol: Literal["", "classic", "consumer"] = ""
    """Empty: `consumer` on the embedded Kafka, whose classic groups take long to rebalance, `classic` on a real one."""
    stall_s_max: float = 120.0
    """Without any progress for this long the demo gives up."""

    @property
    def protocol(self) -> Literal["classic", "consumer"]:
        return self.group_protocol or ("classic" if self.brokers else "consumer")

    def check(self) -> None:
        """Raises ConfigurationError for what cannot be run."""
        problems = [
            Problem(f"--{name}", str(value), rule, fix)
            for name, value, bad, rule, fix in (
                (
                    "events",
                    self.events,
                    self.events < self.partitions,
                    "there must be one for each partition",
                    "Ask for more",
                ),
                (
                    "partitions",
                    self.partitions,
                    not 1 <= self.partitions <= 64,
                    "must be 1 to 64",
                    "Choose another number",
                ),
                ("workers", self.workers, not 1 <= self.workers <= 16, "must be 1 to 16", "Choose another number"),
                ("kill", self.kill, not 0 <= self.kill <= 100, "must be 0 to 100", "Choose another number"),
            )
            if bad
        ]
        if problems:
            raise ConfigurationError(problems)
