"""Nothing here is for Python: values enter through `_native.block`."""
