"""Kernels of recurrent layers: in the emulator, beside the evaluator, in one block and in blocks that wait for each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton_compiler.backends.tvm.cuda.recurrent.arrangement import Arrangement, candidates, registers_of
from lepton_compiler.backends.tvm.cuda.recurrent.kernel import layer_kernel, problem_of_spec, steps_of
from lepton_compiler.backends.tvm.cuda.recurrent.library import library
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.gpus import GPUS
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import DTYPES, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.recurrent import GRU, LSTM, RNN, Recurrent
from lepton_compiler.ops.steps import RecurrentSteps
from lepton_compiler.testing.cuda_emulator import available, run

BOTH = (GPUS["sm_80"], GPUS["sm_90"])
ODD = (("Affine", "LeakyRelu", "ThresholdedRelu"), (0.2, 0.1, 0.3), (0.1,))
"""Activations of an LSTM with their alphas and betas."""

LAYERS: dict[str, tuple[Recurrent, dict[str, Any]]] = {
    "rnn": (RNN(9), {}),
    "rnn_reverse": (RNN(12, direction="reverse", activations=("Softsign",)), {"lengths": True}),
    "lstm": (LSTM(20), {"time": 4, "batch": 1}),
    "lstm_all": (
        LSTM(10, direction="bidirectional", clip=0.7, layout=1),
        {"lengths": True, "initial": True, "peepholes": True, "batch": 5},
    ),
    "lstm_coupled": (LSTM(33, direction="reverse", input_forget=True), {"initial": True}),
    "lstm_odd": (
        LSTM(7, direction="bidirectional", activations=(*ODD[0], "Sigmoid", "Elu", "ScaledTanh"), activation_alpha=(*ODD[1], 0.5, 1.2), activation_beta=(*ODD[2], 0.8)),
        {},
    ),
    "gru": (GRU(21), {"initial": True, "batch": 4}),
    "gru_both": (GRU(16, direction="bidirectional", layout=1), {"lengths": True, "bias": True}),
    "gru_linear": (GRU(18, linear_before_reset=True, direction="bidirectional"), {"lengths": True, "bias": True, "initial": True}),
    "gru_hard": (GRU(8, activations=("HardSigmoid", "Softplus"), linear_before_reset=True), {"bias": True, "batch": 7}),
}  # fmt: skip


def feeds_of(
    layer: Recurrent, time: int = 5, batch: int = 3, *, lengths: bool = False, initial: bool = False, peepholes: bool = False, bias: bool = False
) -> list[np.ndarray | None]:  # fmt: skip
    """Operands of the layer's steps."""
    rng, hidden, ways = np.random.default_rng(layer.hidden_size), layer.hidden_size, layer.directions
    rows = layer.gates * hidden

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.7).astype(np.float32)

    first, state = ((batch, time), (batch, ways, hidden)) if layer.layout else ((time, batch), (ways, batch, hidden))
    return [
        random(*first, ways * rows),
        random(ways, rows, hidden) / np.float32(np.sqrt(hidden)),
        random(ways, rows) if bias else None,
        np.resize(np.array([time, 0, 2, time - 1], np.int64), batch) if lengths else None,
        random(*state) if initial else None,
        random(*state) if initial and layer.states > 1 else None,
        random(ways, 3 * hidden) if peepholes else None,
    ]


def graph_of(layer: Recurrent, feeds: list[np.ndarray | None]) -> Graph:
    """The steps as a graph; the weights are constants."""
    graph = Graph("steps")
    operands: list[Value | None] = []
    for k, array in enumerate(feeds):
        if array is None:
            operands.append(None)
        elif k == 1:
            operands.append(Builder(graph).constant(array, name="r"))
        else:
            operands.append(graph.add_input(f"x{k}", TensorType(DTYPES[array.dtype.name], array.shape)))
    while operands[-1] is None:
        operands.pop()
    graph.set_outputs(Builder(graph).node(RecurrentSteps(layer=layer), operands).outputs)
    return graph


def some(problem: Any) -> list[Arrangement]:
    """Of all arrangements: one block and several, with different numbers of lanes and rows, weights in registers, in shared memory, and both."""
    every = list(candidates(problem, BOTH))
    alone, shared = ([a for a in every if (a.parts > 1) == several] for several in (False, True))
    chosen = [alone[0], alone[-1], shared[0], shared[len(shared) // 2], max(shared, key=lambda a: (a.parts, -a.slices))]
    halved = [replaced(a, held=a.chunks // 2) for a in chosen[:1] + chosen[2:3]]
    return [*chosen, *halved, replaced(chosen[1], held=0)]


def replaced(a: Arrangement, held: int) -> Arrangement:
    return Arrangement(a.parts, a.units, a.slices, a.rows, a.tile, a.threads, a.chunks, held)


@pytest.mark.skipif(bool(available()), reason=available())
@pytest.mark.parametrize("name", LAYERS)
def test_kernels_agree_with_the_evaluator(name):
    layer, options = LAYERS[name]
    feeds = feeds_of(layer, **options)
    expected = RecurrentSteps(layer=layer).evaluate(*feeds)
    spec = spec_of(graph_of(layer, feeds).nodes[0])
    step = steps_of(spec)
    assert step is not None
    kernels = [layer_kernel(f"{name}{k}", spec, step, a) for k, a in enumerate(some(problem_of_spec(spec, step)))]
    text = "\n".join([library(), *(made.text for made in kernels)])
    for k, made in enumerate(kernels):
        results = [np.full(e.shape, np.nan, np.float32) for e in expected]
        given = [f for f in feeds if f is not None]
        spaces = [np.zeros(s.static_shape, np.float32 if s.dtype.name == "float32" else np.uint8) for s in made.spaces]
        launch = made.launch
        figures = run(
            text, launch.symbol, launch.grid, launch.block, launch.shared_bytes, [*given, *results, *spaces],
            backwards=bool(k % 2), together=launch.together,
        )  # fmt: skip
        assert (figures.grid_barriers > 0) == launch.together
        for found, wanted in zip(results, expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-6 * max(1.0, float(np.abs(wanted).max())), err_msg=str(made.launch))
