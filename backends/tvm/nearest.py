"""What all implementations of rounding to the nearest integer agree on."""

NEAREST_LIMIT = 2**24
"""Where `outline.nearest`, and its counterpart in C, saturate."""
