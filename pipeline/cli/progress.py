"""A progress bar on stderr while a command runs: only on a terminal, only where tqdm is installed."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from pipeline.cli import output


class Progress:
    """A bar that goes from 0 to `total`; does nothing where there is no terminal. Notes appear above it."""

    def __init__(self, total: int, what: str, unit: str = " events") -> None:
        self._bar: Any = None
        if output.is_fancy(sys.stderr):
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(
                total=total, desc=what, unit=unit, unit_scale=True, file=sys.stderr, dynamic_ncols=True, leave=False
            )

    def expect(self, total: int) -> None:
        """Sets the end of the bar when it is known late."""
        if self._bar is not None:
            self._bar.reset(total)

    def advance(self, number: int) -> None:
        if self._bar is not None and number:
            self._bar.update(number)

    def reach(self, number: int) -> None:
        """Sets how far it is; never goes back. Drawn each time, so that the clock goes on while nothing else does."""
        if self._bar is not None:
            self._bar.n = max(self._bar.n, number)
            self._bar.refresh()

    def note(self, text: str) -> None:
        if self._bar is None:
            output.note(text)
        else:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
