"""A TCP proxy on loopback that can be told to fail: cut, delay, lose replies, deliver requests late, fall silent.

It passes bytes on and never changes one. It knows as much of Kafka and HTTP as it needs to see which request begins, so
that a fault can wait for one. Everything here runs in the loop of `network`; the public methods belong to that loop too.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

PIECE_BYTES = 64 * 1024
_AT_ONCE = struct.pack("ii", 1, 0)
"""A lingering time of zero: closing the socket sends a reset."""
_HEAD = struct.Struct(">ih")
_API = {0: "produce", 1: "fetch", 8: "commit", 9: "committed", 11: "join", 12: "heartbeat", 14: "sync", 68: "heartbeat"}
INSERT_MARK = b"insert_deduplication_token="

Happening = Literal["lose_reply", "late", "late_and_cut", "cut", "half_open"]


class KafkaRequests:
    """Names the requests that begin in each piece of a stream from a client."""

    def __init__(self) -> None:
        self._left = 0
        self._head = b""

    def __call__(self, data: bytes) -> list[str]:
        found, at = [], 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            piece = data[at : at + _HEAD.size - len(self._head)]
            self._head += piece
            at += len(piece)
            if len(self._head) == _HEAD.size:
                length, key = _HEAD.unpack(self._head)
                self._left, self._head = length - 2, b""
                found.append(_API.get(key, "other"))
        return found


def http_requests(data: bytes) -> list[str]:
    """The same for HTTP, as far as the head of a request arrives in one piece."""
    if INSERT_MARK in data:
        return ["insert"]
    return ["query"] if data.startswith((b"POST ", b"GET ")) else []


Requests = Callable[[bytes], Sequence[str]]


@dataclass
class Trap:
    """A fault that waits for a request of that name. `seconds`: how late, or how long until the connection is cut."""

    request: str
    happening: Happening
    seconds: float
    sprung: bool = False


class Link:
    """One connection of a client and the one to the server that goes with it."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._requests = proxy.requests()
        self.hold_s = 0.0
        """What comes from the client waits this long, once."""
        self.mute = False
        """Replies are swallowed."""
        self.dead = False
        """Everything is swallowed, and neither side is told."""

    async def up(self, reader: asyncio.StreamReader) -> None:
        """From the client to the server. What is held back is delivered even when the client has gone."""
        while data := await reader.read(PIECE_BYTES):
            for request in self._requests(data):
                self._spring(request)
            if self.dead:
                continue
            if self.hold_s or self._proxy.delay_s:
                await asyncio.sleep(self.hold_s + self._proxy.delay_s)
            self.hold_s = 0.0
            self._server.write(data)
            await self._server.drain()

    async def down(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(PIECE_BYTES):
            if self.dead or self.mute:
                continue
            if self._proxy.delay_s:
                await asyncio.sleep(self._proxy.delay_s)
            self._client.write(data)
            await self._client.drain()

    def cut(self) -> None:
        """Both sides see a reset."""
        for writer in (self._client, self._server):
            _reset(writer)

    def _spring(self, request: str) -> None:
        for trap in list(self._proxy.traps):
            if trap.request in (request, "any"):
                self._proxy.traps.remove(trap)
                if not trap.sprung:  # It may have been set at several servers at once.
                    trap.sprung = True
                    self._happen(trap)
                    return

    def _happen(self, trap: Trap) -> None:
        loop = asyncio.get_running_loop()
        if trap.happening == "lose_reply":
            self.mute = True
            loop.call_later(trap.seconds, self.cut)
        elif trap.happening == "late":
            self.hold_s = trap.seconds
        elif trap.happening == "late_and_cut":
            # The client may send it again at once, and be answered before this copy arrives.
            self.hold_s, self.mute = trap.seconds, True
            loop.call_soon(_reset, self._client)
        elif trap.happening == "half_open":
            self.dead = True
        else:
            self.dead = True
            loop.call_soon(self.cut)


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    writer.transport.abort()


class Proxy:
    """Listens on a free port and leads to `target`, a port of loopback that can be named later."""

    def __init__(self, name: str, requests: Callable[[], Requests]) -> None:
        self.name = name
        self.requests = requests
        self.target = 0
        self.delay_s = 0.0
        """Each piece of each direction waits this long."""
        self.silent = False
        """New connections are accepted and never answered."""
        self.traps: list[Trap] = []
        self._links: set[Link] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self, at_most: int | None = None) -> int:
        """Resets connections, the oldest first; how many."""
        found = list(self._links)[:at_most]
        for link in found:
            link.cut()
        return len(found)

    def half_open(self) -> int:
        """What is connected stays so and carries nothing any more; how many connections."""
        found = [link for link in self._links if not link.dead]
        for link in found:
            link.dead = True
        return len(found)

    def heal(self) -> None:
        """Ends every fault; connections that lost bytes, or hold some back, are cut."""
        self.delay_s, self.silent = 0.0, False
        self.traps.clear()
        for link in list(self._links):
            if link.dead or link.mute or link.hold_s:
                link.cut()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            if self.silent:
                await self._swallow(reader, writer)
                return
            try:
                from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
            except OSError:
                writer.transport.abort()
                return
            await self._carry(reader, writer, from_server, to_server)

    async def _swallow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(PIECE_BYTES):
            pass
        writer.transport.abort()

    async def _carry(
        self,
        from_client: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> None:
        link = Link(self, client, server)
        self._links.add(link)
        up, down = asyncio.ensure_future(link.up(from_client)), asyncio.ensure_future(link.down(from_server))
        try:
            done, _ = await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            if down in done and link.dead:
                # The client of a connection that carries nothing does not learn that the server has gone either.
                await up
            if up in done and not link.dead:
                # What the server still sends is passed on while there is somebody to read it.
                server.write_eof()
                await asyncio.wait((down,), timeout=5.0)
        except OSError:
            pass
        finally:
            self._links.discard(link)
            for task in (up, down):
                task.cancel()
            for task in (up, down):
                with suppress(asyncio.CancelledError, OSError):
                    await task
            link.cut()
