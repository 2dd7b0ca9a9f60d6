"""What the documentation points at exists: files, headings of other pages, and the tests that the README names as proof."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def links(page: Path) -> list[tuple[str, str]]:
    without_code = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    return [(text, target) for text, target in LINK.findall(without_code) if "://" not in target]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for _, target in links(page):
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(found), f"{page.name} links to {target}"


def test_the_readme_names_tests_that_exist() -> None:
    named = [(text.strip("`"), target) for text, target in links(ROOT / "README.md") if target.startswith("tests/")]
    assert len(named) > 15
    for name, target in named:
        assert re.search(rf"^def {name}\(", (ROOT / target).read_text(), re.M), f"{target} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_placeholder_is_left(page: Path) -> None:
    assert not re.search(r"@[A-Z_]+@|\bTODO\b|\bTBD\b", page.read_text())


def test_the_file_map_names_files_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:pipeline|_native|tests|docs)/[\w./]*)`", text))
    assert len(named) > 15
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
