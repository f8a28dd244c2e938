"""The process whose memory is measured: loads one model, runs it, and prints one JSON object.

    python memory_probe.py lepton FOLDER FEEDS.npz RUNS
    python memory_probe.py onnxruntime MODEL.onnx FEEDS.npz RUNS

It imports numpy and, for ONNX Runtime, that; nothing of lepton, since an artefact needs nothing of it. What lies in memory before the model
is loaded, imports and inputs, is the baseline.
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ALIGNMENT = 64
STORED = {"bool": 1, "complex128": 16, "complex64": 8}
"""Bytes of an element where the name of its type does not end with its bits."""

Arrays = Mapping[str, np.ndarray]


def status(field: str) -> int:
    """Bytes that Linux tells of this process: `VmRSS`, or `VmHWM`, the most of it so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise SystemExit(f"/proc/self/status has no {field}")


def forget_peak() -> None:
    """Let the peak begin anew from what is in memory now (`proc(5)`: 5 resets it)."""
    Path("/proc/self/clear_refs").write_text("5")


def lepton(folder: Path, feeds: Arrays) -> Callable[[], Any]:
    """An artefact as a C program uses it: two structs of pointers, an arena, one function."""
    manifest = json.loads(next(folder.glob("*.json")).read_text())
    name = manifest["name"]
    run = getattr(ctypes.CDLL(str(folder / f"lib{name}.so")), f"{name}_run")
    inputs = [np.ascontiguousarray(feeds[row["name"]]) for row in manifest["inputs"]]
    outputs = [aligned(math.prod(row["shape"]) * bytes_of(row["dtype"])) for row in manifest["outputs"]]
    ranks = sum(len(row["shape"]) for row in manifest["outputs"] if "dynamic" in row)
    arena = aligned(max(manifest["arena_bytes"], 1))
    given, results = pointers(inputs), pointers(outputs, ranks)

    def call(_kept: Any = (inputs, outputs, arena)) -> None:
        if code := run(given, results, ctypes.c_void_p(arena.ctypes.data)):
            raise SystemExit(f"{name}_run returned {code}")

    return call


def bytes_of(element: str) -> int:
    """Bytes of an element, one at least."""
    return STORED.get(element) or max(1, int("".join(filter(str.isdigit, element.split("_")[0]))) // 8)


def pointers(arrays: list[np.ndarray], sizes: int = 0) -> Any:
    """The struct of inputs or outputs, with room for sizes."""
    addresses = [a.ctypes.data for a in arrays] or [0]
    return (ctypes.c_int64 * (len(addresses) + sizes))(*addresses)


def aligned(size: int) -> np.ndarray:
    """Bytes that begin a cache line."""
    raw = np.empty(size + ALIGNMENT, np.uint8)
    return raw[-raw.ctypes.data % ALIGNMENT :]


def onnxruntime(model: Path, feeds: Arrays) -> Callable[[], Any]:
    """A session with every graph optimisation and one thread."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 4
    session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    given = {name: array for name, array in feeds.items() if name in wanted}
    return lambda: session.run(None, given)


def main() -> None:
    """Load, run, and say how much memory that took beyond the baseline."""
    kind, model, inputs, runs = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    with np.load(inputs) as stored:
        feeds = {name: stored[name] for name in stored.files}
    if kind == "onnxruntime":
        __import__("onnxruntime")
    forget_peak()
    baseline = status("VmRSS")
    call = {"lepton": lepton, "onnxruntime": onnxruntime}[kind](model, feeds)
    for _ in range(runs):
        call()
    print(json.dumps({"peak_bytes": status("VmHWM") - baseline, "after_bytes": status("VmRSS") - baseline, "baseline_bytes": baseline}))


if __name__ == "__main__":
    main()
