"""The suite itself, for a moment: that its faults can be injected, and that nothing is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.report import lines
from tests.faults.run import run
from tests.faults.stage import Servers, Setting

SECONDS = 12.0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_moment_of_faults(three_brokers: Servers, tmp_path: Path, seed: int) -> None:
    """`make faults` is this, for longer. The protocol and the kind of members are drawn, too."""
    protocol = "consumer" if seed % 4 >= 2 else "classic"
    setting = Setting(seed=seed, protocol=protocol, static=seed % 2 == 1)
    outcome = run(three_brokers, tmp_path, setting, SECONDS, quiet=True)
    said = "\n".join(lines(outcome))
    print(said)
    assert outcome.tally.total("process") > 0, said
    assert outcome.tally.total("network") > 0, said
    assert outcome.findings == [], said
