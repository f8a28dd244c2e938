"""Operators whose attributes or sizes come from tensors that are computed at run time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import SymDim, symbol
from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.op import Op, require
from lepton_compiler.ir.types import INT64, TensorType


@dataclass(frozen=True)
class Dynamic(Op):
    """`template` with the attributes `params` supplied by that many trailing operands.

    `Dynamic(Reshape(shape=()), ("shape",))(x, shape)` is the reshape whose target is not known at compile time.
    It turns into its static form as soon as the operands are known, as numbers or as symbolic dimensions.
    """

    template: Op
    params: tuple[str, ...]

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:  # noqa: D102
        return self.template.infer_dynamic(self.params, *inputs)

    def evaluate(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:  # noqa: D102
        data, values = inputs[: -len(self.params)], inputs[-len(self.params) :]
        return self._filled(values).evaluate(*data)

    def resolve(self, inputs: Sequence[Value | None]) -> Op | None:
        """The static operator, where the contents of the parameter operands are known; it takes the leading operands."""
        contents = [None if v is None else v.tensor.numpy() if v.tensor is not None else v.content for v in inputs[-len(self.params) :]]
        return None if any(c is None for c in contents) else self._filled(contents)

    def _filled(self, values: Sequence[np.ndarray | None]) -> Op:
        kinds = {f.name: str(f.type) for f in fields(self.template)}
        given = {
            name: attribute_from_array(value, "tuple" in kinds[name])
            for name, value in zip(self.params, values, strict=True)
            if value is not None
        }
        return replace(self.template, **given)


@dataclass(frozen=True)
class Sized(Op):
    """The first elements of the buffer `x`, in row-major order, as a tensor whose sizes along `axes` are the operands `sizes`.

    The other sizes are those of the buffer. A product of sizes larger than the buffer is an error.
    """

    axes: tuple[int, ...]

    def infer(self, x: TensorType, *sizes: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(len(sizes) == len(self.axes), f"Sized has {len(sizes)} sizes for {len(self.axes)} axes")
        require(all(0 <= a < x.rank for a in self.axes), f"Sized: axes {self.axes} are outside {x}")
        require(all(t.dtype == INT64 and t.rank == 0 for t in sizes), "Sized: sizes must be int64 scalars")
        return (TensorType(x.dtype, tuple(symbol(f"?{a}") if a in self.axes else d for a, d in enumerate(x.shape))),)

    def evaluate(self, x: Any, *sizes: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        shape = list(x.shape)
        for axis, size in zip(self.axes, sizes, strict=True):
            shape[axis] = int(size)
        return (x.reshape(-1)[: math.prod(shape)].reshape(shape),)


def attribute_from_array(array: np.ndarray, many: bool) -> Any:
    """An attribute value, a tuple or one element, from the tensor that ONNX passes it in."""
    items = tuple(x if isinstance(x, SymDim) else x.item() if isinstance(x, np.generic) else x for x in np.asarray(array).reshape(-1))
    if many:
        return items
    if len(items) != 1:
        raise InferenceError(f"expected one value, got {len(items)}")
    return items[0]
