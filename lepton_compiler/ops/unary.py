"""Element-wise functions of one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import BOOL, TensorType


@dataclass(frozen=True)
class Unary(Op):
    """Base: one operand, one output of the same type."""

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (x,)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (self.apply(x),)

    def apply(self, x: Any) -> np.ndarray:
        """The function itself, on an array of any shape."""
        raise NotImplementedError(f"{self.name}.apply")


@dataclass(frozen=True)
class Abs(Unary):
    """Absolute value."""

    def apply(self, x: Any) -> np.ndarray:  # noqa: D102
        return np.abs(x)


@dataclass(frozen=True)
class Exp(Unary):
    """e to the power of x."""

    def apply(self, x: Any) -> np.ndarray:  # noqa: D102
        return np.exp(x)


@dataclass(frozen=True)
class IsNaN(Unary):
    """Whether x is not a number."""

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (TensorType(BOOL, x.shape),)

    def apply(self, x: Any) -> np.ndarray:  # noqa: D102
        return np.isnan(x)
