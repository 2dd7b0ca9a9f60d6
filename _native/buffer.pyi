"""Nothing here is for Python: the buffers are used from the other compiled modules."""
