"""What a seed stands for: the shape of a run and everything that goes wrong in it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from pipeline import classify
from tests.simulation.faults import Fault

CHAOS_S = 10.0
BATCH_BYTES_MAX = 1_000_000
"""Never reached; a record of a run has some 50 bytes."""
RETRIABLE = (252, 241, 242, 159, 999, 210)
REFUSALS = (14, 16, 27)
UNKNOWN_TOPIC = 3
ZOMBIES = ("stopped", "hung data plane")
"""After these a worker sends what it was about to send long before."""
assert all(code in classify.RETRIABLE for code in RETRIABLE)


@dataclass(frozen=True)
class Switches:
    """Test-only: what each omission costs."""

    intents: bool = True
    tokens: bool = True
    commit_after_insert: bool = True


@dataclass(frozen=True)
class Schedule:
    """All that decides a run, beside the project's code."""

    seed: int
    protocol: str
    workers: int
    partitions: int
    records: int
    faults: tuple[Fault, ...]
    lineage: bool = True
    partitioned: bool = False
    window_blocks: int = 200
    window_s: int | None = None
    one_server: bool = True
    dedup: bool = True
    rebuild: str = "clickhouse"
    dedup_window_s: int = 3_600
    duplicates: float = 0.15
    poison: float = 0.05
    gaps: float = 0.05
    rows_max: int = 8
    batch_bytes_max: int = BATCH_BYTES_MAX
    poll_records_max: int = 20
    partitions_max: int = 64
    static: bool = False
    view: bool = False
    switches: Switches = Switches()

    def __str__(self) -> str:
        shape = (
            f"seed {self.seed}: {self.protocol} protocol, {self.workers} workers, {self.partitions} partitions, "
            f"{self.records} records, lineage {self.lineage}, partitioned {self.partitioned}, "
            f"window {self.window_blocks} blocks {self.window_s} s, dedup {self.dedup} {self.rebuild} "
            f"{self.dedup_window_s} s, one server {self.one_server}, static members {self.static}, view {self.view}, "
            f"{self.partitions_max} partitions a batch"
        )
        return "\n".join([shape, *(f"  fault {fault}" for fault in self.faults)])


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    rng = Random(seed)
    lineage = rng.random() < 0.8
    workers = rng.choice((1, 2, 2, 3, 3))
    view = rng.random() < 0.1
    # A row that is a copy for one worker and not for another may be in the table and not in the view.
    dedup = rng.random() < 0.8 and not view
    window_blocks, window_s = 200, None
    if view:
        # Rows that are looked up because their token may be forgotten are not sent to the view again.
        window_blocks = 100_000
    elif lineage and rng.random() < 0.25:
        window_blocks = rng.choice((40, 80))
    elif rng.random() < 0.2:
        window_s = 3_600
    faults = tuple(_faults(rng, workers, lineage, window_blocks, view))
    # A run of records across a jump of more than the window has two times, and the window goes by one.
    jumps = any(fault.what == "clock jump" and fault.seconds > 30 for fault in faults)
    # Windows that a worker rebuilds differ from what another holds: most of all where all is read again.
    lost = any(fault.what == "offsets lost" for fault in faults)
    return Schedule(
        seed=seed,
        protocol=rng.choice(("classic", "consumer")),
        workers=workers,
        partitions=rng.choice((1, 2, 3, 4)),
        records=rng.choice((10, 20, 30, 45)),
        faults=faults,
        lineage=lineage,
        partitioned=rng.random() < 0.3 and (lineage or not dedup) and not view,
        window_blocks=window_blocks,
        window_s=window_s,
        one_server=rng.random() < 0.6,
        dedup=dedup,
        rebuild=rng.choice(("clickhouse", "clickhouse", "kafka")),
        dedup_window_s=3_600 if jumps else rng.choice((3_600, 3, 3, 3) if lost else (3_600, 3_600, 30, 3)),
        duplicates=rng.choice((0.0, 0.15, 0.4)),
        poison=rng.choice((0.0, 0.05, 0.2)),
        gaps=rng.choice((0.0, 0.05, 0.3)),
        rows_max=rng.choice((3, 8, 20)),
        static=rng.random() < 0.25,
        view=view,
        batch_bytes_max=rng.choice((BATCH_BYTES_MAX, 150, 400)),
        poll_records_max=rng.choice((3, 20)),
        partitions_max=rng.choice((1, 2, 64)),
    )


