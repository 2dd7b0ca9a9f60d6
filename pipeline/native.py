"""The one door to the compiled core: re-exports what `_native` offers. It adds nothing of its own."""

from _native.reader import Reader, Run, bind

__all__ = ["Reader", "Run", "bind"]
