"""What every benchmark states beside its time: rows and bytes per second, and the memory one call takes at its peak.

Times are CPU times of this process (all threads), because these machines share their cores.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.worker import GC_THRESHOLDS

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
MIB = 1024 * 1024


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("benchmark") is None:
            item.add_marker(pytest.mark.benchmark(timer=time.process_time, warmup=False))


class Stated:
    """Runs a benchmark and notes what it moved. `rows` and `nbytes` are per call."""

    def __init__(self, benchmark: Any, lines: list[tuple[str, ...]], name: str) -> None:
        self._benchmark = benchmark
        self._lines = lines
        self._name = name

    def __call__(
        self,
        call: Callable[..., Any],
        *,
        rows: int,
        nbytes: int,
        rounds: int = 5,
        setup: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]] | None = None,
        **more: Any,
    ) -> Any:
        """`setup` makes the arguments of each call and is not measured; `more` is stated as it is."""
        peak_bytes, blocks = _memory_of(call, setup)
        result = self._benchmark.pedantic(call, setup=setup, rounds=rounds, iterations=1)
        self.state(
            self._benchmark.stats.stats.median, rows=rows, nbytes=nbytes, peak_bytes=peak_bytes, blocks=blocks, **more
        )
        return result

    def state(
        self, seconds: float, *, rows: int, nbytes: int, peak_bytes: int, blocks: int | None = None, **more: Any
    ) -> None:
        """Notes the figures in `extra_info` and for the table at the end."""
        figures = {
            "rows_per_s": round(rows / seconds),
            "bytes_per_s": round(nbytes / seconds),
            "us_per_row": round(seconds / rows * 1e6, 4),
            "peak_bytes": peak_bytes,
            "python_blocks": blocks,
            **more,
        }
        self._benchmark.extra_info.update(figures)
        extra = ", ".join(f"{key} {value}" for key, value in more.items())
        self._lines.append(
            (
                self._name,
                f"{figures['us_per_row']:.3f} us",
                f"{figures['rows_per_s']:,}",
                f"{figures['bytes_per_s'] / MIB:,.1f}",
                f"{peak_bytes / MIB:,.1f}",
                "" if blocks is None else f"{blocks:,}",
                extra,
            )
        )


def _memory_of(call: Callable[..., Any], setup: Any) -> tuple[int, int]:
    """(how much the resident set grows at its peak, how many Python blocks the result holds) of one call, not timed."""
    arguments, keywords = setup() if setup else ((), {})
    call(*arguments, **keywords)
    arguments, keywords = setup() if setup else ((), {})
    blocks = sys.getallocatedblocks()
    before = _reset_peak()
    held = call(*arguments, **keywords)
    peak = _peak() - before
    blocks = sys.getallocatedblocks() - blocks
    del held
    return max(0, peak), blocks


def _reset_peak() -> int:
    """Starts the peak of the resident set anew, where the system lets us, and gives the present size in bytes."""
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text("5")
    return _peak()


def _peak() -> int:
    try:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(line.split()[1]) * 1024


@pytest.fixture(autouse=True)
def collector_of_a_worker() -> Iterator[None]:
    """A worker freezes its heap and collects seldom; with the collector of a test run nested records cost four times more."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.fixture
def stated(benchmark: Any, request: pytest.FixtureRequest) -> Stated:
    return Stated(benchmark, request.config.stash[_LINES], request.node.name.removeprefix("test_"))


_LINES: pytest.StashKey[list[tuple[str, ...]]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LINES] = []


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> Iterator[None]:
    yield
    lines = config.stash[_LINES]
    if not lines:
        return
    head = ("what", "CPU a row", "rows/s", "MiB/s", "peak MiB", "blocks", "")
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    terminalreporter.write_sep("-", "rows and bytes per CPU second, memory of one call")
    for line in [head, *lines]:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:-1], strict=True)),
        ]
        terminalreporter.write_line("  ".join([*cells, line[-1]]).rstrip())
