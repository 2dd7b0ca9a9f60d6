"""Decodes a run of records into rows of the contract. Keeps nothing between runs that could change a result; does no I/O.

Every record ends as a row, a reject or filtered (a dropped tombstone). A good record costs what msgspec costs: the loop
over records runs inside `list.extend`, which keeps what it has when a record raises, so that the loop resumes after it.

What is accepted beside the obvious: of a key that an object holds twice the last one wins; UTF-8 is checked in what is
decoded, not in fields that the contract skips or keeps as raw text.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, Literal

import msgspec

from pipeline.contract.jsoneachrow import Refused
from pipeline.contract.model import Contract
from pipeline.contract.reading import FastWay
from pipeline.errors import invariant
from pipeline.types import Reject, RejectCode, Stage

_EXPECTED = re.compile(r"Expected `([^`]+)`, got `(object|array|str|int|float|bool|null|bytes|ext|map|datetime)`")
_BOUND = re.compile(r"Expected `[^`]+` (?:matching regex .+|with length .+|[<>]=? .+|that's a multiple of .+)")
_LENGTH = re.compile(r"Expected `array` of (?:at least |at most )?length \d+(?: to \d+)?(?:, got \d+)?")
_MISSING = re.compile(r"Object missing required field `([^`]+)`")
_WHERE = re.compile(r" - at `((?:key` in `)?\$[^`]*)`$")
_PLAIN = ("Invalid RFC3339 encoded", "Invalid UUID", "Invalid decimal string", "Invalid base64", "Invalid ISO8601")
_RANGE = ("Number out of range", "Timestamp is out of range", "Duration is out of range", "Integer value out of range")


KNOWN_REJECTS_MAX = 256
KNOWN_CHARS_MAX = 1_000


class Decoder:
    """Decodes the records of one topic. Used by one thread at a time."""

    def __init__(self, contract: Contract, record_bytes_max: int, tombstones: Literal["drop", "reject"]) -> None:
        self.record_bytes_max = record_bytes_max
        self._drop_tombstones = tombstones == "drop"
        self._tag_fields = _tag_fields(contract)
        self._fast = FastWay(contract.reading) if contract.reading is not None else None
        module: Any = msgspec.json if contract.format == "json" else msgspec.msgpack
        self._plain: Callable[[Any], Any] = module.Decoder(contract.root).decode
        self._known: dict[tuple[str, str], Reject] = {}

    def decode(
        self, values: list[bytes | None], *, largest_bytes: int | None = None
    ) -> tuple[list[object | None], list[tuple[int, Reject]], int]:
        """Rows in line with `values`, the rejects by index, and how many records were filtered.

        `largest_bytes` is at least the size of the largest value, where the caller knows it.
        The row is None where the record was rejected or filtered. No exception leaves here for anything a record holds.
        """
        decode: Callable[[Any], Any] = self._fast.decode if self._fast is not None else self._plain
        rows: list[Any] = []
        rejects: list[tuple[int, Reject]] = []
        filtered = 0
        records = self._without_large(values, largest_bytes)
        while True:
            try:
                rows.extend(map(decode, records))
                break
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, ValueError) as error:
                index = len(rows)
                row, reject = self._second_look(values[index], error)
                rows.append(row)
                if reject is not None:
                    rejects.append((index, reject))
                elif row is None:
                    filtered += 1
        invariant(len(rows) == len(values), f"{len(values)} records became {len(rows)} rows and rejects")
        if self._fast is not None:
            rejects += [
                (index, self._careful(values[index] or b"")[1] or self._explain(error))
                for index, error in self._fast.settle(rows)
            ]
            rejects.sort(key=itemgetter(0))
        return rows, rejects, filtered

    def _without_large(self, values: list[bytes | None], largest: int | None) -> Iterator[bytes | None]:
        """The values, with None for those above the limit, which must not be decoded at all."""
        if largest is None:
            largest = max(map(len, filter(None, values)), default=0)
        if largest <= self.record_bytes_max:
            return iter(values)
        return iter([value if value is None or len(value) <= self.record_bytes_max else None for value in values])

    def _second_look(self, value: bytes | None, error: Exception) -> tuple[Any, Reject | None]:
        """What becomes of a record that did not decode: a row after all, a reject, or neither when it is filtered."""
        if value is None:
            return None, None if self._drop_tombstones else _reject(RejectCode.TOMBSTONE, "the record has no value")
        if not value:
            return None, _reject(RejectCode.EMPTY, "the record is 0 bytes long")
        if len(value) > self.record_bytes_max:
            detail = f"the record is {len(value)} bytes long, limits.record_bytes_max is {self.record_bytes_max}"
            return None, _reject(RejectCode.TOO_LARGE, detail)
        if isinstance(error, RecursionError):
            return self._on_fresh_stack(value)
        return self._careful(value, error)

    def _careful(self, value: bytes, error: Exception | None = None) -> tuple[Any, Reject | None]:
        """Whatever the fast way of an inferred contract refuses is decided by reading the record again, because what it
        refuses, and which of several faults it meets first, depends on what it has learned from other records.

        `error` is never raised again: its traceback would then hold this frame, which holds `error`, and such a ring
        keeps the rows and values of the whole run until the collector comes by.
        """
        if error is not None and self._fast is None:
            return None, self._explain(error)
        try:
            return (self._plain(value) if self._fast is None else self._fast.reread(value)), None
        except RecursionError:
            return None, _reject(RejectCode.TOO_DEEP, "the record is nested too deeply")
        except (Refused, msgspec.MsgspecError, UnicodeDecodeError, TypeError, ValueError) as final:
            return None, self._explain(final)

    def _on_fresh_stack(self, value: bytes) -> tuple[Any, Reject | None]:
        """How deep a record may be depends on how deep the caller is. Only what a thread of its own cannot decode is too
        deep, so that a record read again elsewhere has the same fate."""
        result: list[tuple[Any, Reject | None]] = []
        thread = threading.Thread(target=lambda: result.append(self._careful(value)), name="decode-deep")
        thread.start()
        thread.join()
        return result[0]

    def _explain(self, error: Exception) -> Reject:
        """The reject for an exception. Only texts known to hold no payload are passed on."""
        if isinstance(error, Refused):
            return Reject(Stage.CONTRACT, error.code, f"{error.path}: {error.rule}")
        if isinstance(error, UnicodeDecodeError):
            return _reject(RejectCode.INVALID_UTF8, f"text that is not UTF-8: {error.reason}")
        if not isinstance(error, msgspec.ValidationError):
            text = str(error) if isinstance(error, msgspec.DecodeError) else "it cannot be decoded"
            return _reject(RejectCode.UNDECODABLE, text if _is_safe(text) else "it is malformed")
        return self._of_contract(str(error), type(error.__cause__).__name__ if error.__cause__ is not None else "")

    def _of_contract(self, text: str, cause: str) -> Reject:
        """The reject for a text of msgspec's; bad records are mostly bad in few ways, whose texts are the same."""
        known = self._known.get((text, cause))
        if known is not None:
            return known
        where = _WHERE.search(text)
        path = where[1].replace("`", "") if where else "$"
        code, rule = self._rule(text[: where.start()] if where else text, path, cause)
        reject = Reject(Stage.CONTRACT, code, f"{path}: {rule}")
        if len(self._known) < KNOWN_REJECTS_MAX and len(text) < KNOWN_CHARS_MAX:
            self._known[text, cause] = reject
        return reject

    def _rule(self, text: str, path: str, cause: str) -> tuple[RejectCode, str]:
        if cause:  # raised by the user's own code: its text may say anything
            return RejectCode.BREAKS_CONTRACT, f"refused by the contract ({cause})"
        if text.startswith(("Invalid value", "Expected")) and path.removeprefix("$.") in self._tag_fields:
            return RejectCode.UNKNOWN_TYPE, "no type of the contract has this tag"
        if match := _EXPECTED.fullmatch(text):
            code = RejectCode.NULL if match[2] == "null" else RejectCode.WRONG_TYPE
            return code, f"expected {match[1]}, got {match[2]}"
        if match := _MISSING.fullmatch(text):
            code = RejectCode.UNKNOWN_TYPE if match[1] in self._tag_fields else RejectCode.BREAKS_CONTRACT
            return code, f"field {match[1]} is missing"
        if text.startswith(("Invalid enum value", "Invalid value")):
            return RejectCode.BREAKS_CONTRACT, "not one of the allowed values"
        if text.startswith("Object contains unknown field"):
            return RejectCode.BREAKS_CONTRACT, "an unknown field, which the contract forbids"
        if text.startswith(_RANGE):
            return RejectCode.OUT_OF_RANGE, "the number is out of range"
        if _BOUND.fullmatch(text) or _LENGTH.fullmatch(text):
            return RejectCode.BREAKS_CONTRACT, text.replace("`", "")
        if text.startswith(_PLAIN):
            return RejectCode.WRONG_TYPE, text
        return RejectCode.BREAKS_CONTRACT, "the value breaks the contract"


_MALFORMED = re.compile(
    r"(Input data was truncated|(JSON|MessagePack data) is malformed: [a-z0-9 ,'-]+ \(byte \d+\)"
    r"|Invalid escape character in string|Invalid unicode surrogate pair|Invalid JSON)"
)


def _is_safe(text: str) -> bool:
    return _MALFORMED.fullmatch(text) is not None


def _reject(code: RejectCode, detail: str) -> Reject:
    return Reject(Stage.DECODE, code, detail)


def _tag_fields(contract: Contract) -> frozenset[str]:
    fields = (
        row_type.__struct_config__.tag_field for row_type in contract.tables if issubclass(row_type, msgspec.Struct)
    )
    return frozenset(field for field in fields if field is not None)
