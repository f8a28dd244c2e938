"""Small graphs on which native code once computed something else than the evaluator, or did not compile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.testing import native
from lepton_compiler.testing.rounding import ensemble, explained

NAN, INF = np.nan, np.inf
F32, F64 = np.float32, np.float64

CORNERS: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "the last index of NaN": (
        "%y = ArgMin(axis=1, keepdims=False, select_last_index=True)(%x) : int64[3]",
        {"x": np.array([[1, NAN, 0, NAN], [2, INF, INF, 2], [-0.0, 0, 0, 5]], F32)},
    ),
    "the index of minus infinity": ("%y = ArgMax(axis=1)(%x) : int64[2,1]", {"x": np.array([[-INF, -INF], [-INF, 1]], F64)}),
    "the largest of NaN": ("%y, %i = TopK(k=3)(%x) : float32[3], int64[3]", {"x": np.array([1, NAN, 5, NAN, -INF], F32)}),
    "the smallest of NaN": ("%y, %i = TopK(k=4, largest=False)(%x) : float32[4], int64[4]", {"x": np.array([1, NAN, 5, NAN, -INF], F32)}),
    "NaN in the maximum of float64": (
        "%y = Max()(%x, %z) : float64[3]",
        {"x": np.array([NAN, 1, 2], F64), "z": np.array([0, NAN, 3], F64)},
    ),
    "a limit that is NaN": ("%y = Clip()(%x, %low) : float32[3]", {"x": np.array([1, NAN, -1], F32), "low": np.array(NAN, F32)}),
    "hardmax inside a name": (
        "%h = Hardmax()(%x) : float32[3]\n  %n = IsNaN()(%h) : bool[3]\n  %c = const float32[] (0.0)\n  %y = Where()(%n, %c, %h) : float32[3]",
        {"x": np.array([1, 3, 2], F32)},
    ),
    "truth values reduced": ("%y = ReduceMax(axes=(1,))(%x) : bool[2,1]", {"x": np.array([[0, 0, 0], [0, 1, 0]], bool)}),
    "the mean of integers that overflow": ("%y = ReduceMean(axes=(0,))(%x) : int16[1]", {"x": np.array([30000, 30000, -1], np.int16)}),
    "no rows": (
        "%y = Gemm()(%x, %w, %b) : float16[0,3]",
        {"x": np.zeros((0, 2), np.float16), "w": np.ones((2, 3), np.float16), "b": np.ones(3, np.float16)},
    ),
    "slopes of unsigned integers": (
        "%y = PRelu()(%x, %s) : uint32[3]",
        {"x": np.array([0, 1, 7], np.uint32), "s": np.array([3], np.uint32)},
    ),
    "limits of unsigned integers": (
        "%c = const uint8[] (0)\n  %y = Clip()(%x, %c, %high) : uint8[3]",
        {"x": np.array([0, 200, 7], np.uint8), "high": np.array(9, np.uint8)},
    ),
    "comparison after wrapping around": (
        "%d = Sub()(%x, %z) : uint64[3]\n  %y = Greater()(%x, %d) : bool[3]",
        {"x": np.array([0, 1, 5], np.uint64), "z": np.array([1, 1, 1], np.uint64)},
    ),
    "sum of signed integers that wraps around": (
        "%s = Add()(%x, %z) : int32[2]\n  %y = Less()(%s, %x) : bool[2]",
        {"x": np.array([2**31 - 1, 1], np.int32), "z": np.array([1, 1], np.int32)},
    ),
    "shifts beyond the width": (
        '%y = BitShift(direction="RIGHT")(%x, %s) : int32[4]',
        {"x": np.array([-8, -8, 8, -8], np.int32), "s": np.array([1, 40, 32, -1], np.int32)},
    ),
    "a constant shift beyond the width": (
        "%c = const uint8[] (9)\n  %y = BitShift()(%x, %c) : uint8[2]",
        {"x": np.array([255, 1], np.uint8)},
    ),
    "cubes of integers that wrap around": (
        "%c = const int16[] (3)\n  %y = Pow()(%x, %c) : int16[2]",
        {"x": np.array([16383, -3], np.int16)},
    ),
    "computed powers of integers": (
        "%y = Pow()(%x, %e) : int32[6]",
        {"x": np.array([7, -2, 2, -1, 1, 3], np.int32), "e": np.array([11, 31, 40, -3, -2, -1], np.int32)},
    ),
    "integers shrunk by halves": ("%y = Shrink(bias=0.25, lambd=1.5)(%x) : int32[5]", {"x": np.array([-3, -1, 0, 2, 5], np.int32)}),
    "quantized NaN and float64": (
        "%c = const float64[] (0.1)\n  %z = const int8[] (3)\n  %y = QuantizeLinear(dtype=int8)(%x, %c, %z) : int8[4]",
        {"x": np.array([NAN, 0.25, INF, -0.15], F64)},
    ),
    "dequantized float64": (
        "%c = const float64[] (0.1)\n  %y = DequantizeLinear(dtype=float64)(%x, %c) : float64[2]",
        {"x": np.array([6, -7], np.int8)},
    ),
    "dequantized int32 far from its zero point": (
        "%c = const float32[] (1.0)\n  %z = const int32[] (-5)\n  %y = DequantizeLinear()(%x, %c, %z) : float32[2]",
        {"x": np.array([2**31 - 1, -(2**31)], np.int32)},
    ),
    "cubic coordinates with a fraction": (
        '%y = Resize(scales=(1.0, 1.0, 1.5), mode="cubic", coordinate_transformation_mode="align_corners")(%x) : float32[1,1,10]',
        {"x": np.array([[[1, 5, -2, 3, 8, -1, 4]]], F32)},
    ),
    "antialiasing beside an infinity": (
        '%y = Resize(scales=(1.0, 1.0, 0.25), mode="linear", antialias=True)(%x) : float32[1,1,4]',
        {"x": np.array([[[INF, *range(15)]]], F32)},
    ),
    "infinite weights outside the window": (
        "%y = ConvTranspose(strides=(2,), pads=(0, 0), dilations=(1,), output_padding=(0,))(%x, %w) : float32[1,1,5]",
        {"x": np.ones((1, 1, 3), F32), "w": np.array([[[INF]]], F32)},
    ),
    "infinite columns": (
        "%y = Col2Im(image_shape=(2, 2), block_shape=(1, 2))(%x) : float32[1,1,2,2]",
        {"x": np.array([[[1, INF], [2, -INF]]], F32)},
    ),
    "infinite logits": (
        "%y = Attention()(%q, %q, %v) : float32[1,1,2,1]",
        {"q": np.array([[[[-INF], [1]]]], F32), "v": np.array([[[[1], [2]]]], F32)},
    ),
    "scan along other axes": (
        """%s, %y = Scan(carried=1, input_axes=(1,), output_axes=(1,), output_directions=(1,))(%h, %x) : float32[2], float32[2,3]
    graph @body(%a: float32[2], %e: float32[2]) {
      %b = Add()(%a, %e) : float32[2]
      return %b, %b
    }""",
        {"h": np.array([1, 2], F32), "x": np.arange(6, dtype=F32).reshape(2, 3)},
    ),
    "a product over nothing": (
        "%y = Gemm(trans_a=True)(%x, %w, %c) : float32[1,2]",
        {"x": np.zeros((0, 1), F32), "w": np.zeros((0, 2), F32), "c": np.array([[3]], F32)},
    ),
    "the same limit twice": ("%y = Clip()(%x, %c, %c) : float64[2]", {"x": np.array([1, -1], F64), "c": np.array(0, F64)}),
    "scan over nothing": (
        """%s, %y = Scan(carried=1)(%h, %x) : float32[2], float32[0,2]
    graph @body(%a: float32[2], %e: float32[]) {
      %b = Add()(%a, %e) : float32[2]
      return %b, %b
    }""",
        {"h": np.array([1, 2], F32), "x": np.zeros(0, F32)},
    ),
}


def graph_of(name: str) -> Graph:
    body, feeds = CORNERS[name]
    formals = ", ".join(f"%{k}: {a.dtype.name}[{','.join(map(str, a.shape))}]" for k, a in feeds.items())
    lines = body.splitlines()
    results = (lines[0] if "graph @" in body else lines[-1]).partition(" = ")[0].strip()
    return parse_graph(f"graph @main({formals}) {{\n  {body}\n  return {results}\n}}\n")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[native.Program]]:
    """All corners in one library."""
    found = {name: native.programs(graph_of(name), feeds) for name, (_, feeds) in CORNERS.items()}
    native.run_all([p for group in found.values() for p in group], Path(tmp_path_factory.mktemp("kernels")))
    return found


@pytest.mark.parametrize("name", list(CORNERS))
def test_corner(name: str, programs: dict[str, list[native.Program]]) -> None:
    graph, (_, feeds) = graph_of(name), CORNERS[name]
    for program in programs[name]:
        assert isinstance(program.outcome, dict), program.outcome
        assert not explained(graph, feeds, ensemble(graph, feeds), program.outcome)
