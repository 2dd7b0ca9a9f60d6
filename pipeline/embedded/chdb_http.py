"""ClickHouse's HTTP interface before one chDB engine: requests, credentials, bodies, answers. Runs no SQL by itself.

    POST /?query=INSERT+INTO+t+FORMAT+Native&insert_deduplication_token=...    body: data, in any Content-Encoding
    POST /?database=d&default_format=JSON&param_x=1&max_threads=1              body: statement (and, for an INSERT, data)
    GET  /?query=SELECT+1          GET /ping          GET /replicas_status

What differs from a server: one user; `compress=1`/`decompress=1` (ClickHouse's own framing) and external tables are refused;
`client_protocol_version`, `role` and `quota_key` are ignored; progress headers are not sent; a result in a format with a
header or a footer is built in memory before it is sent; a setting of a request that its session had SET before is at its
default afterwards.
"""

from __future__ import annotations

import base64
import hmac
import json
import select
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from pipeline.embedded import codec, sql
from pipeline.embedded.chdb_engine import STREAM_SAFE, Connection, Engine, EngineError, Result, SessionKey, refusal
from pipeline.embedded.chdb_listener import Listener
from pipeline.embedded.chdb_question import Question, chain, whole
from pipeline.embedded.chdb_question import question as question_of
from pipeline.embedded.faults import Fault, Faults

PIECE_BYTES = 1024 * 1024
WATCH_S = 0.2
"""How often it is looked whether the client of a running statement is still there."""
_STATUS = {
    401: (194,),
    403: (192, 193, 497, 512, 516),
    400: (6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223, 321, 376, 427, 441, 675, 676),
    404: (46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511),
    408: (159,),
    411: (381,),
    413: (229,),
    415: (779,),
    501: (48,),
    503: (76, 209, 439),
}
HTTP_STATUS = {code: status for status, codes in _STATUS.items() for code in codes}
"""ClickHouse's status for an exception code (ClickHouse: exceptionCodeToHTTPStatus.cpp); 500 for the others."""

_CONTENT_TYPES = {
    "JSON": "application/json",
    "TabS": "text/tab-separated-values",
    "TSV": "text/tab-separated-values",
    "CSV": "text/csv",
}


class BodyCutOff(Exception):
    """The client went away, or stopped sending, in the middle of a body."""


@dataclass
class Access:
    """The one user of the server."""

    user: str = "default"
    password: str = ""

    def check(self, user: str, password: str) -> None:
        same = hmac.compare_digest(user.encode(), self.user.encode()) & hmac.compare_digest(
            password.encode(), self.password.encode()
        )
        if not same:
            text = f"{user}: Authentication failed: password is incorrect, or there is no user with such name"
            raise refusal(516, text, "AUTHENTICATION_FAILED")


@dataclass
class Service:
    """What all requests of a server share."""

    engine: Engine
    access: Access = field(default_factory=Access)
    faults: Faults | None = None
    display_name: str = field(default_factory=socket.gethostname)
    idle_s: float = 60.0
    """How long a kept-alive connection may be silent."""
    body_s: float = 120.0
    """How long a body may pause."""


