"""The workers of a run: real `penstock run` processes, started, killed, frozen, stopped, and looked after in between."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.embedded.child import Child
from tests.faults.stage import Stage

DRAIN_S_MAX = 45.0
RESTART_S = 1.0
"""A worker that ended by itself is started again after this long, as any supervisor would."""
LAST_LINES = 15
"""Of a log, in a message."""
_REBUILT = re.compile(r"window rebuilt: (\d+) ids in ([\d.]+) s")


class Exit(NamedTuple):
    """A worker that ended without being told to."""

    worker: int
    code: int
    at_s: float
    said: str


class Worker:
    """One place in the fleet: a process, and after it another. Not thread-safe; `Fleet` sees to that."""

    def __init__(self, number: int, config: Path, directory: Path, *, instance: str, sabotage: str) -> None:
        self.number = number
        self._config = config
        self._directory = directory
        self._environment = {"PENSTOCK_SABOTAGE": sabotage} if sabotage else {}
        if instance:
            self._environment["PENSTOCK__KAFKA__INSTANCE_ID"] = instance
        self._module = "tests.faults.sabotage" if sabotage else "pipeline"
        self._child: Child | None = None
        self._starts = 0
        self.frozen = False
        self.log = directory / f"worker-{number}-0.log"

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    @property
    def began(self) -> bool:
        """Whether the present process serves its metrics yet; it listens to signals from then on."""
        return any("port" in line for line in self.lines())

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        self._starts += 1
        self.log = self._directory / f"worker-{self.number}-{self._starts}.log"
        command = [sys.executable, "-m", self._module, "run", "-c", str(self._config)]
        self._child = Child(command, self.log, environment=self._environment, output_to_log=True, guarded=True)
        self.frozen = False

    def kill(self) -> None:
        """SIGKILL, also of a frozen process."""
        if self._child is not None:
            self._child.kill()
            self._child, self.frozen = None, False

    def release(self) -> Child | None:
        """Hands the process over to whoever stops it."""
        if self.running and self.frozen:
            self.thaw()
        child, self._child = self._child, None
        return child

    def ended(self) -> tuple[int, str] | None:
        """The code and the last words of a process that ended by itself."""
        if self._child is None or self._child.running:
            return None
        said = self._child.log_tail()
        child, self._child = self._child, None
        return child.stop(0.1), said

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self.frozen = False

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the present process has logged."""
        return log_lines(self.log)

    def says(self, text: str, timeout_s: float = 30.0) -> None:
        """Waits until the log of the present process holds `text`."""
        deadline_s = time.monotonic() + timeout_s
        while text not in self.log.read_text(errors="replace"):
            assert self.running, f"{self.log} ended without {text!r}"
            assert time.monotonic() < deadline_s, f"{text!r} is not in {self.log}"
            time.sleep(0.05)

    def get(self, path: str) -> str:
        """The answer of its HTTP server, also a refusal; '' while there is none."""
        port = next((int(line["port"]) for line in self.lines() if "port" in line), 0)
        if not port:
            return ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""


class Fleet:
    """The workers that are to run. A thread starts again those that end by themselves, and remembers it. Thread-safe."""

    def __init__(self, stage: Stage, *, sabotage: str = "") -> None:
        self._config = stage.config_file
        self._directory = stage.directory / "workers"
        self._directory.mkdir(exist_ok=True)
        self._static = stage.setting.static
        self._sabotage = sabotage
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="fleet", daemon=True)
        self._restarts: dict[int, float] = {}
        self._restarting = True
        self.workers: dict[int, Worker] = {}
        self.exits: list[Exit] = []

    def __enter__(self) -> Fleet:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        for worker in self.workers.values():
            worker.kill()

    def start(self, number: int, *, name_of: int = 0) -> Worker:
        """As a static member it goes by a name of its own, or by that of another worker."""
        with self._lock:
            if number not in self.workers:
                instance = f"worker-{name_of or number}" if self._static else ""
                self.workers[number] = Worker(
                    number, self._config, self._directory, instance=instance, sabotage=self._sabotage
                )
            worker = self.workers[number]
            self._restarts.pop(number, None)
            if not worker.running:
                worker.start()
            return worker

    def kill(self, number: int) -> None:
        with self._lock:
            self.workers[number].kill()
            self._restarts.pop(number, None)

    def freeze(self, number: int) -> bool:
        """SIGSTOP; False when it is not running just now."""
        with self._lock:
            worker = self.workers[number]
            if not worker.running or worker.frozen:
                return False
            worker.freeze()
            return True

    def thaw(self, number: int) -> None:
        with self._lock:
            if self.workers[number].running:
                self.workers[number].thaw()

    def stop(self, number: int) -> int:
        """SIGTERM; the exit code, negative when it had to be killed. The others are looked after meanwhile.

        A worker that has not come to the point where it listens to signals dies of this one, as any process would: 0.
        """
        with self._lock:
            self._restarts.pop(number, None)
            began = self.workers[number].began
            child = self.workers[number].release()
        code = child.stop(DRAIN_S_MAX) if child is not None else 0
        return 0 if code == -signal.SIGTERM and not began else code

    @contextmanager
    def none_restarted(self) -> Iterator[None]:
        """Inside, a worker that ends by itself stays away."""
        with self._lock:
            self._restarting = False
        try:
            yield
        finally:
            with self._lock:
                self._restarting = True

    def running(self) -> list[int]:
        """Those that run and are not frozen."""
        with self._lock:
            return [number for number, worker in self.workers.items() if worker.running and not worker.frozen]

    def last_words(self) -> str:
        """The end of each worker's present log, for error messages."""
        with self._lock:
            workers = list(self.workers.values())
        said = []
        for worker in workers:
            state = "frozen" if worker.frozen else "running" if worker.running else "not running"
            lines = worker.log.read_text(errors="replace").splitlines() if worker.log.exists() else []
            said.append("\n".join([f"worker {worker.number}, {state}, {worker.log}:", *lines[-LAST_LINES:]]))
        return "\n".join(said)

    def rebuilds(self) -> list[tuple[int, float]]:
        """(ids, seconds) of every window that was rebuilt, by all processes so far."""
        found = []
        for log in sorted(self._directory.glob("worker-*.log")):
            for line in log_lines(log):
                if match := _REBUILT.search(str(line.get("message", ""))):
                    found.append((int(match[1]), float(match[2])))
        return found

    def _tend(self) -> None:
        while not self._ending.wait(0.2):
            now_s = time.monotonic()
            with self._lock:
                for number, worker in self.workers.items():
                    if (ended := worker.ended()) is not None:
                        self.exits.append(Exit(number, ended[0], now_s, ended[1]))
                        self._restarts[number] = now_s + RESTART_S
                for number, due_s in list(self._restarts.items()):
                    if self._restarting and now_s >= due_s and number in self.workers:
                        del self._restarts[number]
                        self.workers[number].start()


def log_lines(log: Path) -> Iterator[dict[str, Any]]:
    """The JSON lines of a log; other text as `{"message": text}`."""
    if not log.exists():
        return
    for line in log.read_text(errors="replace").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            found = {"message": line}
        yield found if isinstance(found, dict) else {"message": line}
