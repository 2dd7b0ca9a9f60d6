"""A server in a process of its own that a test or the demo owns: start, stop, kill, CPU time. It never outlives its owner."""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

_TAIL_BYTES = 4_000
_HELD = ("/bin/sh", "-c", 'read begin && exec "$0" "$@"')
"""Before a command: begins it with a line on its standard input. When that ends without one, our owner is dead."""
_children: weakref.WeakSet[Child] = weakref.WeakSet()


class StartFailed(RuntimeError):
    """The process ended, or said nothing, before its deadline. The message holds the end of its log."""


class Child:
    """Runs `command` with its stderr, and with `output_to_log` its stdout, appended to `log`; killed when we exit.

    Its standard input is a pipe that ends when this process dies, even by SIGKILL. A program that does not watch it is
    `guarded`: a shell waits at such a pipe in its stead and then kills it. The program does not begin before that.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        output_to_log: bool = False,
        guarded: bool = False,
    ) -> None:
        self.log = log
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [*(_HELD if guarded else ()), *command],
                stdin=subprocess.PIPE,
                stdout=stream if output_to_log else subprocess.PIPE,
                stderr=stream,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._guard: subprocess.Popen[bytes] | None = None
        _children.add(self)
        if guarded:
            self._guard = _guard(self.pid)
            self._let_begin()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def first_line(self, deadline_s: float) -> str:
        """The first line of its standard output, at the latest after `deadline_s`. Raises StartFailed, the process stopped."""
        output = self._process.stdout
        assert output is not None
        line = b""
        ends_at = time.monotonic() + deadline_s
        while not line.endswith(b"\n"):
            left_s = ends_at - time.monotonic()
            ready, _, _ = select.select([output], [], [], max(left_s, 0))
            piece = os.read(output.fileno(), 4096) if ready else b""
            if not piece:
                self.kill()
                reason = (
                    f"said nothing within {deadline_s:.0f} s"
                    if not ready
                    else f"ended with code {self._process.returncode}"
                )
                raise StartFailed(f"{self._name()} {reason}; the end of its log:\n{self.log_tail()}")
            line += piece
        return line.decode().strip()

    def log_tail(self) -> str:
        """The end of its log, for error messages."""
        with self.log.open("rb") as stream:
            stream.seek(max(self.log.stat().st_size - _TAIL_BYTES, 0))
            return stream.read().decode(errors="replace")

    def cpu_seconds(self) -> float:
        """User and system time of the process so far. Raises psutil.NoSuchProcess once it is gone."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def resident_bytes(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)

    def stop(self, grace_s: float) -> int:
        """SIGTERM, and SIGKILL when that does not help within `grace_s`. Gives the exit code."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._reap()

    def kill(self) -> None:
        """SIGKILL, and waits until the process is gone."""
        if self.running:
            self._process.kill()
        self._reap()

    def _let_begin(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # It was killed from outside already.
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def _reap(self) -> int:
        if self._guard is not None:
            # Before the process id can be given to another process.
            guard, self._guard = self._guard, None
            guard.kill()
            guard.communicate()
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def _name(self) -> str:
        return " ".join(str(part) for part in self._process.args[:4])  # type: ignore[index]


def _guard(pid: int) -> subprocess.Popen[bytes]:
    command = ["/bin/sh", "-c", 'read ignored; kill -9 "$0"', str(pid)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


@atexit.register
def _kill_all() -> None:
    for child in list(_children):
        child.kill()
