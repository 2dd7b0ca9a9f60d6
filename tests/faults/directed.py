"""Short schedules that aim at one moment of the protocol, for tests; the random runs are in `run`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from tests.faults.account import Account, account
from tests.faults.fleet import Fleet, Worker
from tests.faults.letters import LetterBook
from tests.faults.load import load
from tests.faults.network import CLICKHOUSE
from tests.faults.stage import SESSION_S, Stage
from tests.integration.harness import wait_until

Schedule = Callable[[Stage, Fleet], None]

FOREVER = 1_000_000
LATE_S = SESSION_S + 14.0
"""An insert held back for so long arrives after the partitions of its worker have gone to another."""
SETTLE_S_MAX = 90.0


def has_inserted(worker: Worker) -> bool:
    return re.search(r"^penstock_rows_inserted_total\S* [1-9]", worker.get("/metrics"), re.MULTILINE) is not None


def refuse_inserts(stage: Stage, worker: Worker) -> None:
    """ClickHouse is out of memory until the fault is taken back; returns when the worker waits for it."""
    stage.servers.clickhouse.fault("fail", times=FOREVER, code=241, name="MEMORY_LIMIT_EXCEEDED", match=stage.table)
    wait_until(lambda: "MEMORY_LIMIT" in worker.get("/readyz"), 20, "a worker that waits")


def late_insert_of_a_dead_worker(stage: Stage, fleet: Fleet) -> None:
    """A worker is killed while its insert is on its way; the insert arrives when another has its partitions."""
    fleet.start(1)
    wait_until(stage.moved, 60, "the first worker goes on")
    trap = stage.servers.network.trap([CLICKHOUSE], "insert", "late", LATE_S)
    wait_until(lambda: trap.sprung, 10, "an insert")
    fleet.kill(1)
    killed_s = time.monotonic()
    before = stage.committed()
    fleet.start(2)
    wait_until(lambda: stage.committed() not in (before, {}), LATE_S - 1.0, "the second worker goes on")
    time.sleep(max(0.0, killed_s + LATE_S + 1.0 - time.monotonic()))


def kill_while_nothing_is_inserted(stage: Stage, fleet: Fleet) -> None:
    """ClickHouse refuses every insert; the worker is killed with batches declared; then ClickHouse takes them again."""
    fleet.start(1)
    wait_until(stage.moved, 60, "the first worker goes on")
    refuse_inserts(stage, fleet.workers[1])
    fleet.kill(1)
    stage.servers.clickhouse.clear_faults()
    fleet.start(2)


def zombie_that_inserts_again(stage: Stage, fleet: Fleet) -> None:
    """A worker freezes while ClickHouse refuses its batch, and tries again when another has inserted that batch."""
    fleet.start(1)
    wait_until(stage.moved, 60, "the first worker goes on")
    refuse_inserts(stage, fleet.workers[1])
    fleet.freeze(1)
    stage.servers.clickhouse.clear_faults()
    second = fleet.start(2)
    # Not any rows: an insert of the first one may have been under way when it froze.
    wait_until(lambda: has_inserted(second), SESSION_S + 20, "the second worker goes on")
    time.sleep(1.0)
    fleet.thaw(1)
    time.sleep(3.0)


def accounted(stage: Stage, schedule: Schedule, sabotage: str = "") -> Account:
    """Runs the schedule under load, lets everything come to its end, and accounts for every record."""
    with Fleet(stage, sabotage=sabotage) as fleet, LetterBook(stage) as book:
        with load(stage) as sender:
            schedule(stage, fleet)
            ends = sender.stop().next
        wait_until(
            lambda: {number: offset for number, (offset, _) in stage.committed().items()} == ends,
            SETTLE_S_MAX,
            "everything is committed",
        )
        for number in list(fleet.workers):
            fleet.stop(number)
        book.drain()
        return account(stage, ends, book)
