"""Metrics and health over HTTP: right answers, and clients that are slow, many or rude."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import pipeline.http as module
from pipeline.config.schema import Http
from pipeline.errors import ConfigurationError
from pipeline.http import CONNECTIONS_MAX, HttpServer
from pipeline.metrics import Metrics


class Health:
    def __init__(self) -> None:
        self.live = True
        self.reasons: list[str] = []

    def is_live(self) -> bool:
        return self.live

    def is_ready(self) -> tuple[bool, list[str]]:
        return not self.reasons, self.reasons


@contextmanager
def serving(health: Health | None = None) -> Iterator[HttpServer]:
    health = health or Health()
    server = HttpServer(Http(host="127.0.0.1", port=0), Metrics(), health.is_live, health.is_ready)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def get(server: HttpServer, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def test_metrics() -> None:
    with serving() as server:
        status, content_type, body = get(server, "/metrics")
        assert status == 200
        assert content_type.startswith("text/plain; version=")
        assert b"penstock_records_consumed_total 0.0" in body
        assert get(server, "/metrics?name[]=x")[0] == 200


def test_liveness_is_the_loop_tick_alone() -> None:
    health = Health()
    health.reasons = ["ClickHouse is down"]
    with serving(health) as server:
        assert get(server, "/livez")[0] == 200
        health.live = False
        status, _, body = get(server, "/livez")
        assert status == 503
        assert json.loads(body) == {"ok": False, "reasons": ["the control plane has not ticked lately"]}


def test_readiness_tells_its_reasons() -> None:
    health = Health()
    with serving(health) as server:
        assert get(server, "/readyz")[0] == 200
        health.reasons = ["orders/3 is not read: out of range"]
        status, content_type, body = get(server, "/readyz")
        assert (status, content_type) == (503, "application/json")
        assert json.loads(body) == {"ok": False, "reasons": ["orders/3 is not read: out of range"]}


def test_other_paths_and_methods() -> None:
    with serving() as server:
        assert get(server, "/")[0] == 200
        assert get(server, "/nothing")[0] == 404
        assert get(server, "/livez", "HEAD")[2] == b""
        assert get(server, "/livez", "POST")[0] == 501


def test_a_check_that_fails_is_a_500_and_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> tuple[bool, list[str]]:
        raise RuntimeError("oops")

    server = HttpServer(Http(host="127.0.0.1", port=0), Metrics(), lambda: True, broken)
    server.start()
    try:
        assert get(server, "/readyz")[0] == 500
        assert get(server, "/livez")[0] == 200
    finally:
        server.stop()
    assert "cannot answer /readyz" in caplog.text


def test_a_port_that_is_taken_is_a_problem_with_a_fix() -> None:
    with (
        serving() as first,
        pytest.raises(ConfigurationError, match=r"http\.port = \d+: cannot be opened on 127\.0\.0\.1"),
    ):
        HttpServer(Http(host="127.0.0.1", port=first.port), Metrics(), lambda: True, lambda: (True, [])).start()


def test_nothing_is_opened_when_switched_off() -> None:
    server = HttpServer(Http(enabled=False), Metrics(), lambda: True, lambda: (True, []))
    server.start()
    assert server.port == 0
    server.stop()


def test_the_port_is_free_after_stop_and_stop_may_be_repeated() -> None:
    with serving() as server:
        port = server.port
        server.stop()
        server.stop()
    again = HttpServer(Http(host="127.0.0.1", port=port), Metrics(), lambda: True, lambda: (True, []))
    again.start()
    again.stop()


def silent(server: HttpServer, count: int) -> list[socket.socket]:
    """Clients that connect and say half a request."""
    clients = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        client.sendall(b"GET /livez HT")
        clients.append(client)
    return clients


def test_more_silent_clients_than_connections_do_not_keep_a_probe_out() -> None:
    with serving() as server:
        clients = silent(server, 3 * CONNECTIONS_MAX)
        try:
            assert get(server, "/livez")[0] == 200
            assert threads() <= CONNECTIONS_MAX + 3
        finally:
            for client in clients:
                client.close()


def threads() -> int:
    """Handler threads that are alive, after those that were cut have had a moment to end."""
    deadline_s = time.monotonic() + 3
    while True:
        alive = sum(
            thread.name.startswith("Thread-") and "process_request" in thread.name for thread in threading.enumerate()
        )
        if alive <= CONNECTIONS_MAX or time.monotonic() > deadline_s:
            return alive
        time.sleep(0.02)


def test_a_client_that_trickles_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte in time for every read would hold a connection for ever without the limit on its length."""
    monkeypatch.setattr(module, "CONNECTION_S_MAX", 0.3)
    with serving() as server:
        (client,) = silent(server, 1)
        started_s = time.monotonic()
        with client, pytest.raises((BrokenPipeError, ConnectionResetError)):
            trickle(client)
        assert time.monotonic() - started_s < 3


def trickle(client: socket.socket) -> None:
    for _ in range(100):
        client.sendall(b"x")
        time.sleep(0.05)


def test_a_client_that_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTION_S_MAX", 0.3)

    class Large:
        def exposition(self, accept: str) -> tuple[bytes, str]:
            return b"x" * 50_000_000, "text/plain"

    server = HttpServer(Http(host="127.0.0.1", port=0), Large(), lambda: True, lambda: (True, []))
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            time.sleep(0.2)
            assert get(server, "/livez")[0] == 200
            assert threads_fall_to(0)
    finally:
        server.stop()


def threads_fall_to(number: int) -> bool:
    deadline_s = time.monotonic() + 3
    while time.monotonic() < deadline_s:
        if sum("process_request" in thread.name for thread in threading.enumerate()) <= number:
            return True
        time.sleep(0.02)
    return False


def test_rubbish_is_answered_and_forgotten() -> None:
    with serving() as server:
        for rubbish in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"x" * 100_000 + b"\r\n\r\n", b""):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
                client.sendall(rubbish)
                client.shutdown(socket.SHUT_WR)
                try:
                    while client.recv(65_536):
                        pass
                except ConnectionResetError:
                    pass
        assert get(server, "/livez")[0] == 200
