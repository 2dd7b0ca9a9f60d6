"""How commands write: data on stdout, narration on stderr, colour only for a terminal. It formats and prints, nothing else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

_COLOURS = {"green": "32", "yellow": "33", "red": "31", "bold": "1", "dim": "2"}


def result(values: Mapping[str, Any]) -> None:
    """The answer of a command under `--json`: one object on one line, the last of stdout."""
    sys.stdout.write(json.dumps(values, default=str, allow_nan=False) + "\n")
    sys.stdout.flush()


def line(text: str = "") -> None:
    """One line of data."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line of narration."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def is_fancy(stream: TextIO) -> bool:
    """Whether colour and progress are wanted: on a terminal that can, unless NO_COLOR says no."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: str, stream: TextIO | None = None) -> str:
    """The text in a colour (green, yellow, red, bold, dim), or as it is where colours are not wanted."""
    if not is_fancy(stream if stream is not None else sys.stdout):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), indent: str = "") -> str:
    """Columns padded to their widest cell; the columns in `right` are aligned to the right."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def bytes_text(nbytes: float) -> str:
    """Bytes for people: 64.0 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if abs(nbytes) < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} GiB"


def count_text(number: float) -> str:
    """A whole number for people: 500,000."""
    return f"{number:,.0f}"