class Handler(BaseHTTPRequestHandler):
    """Serves one connection, request after request."""

    protocol_version = "HTTP/1.1"
    server_version = "chDB"
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True
    service: Service
    server: Listener  # type: ignore[assignment]

    def handle_one_request(self) -> None:
        self.connection.settimeout(self.service.idle_s)
        self._left: Iterator[bytes] | None = None
        self._answered = False
        self.broken = False
        super().handle_one_request()

    def parse_request(self) -> bool:
        self.connection.settimeout(self.service.body_s)
        return super().parse_request()

    def do_HEAD(self) -> None:
        self._plain(200, b"")

    def do_GET(self) -> None:
        with self.server.busy():
            self._serve()

    def do_POST(self) -> None:
        with self.server.busy():
            self._serve()

    do_PUT = do_POST

    def _serve(self) -> None:
        address = urlsplit(self.path)
        parameters = dict(parse_qsl(address.query, keep_blank_values=True, encoding="utf-8", errors="surrogateescape"))
        self._query_id = parameters.get("query_id") or str(uuid.uuid4())
        self._coding = ""
        if parameters.get("enable_http_compression") in ("1", "true"):
            self._coding = codec.negotiate(self.headers.get("Accept-Encoding", ""))
        try:
            self._left = self._body()
            self._route(address.path, parameters)
            self._drain()
        except EngineError as error:
            self._refuse(error)
        except sql.SqlError as error:
            self._refuse(refusal(sql.SYNTAX_ERROR, str(error), "SYNTAX_ERROR"))
        except codec.EncodingError as error:
            self._refuse(refusal(271, str(error), "CANNOT_DECOMPRESS"))
        except (BodyCutOff, ConnectionError, TimeoutError):
            self.close_connection = True

    def _route(self, path: str, parameters: dict[str, str]) -> None:
        bare = path == "/" and self.command == "GET" and "query" not in parameters
        if path in ("/ping", "/replicas_status") or bare:
            self._plain(200, b"Ok.\n")
        elif path == "/faults" and self.service.faults is not None:
            self._order_faults(self.service.faults)
        elif path == "/":
            self._authenticate(parameters)
            self._ask(parameters)
        else:
            text = f"There is no handle {path}\n\nUse / or /ping for health checks.\n"
            self._plain(404, text.encode())

    # Bodies

    def _body(self) -> Iterator[bytes]:
        """The body as it comes, in pieces; raises BodyCutOff when it ends early."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._chunked_body()
        return self._counted_body(int(self.headers.get("Content-Length") or 0))

    def _counted_body(self, left: int) -> Iterator[bytes]:
        while left > 0:
            piece = self.rfile.read(min(left, PIECE_BYTES))
            if not piece:
                raise BodyCutOff
            left -= len(piece)
            yield piece

    def _chunked_body(self) -> Iterator[bytes]:
        while True:
            try:
                size = int(self.rfile.readline(256).partition(b";")[0], 16)
            except ValueError as error:
                raise BodyCutOff from error
            yield from self._counted_body(size)
            if not self.rfile.readline(256).endswith(b"\n"):
                raise BodyCutOff
            if size == 0:
                return

    def _drain(self) -> None:
        """Reads what the request still brings, so that the client sees the answer and the next request begins in its place."""
        if self._left is not None:
            for _ in self._left:
                pass

    # Questions

    def _authenticate(self, parameters: dict[str, str]) -> None:
        user = self.headers.get("X-ClickHouse-User")
        password = self.headers.get("X-ClickHouse-Key")
        basic = self.headers.get("Authorization")
        if user is None and password is None and basic is not None:
            scheme, _, text = basic.partition(" ")
            if scheme.lower() != "basic":
                raise refusal(
                    516,
                    f"Invalid authentication: '{scheme}' HTTP Authorization scheme is not supported",
                    "AUTHENTICATION_FAILED",
                )
            with suppress(ValueError):
                user, _, password = base64.b64decode(text).decode().partition(":")
        user = user if user is not None else parameters.get("user")
        password = password if password is not None else parameters.get("password")
        self.service.access.check(user or "default", password or "")

    def _ask(self, parameters: dict[str, str]) -> None:
        if parameters.get("compress") == "1" or parameters.get("decompress") == "1":
            raise refusal(48, "compress=1 and decompress=1 are not supported: use Content-Encoding", "NOT_IMPLEMENTED")
        question = question_of(parameters, self.headers, self._left or ())
        if self.command == "GET" and question.statement.kind not in (sql.Kind.READ, sql.Kind.SESSION):
            text = (
                "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. "
                "You should use method POST for modifying queries"
            )
            raise refusal(164, text, "READONLY")
        fault = self._fault(question.statement)
        session = None
        if parameters.get("session_id"):
            timeout_s = float(parameters.get("session_timeout") or 60)
            session = SessionKey(parameters["session_id"], timeout_s, parameters.get("session_check") == "1")
        with self.service.engine.lease(question.database, question.settings, session) as connection:
            if question.statement.kind is sql.Kind.SESSION and session is None:
                connection.tainted = True
            self._run(connection, question, fault, wait=parameters.get("wait_end_of_query") == "1")

    def _run(self, connection: Connection, question: Question, fault: Fault | None, *, wait: bool) -> None:
        statement = question.statement
        started = time.monotonic_ns()
        if statement.kind is sql.Kind.INSERT:
            result = connection.insert(statement, question.parameters, question.data)
            shown = ""
        elif statement.kind is sql.Kind.READ:
            shown = statement.format or question.default_format
            with self._watched(question) as text:
                if not wait and shown in STREAM_SAFE and sql.is_select(statement.sql):
                    self._stream(connection.stream(text, shown, question.parameters), shown)
                    return
                result = connection.query(text, shown, question.parameters)
        else:
            shown = statement.format
            result = connection.query(statement.sql, shown or question.default_format, question.parameters)
        if fault is not None and fault.action == "fail_after":
            raise refusal(fault.code, fault.message, fault.name)
        if fault is not None and fault.action == "drop_after":
            raise BodyCutOff
        self._drain()
        self._whole_answer(result, shown, time.monotonic_ns() - started)

    @contextmanager
    def _watched(self, question: Question) -> Iterator[bytes]:
        """The statement as it is to be run; while it runs it is given up when its client hangs up, if it is one for that."""
        if not question.ends_with_client:
            yield question.statement.sql
            return
        mark = f"/* {uuid.uuid4().hex} */ "
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(mark, over), name="watch", daemon=True)
        watcher.start()
        try:
            yield mark.encode() + question.statement.sql
        finally:
            over.set()
            watcher.join()

    def _watch(self, mark: str, over: threading.Event) -> None:
        while not over.wait(WATCH_S):
            if _has_hung_up(self.connection):
                self.service.engine.kill(mark)
                return

    # Faults

    def _fault(self, statement: sql.Statement) -> Fault | None:
        if self.service.faults is None:
            return None
        fault = self.service.faults.take(statement.sql.decode(errors="replace"), statement.kind is sql.Kind.INSERT)
        if fault is None:
            return None
        time.sleep(fault.delay_ms / 1000)
        if fault.action == "fail":
            raise refusal(fault.code, fault.message, fault.name)
        if fault.action == "drop":
            raise BodyCutOff
        return fault

    def _order_faults(self, faults: Faults) -> None:
        if self.command == "POST":
            body = whole(self._left or ())
            try:
                orders = msgspec.json.decode(body, type=list[Fault])
            except msgspec.MsgspecError as error:
                self._plain(400, f"{error}\n".encode())
                return
            if not orders:
                faults.clear()
            for order in orders:
                faults.add(order)
        self._plain(200, b"%d\n" % faults.left())

    # Answers

    def _whole_answer(self, result: Result, shown: str, elapsed_ns: int) -> None:
        data = result.data
        if self._coding and data:
            data = b"".join(codec.encoded([data], self._coding))
        summary = {
            "read_rows": str(result.read_rows),
            "read_bytes": str(result.read_bytes),
            "written_rows": str(result.written_rows),
            "written_bytes": str(result.written_bytes),
            "total_rows_to_read": "0",
            "result_rows": str(result.written_rows or result.read_rows),
            "result_bytes": str(len(result.data)),
            "elapsed_ns": str(elapsed_ns),
        }
        self._head(200, shown, summary)
        if self._coding and data:
            self.send_header("Content-Encoding", self._coding)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _stream(self, blocks: Iterator[bytes], shown: str) -> None:
        """Sends a result while it is made. The first block comes before the head, so that most errors have their status."""
        first = next(blocks, b"")
        self._drain()
        tag = uuid.uuid4().hex[:16]
        self._head(200, shown, None)
        if self._coding:
            self.send_header("Content-Encoding", self._coding)
        self.send_header("X-ClickHouse-Exception-Tag", tag)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in codec.encoded(_with_exception(chain(first, blocks), tag, self), self._coding):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        # After an exception the closing chunk is left out, and the connection ends: the client must not take it for whole.
        if self.broken:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _refuse(self, error: EngineError) -> None:
        with suppress(BodyCutOff, ConnectionError, TimeoutError):
            self._drain()
            if self._answered:
                self.close_connection = True
                return
            version = self.service.engine.version
            data = f"{error} (version {version} (official build))\n".encode(errors="replace")
            self._head(HTTP_STATUS.get(error.code, 500), "", None)
            self.send_header("X-ClickHouse-Exception-Code", str(error.code))
            if error.code == 194:
                self.send_header("WWW-Authenticate", 'Basic realm="ClickHouse server HTTP API"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()
            return
        self.close_connection = True

    def _plain(self, status: int, data: bytes) -> None:
        self._drain()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=UTF-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _head(self, status: int, shown: str, summary: dict[str, str] | None) -> None:
        self._answered = True
        self.send_response(status)
        kind = next((kind for start, kind in _CONTENT_TYPES.items() if shown.startswith(start)), "")
        kind = (
            f"{kind}; charset=UTF-8" if kind else "application/octet-stream" if shown else "text/plain; charset=UTF-8"
        )
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close" if self.close_connection else "Keep-Alive")
        self.send_header("Keep-Alive", f"timeout={self.service.idle_s:.0f}")
        self.send_header("X-ClickHouse-Server-Display-Name", self.service.display_name)
        self.send_header("X-ClickHouse-Query-Id", self._query_id)
        self.send_header("X-ClickHouse-Timezone", self.service.engine.timezone)
        if shown:
            self.send_header("X-ClickHouse-Format", shown)
        if summary is not None:
            self.send_header("X-ClickHouse-Summary", json.dumps(summary, separators=(",", ":")))

    def log_message(self, *_: Any) -> None:
        """Nothing is logged per request."""


def _has_hung_up(connection: socket.socket) -> bool:
    try:
        return bool(select.select([connection], [], [], 0)[0]) and not connection.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


def _with_exception(blocks: Iterator[bytes], tag: str, handler: Handler) -> Iterator[bytes]:
    """The blocks and, when the engine fails between two of them, the text that tells the client so (as servers since 25.11)."""
    try:
        yield from blocks
    except EngineError as error:
        handler.broken = True
        message = f"{error} (version {handler.service.engine.version})\n"
        yield f"\r\n__exception__\r\n{tag}\r\n{message}{len(message)} {tag}\r\n__exception__\r\n".encode()


def serve(service: Service, port: int = 0, connections_max: int = 128) -> Listener:
    """A listener for `service` on 127.0.0.1, not started yet."""
    handler: Any = type("BoundHandler", (Handler,), {"service": service})
    return Listener(handler, port, connections_max)
