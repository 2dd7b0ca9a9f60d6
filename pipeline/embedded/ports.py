"""Ports of 127.0.0.1 for servers that are stopped and started again."""

from __future__ import annotations

import random
import socket
from itertools import chain, islice
from pathlib import Path

_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_OUTGOING_FIRST = 32_768
"""Where the system does not say: Linux's default, below that of others."""
_LOWEST = 10_000
_ROOM_MIN = 1_000


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, below those the system gives to outgoing connections: while the server of such a port is down,
    no connection takes it.

    Where the system leaves no room there, any free ones. Raises OSError when there are none.
    """
    first = _outgoing_first()
    if first - _LOWEST < _ROOM_MIN:
        return _any_free(count)
    # From a place of its own on, so that others who look at the same time find others.
    start = random.SystemRandom().randrange(_LOWEST, first)
    found = list(islice(filter(_is_free, chain(range(start, first), range(_LOWEST, start))), count))
    if len(found) < count:
        raise OSError(f"no {count} free ports between {_LOWEST} and {first}")
    return found


def _outgoing_first() -> int:
    try:
        return int(_OUTGOING.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _OUTGOING_FIRST


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def _any_free(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