def _faults(rng: Random, workers: int, lineage: bool, window_blocks: int, view: bool) -> list[Fault]:
    """A few kinds of fault, some of each: runs with everything at once reach less."""
    kinds = [
        _crashes,
        _stops,
        _rebalances,
        _joins,
        _restarts,
        _commits,
        _inserts,
        _questions,
        _letters,
        _outages,
        _world,
        _hangs,
    ]
    found: list[Fault] = []
    for kind in rng.sample(kinds, rng.randint(1, 5)):
        found += kind(rng, workers)
    if view:
        found += [Fault("insert", rng.randint(1, 15), "view_fails") for _ in range(rng.randint(1, 5))]
    if rng.random() < 0.06 and lineage and window_blocks > 100:
        found.append(Fault("time", rng.uniform(1, CHAOS_S - 4), "retention", code=rng.randrange(1_000)))
    elif rng.random() < 0.08 and lineage and window_blocks > 100:
        # Without the offsets nobody would know that retention took what was not read.
        found += [Fault("time", rng.uniform(1, CHAOS_S - 1), "offsets lost") for _ in range(rng.randint(1, 4))]
        found += _crashes(rng, workers)
    return _within_the_promise(rng, found, lineage, window_blocks, view)


def _within_the_promise(rng: Random, found: list[Fault], lineage: bool, window_blocks: int, view: bool) -> list[Fault]:
    """Leaves out what together with something else is beyond what is promised."""
    kinds = {fault.what for fault in found}
    left_out: set[str] = set()
    if window_blocks < 100:
        # A zombie's insert that outlives the window.
        left_out |= {"late", *ZOMBIES}
        found += [
            Fault("time", at, "other writers fill the window", seconds=rng.uniform(1, 3)) for at in _times(rng, 2)
        ]
    if "contract changed" in kinds:
        # Two contracts that disagree about a batch: while a write of the first is under way, or unseen without lineage.
        left_out |= {"late", "dead-letter outage", *ZOMBIES} if lineage else {"contract changed"}
    if kinds & {"retention", "offsets lost"}:
        # Without the metadata nobody knows what is under way.
        left_out |= {"late", *ZOMBIES, "contract changed", "table emptied"}
    if "table emptied" in kinds - left_out:
        # The table forgets its tokens with its rows: an insert still on its way would be another one.
        left_out |= {"late", *ZOMBIES}
    if not lineage:
        # Rows of which a killed server kept the token only: nobody can tell.
        left_out.add("killed")
    if view:
        # The view would get rows twice that the table lost with a part, under the second token.
        left_out.add("killed")
        # The view gets what the table has taken only if the same block is sent again, which takes the metadata.
        left_out |= {"contract changed", "table emptied", "compaction", "retention", "offsets lost"}
    found = [fault for fault in found if fault.what not in left_out]
    return sorted(found, key=lambda fault: (fault.on, fault.at, fault.what))


def _times(rng: Random, most: int) -> list[float]:
    return [rng.uniform(0.2, CHAOS_S) for _ in range(rng.randint(1, most))]


def _crashes(rng: Random, workers: int) -> list[Fault]:
    found = []
    for at in _times(rng, 4):
        whom = rng.randrange(workers)
        if rng.random() < 0.3:
            found.append(Fault("time", at, "crash", whom=whom))
        else:
            found.append(Fault("time", at, "crash at call", code=rng.randrange(30), whom=whom))
    return found


