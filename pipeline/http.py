"""Metrics and health on one port: /metrics, /livez, /readyz, served by a thread of their own.

It bounds connections, their number and their length, so that a slow or hostile client costs nothing but itself. It decides
nothing about health; it asks. It never touches the control plane's loop.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from pipeline.config.schema import Http
from pipeline.errors import ConfigurationError, Problem

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 16
"""One more and the oldest connection is cut, so a probe always gets through."""
CONNECTION_S_MAX = 10.0
_SWEEP_S = 0.2

Ready = Callable[[], tuple[bool, list[str]]]


class Exposed(Protocol):
    """What /metrics shows."""

    def exposition(self, accept: str) -> tuple[bytes, str]: ...


class HttpServer:
    """Serves until `stop`. `is_live` and `is_ready` are called from its threads and must return at once."""

    def __init__(self, config: Http, metrics: Exposed, is_live: Callable[[], bool], is_ready: Ready) -> None:
        self._config = config
        self._app = _App(metrics, is_live, is_ready)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that was opened; 0 when none is."""
        return int(self._server.server_address[1]) if self._server is not None else 0

    def start(self) -> None:
        """Opens the port, unless `http.enabled` is false. Raises ConfigurationError when it cannot be had."""
        if not self._config.enabled:
            return
        host, port = self._config.host, self._config.port
        try:
            self._server = _Server(host, port, self._app)
        except OSError as error:
            fix = "Choose another port (0 takes a free one), or stop what holds it"
            problem = Problem("http.port", str(port), f"cannot be opened on {host} ({error.strerror or error})", fix)
            raise ConfigurationError([problem]) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_SWEEP_S,), name="http", daemon=True)
        self._thread.start()
        log.info("metrics and health on /metrics, /livez and /readyz", extra={"host": host, "port": self.port})

    def stop(self) -> None:
        """Closes the port and every connection. May be called twice."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        server.server_close()
        server.cut_all()
        if self._thread is not None:
            self._thread.join(5.0)


class _App:
    """Path -> status, content type, body."""

    def __init__(self, metrics: Exposed, is_live: Callable[[], bool], is_ready: Ready) -> None:
        self._metrics = metrics
        self._is_live = is_live
        self._is_ready = is_ready

    def answer(self, path: str, accept: str) -> tuple[int, str, bytes]:
        match path.partition("?")[0].rstrip("/"):
            case "/metrics":
                body, content_type = self._metrics.exposition(accept)
                return 200, content_type, body
            case "/livez":
                live = self._is_live()
                return _status(live, [] if live else ["the control plane has not ticked lately"])
            case "/readyz":
                return _status(*self._is_ready())
            case "":
                return 200, "text/plain; charset=utf-8", b"penstock: /metrics /livez /readyz\n"
        return 404, "text/plain; charset=utf-8", b"not found: there are /metrics, /livez and /readyz\n"


def _status(ok: bool, reasons: list[str]) -> tuple[int, str, bytes]:
    body = json.dumps({"ok": ok, "reasons": reasons}) + "\n"
    return 200 if ok else 503, "application/json", body.encode()


class _Server(ThreadingHTTPServer):
    """A thread a connection, at most `CONNECTIONS_MAX`, none for longer than `CONNECTION_S_MAX`."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, app: _App) -> None:
        self.app = app
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # As in HTTPServer, without its reverse look-up of our own name, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "", int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= CONNECTIONS_MAX:
                oldest = min(self._open, key=self._open.__getitem__)
                del self._open[oldest]
                _cut(oldest)
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Between accepts: cuts connections that have lasted too long, however busily they trickle."""
        latest = time.monotonic() - CONNECTION_S_MAX
        with self._lock:
            for connection, since in self._open.items():
                if since < latest:
                    _cut(connection)

    def cut_all(self) -> None:
        with self._lock:
            for connection in self._open:
                _cut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A client that went away is no event; anything else is a bug worth a line."""
        log.debug("http connection of %s ended early", client_address, exc_info=True)


def _cut(connection: socket.socket) -> None:
    """Wakes the thread that reads from or writes to it; that thread closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One request a connection."""

    server: _Server
    server_version = "penstock"
    sys_version = ""
    timeout = 5.0
    """For one read or write; the whole connection has `CONNECTION_S_MAX`."""

    def do_GET(self) -> None:
        try:
            status, content_type, body = self.server.app.answer(self.path, self.headers.get("Accept", ""))
        except Exception:
            log.exception("cannot answer %s", self.path[:80])
            status, content_type, body = (
                500,
                "text/plain; charset=utf-8",
                b"this is a bug in penstock; its log says more\n",
            )
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Probes and scrapes come every few seconds; they are not logged."""
