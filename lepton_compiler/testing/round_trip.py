"""A graph as ONNX and back to arrays: emitted, checked, and run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_compiler.errors import InvalidIR, UnsupportedError

EMITTED_OPSETS = (21, 23, 24, 25, 26)
"""Opsets to emit; the oldest that fits is what most runtimes support."""

PLAIN = frozenset("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split())


class EvaluatedInstead(dict[str, np.ndarray]):
    """Results of an emitted model that ONNX Runtime has no kernel for, run by lepton's evaluator after `onnx.checker` had passed it."""


def through_onnx_runtime(graph: Any, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Emit a graph, and run what was emitted.

    Returns:
        Output name to array; an `EvaluatedInstead` where ONNX Runtime answers that it has no kernel for a node and its types.

    Raises:
        UnsupportedError: no opset has the graph's operators.
    """
    import onnxruntime

    emitted = _emitted(graph).SerializeToString()
    model = _at_numpy_types(emitted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return _evaluated(emitted, feeds)
    names = [v.name for v in graph.outputs]
    given = {name: array.astype(_carrier(array.dtype)) for name, array in feeds.items()}
    results = session.run(names, given)
    return {v.name: r.astype(v.type.dtype.numpy) for v, r in zip(graph.outputs, results, strict=True)}


def _evaluated(emitted: bytes, feeds: Mapping[str, np.ndarray]) -> EvaluatedInstead:
    from lepton_compiler.frontends.onnx import import_onnx
    from lepton_compiler.ops.evaluator import evaluate

    return EvaluatedInstead(evaluate(import_onnx(emitted), feeds))


def _emitted(graph: Any) -> Any:
    """The graph as a model of the first of `EMITTED_OPSETS` that has its operators for its types; `onnx.checker` has checked it in full."""
    from lepton_compiler.backends.onnx import emit_onnx

    for opset in EMITTED_OPSETS[:-1]:
        try:
            return emit_onnx(graph, None, opset=opset)
        except (UnsupportedError, InvalidIR):
            continue
    return emit_onnx(graph, None, opset=EMITTED_OPSETS[-1])


def _carrier(dtype: np.dtype) -> np.dtype:
    """The numpy type that carries values of `dtype` without loss to and from a runtime that lacks it."""
    if dtype.name in PLAIN:
        return dtype
    return np.dtype(np.float32 if "float" in dtype.name else np.uint8 if dtype.name.startswith("uint") else np.int8)


def _at_numpy_types(emitted: bytes) -> Any:
    """The model with inputs and outputs of types that numpy lacks cast from and to their carriers."""
    import onnx

    from lepton_compiler.backends.onnx.tensors import NUMBERS, type_number
    from lepton_compiler.ir.types import dtype

    model = onnx.load_from_string(emitted)
    elements = {number: element for element, number in NUMBERS.items()}
    before: list[Any] = []
    after: list[Any] = []
    for value, is_input in [*((v, True) for v in model.graph.input), *((v, False) for v in model.graph.output)]:
        number = value.type.tensor_type.elem_type
        carrier = type_number(dtype(_carrier(elements[number].numpy)))
        if carrier == number:
            continue
        old, new = value.name, f"{value.name}__exact"
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
        cast = onnx.helper.make_node("Cast", [old if is_input else new], [new if is_input else old], to=number if is_input else carrier)
        (before if is_input else after).append(cast)
        value.type.tensor_type.elem_type = carrier
    nodes = [*before, *model.graph.node, *after]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
