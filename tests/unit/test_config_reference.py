"""`penstock config` and its page: complete, and what the schema and the bounds say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.config import reference
from pipeline.config.bounds import BOUNDS
from pipeline.config.tree import leaf_keys

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--markdown"]) == 0
    assert PAGE.read_text() == capsys.readouterr().out, "run: penstock config --markdown > docs/configuration.md"


def test_every_key_is_there_and_says_what_it_is_for() -> None:
    keys = {key.name: key for section in reference.sections() for key in section.keys}
    lists = {name for name in leaf_keys() if any(key.startswith(f"{name}[].") for key in keys)}
    assert lists == {"routes"}
    assert leaf_keys().keys() - lists <= keys.keys()
    assert [name for name, key in keys.items() if not key.text] == []
    assert {bound.key for bound in BOUNDS} == {name for name, key in keys.items() if key.bounds}


def test_one_section_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "kafka.sasl", "--json"]) == 0
    found = {key["name"]: key for key in json.loads(capsys.readouterr().out)["keys"]}
    assert set(found) == {f"kafka.sasl.{name}" for name in ("mechanism", "username", "password_file", "password")}
    assert found["kafka.sasl.username"]["environment"] == "PENSTOCK__KAFKA__SASL__USERNAME"


def test_a_key_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "kafak"]) == 2
    assert "kafak" in capsys.readouterr().err
