"""The gate's decisions, without measuring anything: what counts as worse, what is compared, what a profile says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.bench import gate, kernels

RECORDED = Path(__file__).parents[2] / "benchmarks" / "recorded.json"
COUNTS = {"flat": {"take": 8000.0, "block": 200.0, "lz4": 1000.0, "total": 9200.0}}


def recorded() -> dict[str, Any]:
    return {"build": gate.build(), "instructions": COUNTS, "ratio_to_floor": 2.0}


@pytest.mark.parametrize(("measured", "ok"), [(9200.0, True), (10_119.0, True), (10_121.0, False), (100.0, True)])
def test_more_than_a_tenth_is_worse(measured: float, ok: bool) -> None:
    verdicts = gate.compare_instructions({"flat": {"total": measured}}, COUNTS)
    assert [verdict.ok for verdict in verdicts] == [ok]
    assert ("WORSE" in str(verdicts[0])) is not ok


def test_a_profile_is_read_by_its_parts() -> None:
    totals = [999, 10_000, 2_000, 500, 777, 40_000, 8_000, 2_000]
    parts = [f"version: 1\nfn=(1) x\n1 2\ntotals: {total}\n" for total in totals]
    assert len(parts) == 2 * kernels.PARTS_EACH
    found = gate.parse(parts, {"flat": 100, "commerce": 200})
    assert found["flat"] == {"take": 100.0, "block": 20.0, "lz4": 5.0, "total": 125.0}
    assert found["commerce"]["total"] == 250.0
    with pytest.raises(SystemExit, match="7 parts"):
        gate.parse(parts[:7], {"flat": 100, "commerce": 200})


def test_counts_of_another_build_are_not_compared() -> None:
    assert gate.why_not_compared(recorded()) == ""
    other = recorded() | {"build": gate.build() | {"machine": "vax"}}
    assert "recorded with vax" in gate.why_not_compared(other)


class Rounds:
    """Rounds as given, one after the other."""

    def __init__(self, *ratios: float) -> None:
        self._ratios = ratios
        self.taken = 0

    def __call__(self) -> Mapping[str, float]:
        ratio = self._ratios[min(self.taken, len(self._ratios) - 1)]
        self.taken += 1
        return {"floor_us": 1.0, "worker_us": ratio}


def test_a_good_ratio_needs_one_attempt() -> None:
    rounds = Rounds(2.9, 2.1, 3.5)
    assert gate.compare_ratio(rounds, 2.0).ok
    assert rounds.taken == gate.ROUNDS


def test_noise_is_measured_again_and_a_loss_stays_one() -> None:
    rounds = Rounds(3.0, 2.9, 2.8, 2.7, 2.15, 3.0)
    verdict = gate.compare_ratio(rounds, 2.0)
    assert verdict.ok
    assert verdict.measured == 2.15
    assert rounds.taken == 2 * gate.ROUNDS
    rounds = Rounds(2.3)
    assert not gate.compare_ratio(rounds, 2.0).ok
    assert rounds.taken == gate.ATTEMPTS * gate.ROUNDS


def test_a_noisy_floor_does_not_make_a_worker_look_cheap() -> None:
    taken = [{"floor_us": 2.0, "worker_us": 4.0}, {"floor_us": 1.0, "worker_us": 4.2}]
    assert gate.best_ratio(taken) == 4.0


def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, total: float, ratio: float, why: str = "") -> Any:
    path = tmp_path / "recorded.json"
    path.write_text(json.dumps(recorded()))
    monkeypatch.setattr(gate, "why_not_counted", lambda: why)
    monkeypatch.setattr(gate, "instructions", lambda: {"flat": {"total": total}})
    monkeypatch.setattr(gate, "ratio", lambda known: gate.Verdict("ratio_to_floor, flat", ratio, known))
    said: list[str] = []
    return gate.check(path, said.append), "\n".join(said)


def test_either_criterion_fails_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(tmp_path, monkeypatch, total=9200, ratio=2.1)[0] == 0
    code, said = check(tmp_path, monkeypatch, total=11_000, ratio=2.0)
    assert code == 1
    assert "WORSE instructions per record, flat" in said
    assert "gate-record" in said
    assert check(tmp_path, monkeypatch, total=9200, ratio=2.3)[0] == 1


def test_without_valgrind_the_gate_says_so_and_the_ratio_still_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = check(tmp_path, monkeypatch, total=99_999, ratio=2.0, why="valgrind is not installed")
    assert code == 0
    assert "skip  instructions per record: valgrind is not installed" in said
    assert check(tmp_path, monkeypatch, total=0, ratio=2.3, why="valgrind is not installed")[0] == 1


def test_a_record_needs_a_reason(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        gate.main([str(tmp_path / "recorded.json"), "--record", " "])
    assert not (tmp_path / "recorded.json").exists()


def test_the_recorded_values_are_whole() -> None:
    values = json.loads(RECORDED.read_text())
    assert values["reason"]
    assert values["ratio_to_floor"] > 1
    assert set(values["instructions"]) == set(gate.KERNELS)
    for stages in values["instructions"].values():
        assert set(stages) == {*kernels.STAGES, "total"}


def test_the_kernels_take_every_record_and_time_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert kernels.main(["flat:300", "commerce:300"]) == 0
    told = json.loads(capsys.readouterr().out)
    for name in ("flat", "commerce"):
        assert set(told[name]) == set(kernels.STAGES)
        assert told[name]["take"] > 0
