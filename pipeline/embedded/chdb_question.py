"""What one HTTP request asks of the engine: statement, data, settings, parameters. Takes apart; runs and answers nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from typing import NamedTuple

from pipeline.embedded import codec, sql
from pipeline.embedded.chdb_engine import refusal

STATEMENT_BYTES_MAX = 64 * 1024 * 1024
"""A statement without data, such as a SELECT with a long list. Data of an INSERT have no limit: they are never held whole."""
INSERT_HEAD_BYTES_MAX = 1024 * 1024
"""The data of an INSERT in the body must begin within this."""

_NOT_SETTINGS = frozenset(
    """
    query database default_format user password quota_key query_id session_id session_timeout session_check close_session
    compress decompress role stacktrace client_protocol_version buffer_size wait_end_of_query enable_http_compression
    send_progress_in_http_headers http_headers_progress_interval_ms http_zlib_compression_level network_compression_method
    """.split()  # noqa: SIM905
)
_CANCEL = "cancel_http_readonly_queries_on_client_close"


class Question(NamedTuple):
    """One request for the engine, taken apart."""

    statement: sql.Statement
    data: Iterable[bytes]
    database: str
    settings: dict[str, str]
    parameters: dict[str, str]
    default_format: str
    ends_with_client: bool
    """It only reads, and is given up when its client hangs up (`cancel_http_readonly_queries_on_client_close`)."""


def question(url: Mapping[str, str], headers: Message, body: Iterable[bytes]) -> Question:
    """`url` are the parameters of the URL, `body` comes in pieces of which the data of an INSERT stay unread.

    Raises EngineError for what ClickHouse refuses before it runs anything, SqlError, EncodingError.
    """
    fields = dict(url)
    pieces = codec.decoded(body, headers.get("Content-Encoding", ""))
    if headers.get("Content-Type", "").startswith("multipart/form-data"):
        fields.update(_form_fields(headers["Content-Type"], whole(pieces)))
        pieces = iter(())
    text = fields.get("query", "").encode(errors="surrogateescape")
    statement = sql.split_cached(text)
    if statement.kind is sql.Kind.INSERT:
        data: Iterable[bytes] = chain(text[statement.data_at :], pieces)
    else:
        statement, data = _from_body(text, pieces)
    if statement.kind is sql.Kind.EMPTY:
        raise refusal(
            sql.SYNTAX_ERROR, "Syntax error: failed at position 1 (end of query): Empty query", "SYNTAX_ERROR"
        )
    settings = {
        name: value for name, value in fields.items() if name not in _NOT_SETTINGS and not name.startswith("param_")
    }
    reads = statement.kind is sql.Kind.READ and settings.get("readonly") in ("1", "2")
    return Question(
        statement,
        data,
        fields.get("database") or headers.get("X-ClickHouse-Database") or "default",
        settings,
        {name[6:]: value for name, value in fields.items() if name.startswith("param_")},
        fields.get("default_format") or headers.get("X-ClickHouse-Format") or "TabSeparated",
        reads and settings.get(_CANCEL) == "1",
    )


def chain(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    """`first`, unless it is empty, then the rest."""
    if first:
        yield first
    yield from rest


def whole(pieces: Iterable[bytes]) -> bytes:
    """All pieces together, for what must be held whole; refused above `STATEMENT_BYTES_MAX`."""
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > STATEMENT_BYTES_MAX:
            raise refusal(229, f"The statement is larger than {STATEMENT_BYTES_MAX} bytes", "QUERY_IS_TOO_LARGE")
    return bytes(body)


def _from_body(text: bytes, pieces: Iterator[bytes]) -> tuple[sql.Statement, Iterable[bytes]]:
    """A statement that is, or goes on, in the body; with the data that follow it when it is an INSERT."""
    head = text + b"\n" if text else b""
    ended = True
    for piece in pieces:
        head += piece
        if len(head) >= INSERT_HEAD_BYTES_MAX:
            ended = False
            break
    if not ended and not sql.is_insert(head):
        head, ended = whole(chain(head, pieces)), True
    statement = sql.split(head)
    if statement.kind is sql.Kind.INSERT:
        return statement, chain(head[statement.data_at :], pieces)
    if not ended:
        raise refusal(229, f"The data of the INSERT begin after {INSERT_HEAD_BYTES_MAX} bytes", "QUERY_IS_TOO_LARGE")
    return statement, ()


def _form_fields(content_type: str, body: bytes) -> dict[str, str]:
    """The plain fields of a form; external tables (fields with a file name) are refused."""
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    fields = {}
    for part in message.iter_parts():
        if part.get_filename() is not None:
            raise refusal(48, "External tables are not supported", "NOT_IMPLEMENTED")
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = content.decode(errors="surrogateescape")
    return fields
