"""Accepts connections on loopback and serves each in a thread, in bounded number, until it is stopped. Knows no HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_WAKE_S = 0.25


class Listener:
    """Accepts connections on 127.0.0.1, one thread each, at most `connections_max`; a further one waits in the backlog."""

    def __init__(
        self, handler: Callable[[socket.socket, Any, Listener], object], port: int, connections_max: int
    ) -> None:
        self._handler = handler
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        # Woken now and then to see that it was stopped: closing a socket does not wake its accept everywhere.
        self._listener.settimeout(_WAKE_S)
        self.port: int = self._listener.getsockname()[1]
        self._slots = threading.BoundedSemaphore(connections_max)
        self._stopping = threading.Event()
        self._running = 0
        self._changed = threading.Condition()
        self._acceptor = threading.Thread(target=self._accept, name="accept", daemon=True)

    def start(self) -> None:
        self._acceptor.start()

    def stop(self, grace_s: float) -> bool:
        """Accepts no more and waits for the running requests. Gives whether all ended in time."""
        self._stopping.set()
        self._acceptor.join()
        self._listener.close()
        with self._changed:
            return self._changed.wait_for(lambda: self._running == 0, grace_s)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Marks a request as running, so that `stop` waits for it."""
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    def _change(self, by: int) -> None:
        with self._changed:
            self._running += by
            self._changed.notify_all()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            if not self._slots.acquire(timeout=_WAKE_S):
                continue
            try:
                connection, address = self._listener.accept()
            except OSError:
                self._slots.release()
                continue
            threading.Thread(target=self._serve, args=(connection, address), name="connection", daemon=True).start()

    def _serve(self, connection: socket.socket, address: Any) -> None:
        try:
            with connection, suppress(ConnectionError, TimeoutError):
                self._handler(connection, address, self)
        finally:
            self._slots.release()
