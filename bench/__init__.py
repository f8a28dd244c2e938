"""Benchmarks: `python -m bench` measures models against other runtimes, side by side in one run."""
