"""Structured logs on stderr: one JSON object (or one text line) an event, repeats held back, never bytes of a payload.

It owns the root logger's handler. Modules log through `logging.getLogger(__name__)`, with `extra={...}` for fields of
their own; librdkafka's clients take such a logger too (`logger=`), and their lines come out in the same form.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import orjson

from pipeline.config.schema import Log
from pipeline.config.secrets import without_user_info

INTERVAL_S = 10.0
"""The same text is told once in this time,"""
TEMPLATE_LINES_MAX = 100
"""and texts made from the same template this often."""
KINDS_MAX = 1_000
"""Texts and templates remembered; beyond it the memory begins anew."""
TEXT_CHARS_MAX = 8_000

_LIBRDKAFKA_TEMPLATE = "%s [%s] %s"
_DURATION = re.compile(r"\d+\s?(ms|s)\b")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "suppressed"}
_ECHOES_DATA = ("clickhouse_connect", "chdb", "msgspec", "orjson", "json")
"""Their error texts can hold parts of a record."""


def configure(config: Log, stream: TextIO | None = None) -> None:
    """Sends all logs of the process to `stream` (stderr). The last call wins."""
    level = getattr(logging, config.level.upper())
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    handler.addFilter(is_told)
    if level > logging.DEBUG:
        handler.addFilter(Repeats())
    root = logging.getLogger()
    for old in [old for old in root.handlers if getattr(old, "is_penstock", False)]:
        root.removeHandler(old)
    handler.is_penstock = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(max(level, logging.INFO))
    for name in ("pipeline", "penstock"):
        logging.getLogger(name).setLevel(level)


def is_told(record: logging.LogRecord) -> bool:
    """False for the ClickHouse client: the sink reports every error itself, by code; the client's text can echo rows."""
    return record.name.partition(".")[0] not in ("clickhouse_connect", "urllib3")


_Count = tuple[float, int, int]
"""When the interval began, how many lines passed in it, how many were held back."""


class Repeats(logging.Filter):
    """Holds back lines that say again what was said a moment ago, and counts them on the next one that passes."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._texts: dict[tuple[str, str], _Count] = {}
        self._templates: dict[tuple[str, str], _Count] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = _DURATION.sub("", record.getMessage())
        passes_text, held_text = self._passes(self._texts, (record.name, text), 1)
        if not passes_text:
            return False
        template = (record.name, str(record.msg))
        passes_template, held_template = self._passes(self._templates, template, TEMPLATE_LINES_MAX)
        record.suppressed = held_text or held_template
        return passes_template

    def _passes(self, seen: dict[tuple[str, str], _Count], kind: tuple[str, str], lines_max: int) -> tuple[bool, int]:
        """Whether one more line of the kind may pass, and how many did not in the interval before."""
        now = self._now()
        since_s, passed, held = seen.get(kind, (now, 0, 0))
        if now - since_s >= INTERVAL_S:
            seen[kind] = (now, 1, 0)
            return True, held
        if passed >= lines_max:
            seen[kind] = (since_s, passed, held + 1)
            return False, 0
        if len(seen) >= KINDS_MAX:
            seen.clear()
        seen[kind] = (since_s, passed + 1, held)
        return True, 0


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, component, message, then the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {"time": _time(record.created), "level": record.levelname.lower(), **_content(record)}
        return orjson.dumps(entry, default=_shown, option=orjson.OPT_NON_STR_KEYS).decode()


class TextFormatter(logging.Formatter):
    """For people: time, level, component, message, key=value."""

    def format(self, record: logging.LogRecord) -> str:
        content = _content(record)
        component, message = content.pop("component"), content.pop("message")
        trace = content.pop("exception", "")
        fields = "".join(f" {key}={_as_text(value)}" for key, value in content.items())
        line = f"{_time(record.created)[11:23]} {record.levelname.lower():7} {component}: {message}{fields}"
        return f"{line}\n{trace}" if trace else line


def _content(record: logging.LogRecord) -> dict[str, Any]:
    content: dict[str, Any] = {"component": record.name.removeprefix("pipeline.").removeprefix("penstock.")}
    if record.msg == _LIBRDKAFKA_TEMPLATE and isinstance(record.args, tuple) and len(record.args) == 3:
        facility, client, message = record.args
        content |= {"message": _clean(str(message)), "facility": facility, "client": client}
    else:
        content["message"] = _clean(record.getMessage())
    for key, value in vars(record).items():
        if key not in _STANDARD:
            content[key] = _clean(value) if isinstance(value, str) else value
    if suppressed := getattr(record, "suppressed", 0):
        content["suppressed"] = suppressed
    if record.exc_info and record.exc_info[1] is not None:
        content["exception"] = trace_of(record.exc_info[1])
    return content


def trace_of(error: BaseException) -> str:
    """The stack of an exception and of what caused it. Texts of libraries that echo rows are left out."""
    told = traceback.TracebackException.from_exception(error)
    seen: traceback.TracebackException | None = told
    cause: BaseException | None = error
    while seen is not None and cause is not None:
        seen._str = text_of(cause)  # type: ignore[attr-defined]
        following = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        seen = seen.__cause__ or seen.__context__
        cause = following
    return "".join(told.format()).rstrip()


def text_of(error: BaseException) -> str:
    """The text of an exception, unless its library is one that echoes rows."""
    if type(error).__module__.partition(".")[0] in _ECHOES_DATA:
        return "(its text may hold data and is left out)"
    return _clean(str(error))


def _clean(text: str) -> str:
    """Without credentials in URLs, without what is no Unicode, and of a bounded length."""
    text = without_user_info(text[:TEXT_CHARS_MAX])
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _time(seconds: float) -> str:
    whole = int(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((seconds - whole) * 1000):03d}Z"


def _shown(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    return _clean(str(value))


def _as_text(value: Any) -> str:
    return orjson.dumps(value, default=_shown, option=orjson.OPT_NON_STR_KEYS).decode()
