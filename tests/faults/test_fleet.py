"""The fleet by itself, with workers that are no processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import pytest

from tests.faults import fleet as module
from tests.faults.fleet import Fleet
from tests.faults.stage import Setting
from tests.integration.harness import wait_until


class NoStage:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config_file = directory / "penstock.toml"
        self.setting = Setting()


class Mortal:
    """Its first life ends at once."""

    def __init__(self, *_: Any, **more: Any) -> None:
        self.starts = 0
        self.running = False

    def start(self) -> None:
        self.starts += 1
        self.running = self.starts > 1

    def ended(self) -> tuple[int, str] | None:
        return (78, "") if self.starts == 1 and not self.running else None

    def kill(self) -> None:
        self.running = False


def test_a_worker_that_was_started_again_by_hand_is_not_started_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first of the two was forgotten, and went on for ever under the name of the second."""
    monkeypatch.setattr(module, "Worker", Mortal)
    monkeypatch.setattr(module, "RESTART_S", 0.5)
    with Fleet(cast("Any", NoStage(tmp_path))) as fleet:
        worker = cast("Any", fleet.start(1))
        wait_until(lambda: fleet.exits, 10, "its end is noticed")
        fleet.start(1)
        time.sleep(1.2)
        assert worker.starts == 2
