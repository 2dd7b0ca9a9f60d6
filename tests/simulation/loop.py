"""Virtual time: one real thread runs every thread of every simulated process, one at a time, and nothing else moves the clock.

A task is a greenlet. It gives way only where real code would block: in a sleep, a queue, an event, or a call to Kafka or
ClickHouse. So the project's code runs unchanged, and every run of a seed is the same.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from queue import Empty
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

IDLE_S_MIN, IDLE_S_MAX = 0.25, 5.0
"""A loop that polls in vain waits longer each time: what it waits for wakes it anyway."""
WAIT_S_MAX = 0.4


class Task:
    """One thread of a simulated process."""

    __slots__ = ("hung_until_s", "name", "parked", "process", "run", "ticket", "vain")

    def __init__(self, process: Process, run: greenlet, name: str) -> None:
        self.process = process
        self.run = run
        self.name = name
        self.ticket = 0
        """The wake-up that counts; an older one is void."""
        self.parked = False
        """Waits for something that may come before the time is up."""
        self.vain = 1
        self.hung_until_s = 0.0

    def join(self, timeout_s: float) -> None:
        loop = self.process.loop
        deadline_s = loop.now_s + timeout_s
        while self.is_alive() and loop.now_s < deadline_s:
            loop.sleep(0.1)

    def is_alive(self) -> bool:
        return not self.run.dead


class Process:
    """An operating-system process: it can be stopped and go on (SIGSTOP, SIGCONT), and it can be killed."""

    def __init__(self, loop: Loop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.paused = False
        self.version = 0
        """Of the contract it runs with."""
        self.fuse = -1
        """Kills the process at its n-th call to the outside from now on; negative: never."""
        self.tasks: list[Task] = []
        self._held: list[Task] = []
        self.on_death: list[Callable[[], None]] = []

    def start(self, run: Callable[[], None], name: str) -> Task:
        task = Task(self, greenlet(run, self.loop.hub), name)
        self.tasks.append(task)
        self.loop.resume_at(task, self.loop.now_s)
        return task

    def touch(self) -> None:
        """To be called before everything that leaves the process; here it may die."""
        if self.fuse >= 0:
            self.fuse -= 1
            if self.fuse < 0:
                self.kill()
        if not self.alive:
            raise GreenletExit

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        held, self._held = self._held, []
        for task in held:
            self.loop.resume_at(task, self.loop.now_s + self.loop.jitter(0.02))

    def hang(self, name: str, until_s: float) -> None:
        """One of its threads does not go on until then."""
        for task in self.tasks:
            if task.name == name:
                task.hung_until_s = until_s

    def hold(self, task: Task) -> None:
        self._held.append(task)

    def kill(self) -> None:
        """No line of it runs any more, but for the `finally` blocks that Python insists on; the models ignore those."""
        if not self.alive:
            return
        self.alive = False
        here = getcurrent()
        for task in self.tasks:
            task.ticket += 1
            if task.run is not here and task.run:
                task.run.parent = here
                task.run.throw(GreenletExit)
        for call in self.on_death:
            call()


class Loop:
    """The clock and the order of everything. Has the interface of `pipeline.clock.Clock`."""

    def __init__(
        self, random: Callable[[], float], wall_ms: int = 1_700_000_000_000, *, steps_max: int = 2**62
    ) -> None:
        self.random = random
        self.now_s = 0.0
        self.wall_offset_ms = wall_ms
        self.hub = getcurrent()
        self._give_way = self.hub.switch
        self.steps = 0
        self.ended = False
        """There is no use in going on: somebody said so, or it has taken too many steps."""
        self._steps_max = steps_max
        self._heap: list[tuple[float, int, int, Task | Callable[[], None]]] = []
        self._number = 0
        self._running: Task | None = None

    # Clock

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return self.wall_offset_ms + int(self.now_s * 1000)

    def jitter(self, scale_s: float) -> float:
        """Mostly short, now and then ten times as long."""
        x = self.random()
        return scale_s * x if x < 0.9 else scale_s * 10 * self.random()

    # Scheduling

    def resume_at(self, task: Task, at_s: float) -> None:
        task.ticket += 1
        self._number += 1
        heapq.heappush(self._heap, (at_s, self._number, task.ticket, task))

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Runs `call` in the hub: an arrival, a timer of a server. It must not wait."""
        self.call_at(self.now_s + delay_s, call)

    def call_at(self, at_s: float, call: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (at_s, self._number, 0, call))

    def sleep(self, delay_s: float) -> None:
        """The current task waits; nothing wakes it before its time. Called outside a task, it runs everything else so long."""
        task = self._running
        if task is None:
            self.run(self.now_s + delay_s)
            return
        self.resume_at(task, self.now_s + delay_s)
        self._give_way()

    def park(self, timeout_s: float) -> None:
        """Waits until woken, or for `timeout_s`."""
        task = self._running
        if task is None:
            self.run(self.now_s + timeout_s)
            return
        task.parked = True
        self.resume_at(task, self.now_s + timeout_s)
        self._give_way()

    def idle(self, timeout_s: float, least_s: float = IDLE_S_MIN) -> None:
        """`park` for a loop that polls: in vain again and again it waits longer, so that waiting costs few steps."""
        task = self._running
        if task is None:
            self.run(self.now_s + timeout_s)
            return
        wait_s = least_s * task.vain
        if wait_s < IDLE_S_MAX:
            task.vain *= 8
        else:
            wait_s = IDLE_S_MAX
        task.parked = True
        self.resume_at(task, self.now_s + (timeout_s if timeout_s > wait_s else wait_s))
        self._give_way()

    def wake(self, task: Task | None, within_s: float = 0.002) -> None:
        """What a parked task waits for may be there. It runs soon, not at once."""
        if task is None:
            return
        task.vain = 1
        if task.parked:
            task.parked = False
            self.resume_at(task, self.now_s + within_s * self.random())

    def end(self) -> None:
        """Nothing more runs after this step."""
        self.ended = True

    def current(self) -> Task | None:
        """The task that runs; None outside of all."""
        return self._running

    def run(self, until_s: float, done: Callable[[], bool] | None = None) -> bool:
        """Runs what is due up to `until_s`; False when it stopped before, for `done` or `ended`."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until_s:
            at_s, _, ticket, what = pop(heap)
            if type(what) is Task:
                if ticket != what.ticket or not what.process.alive:
                    continue
                self.now_s = at_s
                if what.process.paused:
                    what.process.hold(what)
                    continue
                if what.hung_until_s > at_s:
                    self.resume_at(what, what.hung_until_s)
                    continue
                what.parked = False
                self.steps += 1
                self._running = what
                what.run.switch()
                self._running = None
            else:
                self.now_s = at_s
                self.steps += 1
                what()  # type: ignore[operator]
            if self.ended or self.steps > self._steps_max:
                self.ended = True
                return False
            if done is not None and done():
                return False
        self.now_s = max(self.now_s, until_s)
        return True


class SimQueue:
    """A `queue.SimpleQueue` whose `get` waits in virtual time."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._items: deque[Any] = deque()
        self._reader: Task | None = None

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._loop.wake(self._reader)

    def get_nowait(self) -> Any:
        self._reader = self._loop.current()
        if not self._items:
            raise Empty
        return self._items.popleft()

    def get(self, block: bool = True, timeout: float = 1e9) -> Any:
        self._reader = self._loop.current()
        if not self._items:
            self._loop.idle(timeout)
        if not self._items:
            raise Empty
        return self._items.popleft()


class SimEvent:
    """A `threading.Event` of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._set = False
        self._asked_s = 0.0
        self._times = 1

    def set(self) -> None:
        self._set = True
        for task in self._process.tasks:
            self._process.loop.wake(task)

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float) -> bool:
        """Whoever waits as shortly as before looks for something else, of which no event tells: less and less often."""
        loop = self._process.loop
        again = timeout == self._asked_s and timeout < WAIT_S_MAX
        self._asked_s, self._times = timeout, 2 * self._times if again else 1
        deadline_s = loop.now_s + (min(timeout * self._times, WAIT_S_MAX) if again else timeout)
        while not self._set and loop.now_s < deadline_s:
            loop.park(deadline_s - loop.now_s)
        return self._set


class SimThreads:
    """`pipeline.threads.Threads` of one simulated process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def queue(self) -> SimQueue:
        return SimQueue(self._process.loop)

    def event(self) -> SimEvent:
        return SimEvent(self._process)

    def start(self, run: Callable[[], None], name: str) -> Task:
        return self._process.start(run, name)
