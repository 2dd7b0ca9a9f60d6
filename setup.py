"""Build of the compiled core.

PENSTOCK_DEBUG=1      bounds, None and overflow checks, C assertions, no optimisation; scans as on machines without SSE2
PENSTOCK_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer (implies debug information)

Either one generates its C files under build/, so that the normal build's stay as they are; `make debug` and
`make sanitize` put the libraries there too and run the native tests against them.
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("PENSTOCK_DEBUG") == "1"
SANITIZE = os.environ.get("PENSTOCK_SANITIZE") == "1"

compile_args = ["-O0", "-g", "-UNDEBUG", "-DPENSTOCK_PORTABLE"] if DEBUG else ["-O1"] if SANITIZE else ["-O3"]
link_args: list[str] = []
if SANITIZE:
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    compile_args += ["-g", *flags]
    link_args += flags

# Division never follows the switch: code that means rounding down says so, in both builds alike.
directives = {
    "language_level": 3,
    "binding": True,
    "embedsignature": True,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "cdivision": True,
    "overflowcheck": DEBUG,
}

extensions = [
    Extension(
        f"_native.{path.stem}",
        [str(path)],
        include_dirs=["_native"],
        depends=["_native/simd.h", "_native/pack.h"],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    for path in sorted(Path("_native").glob("*.pyx"))
]

setup(
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    ext_modules=cythonize(
        extensions,
        compiler_directives=directives,
        build_dir=f"build/{'debug' if DEBUG else 'sanitize'}-c" if DEBUG or SANITIZE else None,
        force=DEBUG or SANITIZE or "--force" in sys.argv,
        nthreads=os.cpu_count() if sys.platform == "linux" else 0,  # elsewhere its processes would run this file again
    ),
)
