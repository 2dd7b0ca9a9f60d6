"""Nothing here is for Python: lineage is asked of `_native.block.Block`."""
