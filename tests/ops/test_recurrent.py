"""Recurrent layers against ONNX Runtime, and their decompositions against themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import symbol
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.control import Scan
from lepton_compiler.ops.decompose import expand
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.ops.recurrent import GRU, LSTM, RNN, DynamicQuantizeLSTM, Recurrent

TIME, BATCH, INPUT, HIDDEN = 5, 3, 4, 6
EXTRAS: list[dict[str, Any]] = [{}, {"clip": 0.5}, {"activations": "other"}, {"linear_before_reset": True}, {"input_forget": True}]
OTHER = {LSTM: ("HardSigmoid", "Relu", "Softsign"), GRU: ("HardSigmoid", "LeakyRelu"), RNN: ("Elu",)}


def layer_and_operands(cls: type[Recurrent], direction: str, layout: int, extra: dict[str, Any]) -> tuple[Recurrent, list[Any]]:
    """A layer, and all its operands."""
    rng = np.random.default_rng(1)
    n, rows = 2 if direction == "bidirectional" else 1, cls.gates * HIDDEN

    def floats(*shape: int) -> np.ndarray:
        return (0.4 * rng.standard_normal(shape)).astype(np.float32)

    if extra.get("activations"):
        extra = {"activations": OTHER[cls]}
    x = floats(TIME, BATCH, INPUT)
    states = (BATCH, n, HIDDEN) if layout else (n, BATCH, HIDDEN)
    operands: list[Any] = [x.swapaxes(0, 1).copy() if layout else x, floats(n, rows, INPUT), floats(n, rows, HIDDEN), floats(n, 2 * rows)]
    operands += [np.array([5, 2, 3], np.int32), *(floats(*states) for _ in range(cls.states))]
    operands += [floats(n, 3 * HIDDEN)] if cls is LSTM else []
    return cls(hidden_size=HIDDEN, direction=direction, layout=layout, **extra), operands


def cases() -> list[Any]:
    found = []
    for cls in (LSTM, GRU, RNN):
        for direction in ("forward", "reverse", "bidirectional"):
            for extra in EXTRAS:
                fits = cls is GRU if "linear_before_reset" in extra else cls is LSTM if "input_forget" in extra else True
                if fits:
                    found.append(pytest.param(cls, direction, extra, id=f"{cls.__name__}-{direction}-{'-'.join(extra)}"))
    return found


@pytest.mark.parametrize(("cls", "direction", "extra"), cases())
def test_layers_agree_with_onnxruntime(onnxruntime_node: Any, cls: Any, direction: str, extra: Any) -> None:
    layer, operands = layer_and_operands(cls, direction, 0, extra)
    given = {"hidden_size": HIDDEN, "direction": direction, "activations": list(layer.activations) * layer.directions}
    if layer.clip is not None:
        given["clip"] = layer.clip
    if isinstance(layer, GRU):
        given["linear_before_reset"] = int(layer.linear_before_reset)
    if isinstance(layer, LSTM):
        given["input_forget"] = int(layer.input_forget)
    for lengths in (operands[4], None):
        inputs = [*operands[:4], lengths, *operands[5:]]
        want = onnxruntime_node(cls.__name__, inputs, 1 + layer.states, opset=14, **given)
        for a, b in zip(layer.evaluate(*inputs), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize(("cls", "direction", "extra"), cases())
def test_decompositions_agree_with_the_layers(cls: Any, direction: str, extra: Any, layout: int) -> None:
    layer, operands = layer_and_operands(cls, direction, layout, extra)
    for constants, absent in (((1, 2, 3), ()), ((), (4,)), ((1, 2), (3, 4, 5))):
        inputs = [None if i in absent else a for i, a in enumerate(operands)]
        graph, feeds, values = Graph(), {}, []
        for i, a in enumerate(inputs):
            if a is None or i in constants:
                values.append(None if a is None else graph.constant(a))
                continue
            values.append(graph.add_input(f"x{i}", Tensor(a).type))
            feeds[f"x{i}"] = a
        node = graph.add(layer, values)
        graph.set_outputs(node.outputs)
        assert expand(node) is not None
        assert not any(isinstance(n.op, Recurrent) for n in graph)
        assert sum(isinstance(n.op, Scan) for n in graph) == layer.directions
        for a, b in zip(evaluate(graph, feeds).values(), layer.evaluate(*inputs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_half_precision_layer_is_decomposed_in_float32() -> None:
    layer, operands = layer_and_operands(LSTM, "forward", 0, {})
    half = [a.astype(np.float16) if a.dtype == np.float32 else a for a in operands]
    graph = Graph()
    node = graph.add(layer, [graph.add_input(f"x{i}", Tensor(a).type) for i, a in enumerate(half)])
    graph.set_outputs(node.outputs)
    expand(node)
    found = evaluate(graph, {f"x{i}": a for i, a in enumerate(half)}).values()
    for a, b in zip(found, layer.evaluate(*half), strict=True):
        assert a.dtype == np.float16
        np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=1e-3, atol=1e-4)


def test_symbolic_time_and_batch() -> None:
    specs = ("float32[t,b,4]", "float32[2,24,4]", "float32[2,24,6]")
    y, h, c = LSTM(hidden_size=6, direction="bidirectional").infer(*map(tensor_type, specs))
    t, b = symbol("t"), symbol("b")
    assert (y.shape, h.shape, c.shape) == ((t, 2, b, 6), (2, b, 6), (2, b, 6))
    y, h = GRU(hidden_size=8, layout=1).infer(*map(tensor_type, ("float32[b,t,4]", "float32[1,24,4]", "float32[1,24,8]")))
    assert (y.shape, h.shape) == ((b, t, 1, 8), (b, 1, 8))


def test_parameters_of_activations_are_taken_in_order() -> None:
    layer = GRU(
        hidden_size=1, direction="bidirectional", activations=("Sigmoid", "LeakyRelu", "HardSigmoid", "Tanh"), activation_alpha=(0.3, 0.4)
    )
    assert layer.activation_rows() == [
        [("Sigmoid", None, None), ("LeakyRelu", 0.3, None)],
        [("HardSigmoid", 0.4, 0.5), ("Tanh", None, None)],
    ]


@pytest.mark.parametrize(
    ("op", "specs", "message"),
    [
        (RNN(hidden_size=6), ("float32[5,3,4]", "float32[1,6,5]", "float32[1,6,6]"), "w is"),
        (RNN(hidden_size=6), ("float32[5,4]", "float32[1,6,4]", "float32[1,6,6]"), "rank 3"),
        (RNN(hidden_size=6, direction="both"), ("float32[5,3,4]", "float32[1,6,4]", "float32[1,6,6]"), "direction"),
        (RNN(hidden_size=6, activations=("Sin",)), ("float32[5,3,4]", "float32[1,6,4]", "float32[1,6,6]"), "unknown activations"),
        (LSTM(hidden_size=6, activations=("Tanh",)), ("float32[5,3,4]", "float32[1,24,4]", "float32[1,24,6]"), "needs 3 activations"),
    ],
)
def test_refusals_say_what_is_wrong(op: Any, specs: tuple[str, ...], message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        op.infer(*map(tensor_type, specs))


def test_cost_counts_both_products_of_every_step() -> None:
    types = [tensor_type(s) for s in ("float32[5,3,4]", "float32[1,24,4]", "float32[1,24,6]")]
    layer = LSTM(hidden_size=6)
    assert layer.cost(types, layer.infer(*types)).macs == 15 * 24 * 10


def quantized_layer(per_row: bool, zeros: bool) -> tuple[DynamicQuantizeLSTM, list[Any]]:
    """A bidirectional layer with 8-bit weights, and all its operands."""
    _, operands = layer_and_operands(LSTM, "bidirectional", 0, {})
    rng = np.random.default_rng(6)
    shape = (2, 4 * HIDDEN) if per_row else (2,)
    w, r = (rng.integers(-127, 128, v.shape, dtype=np.int8) for v in operands[1:3])
    scales = [(0.004 + 0.004 * rng.random(shape)).astype(np.float32) for _ in range(2)]
    points = [rng.integers(-9, 9, shape, dtype=np.int8) if zeros else None for _ in range(2)]
    parameters = [part for pair in zip(scales, points, strict=True) for part in pair]
    return DynamicQuantizeLSTM(hidden_size=HIDDEN, direction="bidirectional"), [operands[0], w, r, *operands[3:], *parameters]


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("per_row", [False, True])
def test_quantized_layer_is_near_the_layer_of_its_real_weights(per_row: bool, zeros: bool) -> None:
    layer, operands = quantized_layer(per_row, zeros)
    real = []
    for weights, scale, zero in ((operands[1], *operands[8:10]), (operands[2], *operands[10:12])):
        spread = [None if v is None else v.reshape(*v.shape, *(1,) * (3 - v.ndim)).astype(np.float32) for v in (scale, zero)]
        real.append((weights - (0 if spread[1] is None else spread[1])) * spread[0])
    plain = LSTM(hidden_size=HIDDEN, direction="bidirectional")
    wanted = plain.evaluate(operands[0], *(v.astype(np.float32) for v in real), *operands[3:8])
    for a, b in zip(layer.evaluate(*operands), wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=0.02)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("per_row", [False, True])
def test_quantized_layer_is_its_decomposition(per_row: bool, zeros: bool) -> None:
    layer, operands = quantized_layer(per_row, zeros)
    graph = Graph("g")
    x = graph.add_input("x", tensor_type(f"float32{list(operands[0].shape)}".replace(" ", "")))
    values = [x, *(None if v is None else graph.constant(Tensor(v), "c") for v in operands[1:])]
    node = graph.add(layer, values)
    graph.set_outputs(node.outputs)
    wanted = list(evaluate(graph, {"x": operands[0]}).values())
    expand(node)
    for a, b in zip(evaluate(graph, {"x": operands[0]}).values(), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_quantized_layer_refuses_real_weights() -> None:
    layer, operands = quantized_layer(False, False)
    types = [None if v is None else tensor_type(f"{v.dtype}{list(v.shape)}".replace(" ", "")) for v in operands]
    with pytest.raises(InferenceError, match="needs 8-bit integers"):
        layer.infer(types[0], tensor_type("float32[2,24,4]"), *types[2:])  # type: ignore[arg-type]
    with pytest.raises(InferenceError, match="the scale of w is None"):
        layer.infer(*types[:8])  # type: ignore[arg-type]
