"""Nothing here is for Python: the column nodes are used from the other compiled modules."""
