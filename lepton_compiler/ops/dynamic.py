"""Operators whose attributes come from a tensor that is computed at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import SymDim
from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import TensorType


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


def attribute_from_array(array: np.ndarray, many: bool) -> Any:
    """An attribute value, a tuple or one element, from the tensor that ONNX passes it in."""
    items = tuple(x if isinstance(x, SymDim) else x.item() if isinstance(x, np.generic) else x for x in np.asarray(array).reshape(-1))
    if many:
        return items
    if len(items) != 1:
        raise InferenceError(f"expected one value, got {len(items)}")
    return items[0]
