"""`penstock replay` as a process, for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class Replay:
    """A replay that runs. `finish` waits for it."""

    def __init__(self, config: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "replay", "-c", str(config), *words, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, timeout_s: float = 90) -> tuple[int, dict[str, Any], str]:
        """Exit code, the result, and what it narrated."""
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"the replay did not end within {timeout_s} s:\n{err[-4_000:]}") from None
        lines = out.splitlines()
        return self.process.returncode, json.loads(lines[-1]) if lines else {}, err

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=10)


def replayed(config: Path, *words: str, code: int = 0) -> dict[str, Any]:
    """Runs a replay to its end and gives its result."""
    found, result, err = Replay(config, *words).finish()
    assert found == code, (found, result, err[-4_000:])
    return result
