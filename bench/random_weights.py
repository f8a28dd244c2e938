"""Models whose weights are one constant each get random ones, so that neither speed nor correctness is flattered.

The light models of the `onnx` package have `ConstantOfShape` in place of each weight. A fixed seed fills these: convolutions and products
by He's rule (normal, variance 2 / fan-in; "Delving Deep into Rectifiers", 2015), normalisations around the identity. The last layer before
a softmax is scaled so that its results have a deviation of one: a saturated softmax would hide every error.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from lepton_compiler.verification import onnxruntime_session
from lepton_compiler.zoo import cache_folder

NORMALIZED = {1: (1.0, 0.1), 2: (0.0, 0.1), 3: (0.0, 0.1), 4: (1.0, 0.1)}
"""Mean and deviation of scale, shift, mean and variance of a BatchNormalization, by operand."""


Draw = Callable[[tuple[int, ...], str], np.ndarray]
"""Numbers of a shape with mean zero and deviation one, for the weight of a name."""


def drawn(shape: tuple[int, ...], name: str) -> np.ndarray:
    """Normal numbers."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)


def with_random_weights(path: Path, draw: Draw = drawn) -> Path:
    """A copy of the model in the cache with random weights in place of constant ones; the model itself if it has none of these."""
    model = onnx.load(path)
    graph = model.graph
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT64}
    filled = [n for n in graph.node if n.op_type == "ConstantOfShape" and n.input[0] in shapes and len(shapes[n.input[0]]) > 0]
    if not filled:
        return path
    target = cache_folder() / ("random" if draw is drawn else draw.__name__) / path.name
    if target.exists():
        return target
    for node in filled:
        graph.initializer.append(
            numpy_helper.from_array(_weights(graph, node.output[0], tuple(shapes[node.input[0]]), draw), node.output[0])
        )
        graph.node.remove(node)
    _tame_last_layer(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part")
    onnx.save(model, partial)
    partial.replace(target)
    return target


def _tame_last_layer(model: onnx.ModelProto) -> None:
    """Divide the weights of the layer that feeds the softmax by the deviation of its results on random input."""
    graph = model.graph
    softmax = next((n for n in graph.node if n.op_type == "Softmax"), None)
    if softmax is None:
        return
    producers = {out: n for n in graph.node for out in n.output}
    layer = producers[softmax.input[0]]
    while layer.op_type not in ("Conv", "Gemm", "MatMul"):
        layer = producers[layer.input[0]]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.ValueInfoProto(name=softmax.input[0]))
    session = onnxruntime_session(probe)
    shapes = {i.name: i.shape for i in session.get_inputs()}
    feeds = {name: np.random.default_rng(0).random(shape, np.float32) for name, shape in shapes.items()}
    deviation = float(np.std(session.run([softmax.input[0]], feeds)[0]))
    reshaped = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Reshape"}
    operands = {reshaped.get(name, name) for name in layer.input[1:]}
    for tensor in graph.initializer:
        if tensor.name in operands:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / np.float32(deviation), tensor.name))


def _weights(graph: onnx.GraphProto, name: str, shape: tuple[int, ...], draw: Draw) -> np.ndarray:
    """Numbers for the operand called `name`, as its first user asks for them."""
    user, place = next((n, list(n.input).index(name)) for n in graph.node if name in n.input)
    normal = draw(shape, name)
    if user.op_type == "BatchNormalization":
        middle, deviation = NORMALIZED[place]
        return np.asarray(middle + deviation * (np.abs(normal) if place == 4 else normal), np.float32)
    if len(shape) < 2:
        return normal * np.float32(0.01)
    transposed = any(a.name == "transB" and a.i for a in user.attribute)
    fan_in = shape[-1] if user.op_type == "Reshape" else int(np.prod(shape[1:])) if user.op_type == "Conv" or transposed else shape[0]
    return normal * np.float32(np.sqrt(2 / fan_in))
