"""The pass that writes recurrent layers as a product and their steps, without a kernel: by the evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import DTYPES, FLOAT32, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.recurrent import GRU, LSTM, RNN, DynamicQuantizeLSTM, Recurrent
from lepton_compiler.ops.steps import RecurrentSteps

INPUT, HIDDEN, TIME, BATCH = 5, 6, 4, 3

LAYERS: dict[str, Recurrent] = {
    "rnn": RNN(HIDDEN, direction="reverse"),
    "gru": GRU(HIDDEN, direction="bidirectional", layout=1),
    "gru_linear": GRU(HIDDEN, direction="bidirectional", linear_before_reset=True),
    "lstm": LSTM(HIDDEN, direction="bidirectional", clip=0.5, layout=1),
    "rounded": DynamicQuantizeLSTM(HIDDEN, direction="bidirectional"),
}


def layer_graph(layer: Recurrent, large: int = 127, zero: int = 0, lengths: tuple[int, ...] = (4, 0, 2)) -> tuple[Graph, dict[str, Any]]:
    """A layer with all its operands, and values of its inputs; integers of weights go up to `large`."""
    rng, graph = np.random.default_rng(3), Graph("net")
    b, ways, rows = Builder(graph), layer.directions, layer.gates * HIDDEN
    state = (BATCH, ways, HIDDEN) if layer.layout else (ways, BATCH, HIDDEN)
    feeds: dict[str, Any] = {}

    def given(name: str, *shape: int) -> Value:
        feeds[name] = rng.standard_normal(shape).astype(np.float32)
        return graph.add_input(name, TensorType(FLOAT32, shape))

    def weight(*shape: int) -> Value:
        if isinstance(layer, DynamicQuantizeLSTM):
            return b.constant(rng.integers(-large, large + 1, shape).astype(np.int8))
        return b.constant(rng.standard_normal(shape).astype(np.float32) / 2)

    def number(*values: float, kind: str = "float32") -> Value:
        return b.constant(np.array(values, DTYPES[kind].numpy))

    x = given("x", *((BATCH, TIME) if layer.layout else (TIME, BATCH)), INPUT)
    operands = [
        x,
        weight(ways, rows, INPUT),
        weight(ways, rows, HIDDEN),
        b.constant(rng.standard_normal((ways, 2 * rows)).astype(np.float32)),
    ]
    operands += [number(*lengths, kind="int32"), *(given(n, *state) for n in ("h0", "c0")[: layer.states])]
    if isinstance(layer, LSTM):
        operands.append(given("p", ways, 3 * HIDDEN))
    if isinstance(layer, DynamicQuantizeLSTM):
        operands += [number(0.01, 0.02), number(0, 0, kind="int8"), number(0.008, 0.009), number(zero, 0, kind="int8")]
    graph.set_outputs(b.node(layer, operands).outputs)
    return graph, feeds


def rewritten(graph: Graph, target: str = "cuda:sm_80") -> Graph:
    return lc.optimize(graph, 0, target, "persistent-layers")


@pytest.mark.parametrize("name", LAYERS)
def test_a_product_and_the_steps_are_the_layer(name):
    graph, feeds = layer_graph(LAYERS[name])
    result = rewritten(graph)
    names = [node.op.name for node in result]
    assert names[-1] == "RecurrentSteps" and ("MatMulInteger" if name == "rounded" else "MatMul") in names
    wanted, found = lc.evaluate(graph, feeds), lc.evaluate(result, feeds)
    for output, value in wanted.items():
        np.testing.assert_allclose(found[output], value, rtol=0, atol=2e-6)


def test_known_lengths_of_whole_sequences_are_no_operand():
    result = rewritten(layer_graph(LAYERS["rnn"], lengths=(4, 5, 4))[0])
    assert result.nodes[-1].inputs[3] is None


@pytest.mark.parametrize(("options", "taken"), [({}, True), ({"zero": 3}, False)])
def test_integers_with_zero_points_keep_their_steps_apart(options, taken):
    names = [node.op.name for node in rewritten(layer_graph(LAYERS["rounded"], **options)[0])]
    assert ("RecurrentSteps" in names) == taken


def test_processors_have_no_such_kernels():
    graph, _ = layer_graph(LAYERS["gru"])
    assert [node.op.name for node in rewritten(graph, "x86_64")] == ["GRU"]


def test_wrong_operands_are_refused():
    kind = TensorType(FLOAT32, (4, 3, 2 * 6))
    with pytest.raises(InferenceError, match="gates is"):
        RecurrentSteps(layer=GRU(6)).infer(kind, TensorType(FLOAT32, (1, 18, 6)))
    with pytest.raises(InferenceError, match="a RNN has no cell"):
        RecurrentSteps(layer=RNN(12)).infer(kind, TensorType(FLOAT32, (1, 12, 12)), None, None, None, kind)
