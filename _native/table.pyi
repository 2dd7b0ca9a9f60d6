"""Nothing here is for Python: the table is used through `_native.claims`."""
