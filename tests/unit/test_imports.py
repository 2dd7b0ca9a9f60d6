"""Who may import whom, and how long functions and modules may get: the shape of the project, checked by reading its source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "_native").glob("*.py")])
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500

KAFKA = (
    "pipeline.kafka",
    "pipeline.membership",
    "pipeline.source",
    "pipeline.deadletter",
    "pipeline.embedded",
    "pipeline.workload",
    "pipeline.bench.baselines",
)
CLICKHOUSE = ("pipeline.clickhouse", "pipeline.sink", "pipeline.embedded", "pipeline.bench.baselines")
STAGES = ("membership", "source", "decode", "dedup", "batch", "sink", "deadletter")
LEAVES = {
    "pipeline.types": (),
    "pipeline.version": (),
    "pipeline.clock": (),
    "pipeline.errors": (),
    "pipeline.native": (),
    "pipeline.config": ("pipeline.config", "pipeline.errors"),
    "pipeline.metrics": ("pipeline.types", "pipeline.version"),
}
"""The vocabulary, and what of the project each of its modules may import."""
HEAVY = (
    "confluent_kafka",
    "clickhouse_connect",
    "chdb",
    "msgspec",
    "orjson",
    "uvloop",
    "prometheus_client",
    "lz4",
    "_native",
    "asyncio",
)


class Import(NamedTuple):
    importer: str
    line: int
    imported: str


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports() -> tuple[Import, ...]:
    """Every import statement, wherever it stands; `from package import module` counts as an import of the module too."""
    return tuple(found for path in SOURCES for found in imports_of(path))


def imports_of(path: Path) -> Iterator[Import]:
    name = name_of(path)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (Import(name, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield Import(name, node.lineno, full if is_module(full) else str(node.module))


def is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists() or path.with_suffix(".pyx").exists()


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def forbidden(imported: tuple[str, ...], allowed: tuple[str, ...]) -> list[Import]:
    return [
        one for one in imports() if within(one.imported, imported) and not within(one.importer, (*allowed, *imported))
    ]


def test_there_is_something_to_look_at() -> None:
    assert len(SOURCES) > 30
    assert any(one.imported == "_native.reader" for one in imports())


def test_only_native_imports_the_compiled_core() -> None:
    assert forbidden(("_native",), ("pipeline.native",)) == []


def test_only_the_kafka_modules_import_confluent_kafka() -> None:
    assert forbidden(("confluent_kafka",), KAFKA) == []


def test_only_the_clickhouse_modules_import_clickhouse_connect() -> None:
    assert forbidden(("clickhouse_connect",), CLICKHOUSE) == []


def test_only_the_embedded_engine_imports_chdb() -> None:
    assert forbidden(("chdb",), ("pipeline.embedded",)) == []


def test_the_compiled_core_is_a_leaf() -> None:
    assert [
        one for one in imports() if within(one.importer, ("_native",)) and within(one.imported, ("pipeline",))
    ] == []


@pytest.mark.parametrize("stage", STAGES)
def test_stages_do_not_import_each_other(stage: str) -> None:
    others = tuple(f"pipeline.{other}" for other in STAGES if other != stage)
    assert [
        one for one in imports() if within(one.importer, (f"pipeline.{stage}",)) and within(one.imported, others)
    ] == []


@pytest.mark.parametrize("leaf", LEAVES)
def test_the_vocabulary_imports_nothing_above_it(leaf: str) -> None:
    ours = [one for one in imports() if within(one.importer, (leaf,)) and within(one.imported, ("pipeline",))]
    assert [one for one in ours if not within(one.imported, LEAVES[leaf])] == []


def test_nothing_but_the_command_line_imports_the_command_line() -> None:
    allowed = ("pipeline.cli", "pipeline.__main__")
    assert [
        one for one in imports() if within(one.imported, ("pipeline.cli",)) and not within(one.importer, allowed)
    ] == []


def test_functions_are_short() -> None:
    long = [
        f"{name_of(path)}.{node.name}: {length} lines"
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_modules_are_short() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LINES_MAX} == {}


def test_every_module_says_what_it_is() -> None:
    silent = [name_of(path) for path in SOURCES if path.read_text().strip() and not ast.get_docstring(tree_of(path))]
    assert silent == []


STARTED = """
import sys
sys.argv = ["penstock", "--help"]
from pipeline.cli import main, COMMANDS, parser
parser([])
print(*sorted(set(sys.modules) & set({heavy!r})))
"""


def test_help_is_fast_because_commands_import_late() -> None:
    command = [sys.executable, "-c", STARTED.format(heavy=HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
