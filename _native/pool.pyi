def pool_nbytes() -> int:
    """Bytes that are kept and unused."""

def pool_trim() -> int:
    """Frees what is kept; returns how many bytes that were."""
