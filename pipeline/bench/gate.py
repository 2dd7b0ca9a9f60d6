"""The gate: fails when the kernels need more instructions, or a worker more CPU against the floor, than the repository records.

`python -m pipeline.bench.gate RECORDED [--record REASON]`. Instructions are counted by callgrind and hardly vary: they are the
hard criterion. The ratio is what a user sees, and noisy: it is that of the cheapest worker to the cheapest floor of several
interleaved rounds, because noise only ever adds CPU, and a ratio above its limit is measured again before it counts.
docs/decisions/0008-the-gate.md says why.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.bench import kernels, rounds, stage
from pipeline.bench.condition import commit
from pipeline.bench.stage import Plan, environment

WORSE_MAX = 1.10
KERNELS = {"flat": 10_000, "commerce": 5_000}
PLAN = Plan(records=262_144, partitions=16)
ROUNDS = 3
ATTEMPTS = 3
VALGRIND_S_MAX = 400.0
_TOTALS = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)

Counts = dict[str, dict[str, float]]
Say = Callable[[str], None]


class Verdict(NamedTuple):
    """One comparison."""

    name: str
    measured: float
    recorded: float

    @property
    def change(self) -> float:
        return self.measured / self.recorded - 1

    @property
    def ok(self) -> bool:
        return self.measured <= self.recorded * WORSE_MAX

    def __str__(self) -> str:
        word = "ok" if self.ok else "WORSE"
        return f"{word:5} {self.name}: {self.measured:.4g}, recorded {self.recorded:.4g} ({self.change:+.1%})"


# Instructions


def why_not_counted() -> str:
    """Why instructions cannot be counted here; '' when they can."""
    return "" if shutil.which("valgrind") else "valgrind is not installed"


def why_not_compared(recorded: Mapping[str, Any]) -> str:
    """Why counts of another build mean nothing here; '' when they do."""
    here, there = build(), recorded["build"]
    differing = [key for key in here if here[key] != there.get(key)]
    return "".join(f"{key} is {here[key]}, recorded with {there.get(key)}; " for key in differing).rstrip("; ")


def build() -> dict[str, str]:
    """What instruction counts depend on beside our code."""
    return {"machine": platform.machine(), "python": ".".join(platform.python_version_tuple()[:2])}


def instructions() -> Counts:
    """Workload -> stage -> instructions per record."""
    with tempfile.TemporaryDirectory(prefix="penstock-gate-") as directory:
        command = [
            "valgrind",
            "--tool=callgrind",
            "--dump-before=getppid",
            f"--callgrind-out-file={directory}/profile",
            sys.executable,
            "-m",
            "pipeline.bench.kernels",
            *(f"{name}:{count}" for name, count in KERNELS.items()),
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=VALGRIND_S_MAX,
            check=False,
            env=environment() | {"PYTHONHASHSEED": "0"},
        )
        if done.returncode != 0:
            raise SystemExit(f"the kernels under valgrind ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return parse([path.read_text() for path in _parts(Path(directory))], KERNELS)


def _parts(directory: Path) -> list[Path]:
    """The parts of the profile in order; the last, which has no number, is what comes after the last mark."""
    return sorted(directory.glob("profile.*"), key=lambda path: int(path.suffix[1:]))


def parse(parts: Sequence[str], counts: Mapping[str, int]) -> Counts:
    """Parts of a profile as the docstring of `kernels` orders them."""
    wanted = len(counts) * kernels.PARTS_EACH
    if len(parts) != wanted:
        raise SystemExit(f"callgrind wrote {len(parts)} parts of a profile, expected {wanted}")
    totals = [int(found[1]) if (found := _TOTALS.search(part)) else 0 for part in parts]
    result: Counts = {}
    for index, (name, count) in enumerate(counts.items()):
        first = index * kernels.PARTS_EACH + 1
        stages = dict(zip(kernels.STAGES, totals[first : first + len(kernels.STAGES)], strict=True))
        result[name] = {stage_: round(total / count, 1) for stage_, total in stages.items()}
        result[name]["total"] = round(sum(stages.values()) / count, 1)
    return result


def compare_instructions(measured: Counts, recorded: Counts) -> list[Verdict]:
    """Of each workload the total: what moves from one stage to another is no loss."""
    return [
        Verdict(f"instructions per record, {name}", stages["total"], recorded[name]["total"])
        for name, stages in measured.items()
        if name in recorded
    ]


# The ratio


def best_ratio(taken: Sequence[Mapping[str, float]]) -> float:
    """The cheapest worker over the cheapest floor."""
    return min(one["worker_us"] for one in taken) / min(one["floor_us"] for one in taken)


def compare_ratio(measure: Callable[[], Mapping[str, float]], recorded: float) -> Verdict:
    """Takes rounds until the ratio is within its limit, and no more than ATTEMPTS times ROUNDS."""
    taken: list[Mapping[str, float]] = []
    for _ in range(ATTEMPTS):
        taken += [measure() for _ in range(ROUNDS)]
        verdict = Verdict("ratio_to_floor, flat", best_ratio(taken), recorded)
        if verdict.ok:
            break
    return verdict


def ratio(recorded: float | None) -> Verdict:
    """Measures on embedded parts; without a recorded value all attempts are made."""
    with (
        tempfile.TemporaryDirectory(prefix="penstock-gate-") as directory,
        stage.opened(Path(directory), PLAN) as scene,
    ):
        numbers = iter(range(ROUNDS * ATTEMPTS))
        return compare_ratio(lambda: rounds.floor_and_worker(scene, next(numbers)), recorded or 1e-9)


# The command


def check(path: Path, say: Say) -> int:
    """0 when nothing is worse."""
    recorded: dict[str, Any] = json.loads(path.read_text())
    verdicts = []
    skipped = why_not_counted() or why_not_compared(recorded)
    if skipped:
        say(f"skip  instructions per record: {skipped}")
    else:
        verdicts += compare_instructions(instructions(), recorded["instructions"])
    verdicts.append(ratio(recorded["ratio_to_floor"]))
    for verdict in verdicts:
        say(str(verdict))
    if all(verdict.ok for verdict in verdicts):
        return 0
    say(
        f"worse than {path} by more than {WORSE_MAX - 1:.0%}. Find out why; if it must be, `make gate-record REASON=...` "
        "in a commit of its own that says so"
    )
    return 1


def record(path: Path, reason: str, say: Say) -> int:
    """Writes what is measured now."""
    if skipped := why_not_counted():
        say(f"cannot record: {skipped}")
        return 1
    values = {
        "reason": reason,
        "commit": commit(),
        "build": build(),
        "instructions": instructions(),
        "ratio_to_floor": round(ratio(None).measured, 3),
    }
    path.write_text(json.dumps(values, indent=2) + "\n")
    say(path.read_text())
    return 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.bench.gate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recorded", type=Path, help="the file with the recorded values")
    parser.add_argument("--record", metavar="REASON", help="write them instead, and why they change")
    args = parser.parse_args(arguments)
    if args.record is not None:
        if not args.record.strip():
            parser.error("a recorded value changes only with a reason")
        return record(args.recorded, args.record, print)
    return check(args.recorded, print)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
