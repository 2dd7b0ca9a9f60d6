"""Nested values as JSON text: what the block builder calls for a dict, list or Struct that goes into one text column."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_UTC_Z


def encode_json(value: Any) -> bytes:
    """Compact UTF-8 JSON. Raises TypeError, ValueError or RecursionError for a value that JSON cannot express.

    orjson is the fastest for what a record is usually made of; what it refuses though JSON can express it (integers
    above 64 bits, decimals, Structs, msgspec.Raw, bytes as base64) goes through msgspec.
    """
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        if "recursion" in str(error).lower():
            raise ValueError("nested too deeply for JSON text") from None
        return msgspec.json.encode(value)
