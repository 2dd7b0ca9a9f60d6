"""Build of the compiled core.

PENSTOCK_DEBUG=1      bounds, wrap-around, None and overflow checks, assertions, no optimisation
PENSTOCK_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer (implies debug information)
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("PENSTOCK_DEBUG") == "1"
SANITIZE = os.environ.get("PENSTOCK_SANITIZE") == "1"

compile_args = ["-O0", "-g"] if DEBUG else ["-O3"]
link_args: list[str] = []
if SANITIZE:
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    compile_args += ["-g", *flags]
    link_args += flags

directives = {
    "language_level": 3,
    "binding": True,
    "embedsignature": True,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "cdivision": not DEBUG,
    "overflowcheck": DEBUG,
}

extensions = [
    Extension(f"_native.{path.stem}", [str(path)], extra_compile_args=compile_args, extra_link_args=link_args)
    for path in sorted(Path("_native").glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        compiler_directives=directives,
        force=DEBUG or SANITIZE or "--force" in sys.argv,
        nthreads=0,
    )
)
