"""Logs: one object a line, repeats held back, nothing of a payload or a secret."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import msgspec

from pipeline import logs
from pipeline.config.schema import Log
from pipeline.logs import (
    INTERVAL_S,
    KINDS_MAX,
    TEMPLATE_LINES_MAX,
    JsonFormatter,
    Repeats,
    TextFormatter,
    text_of,
    trace_of,
)


def record(
    message: str, *args: Any, name: str = "pipeline.sink", level: int = logging.WARNING, **fields: Any
) -> logging.LogRecord:
    made = logging.LogRecord(name, level, __file__, 1, message, args, None)
    made.__dict__.update(fields)
    return made


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(made)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_is_one_object_with_the_fields_of_the_event() -> None:
    found = as_json(record("inserted %d rows", 7, table="orders", seconds=0.5))
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "warning",
        "component": "sink",
        "message": "inserted 7 rows",
        "table": "orders",
        "seconds": 0.5,
    }


def test_text_for_people() -> None:
    line = TextFormatter().format(record("inserted", table="orders"))
    assert line[12:] == ' warning sink: inserted table="orders"'


def test_librdkafka_lines_are_taken_apart() -> None:
    found = as_json(record("%s [%s] %s", "FAIL", "rdkafka#consumer-1", "Connection refused", name="penstock.source"))
    assert (found["component"], found["message"]) == ("source", "Connection refused")
    assert (found["facility"], found["client"]) == ("FAIL", "rdkafka#consumer-1")


def test_bytes_and_secrets_never_show() -> None:
    found = as_json(
        record("at http://u:hunter2@host", value=b"payload", url="http://u:hunter2@host", odd={"k": b"payload"})
    )
    assert found["message"] == "at http://***@host"
    assert found["url"] == "http://***@host"
    assert found["value"] == "<7 bytes>"
    assert found["odd"] == {"k": "<7 bytes>"}


def test_text_that_is_no_unicode_does_not_break_the_line() -> None:
    assert as_json(record("name %s", "a\udcff"))["message"] == "name a?"


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except type(error) as caught:
        return caught


def test_exceptions_are_told_with_their_stack_and_without_text_that_echoes_rows() -> None:
    echo = msgspec.ValidationError("Invalid enum value 'card 4711'")
    made = record("failed")
    error = raised(RuntimeError("while decoding"), raised(echo))
    made.exc_info = (type(error), error, None)
    found = as_json(made)
    assert "4711" not in json.dumps(found)
    assert "RuntimeError: while decoding" in found["exception"]
    assert "msgspec.ValidationError: (its text may hold data and is left out)" in found["exception"]
    assert "test_logs.py" in found["exception"]
    assert "\n" in TextFormatter().format(made)


def test_context_is_followed_like_a_cause() -> None:
    error = msgspec.ValidationError("card 4711")
    try:
        try:
            raise error
        except msgspec.ValidationError:
            raise KeyError("x")  # noqa: B904
    except KeyError as caught:
        trace = trace_of(caught)
    assert "4711" not in trace
    assert "KeyError: 'x'" in trace


def test_text_of() -> None:
    assert text_of(ValueError("why")) == "why"
    assert text_of(msgspec.DecodeError("4711")) == "(its text may hold data and is left out)"


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_same_text_is_told_once_in_an_interval_and_counted() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    assert repeats.filter(record("down (after %dms)", 1))
    assert not any(repeats.filter(record("down (after %dms)", age)) for age in range(5))
    assert repeats.filter(record("up"))
    clock.now_s = INTERVAL_S
    again = record("down (after %dms)", 9)
    assert repeats.filter(again)
    assert as_json(again)["suppressed"] == 5
    assert "suppressed" not in as_json(record("up"))


def test_texts_of_one_template_are_all_told_up_to_a_number() -> None:
    """64 partitions that stop are 64 lines; ten thousand are not."""
    repeats = Repeats(Clock())
    passed = [repeats.filter(record("%s stopped", f"orders/{number}")) for number in range(1_000)]
    assert passed == [True] * TEMPLATE_LINES_MAX + [False] * (1_000 - TEMPLATE_LINES_MAX)


def test_two_components_may_say_the_same() -> None:
    repeats = Repeats(Clock())
    assert repeats.filter(record("down"))
    assert repeats.filter(record("down", name="pipeline.source"))


def test_what_is_remembered_is_bounded() -> None:
    repeats = Repeats(Clock())
    for number in range(3 * KINDS_MAX):
        repeats.filter(record(f"message {number} of many"))
    assert len(repeats._texts) <= KINDS_MAX
    assert len(repeats._templates) <= KINDS_MAX


def test_configure_sends_all_to_one_stream_and_replaces_itself() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure(Log(), first)
    logs.configure(Log(format="text"), second)
    logging.getLogger("pipeline.sink").info("inserted")
    logging.getLogger("penstock.kafka").info("connected")
    logging.getLogger("somebody").info("hello")
    logging.getLogger("pipeline.sink").debug("detail")
    assert first.getvalue() == ""
    assert [line.partition(" info    ")[2] for line in second.getvalue().splitlines()] == [
        "sink: inserted",
        "kafka: connected",
        "somebody: hello",
    ]


def test_level_debug_is_ours_alone_and_tells_everything() -> None:
    stream = io.StringIO()
    logs.configure(Log(level="debug"), stream)
    for _ in range(3):
        logging.getLogger("pipeline.sink").debug("detail")
    logging.getLogger("somebody").debug("detail")
    assert stream.getvalue().count("detail") == 3


def test_the_clickhouse_client_is_not_heard() -> None:
    """Its texts echo rows; the sink reports each error by its code."""
    stream = io.StringIO()
    logs.configure(Log(), stream)
    logging.getLogger("clickhouse_connect.driver.httpclient").error("Cannot parse 'card 4711'")
    logging.getLogger("urllib3.connectionpool").warning("Retrying")
    assert stream.getvalue() == ""
