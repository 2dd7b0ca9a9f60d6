"""The `penstock` command: which subcommands there are, and how every one of them ends.

Each subcommand is a module here with `add(subparsers)`, which declares its options and imports nothing heavy, and
`run(args) -> int`, which does the work and gives the exit code. Data goes to stdout, narration to stderr; with `--json` the
last line of stdout is one object. This module never does a command's work.
"""

from __future__ import annotations

import argparse
import importlib
import os
import select
import sys
from collections.abc import Sequence
from typing import NoReturn

from pipeline.errors import ConfigurationError, Exit, PenstockError
from pipeline.version import VERSION

COMMANDS = ("demo", "run", "check", "config", "ddl", "gen", "verify", "explain", "replay", "bench", "version")
INTERRUPTED = 130
PIPE_CLOSED = 141
"""128 + SIGPIPE: what a shell shows for a command whose reader went away."""
EMBEDDED_MODULES = frozenset({"chdb", "psutil", "tqdm", "backports", "backports.zstd"})
"""What the extra `embedded` brings; an installation that only runs workers has none of it."""
EPILOG = """\
exit codes: 0 ok, 1 the answer is no, 2 usage, 69 Kafka or ClickHouse is down, 70 stopped or a bug,
75 gave up on something that may work later, 78 bad configuration"""


class MissingExtra(PenstockError):
    """A command needs a part that this installation was made without."""

    exit_code = Exit.CONFIG

    def __init__(self, module: str) -> None:
        super().__init__(
            f"the Python module {module!r} is not installed; the embedded broker and engine need it. "
            "Install the extra: pip install 'penstock[embedded]'"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code. Usage errors leave through SystemExit(2), as argparse does."""
    _open_closed_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser(words).parse_args(words)
    try:
        code = int(importlib.import_module(f"{__name__}.{args.command}").run(args))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except PenstockError as error:
        return _told(error, args)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_gone():
            return _quiet()
        if isinstance(error, ModuleNotFoundError) and error.name in EMBEDDED_MODULES:
            return _told(MissingExtra(error.name), args)
        return _bug(error, args)
    return code


def _open_closed_streams() -> None:
    """A daemon may be started with stdout or stderr closed; Python then has None there."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser. When the first word names a command only that one is declared, so that each starts fast."""
    result = _Parser(
        prog="penstock",
        description="Moves events from Kafka into ClickHouse: decoded, checked, deduplicated, written exactly once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--version", action="version", version=f"penstock {VERSION}")
    subparsers = result.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS if not words or words[0] not in COMMANDS else words[:1]:
        importlib.import_module(f"{__name__}.{name}").add(subparsers)
        _add_common(subparsers.choices[name])
    return result


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that answers a misspelt command with the one that was meant."""

    def error(self, message: str) -> NoReturn:
        import difflib
        import re

        word = re.search(r"COMMAND: invalid choice: '([^']*)'", message)
        if word and (close := difflib.get_close_matches(word[1], COMMANDS, n=1)):
            message += f". Did you mean `penstock {close[0]}`?"
        super().error(message)


def _add_common(command: argparse.ArgumentParser) -> None:
    """What every command has, unless it declares its own."""
    common = {
        "--json": "last line of stdout: the result as one JSON object",
        "--debug": "show the traceback of an unexpected error",
    }
    for option, text in common.items():
        if option not in command._option_string_actions:
            command.add_argument(option, action="store_true", help=text)


def _told(error: PenstockError, args: argparse.Namespace) -> int:
    """An error raised on purpose: its message says what, where and the next step."""
    print(f"penstock {args.command}: {error}", file=sys.stderr)
    if _debugging(args):
        _print_trace(error)
    if getattr(args, "json", False):
        from pipeline.cli import output

        problems = [problem._asdict() for problem in error.problems] if isinstance(error, ConfigurationError) else []
        output.result({"ok": False, "exit": int(error.exit_code), "error": str(error), "problems": problems})
    return int(error.exit_code)


def _bug(error: Exception, args: argparse.Namespace) -> int:
    from pipeline.logs import text_of

    print(
        f"penstock {args.command}: {type(error).__name__}: {text_of(error)}\n"
        "This is a bug in penstock. Nothing past the last commit is lost; please report this message"
        + ("" if _debugging(args) else ", with what --debug adds to it"),
        file=sys.stderr,
    )
    if _debugging(args):
        _print_trace(error)
    if getattr(args, "json", False):
        from pipeline.cli import output

        text = f"{type(error).__name__}: {text_of(error)}"
        output.result({"ok": False, "exit": int(Exit.SOFTWARE), "error": text, "problems": []})
    return int(Exit.SOFTWARE)


def _debugging(args: argparse.Namespace) -> bool:
    return bool(getattr(args, "debug", False)) or os.environ.get("PENSTOCK__LOG__LEVEL", "").lower() == "debug"


def _print_trace(error: Exception) -> None:
    from pipeline.logs import trace_of

    print(trace_of(error), file=sys.stderr)


def _stdout_is_gone() -> bool:
    """Whether the pipe that broke is our stdout, and not a connection somewhere in a library."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError):
        return True


def _quiet() -> int:
    """Leaves without Python's complaint that stdout could not be flushed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED
