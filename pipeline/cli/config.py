"""`penstock config`: every key of the configuration, with its default, its bounds and what it is for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config.reference import Key, Section

_INTRODUCTION = """\
# Configuration

One TOML file. `penstock check -c FILE` reports every problem in it at once. A key is also set from the environment, where two
underscores separate the names: `kafka.group` is `PENSTOCK__KAFKA__GROUP`. Lists and tables are written as JSON
(`PENSTOCK__ROUTES='[{...}]'`). The environment wins over the file. Passwords come from `password_file` or the environment only,
and are never shown.

This page is what `penstock config --markdown` prints."""


def add(subparsers: Any) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "config",
        help="list every key of the configuration",
        description="Lists every key of the configuration with its default, its bounds and what it is for.",
    )
    parser.add_argument("key", nargs="?", metavar="KEY", help="only the keys that begin with this, such as kafka")
    parser.add_argument("--markdown", action="store_true", help="as the page docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Prints; 2 when no key begins with the word given."""
    from pipeline.cli import output
    from pipeline.config import reference
    from pipeline.errors import Exit

    found = _matching(reference.sections(), args.key or "")
    if not found:
        output.note(f"penstock config: no key begins with {args.key!r}; `penstock config` lists all")
        return int(Exit.USAGE)
    if args.json:
        output.result({"keys": [key._asdict() for section in found for key in section.keys]})
    elif args.markdown:
        output.line("\n".join(_markdown(found)))
    else:
        output.line("\n".join(_text(found)))
    return 0


def _matching(sections: Sequence[Section], word: str) -> list[Section]:
    kept = [
        section._replace(keys=tuple(key for key in section.keys if key.name.startswith(word))) for section in sections
    ]
    return [section for section in kept if section.keys]


def _text(sections: Sequence[Section]) -> Iterator[str]:
    from pipeline.cli import output

    for number, section in enumerate(sections):
        if number:
            yield ""
        yield output.coloured(section.heading or "top level", "bold")
        for key in section.keys:
            name = key.name.rpartition(".")[2]
            yield f"  {name} = {key.default}" if key.default else f"  {name}   (required, {key.kind})"
            yield from (f"      {line}" for line in _lines(key) if line)


def _lines(key: Key) -> tuple[str, ...]:
    choices = key.kind if " or " in key.kind and key.kind != "true or false" else ""
    return " ".join(key.text.split()), choices, key.bounds


def _markdown(sections: Sequence[Section]) -> Iterator[str]:
    from pipeline.config import reference

    yield _INTRODUCTION
    for section in sections:
        yield f"\n## {f'`{section.heading}`' if section.heading else 'Top level'}\n"
        yield f"{' '.join(section.text.split())}\n"
        yield "| key | kind | default | what it is for | bounds |"
        yield "| --- | --- | --- | --- | --- |"
        for key in section.keys:
            default = f"`{key.default}`" if key.default else "required"
            cells = (f"`{key.name.rpartition('.')[2]}`", key.kind, default, " ".join(key.text.split()), key.bounds)
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield "\n## Relations\n\n| limit | | other | reason |\n| --- | --- | --- | --- |"
    for order in reference.relations():
        yield f"| `{order.less}` | {'below' if order.strict else 'at most'} | `{order.more}` | {order.reason} |"
