"""Finds the Struct or tagged union that a configuration names as `module:Struct`. Imports the user's module, nothing else."""

from __future__ import annotations

import importlib
import sys
import typing
from pathlib import Path
from typing import Any

import msgspec

from pipeline.contract.check import Problems, did_you_mean
from pipeline.contract.fields import members_of


def resolve(reference: str, problems: Problems) -> Any:
    """What the reference names, or None after adding a problem."""
    module_name, colon, attribute = reference.partition(":")
    if not (module_name and colon and attribute):
        problems.add(
            reference, "a contract is named as `module:Struct`", "Write the module's import path, a colon and the name"
        )
        return None
    here = str(Path.cwd())
    if here not in sys.path:
        # Like `python -m`, but last: a file in the working directory never shadows an installed module.
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # The module is the user's code: whatever it raises is a fact about the configuration.
        fix = "Install it, or start penstock in the directory that holds it"
        problems.add(reference, f"importing {module_name} failed: {type(error).__name__}: {error}", fix)
        return None
    found = getattr(module, attribute, None)
    if found is None:
        structs = [name for name, value in vars(module).items() if structs_of(value)]
        problems.add(
            reference,
            f"module {module_name} has no {attribute!r}",
            f"{did_you_mean(attribute, structs)}Name a msgspec.Struct or a union of tagged ones",
        )
        return None
    if not structs_of(found):
        problems.add(
            reference, "it is not a msgspec.Struct nor a union of them", "Name a Struct or a union of tagged Structs"
        )
        return None
    try:
        msgspec.json.Decoder(found)
    except (TypeError, NameError, ValueError) as error:
        problems.add(reference, f"msgspec cannot decode it: {error}", "Change the annotation it names")
        return None
    return found


def structs_of(root: Any) -> list[type[msgspec.Struct]]:
    """The Structs of a contract's root: itself, or the members of the union; empty when there is anything else in it."""
    if not isinstance(root, type) and typing.get_origin(root) is None and not hasattr(root, "__value__"):
        return []
    members = members_of(root)
    if all(isinstance(member, type) and issubclass(member, msgspec.Struct) for member in members):
        return members
    return []
