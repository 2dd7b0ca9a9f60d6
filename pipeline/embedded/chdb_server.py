"""ClickHouse's HTTP interface before one chDB engine in a process of its own, and the class that starts, kills and restarts it.

    python -m pipeline.embedded.chdb_server --path DIR --port N     prints {"url": ..., "port": ..., "pid": ...} once it listens

The process stops on SIGTERM or SIGINT, letting running requests end. What was acknowledged before a SIGKILL is on disk, with
its deduplication tokens, as far as the operating system lives on; nothing is synced to the medium.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pipeline.embedded.child import Child
from pipeline.embedded.ports import free_ports

if TYPE_CHECKING:
    from pipeline.embedded.chdb_listener import Listener

START_S_MAX = 60.0
STOP_GRACE_S = 20.0


class Options(NamedTuple):
    """What a server is started with; the password goes apart."""

    path: str
    port: int
    user: str
    faults: bool
    insert_bytes_max: int


class ChdbServer:
    """A server over the directory `path` on a port of 127.0.0.1 (0: a free one, kept over restarts). A context manager.

    `in_process` serves from threads of this process, which can then hold no other engine path and cannot be killed.
    `faults` opens the admin path through which `fault` works. `insert_bytes_max` (0: the engine's own default) bounds the
    data of one insert, without their encoding. Raises StartFailed when the process does not come up.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        port: int = 0,
        in_process: bool = False,
        user: str = "default",
        password: str = "",
        faults: bool = False,
        insert_bytes_max: int = 0,
    ) -> None:
        self.path = Path(path)
        self.port = port or free_ports(1)[0]
        self.user = user
        self.password = password
        self._faults = faults
        self._insert_bytes_max = insert_bytes_max
        self._in_process = in_process
        self._child: Child | None = None
        self._local: tuple[Listener, Any] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return os.getpid() if self._in_process else self._running().pid

    def start(self) -> Self:
        """Starts the server, or starts it again on the same port and path; returns when it answers."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self._in_process:
            self._local = open_service(self._options(), self.password)
            self._local[0].start()
            self.port = self._local[0].port
            return self
        options = self._options()
        command = [sys.executable, "-m", "pipeline.embedded.chdb_server", "--stop-with-stdin"]
        command += ["--path", options.path, "--port", str(options.port), "--user", options.user]
        command += ["--insert-bytes-max", str(options.insert_bytes_max), *(["--faults"] if options.faults else [])]
        # The password travels in the environment: arguments are visible to every user of the machine.
        self._child = Child(command, self.path / "server.log", environment={"PENSTOCK_CHDB_PASSWORD": self.password})
        self.port = int(json.loads(self._child.first_line(START_S_MAX))["port"])
        return self

    def stop(self) -> None:
        """Lets running requests end, then stops; SIGKILL after a time. Stopping twice does nothing."""
        if self._local is not None:
            close_service(*self._local)
            self._local = None
        if self._child is not None:
            child, self._child = self._child, None
            child.stop(STOP_GRACE_S + 5)

    def kill(self) -> None:
        """SIGKILL; `start` brings it up again."""
        self._running().kill()
        self._child = None

    def cpu_seconds(self) -> float:
        """CPU time of the server's process since it started."""
        return time.process_time() if self._in_process else self._running().cpu_seconds()

    def resident_bytes(self) -> int:
        return self._running().resident_bytes()

    def log_tail(self) -> str:
        return self._running().log_tail()

    def fault(self, action: str, **details: Any) -> None:
        """Orders a fault (see `faults.Fault`) for the next matching inserts."""
        self._admin([{"action": action, **details}])

    def clear_faults(self) -> None:
        self._admin([])

    def faults_left(self) -> int:
        """How many statements are still to meet a fault."""
        return self._admin(None)

    def _options(self) -> Options:
        return Options(str(self.path), self.port, self.user, self._faults, self._insert_bytes_max)

    def _admin(self, orders: list[dict[str, Any]] | None) -> int:
        if not self._faults:
            raise RuntimeError("the server was started without faults=True")
        body = None if orders is None else json.dumps(orders).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/faults", data=body), timeout=10) as answer:
            return int(answer.read())

    def _running(self) -> Child:
        if self._child is None:
            raise RuntimeError("the chDB server is not running in a process of its own")
        return self._child


def open_service(options: Options, password: str) -> tuple[Listener, Any]:
    """An engine over the path and a server before it that is not started yet. Imports chDB."""
    from pipeline.embedded.chdb_engine import INSERT_BYTES_MAX, Engine
    from pipeline.embedded.chdb_http import Access, Service, serve
    from pipeline.embedded.faults import Faults

    engine = Engine(options.path, insert_bytes_max=options.insert_bytes_max or INSERT_BYTES_MAX)
    faults = Faults() if options.faults else None
    return serve(Service(engine, Access(options.user, password), faults), options.port), engine


def close_service(server: Listener, engine: Any) -> None:
    """Stops gracefully. When requests outlast the grace the engine is left open: closing it under them is not safe."""
    if server.stop(STOP_GRACE_S):
        engine.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.embedded.chdb_server", description=main.__doc__)
    parser.add_argument("--path", required=True, help="directory of the engine's data; created when missing")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--user", default="default")
    parser.add_argument("--faults", action="store_true", help="opens /faults, for tests")
    parser.add_argument(
        "--stop-with-stdin", action="store_true", help="stops when standard input ends, as when its owner dies"
    )
    parser.add_argument("--insert-bytes-max", type=int, default=0, help="of one insert, decoded; 0: the default")
    found = parser.parse_args(arguments)
    options = Options(found.path, found.port, found.user, found.faults, found.insert_bytes_max)
    # Blocked before the engine starts its threads, so that the signals wait for sigwait below.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    password = os.environ.get("PENSTOCK_CHDB_PASSWORD", "")
    server, engine = open_service(options, password)
    server.start()
    url = f"http://127.0.0.1:{server.port}"
    print(json.dumps({"url": url, "port": server.port, "pid": os.getpid()}), flush=True)
    if found.stop_with_stdin:
        threading.Thread(target=_watch_stdin, name="stdin", daemon=True).start()
    signal.sigwait(stops)
    close_service(server, engine)
    sys.stdout.flush()
    # The engine's own threads may outlast a clean interpreter exit; the data are on disk.
    os._exit(0)


def _watch_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
