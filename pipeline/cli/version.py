"""`penstock version`: the versions of what this installation is made of."""

from __future__ import annotations

import argparse
from typing import Any

_DISTRIBUTIONS = ("confluent-kafka", "clickhouse-connect", "msgspec", "orjson", "lz4", "uvloop", "chdb")


def add(subparsers: Any) -> None:
    """Declares the command."""
    subparsers.add_parser(
        "version", help="print versions", description="Prints the versions of penstock and its parts."
    )


def run(args: argparse.Namespace) -> int:
    """Prints; a part that is not installed is shown as such."""
    import platform
    from importlib import metadata

    from pipeline.cli import output
    from pipeline.version import VERSION

    versions: dict[str, str | None] = {"penstock": VERSION, "python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            versions[name.replace("-", "_")] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name.replace("-", "_")] = None
    versions["librdkafka"] = _librdkafka()
    versions["native_core"] = VERSION if _native_is_built() else None
    if args.json:
        output.result(versions)
    else:
        output.line(output.table([(name, version or "not installed") for name, version in versions.items()]))
    return 0


def _librdkafka() -> str | None:
    try:
        from pipeline.kafka import librdkafka_version
    except ImportError:
        return None
    return librdkafka_version()


def _native_is_built() -> bool:
    try:
        import pipeline.native  # noqa: F401
    except ImportError:
        return False
    return True
