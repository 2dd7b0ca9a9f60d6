def scale_wide(text: str, precision: int, scale: int, rounding: bool) -> int | None:
    """The number in `text` times 10^scale, or None when that is no integer of `precision` digits."""
