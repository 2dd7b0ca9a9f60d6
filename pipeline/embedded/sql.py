"""Finds what ClickHouse's HTTP interface must know of a statement before it runs: its kind, its formats, where its data begin.

It only looks at words, brackets, quotes and comments; whether the statement is valid is for ClickHouse to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple

SYNTAX_ERROR = 62

_TOKEN = re.compile(
    rb"(?P<space>\s+|--[^\n]*|#[ !][^\n]*|/\*.*?\*/)"
    rb"|(?P<word>[A-Za-z_]\w*)"
    rb"|(?P<quoted>'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\"|`(?:[^`\\]|\\.)*`|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)"
    rb"|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<end>;)|(?P<other>\d[\w.]*|.)",
    re.DOTALL | re.ASCII,
)
_SELECTS = frozenset((b"SELECT", b"WITH", b"FROM", b"("))
_READS = frozenset(b"SELECT WITH FROM SHOW DESCRIBE DESC EXISTS EXPLAIN CHECK".split())
_CHANGES_SESSION = frozenset(b"SET USE".split())


class Kind(Enum):
    """What a statement does, as far as the interface treats it differently."""

    EMPTY = auto()
    READ = auto()
    """Gives a result."""
    COMMAND = auto()
    """Changes something; an INSERT that brings its own rows (SELECT, INFILE) is one too."""
    SESSION = auto()
    """SET or USE: changes only the connection it runs on."""
    INSERT = auto()
    """An INSERT whose rows follow the statement."""


class Statement(NamedTuple):
    """`format` is the FORMAT it names, or empty. For an INSERT, `sql` ends before FORMAT or VALUES, `infile_at` is where a
    FROM INFILE belongs in it, and the data of the text begin at `data_at`; otherwise `sql` is the whole text."""

    kind: Kind
    sql: bytes
    format: str
    data_at: int = -1
    infile_at: int = -1


class _Word(NamedTuple):
    text: bytes
    start: int
    end: int


class SqlError(Exception):
    """A statement the interface refuses before the engine sees it."""


@lru_cache(maxsize=256)
def split_cached(text: bytes) -> Statement:
    """`split` of a text without data, such as the `query` parameter of inserts, which recurs."""
    return split(text)


def split(text: bytes) -> Statement:
    """Takes a statement apart. For an INSERT nothing after the start of its data is looked at. Raises SqlError."""
    words = _words(text)
    first = next(words, None)
    if first is None:
        return Statement(Kind.EMPTY, text, "")
    keyword = first.text.upper()
    if keyword == b"INSERT":
        return _split_insert(text, words)
    named = _output_format([first, *words])
    if keyword in _READS or keyword == b"(":
        return Statement(Kind.READ, text, named)
    if keyword in _CHANGES_SESSION:
        return Statement(Kind.SESSION, text, "")
    if keyword == b"KILL":
        return Statement(Kind.COMMAND, text, named or "TabSeparated")
    return Statement(Kind.COMMAND, text, named)


def is_insert(text: bytes) -> bool:
    """Whether the first word is INSERT; `text` may be the beginning of a statement."""
    return next((word.text.upper() == b"INSERT" for word in _words(text)), False)


def is_select(text: bytes) -> bool:
    """Whether the statement is a SELECT; chDB streams the result of no other (SHOW, CHECK and the like)."""
    return next((word.text.upper() in _SELECTS for word in _words(text)), False)


def _words(text: bytes) -> Iterator[_Word]:
    """Words, and anything else as a nameless token, outside of brackets. An opening bracket comes as the token `(`."""
    depth = 0
    ended = False
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "space":
            continue
        if kind == "end" and depth == 0:
            ended = True
            continue
        if ended:
            raise SqlError("Syntax error (Multi-statements are not allowed)")
        if kind == "open":
            if depth == 0:
                yield _Word(b"(", token.start(), token.end())
            depth += 1
        elif kind == "close":
            depth = max(depth - 1, 0)
        elif depth == 0:
            shown = token.group() if kind == "word" or token.group() == b"." else b""
            yield _Word(shown, token.start(), token.end())


def _split_insert(text: bytes, words: Iterator[_Word]) -> Statement:
    _skip_target(words)
    previous = b""
    settings_at = -1
    for word in words:
        keyword = word.text.upper()
        if previous == b".":
            keyword = b""
        if keyword == b"SETTINGS" and settings_at < 0:
            settings_at = word.start
        infile_at = word.start if settings_at < 0 else settings_at
        if keyword == b"FORMAT":
            name = next(words, None)
            if name is None or not name.text:
                break
            data_at = _data_start(text, name.end)
            return Statement(Kind.INSERT, text[: word.start], name.text.decode(), data_at, infile_at)
        if keyword == b"VALUES":
            return Statement(Kind.INSERT, text[: word.start], "Values", word.end, infile_at)
        if keyword in (b"SELECT", b"WITH", b"FROM", b"WATCH"):
            list(words)
            return Statement(Kind.COMMAND, text, "")
        previous = keyword or word.text
    return Statement(Kind.COMMAND, text, "")


def _skip_target(words: Iterator[_Word]) -> None:
    """Consumes `[INTO] [TABLE] [FUNCTION] name`: the name could be a keyword."""
    for word in words:
        if word.text.upper() not in (b"INTO", b"TABLE", b"FUNCTION"):
            return


def _data_start(text: bytes, position: int) -> int:
    """As ClickHouse's parser: blanks and one line break after the format's name are not data."""
    while text[position : position + 1] in (b" ", b"\t", b"\f"):
        position += 1
    if text[position : position + 1] == b"\r":
        position += 1
    if text[position : position + 1] == b"\n":
        position += 1
    return position


def _output_format(words: list[_Word]) -> str:
    """The name after the last FORMAT that stands where the clause may stand: at the end, or before SETTINGS or INTO."""
    for index in range(len(words) - 2, 0, -1):
        if words[index].text.upper() != b"FORMAT" or not words[index + 1].text:
            continue
        rest = words[index + 2 : index + 3]
        if not rest or rest[0].text.upper() in (b"SETTINGS", b"INTO"):
            return words[index + 1].text.decode()
    return ""
