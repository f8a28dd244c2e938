"""Decompositions at the corners of their operators, where they once computed something else: cancellation, NaN, infinities, integers."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.testing.rounding import ensemble, explained

NAN, INF = np.nan, np.inf
F32 = np.float32
BELOW = -np.geomspace(1e-6, 80, 40, dtype=F32)

CORNERS: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "mish far below zero": ("%y = Mish()(%x) : float32[40]", {"x": BELOW}),
    "softplus far below zero": ("%y = Softplus()(%x) : float32[40]", {"x": BELOW}),
    "elu just below zero": ("%y = Elu()(%x) : float32[40]", {"x": BELOW}),
    "selu just below zero": ("%y = Selu()(%x) : float32[40]", {"x": BELOW}),
    "celu just below zero": ("%y = Celu(alpha=0.5)(%x) : float32[40]", {"x": BELOW}),
    "integers shrunk by halves": ("%y = Shrink(bias=0.25, lambd=1.5)(%x) : int32[5]", {"x": np.array([-3, -1, 0, 2, 5], np.int32)}),
    "unsigned integers shrunk": ("%y = Shrink()(%x) : uint8[2]", {"x": np.array([0, 9], np.uint8)}),
    "quantized NaN": (
        "%c = const float32[] (0.5)\n  %z = const int8[] (3)\n  %y = QuantizeLinear(dtype=int8)(%x, %c, %z) : int8[3]",
        {"x": np.array([NAN, INF, -0.75], F32)},
    ),
    "infinite columns": (
        "%y = Col2Im(image_shape=(2, 2), block_shape=(1, 2))(%x) : float32[1,1,2,2]",
        {"x": np.array([[[1, INF], [2, -INF]]], F32)},
    ),
    "padded, strided columns": (
        "%y = Col2Im(image_shape=(3, 4), block_shape=(2, 2), pads=(1, 0, 0, 1), strides=(2, 1), dilations=(1, 2))(%x) : float32[2,1,3,4]",
        {"x": np.arange(48, dtype=F32).reshape(2, 4, 6)},
    ),
    "offsets that are NaN": (
        "%y = DeformConv()(%x, %w, %o) : float32[1,1,1,1]",
        {"x": np.ones((1, 1, 2, 2), F32), "w": np.ones((1, 1, 2, 2), F32), "o": np.full((1, 8, 1, 1), NAN, F32)},
    ),
    "infinite masks beside the image": (
        "%y = DeformConv(pads=(1, 1, 0, 0))(%x, %w, %o, none, %m) : float32[1,1,2,2]",
        {
            "x": np.ones((1, 1, 2, 2), F32),
            "w": np.ones((1, 1, 2, 2), F32),
            "o": np.full((1, 8, 2, 2), -0.5, F32),
            "m": np.full((1, 4, 2, 2), INF, F32),
        },
    ),
    "antialiasing beside an infinity": (
        '%y = Resize(scales=(1.0, 1.0, 0.25), mode="linear", antialias=True)(%x) : float32[1,1,4]',
        {"x": np.array([[[INF, *range(15)]]], F32)},
    ),
    "spectrum of a constant": ("%y = DFT(axis=1)(%x) : float32[1,8,2]", {"x": np.ones((1, 8, 1), F32)}),
    "infinite logits": (
        "%y = Attention()(%q, %q, %v) : float32[1,1,2,1]",
        {"q": np.array([[[[-INF], [1]]]], F32), "v": np.ones((1, 1, 2, 1), F32)},
    ),
    "slopes of float64 in a layer": (
        '%y, %h = RNN(hidden_size=1, activations=("LeakyRelu",))(%x, %w, %w) : float64[2,1,1,1], float64[1,1,1]',
        {"x": np.array([[[-1.0]], [[-3.0]]]), "w": np.ones((1, 1, 1))},
    ),
}


@pytest.mark.parametrize("name", list(CORNERS))
def test_corner(name: str) -> None:
    body, feeds = CORNERS[name]
    formals = ", ".join(f"%{k}: {a.dtype.name}[{','.join(map(str, a.shape))}]" for k, a in feeds.items())
    graph = parse_graph(f"graph @main({formals}) {{\n  {body}\n  return %y\n}}\n")
    simple = lc.optimize(graph, passes="legalize-decompose")
    assert graph.nodes[-1].op.name not in [node.op.name for node in simple]
    assert not explained(graph, feeds, ensemble(graph, feeds), evaluate(simple, feeds))
