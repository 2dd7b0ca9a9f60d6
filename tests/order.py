"""Which tests one process runs one after the other, and which of these groups comes first; for `make test`.

A group is a file, but for those that share brokers: they are together, so that the brokers are started once.
"""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

THREE_BROKERS, ONE_BROKER = "three brokers", "one broker"
LONG = (
    THREE_BROKERS,
    ONE_BROKER,
    "tests/integration/test_replay_run.py",
    "tests/integration/test_clickhouse_faults.py",
    "tests/integration/test_takeover.py",
    "tests/integration/test_bench.py",
    "tests/integration/test_bad_input.py",
    "tests/integration/test_demo_run.py",
    "tests/integration/test_sink_engine.py",
    "tests/simulation/test_engine_schedules.py",
    "tests/contract/test_model_kafka.py",
    "tests/contract/test_mock_kafka.py",
    "tests/integration/test_embedded_kafka.py",
)
"""The longest first, so that no process is left alone with one of them at the end."""


def group_of(nodeid: str) -> str:
    """The group of a test."""
    file = nodeid.partition("::")[0]
    if file.startswith("tests/faults/") and not file.endswith("test_proxy.py"):
        return THREE_BROKERS
    return ONE_BROKER if "apache" in nodeid else file


def rank(nodeid: str) -> int:
    """Where its group stands."""
    group = group_of(nodeid)
    return LONG.index(group) if group in LONG else len(LONG)


class Groups(LoadFileScheduling):  # type: ignore[misc]
    """Hands out groups instead of files."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
