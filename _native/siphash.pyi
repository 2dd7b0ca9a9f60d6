def siphash128(data: bytes, secret: bytes) -> bytes:
    """SipHash-2-4-128 of `data` under the 16 bytes of `secret`."""
