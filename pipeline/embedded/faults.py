"""Faults that tests order from the embedded ClickHouse server; never present unless the server is started with `--faults`."""

from __future__ import annotations

import threading
from typing import Literal

import msgspec

Action = Literal["fail", "fail_after", "drop", "drop_after", "delay"]


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """The next `times` matching statements meet this.

    fail        is refused with `code`, `name` and `message`, and not applied
    fail_after  is applied, and answered as if refused
    drop        is not applied; the connection closes without an answer
    drop_after  is applied; the connection closes without an answer
    delay       is applied `delay_ms` later (every other action also waits `delay_ms` first)
    """

    action: Action
    times: int = 1
    code: int = 0
    name: str = "FAULT"
    message: str = "Injected fault"
    delay_ms: int = 0
    match: str = ""
    """A part of the statement, such as the table's name; empty for any."""
    inserts_only: bool = True


class Faults:
    """The faults still to come, in the order they were added. Thread-safe."""

    def __init__(self) -> None:
        self._pending: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._pending.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._pending.clear()

    def left(self) -> int:
        """How many statements are still to be met by a fault."""
        with self._lock:
            return sum(fault.times for fault in self._pending)

    def take(self, sql: str, insert: bool) -> Fault | None:
        """The fault for this statement, used up by one."""
        with self._lock:
            for index, fault in enumerate(self._pending):
                if (insert or not fault.inserts_only) and fault.match in sql:
                    fault.times -= 1
                    if fault.times <= 0:
                        del self._pending[index]
                    return fault
        return None
