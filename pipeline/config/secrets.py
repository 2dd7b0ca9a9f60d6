"""What must never be shown, and how everything else is shown: one place decides, every output asks it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

SECRET = "secret"
"""Key in `msgspec.Meta.extra` that marks a field as secret."""
HIDDEN = "***"
VALUE_CHARS_MAX = 80
_SECRET_NAME = re.compile(
    r"password|passwd|secret|credential|key\.pem|private.?key|token|sasl\.oauthbearer\.config|jaas", re.I
)
_SECRET_NAME_NOT = re.compile(r"file|location|url|\.ms$|endpoint|dedup", re.I)
_USER_INFO = re.compile(r"(?<=://)[^/\s@]*@")


def is_secret_name(name: str) -> bool:
    """Whether a free-form key (librdkafka, ClickHouse settings, an unknown key) names something to hide."""
    return bool(_SECRET_NAME.search(name)) and not _SECRET_NAME_NOT.search(name)


def is_secret_field(field: msgspec.structs.FieldInfo) -> bool:
    return _has_secret_meta(field.type)


def _has_secret_meta(annotation: Any) -> bool:
    metadata = getattr(annotation, "__metadata__", ())
    return any(isinstance(meta, msgspec.Meta) and (meta.extra or {}).get(SECRET) for meta in metadata)


def shown(value: Any, name: str = "") -> str:
    """A value as an operator may see it: secrets hidden, user info of URLs hidden, cut to a length that fits a line."""
    text = _shown(value, name)
    return text if len(text) <= VALUE_CHARS_MAX else text[: VALUE_CHARS_MAX - 3] + "..."


def without_user_info(text: str) -> str:
    """The text with `user:password@` of every URL in it hidden."""
    return _USER_INFO.sub(f"{HIDDEN}@", text)


def url_parts(url: str) -> tuple[str, bool]:
    """The URL without user info, and whether it had any."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, False
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), True


def plain(value: Any, name: str = "") -> Any:
    """The value as plain dicts and lists with every secret replaced: safe to print, to log and to hash."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(type(value))
        return {f.name: _plain_field(getattr(value, f.name), f) for f in fields}
    if value not in ("", None) and is_secret_name(name):
        return HIDDEN
    if isinstance(value, Mapping):
        return {str(key): plain(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return without_user_info(value) if isinstance(value, str) else value


def shown_struct(value: msgspec.Struct) -> str:
    """The `repr` of a configuration section."""
    fields = msgspec.structs.fields(type(value))
    inside = ", ".join(f"{f.name}={_repr_field(getattr(value, f.name), f)}" for f in fields)
    return f"{type(value).__name__}({inside})"


def _plain_field(value: Any, field: msgspec.structs.FieldInfo) -> Any:
    if is_secret_field(field):
        return HIDDEN if value else ""
    return plain(value)


def _repr_field(value: Any, field: msgspec.structs.FieldInfo) -> str:
    if is_secret_field(field):
        return repr(HIDDEN if value else "")
    return repr(value) if isinstance(value, msgspec.Struct) else repr(_with_structs(value))


def _with_structs(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
        return value
    return plain(value)


def _shown(value: Any, name: str) -> str:
    if value in ("", None):
        return '""' if value == "" else ""
    hidden = plain(value, name)
    if hidden == HIDDEN:
        return HIDDEN
    if isinstance(hidden, bool):
        return "true" if hidden else "false"
    if isinstance(hidden, str):
        return '"' + hidden + '"'
    if isinstance(hidden, float):
        return f"{hidden:g}"
    try:
        return msgspec.json.encode(hidden).decode()
    except TypeError:
        return str(hidden)
