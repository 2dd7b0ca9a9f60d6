"""`penstock run` without one of its safeguards, for the tests that check the checkers. It is no part of the product.

`python -m tests.faults.sabotage run -c FILE` with PENSTOCK_SABOTAGE naming the safeguard that is taken away:

    no_intents            commits carry no metadata, so that nobody can rebuild a batch that was in flight
    commit_before_insert  the offsets pass a batch when it is declared, before it is inserted
    no_token              every insert has a token of its own
"""

from __future__ import annotations

import os
import sys
import uuid
from typing import Any

SABOTAGES = ("", "no_intents", "commit_before_insert", "no_token")


def no_intents() -> None:
    from pipeline import intent

    intent.encode = lambda *_: ""  # type: ignore[assignment]


def commit_before_insert() -> None:
    from pipeline.commands import Commit, CommitEntry
    from pipeline.engine import Engine

    commit = Engine._commit

    def early(self: Engine, declares: Any) -> Commit:
        command = commit(self, declares)
        entries = {
            partition: CommitEntry(entry.epoch, self._held[partition].covered, "")
            for partition, entry in command.entries.items()
        }
        return Commit(command.number, entries)

    Engine._commit = early  # type: ignore[method-assign]


def no_token() -> None:
    from pipeline.clickhouse import ClickHouse, Encoded

    insert = ClickHouse.insert

    def unnamed(self: ClickHouse, encoded: Encoded, _: str) -> None:
        insert(self, encoded, uuid.uuid4().hex)

    ClickHouse.insert = unnamed  # type: ignore[method-assign]


def main() -> int:
    name = os.environ["PENSTOCK_SABOTAGE"]
    {"no_intents": no_intents, "commit_before_insert": commit_before_insert, "no_token": no_token}[name]()
    from pipeline.cli import main as penstock

    return penstock()


if __name__ == "__main__":
    sys.exit(main())
