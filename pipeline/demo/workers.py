"""The demo's worker processes, each `penstock run`: started, killed, started again, stopped, with their CPU time."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.request
from pathlib import Path

import psutil

from pipeline.embedded.child import Child
from pipeline.errors import GaveUp, PipelineStopped

READY_S_MAX = 60.0
POLL_S = 0.02


class Worker:
    """One member of the fleet; its process may be another one over time. `cpu_s` counts the processes that ended."""

    def __init__(self, number: int, config: Path, directory: Path) -> None:
        self.number = number
        self._config = config
        self._log = directory / f"worker-{number}.log"
        self._child: Child | None = None
        self._log_start = 0
        self._port = 0
        self.cpu_s = 0.0
        self.starts = 0
        self.start_cpu_s = 0.0
        """Of the first process, until it was ready: what starting Python and reading schemas costs, without any event."""

    def start(self) -> None:
        self.starts += 1
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self._port = 0
        command = [sys.executable, "-m", "pipeline", "run", "-c", str(self._config)]
        self._child = Child(command, self._log, output_to_log=True, guarded=True)

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def check(self) -> None:
        """Raises PipelineStopped when the process ended by itself."""
        if self._child is not None and not self._child.running:
            raise PipelineStopped(
                f"worker {self.number} ended by itself; the end of its log:\n{self._child.log_tail()}"
            )

    def wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + READY_S_MAX
        while self._get("/readyz") is None:
            self.check()
            if time.monotonic() > deadline_s:
                assert self._child is not None
                raise GaveUp(f"worker {self.number} is not ready; the end of its log:\n{self._child.log_tail()}")
            time.sleep(POLL_S)
        self.start_cpu_s = _cpu_s(self.pid)

    def consumed(self) -> float:
        """Records that this process has read; 0 when it does not say."""
        text = self._get("/metrics") or ""
        lines = [line for line in text.splitlines() if line.startswith("penstock_records_consumed")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def freeze(self) -> None:
        """SIGSTOP: nothing of it moves until `thaw` or `kill`."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._child is not None
        child, self._child = self._child, None
        self.cpu_s += _cpu_s(child.pid)
        child.kill()

    def ask_to_stop(self) -> None:
        if self._child is not None and self._child.running:
            os.kill(self.pid, signal.SIGTERM)

    def join(self, grace_s: float) -> int:
        """The exit code, after at most `grace_s`; then SIGKILL."""
        if self._child is None:
            return 0
        child, self._child = self._child, None
        deadline_s = time.monotonic() + grace_s
        # A process that has ended keeps its times until it is waited for.
        while (
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            and time.monotonic() < deadline_s
        ):
            time.sleep(POLL_S)
        self.cpu_s += _cpu_s(child.pid)
        return child.stop(0.1)

    def abandon(self) -> None:
        """Whatever it is doing, it is gone afterwards."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _get(self, path: str) -> str | None:
        """The answer of its HTTP server; None while there is none, or when it says no."""
        port = self._port or self._find_port()
        if not port:
            return None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2.0) as answer:
                return str(answer.read().decode())
        except OSError:
            return None

    def _find_port(self) -> int:
        """From its log: it takes a free one."""
        with self._log.open("rb") as stream:
            stream.seek(self._log_start)
            for line in stream:
                if b'"port":' in line and line.endswith(b"\n"):
                    self._port = int(json.loads(line)["port"])
                    break
        return self._port


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
