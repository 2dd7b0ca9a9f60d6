"""A real ClickHouse server from a `clickhouse` binary already on the machine, on loopback, for tests. Downloads nothing."""

from __future__ import annotations

import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from pipeline.embedded.child import Child, StartFailed
from pipeline.embedded.ports import free_ports

START_S_MAX = 60.0
STOP_GRACE_S = 20.0

_CONFIG = """<clickhouse>
  <logger><level>warning</level><console>1</console></logger>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{port}</http_port>
  <path>{path}/data/</path>
  <tmp_path>{path}/tmp/</tmp_path>
  <user_files_path>{path}/user_files/</user_files_path>
  <mark_cache_size>268435456</mark_cache_size>
  <users><default><password></password><profile>default</profile><quota>default</quota>
    <networks><ip>127.0.0.1</ip></networks><access_management>1</access_management></default></users>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
</clickhouse>
"""


def find_binary() -> str | None:
    """The path of a `clickhouse` (or `clickhouse-server`) command, if there is one."""
    return shutil.which("clickhouse") or shutil.which("clickhouse-server")


class ClickHouseBinary:
    """`clickhouse server` with its data in `directory`. A context manager. Raises StartFailed when it does not come up."""

    def __init__(self, binary: str, directory: Path) -> None:
        self._binary = binary
        self._directory = directory
        self._child: Child | None = None
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        config = self._directory / "config.xml"
        config.write_text(_CONFIG.format(port=self.port, path=self._directory))
        name = Path(self._binary).name
        command = [self._binary, *(["server"] if name == "clickhouse" else []), "--config-file", str(config)]
        self._child = Child(command, self._directory / "server.log", guarded=True)
        ends_at = time.monotonic() + START_S_MAX
        while not self._answers():
            if not self._child.running or time.monotonic() > ends_at:
                tail = self._child.log_tail()
                self._child.kill()
                raise StartFailed(f"{self._binary} did not start; the end of its log:\n{tail}")
            time.sleep(0.1)
        return self

    def stop(self) -> None:
        if self._child is not None:
            child, self._child = self._child, None
            child.stop(STOP_GRACE_S)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ping", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
