"""Rules of the section `clickhouse`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import SplitResult, urlsplit

from pipeline.config.facts import Facts, Finding
from pipeline.config.owned import OWNED_SETTINGS
from pipeline.config.secrets import is_secret_name, without_user_info

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EXAMPLE = 'Write it as "http://host:8123", "https://host:8443", or "chdb:///var/lib/penstock/chdb"'


def is_identifier(text: str) -> bool:
    """A name that needs no quotes in SQL. Others exist, but none that an operator wants to type at night."""
    return bool(_IDENTIFIER.fullmatch(text))


def urls(facts: Facts) -> Iterator[Finding]:
    found = facts.config.clickhouse.urls
    key = "clickhouse.urls"
    if not found:
        yield Finding(key, "names no server", 'Write urls = ["http://host:8123"], several for fail-over')
    for index, url in enumerate(found):
        yield from _url(f"{key}[{index}]", url)
    for url, count in Counter(found).items():
        if count > 1:
            yield Finding(key, f"names {without_user_info(url)} {count} times", "Keep one of each", value="")
    if len(found) > 1 and any(url.startswith("chdb://") for url in found):
        yield Finding(key, "mixes the embedded engine with others", "Keep the single chdb:// URL, or only servers")


def _url(key: str, url: str) -> Iterator[Finding]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        yield Finding(key, f"is not a URL ({error})", _EXAMPLE, reads=("clickhouse.urls",))
        return
    for rule, fix in _url_faults(url, parts, port):
        yield Finding(key, rule, fix, reads=("clickhouse.urls",))


def _url_faults(url: str, parts: SplitResult, port: int | None) -> Iterator[tuple[str, str]]:
    if parts.scheme not in ("http", "https", "chdb"):
        yield "is not an http, https or chdb URL", _EXAMPLE
    elif parts.scheme == "chdb":
        if not url.removeprefix("chdb://"):
            yield "names no directory", _EXAMPLE
    elif "@" in parts.netloc:
        yield (
            "must not hold credentials (URLs end up in logs)",
            "Set clickhouse.username, and clickhouse.password_file or PENSTOCK__CLICKHOUSE__PASSWORD",
        )
    elif not parts.hostname or port == 0:
        yield "names no host and port", _EXAMPLE
    elif parts.query or parts.fragment:
        yield (
            "has more than scheme, host, port and the path of a proxy",
            "Set clickhouse.database and [clickhouse.settings] instead",
        )
    elif port in (9000, 9440):
        yield (
            f"uses port {port}, which speaks ClickHouse's native protocol, not HTTP",
            f"Use the HTTP port, {8123 if port == 9000 else 8443} by default",
        )


def clear_password(facts: Facts) -> Iterator[Finding]:
    clickhouse = facts.config.clickhouse
    for url in clickhouse.urls:
        if clickhouse.password and url.startswith("http://") and _host(url) not in _LOOPBACK:
            yield Finding(
                "clickhouse.urls",
                "sends the password and the rows without TLS",
                f"Use https://{_host(url)}:8443 when the network is not trusted",
                reads=("clickhouse.password",),
                warning=True,
            )
            return


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def database(facts: Facts) -> Iterator[Finding]:
    if not is_identifier(facts.config.clickhouse.database):
        yield Finding(
            "clickhouse.database",
            "must begin with a letter or '_' and go on with letters, digits or '_'",
            'Write database = "default"',
        )


def username(facts: Facts) -> Iterator[Finding]:
    if not facts.config.clickhouse.username:
        yield Finding("clickhouse.username", "is empty", 'Write username = "default", or remove the key')


def settings(facts: Facts) -> Iterator[Finding]:
    prefix = "clickhouse.settings"
    for key in facts.config.clickhouse.settings:
        if key in OWNED_SETTINGS:
            yield Finding(
                f"{prefix}.{key}", f"is set by penstock itself ({OWNED_SETTINGS[key]})", "Remove it", reads=(prefix,)
            )
        elif not is_identifier(key):
            yield Finding(
                f"{prefix}.{key}",
                "is no ClickHouse setting",
                "Their names are letters, digits and '_'",
                reads=(prefix,),
            )
        elif is_secret_name(key) and prefix not in facts.origins:
            yield Finding(
                f"{prefix}.{key}",
                "is a secret, and secrets do not belong in the file",
                f'Set the whole table from the environment: PENSTOCK__CLICKHOUSE__SETTINGS=\'{{"{key}": "..."}}\'',
                value="***",
                reads=(prefix,),
            )


def threads(facts: Facts) -> Iterator[Finding]:
    config = facts.config
    if config.clickhouse.insert_threads > config.limits.batches_in_flight_max:
        yield Finding(
            "clickhouse.insert_threads",
            f"is more than limits.batches_in_flight_max = {config.limits.batches_in_flight_max}, so some never work",
            f"Set it to {config.limits.batches_in_flight_max} or less, or allow more batches",
            reads=("limits.batches_in_flight_max",),
            warning=True,
        )


RULES: tuple[Callable[[Facts], Iterable[Finding]], ...] = (
    urls,
    clear_password,
    database,
    username,
    settings,
    threads,
)
