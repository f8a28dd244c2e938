"""Averages of quantized numbers in models that tf2onnx made from TFLite files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import lepton_compiler as lc


def averages(producer: str, suffix: str, scale: float = 0.5) -> onnx.ModelProto:
    """Q(AveragePool(DQ(x))) over pairs, as tf2onnx writes it."""
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["real"]),
        helper.make_node("AveragePool", ["real"], [f"y{suffix}"], kernel_shape=[1, 2], strides=[1, 2]),
        helper.make_node("QuantizeLinear", [f"y{suffix}", "t", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT8, [1, 1, 1, 6])],
        [helper.make_tensor_value_info("y", TensorProto.INT8, [1, 1, 1, 3])],
        [
            helper.make_tensor("s", TensorProto.FLOAT, [], [0.5]),
            helper.make_tensor("t", TensorProto.FLOAT, [], [scale]),
            helper.make_tensor("z", TensorProto.INT8, [], [-128]),
        ],
    )
    return helper.make_model(graph, producer_name=producer, opset_imports=[helper.make_opsetid("", 17)])


X = np.array([-127, -128, -126, -127, 3, 4], np.int8).reshape(1, 1, 1, 6)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (averages("tf2onnx", "_prequant"), [-128, -127, 4]),  # as TFLite rounds: away from zero
        (
            averages("tf2onnx", "_real"),
            [-128, -126, 4],
        ),  # a float model that was quantized afterwards: to even, counted from the zero point
        (averages("pytorch", "_prequant"), [-128, -126, 4]),
        (averages("tf2onnx", "_prequant", 1.0), [-128, -127, -62]),  # scaled: as ONNX defines it
    ],
)
def test_ties(model: onnx.ModelProto, wanted: list[int]) -> None:
    graph = lc.import_model(model)
    assert lc.evaluate(graph, {"x": X})["y"].reshape(-1).tolist() == wanted
    assert lc.compile(graph, level=3).run({"x": X})["y"].reshape(-1).tolist() == wanted
