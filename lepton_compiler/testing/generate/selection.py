"""Operators whose results have sizes that the data decides; what follows them is of fixed size again."""

from __future__ import annotations

import numpy as np

from lepton_compiler.ir.types import BOOL, TensorType
from lepton_compiler.ops.builder import make_op
from lepton_compiler.testing.generate.maker import FLOAT32, Maker, step


@step(0.5)
def selection(m: Maker) -> None:
    """Elements that satisfy a condition, distinct ones, places of those that are not zero."""
    x = m.value(("float", "int"), 1, 3)
    match m.number(0, 3):
        case 0:
            m.b.ReduceSum(m.b.NonZero(x), axes=(1,), keepdims=False)
        case 1:
            axis = m.pick((None, 0))
            size = x.type.static_shape[0] if axis is not None else x.type.size
            m.b.ReduceSum(m.b.Compress(x, m.like(TensorType(BOOL, (size,))), axis=axis), axes=(0,), keepdims=False)
        case 2:
            m.b.node(make_op("Unique", {"sorted": m.flag()}), [x])
        case _:
            boxes = np.array([[[m.number(0, 4), m.number(0, 4), m.number(4, 9), m.number(4, 9)] for _ in range(4)]], np.float32)
            scores = m.like(TensorType(FLOAT32, (1, 2, 4)))
            m.add(make_op("NonMaxSuppression", {}), m.weight(boxes), scores, np.array(3), np.float32(0.5), np.float32(0.1))
