"""The oracle of the operator tests: ONNX Runtime on a model of one node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

Oracle = Callable[..., list[np.ndarray]]


def run_node(op_type: str, inputs: list[np.ndarray | None], outputs: int = 1, opset: int = 20, **attributes: Any) -> list[np.ndarray]:
    """What ONNX Runtime makes of one node; an absent operand is None."""
    onnxruntime = pytest.importorskip("onnxruntime")
    names = ["" if a is None else f"x{i}" for i, a in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    formals = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in zip(names, inputs, strict=True)
        if a is not None
    ]
    node = helper.make_node(op_type, names, results, **attributes)
    graph = helper.make_graph([node], "node", formals, [helper.make_empty_tensor_value_info(r) for r in results])
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {n: a for n, a in zip(names, inputs, strict=True) if a is not None})
    return found


@pytest.fixture
def onnxruntime_node() -> Oracle:
    """`run_node`, skipped where ONNX Runtime is not installed."""
    return run_node
