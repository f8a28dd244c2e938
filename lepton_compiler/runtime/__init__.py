"""Running what was compiled, from Python."""
