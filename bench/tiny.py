"""The models that firmware is measured with: those of MLPerf Tiny, where their files lie beside the checkout, and two small ones of the zoo."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import lepton_compiler as lc
from lepton_compiler import zoo
from lepton_compiler.ir.graph import Graph

MLPERF_TINY = Path(__file__).parents[2] / "shared" / "models" / "mlperf-tiny"
NAMES = ("keyword_spotting", "image_classification", "visual_wake_words", "anomaly_detection")
ZOO = ("pulsevad/pulsevad_2_1k_int8", "pulsevad/pulsevad_2_1k")


def models() -> list[Path]:
    """All files, the quantized models of MLPerf Tiny first.

    Raises:
        FetchError: a model of the zoo cannot be had.
        UsageError: the files of MLPerf Tiny are not there.
    """
    tiny = [MLPERF_TINY / f"{name}_{kind}.onnx" for kind in ("int8", "fp32") for name in NAMES]
    if missing := [path for path in tiny if not path.is_file()]:
        raise lc.UsageError(f"{missing[0]} is not there", hint="name the models to measure")
    return [*tiny, *(zoo.fetch(zoo.find(name)) for name in ZOO)]


def read(path: Path) -> tuple[Graph, dict[str, int]]:
    """A model with all open dimensions one, and which those were."""
    graph = lc.import_model(path)
    dims = dict.fromkeys(graph.free_symbols, 1)
    return (lc.import_model(path, dims=dims) if dims else graph), dims


def feeds_of(graph: Graph) -> dict[str, np.ndarray]:
    """Random data: integers over their whole range, numbers from -1 to 1."""
    random = np.random.default_rng(0)
    made = {}
    for value in graph.inputs:
        kind, shape = value.type.dtype.numpy, value.type.static_shape
        info = np.iinfo(kind) if value.type.dtype.is_integer else None
        numbers = random.integers(info.min, info.max + 1, shape) if info is not None else random.uniform(-1, 1, shape)
        made[value.name] = numbers.astype(kind)
    return made
