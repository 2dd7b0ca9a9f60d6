"""The configuration of a pipeline: one TOML file and the environment, into one strict tree. It starts nothing."""

from pipeline.config.load import Loaded, load, read, validate
from pipeline.config.memory import MemoryLimit, memory_plan
from pipeline.config.schema import Config
from pipeline.config.secrets import plain as redacted
from pipeline.config.start import StartPosition, parse_start

__all__ = [
    "Config",
    "Loaded",
    "MemoryLimit",
    "StartPosition",
    "load",
    "memory_plan",
    "parse_start",
    "read",
    "redacted",
    "validate",
]
