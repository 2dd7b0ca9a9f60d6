"""One TOML file and the environment into the configuration tree, or every reason why not.

It reads the file and the secret files it names, and nothing else.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pipeline.config import overlay, rules
from pipeline.config.facts import Facts
from pipeline.config.schema import Config
from pipeline.config.secrets import HIDDEN
from pipeline.config.tree import Built, bare, build, fields_of, is_struct
from pipeline.errors import ConfigurationError, Problem

FILE_BYTES_MAX = 1024 * 1024
SECRET_BYTES_MAX = 64 * 1024


class Loaded(NamedTuple):
    """A configuration that can work, and what an operator should know about it."""

    config: Config
    warnings: list[Problem]


def load(path: str | Path, environ: Mapping[str, str]) -> Config:
    """The configuration of a pipeline. Raises ConfigurationError with every problem found."""
    return read(path, environ).config


def read(path: str | Path, environ: Mapping[str, str]) -> Loaded:
    """As `load`, with the warnings."""
    return from_data(_parse(Path(path)), environ)


def from_data(data: Mapping[str, Any], environ: Mapping[str, str]) -> Loaded:
    """As `read`, from data that was parsed already."""
    built = Built()
    kept = _without_secrets(data, built)
    merged = overlay.apply(kept, environ, built)
    _read_secret_files(merged, built)
    build(merged, built)
    assert built.config is not None
    facts = Facts(built.config, frozenset(built.explicit), built.origins)
    verdict = rules.apply(facts, built.broken)
    if problems := built.problems + verdict.problems:
        raise ConfigurationError(sorted(problems, key=_place))
    return Loaded(built.config, verdict.warnings + _near_misses(environ))


def _place(problem: Problem) -> int:
    """Problems are told in the order of the sections, whoever found them."""
    sections = list(fields_of(Config))
    section = problem.key.partition(".")[0].partition("[")[0]
    return sections.index(section) if section in sections else -1


def validate(config: Config) -> Loaded:
    """Applies the rules to a tree made in Python; keys that differ from their default count as given."""
    facts = Facts(config, frozenset(_different(config, "")))
    verdict = rules.apply(facts, ())
    if verdict.problems:
        raise ConfigurationError(verdict.problems)
    return Loaded(config, verdict.warnings)


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        fix = "Name the file with -c FILE, and check who may read it"
        raise ConfigurationError([Problem(str(path), "", f"cannot be read ({error.strerror})", fix)]) from error
    if len(content) > FILE_BYTES_MAX:
        fix = "Check that it is the right file"
        raise ConfigurationError([Problem(str(path), "", f"is larger than {FILE_BYTES_MAX} bytes", fix)])
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        fix = "Save the file as UTF-8"
        raise ConfigurationError([Problem(str(path), "", f"is not UTF-8 (byte {error.start})", fix)]) from error
    except tomllib.TOMLDecodeError as error:
        fix = "Mend the TOML there; texts need quotes, a section is a line [name]"
        raise ConfigurationError([Problem(str(path), "", f"is not valid TOML: {error}", fix)]) from None


def _secret_keys(struct: type[msgspec.Struct] = Config, prefix: str = "") -> list[str]:
    found = []
    for name, info in fields_of(struct).items():
        if is_struct(bare(info.type)):
            found += _secret_keys(bare(info.type), f"{prefix}{name}.")
        elif f"{name}_file" in fields_of(struct):
            found.append(f"{prefix}{name}")
    return found


def _without_secrets(data: Mapping[str, Any], built: Built) -> dict[str, Any]:
    """A copy without secrets that stand in the file, each of them a problem."""
    kept = overlay.copied(data)
    for key in _secret_keys():
        section, name = _section_of(kept, key)
        if section is not None and name in section:
            del section[name]
            fix = f"Put it into a file and name that with {key}_file, or set {overlay.variable(key)}"
            built.add(key, HIDDEN, "is a secret, and secrets do not belong in the file", fix)
    return kept


def _read_secret_files(data: dict[str, Any], built: Built) -> None:
    for key in _secret_keys():
        section, name = _section_of(data, key)
        path = section.get(f"{name}_file") if section is not None else None
        if section is None or not path or not isinstance(path, str):
            continue
        if section.get(name):
            fix = "Keep one of the two"
            built.add(f"{key}_file", f'"{path}"', f"is set, and so is {overlay.variable(key)}", fix)
            continue
        try:
            with Path(path).open("rb") as file:
                secret = file.read(SECRET_BYTES_MAX + 1).decode().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            fix = "Check the path, that the secret is mounted, and who may read it"
            built.add(f"{key}_file", f'"{path}"', f"cannot be read ({reason})", fix)
            continue
        if not 0 < len(secret) <= SECRET_BYTES_MAX:
            built.add(f"{key}_file", f'"{path}"', "is empty or far too large", "Put the secret alone into it")
        section[name] = secret


def _section_of(data: Any, key: str) -> tuple[dict[str, Any] | None, str]:
    *path, name = key.split(".")
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
    return (data if isinstance(data, dict) else None), name


def _near_misses(environ: Mapping[str, str]) -> list[Problem]:
    rule = "is an environment variable that sets nothing"
    return [Problem(name, "", rule, f"Did you mean {meant}?") for name, meant in overlay.near_misses(environ)]


def _different(section: msgspec.Struct, prefix: str) -> list[str]:
    found = []
    for name, info in fields_of(type(section)).items():
        value = getattr(section, name)
        if isinstance(value, msgspec.Struct):
            found += _different(value, f"{prefix}{name}.")
        elif info.required or value != _default(info):
            found.append(f"{prefix}{name}")
    return found


def _default(info: msgspec.structs.FieldInfo) -> Any:
    return info.default_factory() if info.default_factory is not msgspec.NODEFAULT else info.default
