"""What the fixes are worth to the simulation: takes one out at a time and looks for a seed that shows it.

`python -m tests.simulation.sabotage [--seeds N] [NAME]`. A fix whose absence no seed shows any more has a schedule that has
become too rare, or code around it that has made it needless. Some need thousands of seeds, so this is no test of its own.
"""

from __future__ import annotations

import argparse
import inspect
import secrets
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pipeline.batch import OpenBatch
from pipeline.beyond import Beyond
from pipeline.delivery import Delivery
from pipeline.engine import Engine
from pipeline.flow import Budget, Flow
from pipeline.membership import Membership
from pipeline.recovery import Recovery
from pipeline.sink import Sink
from pipeline.window import Window
from pipeline.worker import Worker
from tests.simulation.runner import explain_schedule, quiet, try_seed
from tests.simulation.schedule import draw
from tests.simulation.shrink import shrink


class Sabotage(NamedTuple):
    """`text` in the source of a method becomes `instead`."""

    owner: type
    method: str
    text: str
    instead: str


FIXES = {
    "what is behind an undeclared batch goes with it": Sabotage(
        Engine, "_discard_undeclared", "if dropping:", "if batch.status is Status.SEALED:"
    ),
    "nothing is read while a partition is about to go": Sabotage(
        Engine, "_discard_undeclared", "{} if self._revoking() else positions", "positions"
    ),
    "claims of what is not durable are void when a partition goes": Sabotage(
        Engine, "revoked", "partition: held.durable", "partition: max(held.covered, held.durable)"
    ),
    "claims of a partition that goes before it is ready are good up to its committed offset": Sabotage(
        Engine, "assigned", "-1 if assigned.offset is None else assigned.offset", "-1"
    ),
    "claims of what was recovered are good": Sabotage(
        Recovery, "_prepare", "self._dedup.settle(partition, position)", "pass"
    ),
    "the claims of a partition that is read go back to the window before an older batch": Sabotage(
        Recovery,
        "_reaches",
        "(span for intent in intents for span in intent.spans)",
        "(s for i in intents for s in i.spans if s.partition in positions or not self._dedup.reads(s.partition))",
    ),
    "what is declared has its claims in the order of the batches": Sabotage(
        Window, "_from_kafka", "in_order(spans, batches)", "[spans]"
    ),
    "rows left out are left out again": Sabotage(Flow, "_discard", " and position >= beyond.end", ""),
    "rows left out are looked for as far as reading goes": Sabotage(
        Beyond, "left_out", " or min(next_offset, self.end) > self._page.next", ""
    ),
    "rows left out have claims, a window ahead": Sabotage(
        Recovery, "_claim_beyond", "if self._window.has_ids(topic)", "if False"
    ),
    "stored rows of a declared batch have claims": Sabotage(
        Recovery, "_finish", "self._claim(intent.spans, stored)", "pass"
    ),
    "a refused record that has left the topic has a letter": Sabotage(
        Delivery, "_letters_of", "letters.append(", "raise RejectLimitExceeded("
    ),
    "rows of an insert that was repeated are looked up": Sabotage(
        Sink, "_put", "at_once or not self._keeps_tokens_first(write.table)", "True"
    ),
    "a commit that was sent twice ends the membership": Sabotage(
        Membership, "_commit", "once or outcome not in (CommitOutcome.ACCEPTED, CommitOutcome.REFUSED)", "True"
    ),
    "partitions that the group has left to nobody are given to somebody": Sabotage(
        Worker, "_look_for_unassigned", "rebalance=True", "rebalance=False"
    ),
    "nothing is read while the bytes in flight are used up": Sabotage(
        Budget, "used_up", "self.nbytes >= limits.bytes_in_flight_max", "False"
    ),
    "a batch is full when it has its bytes": Sabotage(
        OpenBatch, "seal_trigger", "self.nbytes >= self._limits.bytes_max", "False"
    ),
    "what waits for the next batch is forgotten when partitions are assigned": Sabotage(
        Flow, "_assign", "self._waiting.clear()", "pass"
    ),
    "no more waits for the next batch than it takes": Sabotage(Flow, "_records_max", "if self._waiting:", "if False:"),
    "a poll takes what there is room for": Sabotage(
        Flow, "_records_max", "min(room, limits.poll_records_max)", "limits.poll_records_max"
    ),
}


@contextmanager
def taken_out(fix: Sabotage) -> Iterator[None]:
    owner, method, text, instead = fix
    before = getattr(owner, method)
    source = textwrap.dedent(inspect.getsource(before))
    assert text in source, f"{owner.__name__}.{method} has no {text!r}"
    made: dict[str, Any] = {}
    future = "from __future__ import annotations\n"
    exec(future + source.replace(text, instead), vars(sys.modules[owner.__module__]), made)
    setattr(owner, method, made[method])
    try:
        yield
    finally:
        setattr(owner, method, before)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.sabotage", description=__doc__)
    parser.add_argument("name", nargs="?", default="", help="only fixes with these words in their name")
    parser.add_argument("--seeds", type=int, default=5_000)
    parser.add_argument("--first", type=int, default=None, help="the first seed; random without it")
    options = parser.parse_args(arguments)
    first = options.first if options.first is not None else secrets.randbits(31)
    quiet()
    unseen = 0
    for name, fix in FIXES.items():
        if options.name not in name:
            continue
        with taken_out(fix):
            seed = next((seed for seed in range(first, first + options.seeds) if try_seed(seed)[0]), None)
            if seed is None:
                unseen += 1
                print(f"{name}: nothing in {options.seeds} seeds from {first}", flush=True)
                continue
            print(f"{name}: seed {seed}, the {seed - first + 1}th", flush=True)
            if options.name:
                print(explain_schedule(shrink(draw(seed))))
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
