"""Seeded workloads: what a record holds is a pure function of (seed, partition, offset). Nothing is sent."""

from __future__ import annotations

import importlib

from pipeline.workload.make import Fate, Generator, Made, Mix, Outcome, Shape

NAMES = ("flat", "commerce", "logs", "wide", "nested")
"""Every workload; each is the module of that name here, with its contract and its `SHAPE`."""

__all__ = ["NAMES", "Fate", "Generator", "Made", "Mix", "Outcome", "Shape", "shape"]


def shape(name: str) -> Shape:
    """The workload of that name; KeyError when there is none."""
    if name not in NAMES:
        raise KeyError(name)
    found = importlib.import_module(f"pipeline.workload.{name}").SHAPE
    assert isinstance(found, Shape)
    return found
