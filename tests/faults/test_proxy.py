"""The proxy does what it is told: else a run of the fault suite would be clean for want of faults."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.network import CLICKHOUSE, Network
from tests.faults.proxy import KafkaRequests


class Echo:
    """A server that answers each piece with itself and remembers what it was sent."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heard = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    self.heard += data
                    connection.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def network(echo: Echo) -> Iterator[Network]:
    with Network([1]) as made:
        for name in made.names:
            made.lead(name, echo.port)
        yield made


def client(network: Network, name: str = CLICKHOUSE) -> socket.socket:
    return socket.create_connection(("127.0.0.1", network.ports[name]), timeout=2)


def wait_until_heard(echo: Echo, text: bytes, timeout_s: float = 5) -> None:
    deadline_s = time.monotonic() + timeout_s
    while text not in echo.heard:
        assert time.monotonic() < deadline_s, echo.heard
        time.sleep(0.01)


def test_bytes_pass_in_both_directions(network: Network, echo: Echo) -> None:
    with client(network) as one:
        one.sendall(b"hello")
        assert one.recv(100) == b"hello"


def test_a_cut_resets_the_connection(network: Network) -> None:
    with client(network) as one:
        one.sendall(b"hello")
        one.recv(100)
        assert network.cut(CLICKHOUSE) == 1
        with pytest.raises(ConnectionResetError):
            one.recv(100)


def test_a_lost_reply_was_a_request_that_arrived(network: Network, echo: Echo) -> None:
    trap = network.trap([CLICKHOUSE], "insert", "lose_reply", 0.2)
    with client(network) as one:
        one.sendall(b"POST /?query=SELECT")
        assert one.recv(100) == b"POST /?query=SELECT"
        assert not trap.sprung
        one.sendall(b"POST /?insert_deduplication_token=1")
        with pytest.raises(ConnectionResetError):
            one.recv(100)
    assert trap.sprung
    wait_until_heard(echo, b"token=1")


def test_a_late_request_arrives_though_its_client_has_gone(network: Network, echo: Echo) -> None:
    network.trap([CLICKHOUSE], "insert", "late", 0.5)
    with client(network) as one:
        one.sendall(b"POST /?insert_deduplication_token=1")
    time.sleep(0.2)
    assert echo.heard == b""
    wait_until_heard(echo, b"token=1")


def test_a_late_request_whose_connection_is_cut_arrives_all_the_same(network: Network, echo: Echo) -> None:
    network.trap([CLICKHOUSE], "insert", "late_and_cut", 0.5)
    with client(network) as one:
        one.sendall(b"POST /?insert_deduplication_token=1")
        with pytest.raises(ConnectionResetError):
            one.recv(100)
    assert echo.heard == b""
    wait_until_heard(echo, b"token=1")


@pytest.mark.parametrize("silent", [False, True])
def test_a_half_open_connection_says_nothing(network: Network, echo: Echo, silent: bool) -> None:
    network.silence(CLICKHOUSE, silent)
    with client(network) as one:
        if not silent:
            one.sendall(b"hello")
            one.recv(100)
            assert network.half_open(CLICKHOUSE) == 1
        one.settimeout(0.3)
        one.sendall(b"anyone?")
        with pytest.raises(TimeoutError):
            one.recv(100)
        assert b"anyone" not in echo.heard
        network.heal()
    with client(network) as other:
        other.sendall(b"again")
        assert other.recv(100) == b"again"


def test_a_delay_delays(network: Network) -> None:
    with client(network) as one:
        network.delay(CLICKHOUSE, 0.2)
        started_s = time.monotonic()
        one.sendall(b"hello")
        assert one.recv(100) == b"hello"
        assert time.monotonic() - started_s >= 0.4


def frame(key: int, body: bytes = b"x" * 20) -> bytes:
    return struct.pack(">ih", len(body) + 2, key) + body


@pytest.mark.parametrize("piece", [1, 3, 7, 1000])
def test_kafka_requests_are_told_apart_however_they_are_cut(piece: int) -> None:
    stream = frame(1) + frame(8, b"") + frame(12, b"y" * 300) + frame(8)
    requests, found = KafkaRequests(), []
    for at in range(0, len(stream), piece):
        found += requests(stream[at : at + piece])
    assert found == ["fetch", "commit", "heartbeat", "commit"]