def _stops(rng: Random, workers: int) -> list[Fault]:
    """SIGSTOP, mostly long enough to lose the partitions."""
    return [
        Fault("time", at, "stopped", seconds=rng.choice((0.5, 4.0, 6.0, 10.0)), whom=rng.randrange(workers))
        for at in _times(rng, 3)
    ]


def _hangs(rng: Random, workers: int) -> list[Fault]:
    """The thread of the data plane stands still, mostly long enough for the worker to lose its partitions."""
    return [
        Fault("time", at, "hung data plane", seconds=rng.choice((3.0, 18.0, 30.0)), whom=rng.randrange(workers))
        for at in _times(rng, 2)
    ]


def _rebalances(rng: Random, workers: int) -> list[Fault]:
    return [Fault("time", at, "rebalance") for at in _times(rng, 5)]


def _joins(rng: Random, workers: int) -> list[Fault]:
    """Every start is a join; the answers of some are lost."""
    crashes = [Fault("time", at, "crash", whom=rng.randrange(workers)) for at in _times(rng, 3)]
    return [*crashes, *(Fault("join", rng.randint(1, 8), "reply_lost") for _ in range(rng.randint(1, 3)))]


def _restarts(rng: Random, workers: int) -> list[Fault]:
    found = []
    for at in _times(rng, 3):
        what = rng.choice(("planned restart", "planned restart", "scaled down", "contract changed"))
        code = rng.randrange(3) if what == "contract changed" else 0
        found.append(Fault("time", at, what, seconds=rng.uniform(0.5, 5), code=code, whom=rng.randrange(workers)))
    return found


def _commits(rng: Random, workers: int) -> list[Fault]:
    found = []
    for _ in range(rng.randint(1, 5)):
        what = rng.choice(("request_lost", "reply_lost", "late", "refused", "in_part", "sent_twice"))
        seconds = rng.uniform(0.5, 20) if what == "late" else rng.uniform(0.0, 4.0) if what == "sent_twice" else 0.0
        code = {"refused": rng.choice(REFUSALS), "in_part": UNKNOWN_TOPIC}.get(what, 0)
        found.append(Fault("commit", rng.randint(1, 25), what, seconds, code))
    found += [Fault("committed", rng.randint(1, 8), "no answer")] if rng.random() < 0.3 else []
    return found


def _inserts(rng: Random, workers: int) -> list[Fault]:
    found = []
    for _ in range(rng.randint(1, 6)):
        what = rng.choice(("error", "reply_lost", "reply_lost", "late", "late", "partial", "killed"))
        seconds = rng.choice((1.0, 5.0, 20.0, 100.0)) * rng.uniform(0.5, 1.5) if what == "late" else 0.0
        # Killed after so many parts, and the token of the next.
        code = rng.choice(RETRIABLE) if what == "error" else rng.randrange(2) if what == "killed" else 0
        found.append(Fault("insert", rng.randint(1, 15), what, seconds, code))
    return found


def _questions(rng: Random, workers: int) -> list[Fault]:
    return [Fault("query", rng.randint(1, 20), "error", code=rng.choice(RETRIABLE)) for _ in range(rng.randint(1, 4))]


def _letters(rng: Random, workers: int) -> list[Fault]:
    whats = ("written_but_unknown", "lost_and_unknown", "missing_topic")
    return [Fault("letter", rng.randint(1, 6), rng.choice(whats)) for _ in range(rng.randint(1, 4))]


def _outages(rng: Random, workers: int) -> list[Fault]:
    whats = ("clickhouse outage", "dead-letter outage")
    return [Fault("time", at, rng.choice(whats), seconds=rng.uniform(0.5, 6)) for at in _times(rng, 3)]


def _world(rng: Random, workers: int) -> list[Fault]:
    found = []
    for at in _times(rng, 3):
        what = rng.choice(("clock jump", "compaction", "compaction", "table emptied"))
        seconds = rng.choice((-3_600.0, -5.0, 5.0, 600.0)) if what == "clock jump" else 0.0
        found.append(Fault("time", at, what, seconds=seconds, code=rng.randrange(1_000)))
    return found
