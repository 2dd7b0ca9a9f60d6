"""The network between workers and servers: a proxy before each broker and before ClickHouse, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from tests.faults.proxy import Happening, KafkaRequests, Proxy, Trap, http_requests

T = TypeVar("T")
CLICKHOUSE = "clickhouse"


def broker(node: int) -> str:
    """The name of a broker's proxy."""
    return f"kafka-{node}"


class Network:
    """A context manager. Methods may be called from any thread; each returns when it has taken effect."""

    def __init__(self, brokers: Iterable[int]) -> None:
        self._proxies = {broker(node): Proxy(broker(node), KafkaRequests) for node in brokers}
        self._proxies[CLICKHOUSE] = Proxy(CLICKHOUSE, lambda: http_requests)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self.ports: dict[str, int] = {}

    def __enter__(self) -> Network:
        self._thread.start()
        self.ports = {name: self._wait(proxy.open()) for name, proxy in self._proxies.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self._proxies.values():
            self._wait(proxy.close())
        self._wait(self._end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def brokers(self) -> list[str]:
        return [name for name in self._proxies if name != CLICKHOUSE]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._proxies)

    def lead(self, name: str, port: int) -> None:
        """Where a proxy leads to."""
        self._do(lambda: setattr(self._proxies[name], "target", port))

    def cut(self, name: str, at_most: int | None = None) -> int:
        return self._do(lambda: self._proxies[name].cut(at_most))

    def delay(self, name: str, seconds: float) -> None:
        self._do(lambda: setattr(self._proxies[name], "delay_s", seconds))

    def half_open(self, name: str) -> int:
        return self._do(self._proxies[name].half_open)

    def silence(self, name: str, silent: bool) -> None:
        """Whether new connections are swallowed."""
        self._do(lambda: setattr(self._proxies[name], "silent", silent))

    def trap(self, names: Sequence[str], request: str, happening: Happening, seconds: float) -> Trap:
        """The next request of that name to one of the servers meets it; `sprung` of what is returned says whether one has."""
        trap = Trap(request, happening, seconds)
        for name in names:
            self._do(partial(self._proxies[name].traps.append, trap))
        return trap

    def disarm(self, trap: Trap) -> None:
        """Takes a trap away that has not sprung."""
        for proxy in self._proxies.values():
            self._do(partial(_remove, proxy.traps, trap))

    def heal(self) -> None:
        for proxy in self._proxies.values():
            self._do(proxy.heal)

    async def _end_tasks(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _do(self, action: Callable[[], T]) -> T:
        async def done() -> T:
            return action()

        return self._wait(done())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


def _remove(traps: list[Trap], trap: Trap) -> None:
    if trap in traps:
        traps.remove(trap)
