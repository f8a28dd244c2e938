"""Softmax and its kin, and normalizations. Narrow floats are computed in float32 and rounded once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.op import Cost, Op, Types, require, traffic
from lepton_compiler.ir.types import TensorType
from lepton_compiler.ops.axes import normal_axes, normal_axis
from lepton_compiler.ops.broadcasting import may_equal, require_broadcastable
from lepton_compiler.ops.precision import compute_wide, wide_dtype, widen


@dataclass(frozen=True)
class Normalization(Op):
    """Base: floats in, the same type out, a few operations per element.

    Class attributes are none; `work` is the number of operations per element that `cost` counts.
    """

    @property
    def work(self) -> int:
        """Arithmetic operations per element, roughly."""
        return 5

    def require_float(self, x: TensorType) -> None:
        """Check the element type of the data operand."""
        require(x.dtype.is_float, f"{self.name} takes floats, not {x.dtype}")

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        x = inputs[0]
        assert x is not None
        return Cost(0, self.work * x.size, traffic(inputs, outputs))


@dataclass(frozen=True)
class AlongAxis(Normalization):
    """Base: a function of the elements along one axis."""

    axis: int = -1

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        self.require_float(x)
        normal_axis(self.axis, x.rank)
        return (x,)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (compute_wide(self.apply, x) if x.size else x,)

    def apply(self, x: Any) -> Any:
        """The function itself, on an array that has elements."""
        raise NotImplementedError(f"{self.name}.apply")


@dataclass(frozen=True)
class Softmax(AlongAxis):
    """exp(x) / sum(exp(x)), without overflow."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        powers = np.exp(x - np.max(x, axis=self.axis, keepdims=True))
        return powers / np.sum(powers, axis=self.axis, keepdims=True)


@dataclass(frozen=True)
class LogSoftmax(AlongAxis):
    """log(softmax(x)), without overflow."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        shifted = x - np.max(x, axis=self.axis, keepdims=True)
        return shifted - np.log(np.sum(np.exp(shifted), axis=self.axis, keepdims=True))


@dataclass(frozen=True)
class Hardmax(AlongAxis):
    """1 at the first largest element, 0 elsewhere."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        result = np.zeros_like(x)
        np.put_along_axis(result, np.argmax(x, axis=self.axis, keepdims=True), 1, axis=self.axis)
        return result


@dataclass(frozen=True)
class LpNormalization(AlongAxis):
    """x divided by its 1-norm or 2-norm; zeros where that is 0."""

    p: int = 2

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.p in (1, 2), f"LpNormalization takes p = 1 or 2, not {self.p}")
        return super().infer(x)

    def apply(self, x: Any) -> Any:  # noqa: D102
        if self.p == 1:
            norm = np.sum(np.abs(x), axis=self.axis, keepdims=True)
        else:
            norm = np.sqrt(np.sum(x * x, axis=self.axis, keepdims=True))
        return np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm))


@dataclass(frozen=True)
class BatchNormalization(Normalization):
    """scale * (x - mean) / sqrt(var + epsilon) + b with given statistics, one per index of `axis`."""

    epsilon: float = 1e-5
    axis: int = 1

    def infer(self, x: TensorType, scale: TensorType, b: TensorType, mean: TensorType, var: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        self.require_float(x)
        channels = x.shape[normal_axis(self.axis, x.rank)]
        for what, t in (("scale", scale), ("bias", b), ("mean", mean), ("variance", var)):
            _require_vector(t, channels, f"BatchNormalization's {what}")
        return (x,)

    def evaluate(self, x: Any, scale: Any, b: Any, mean: Any, var: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        shape = [1] * x.ndim
        shape[self.axis] = -1
        wide = widen(x)
        scale, b, mean, var = (p.astype(np.result_type(widen(p).dtype, wide.dtype)).reshape(shape) for p in (scale, b, mean, var))
        return ((scale * (wide - mean) / np.sqrt(var + self.epsilon) + b).astype(x.dtype),)


@dataclass(frozen=True)
class InstanceNormalization(Normalization):
    """Each channel of each sample of [N, C, spatial...] to mean 0 and variance 1, then scaled and shifted per channel."""

    epsilon: float = 1e-5

    def infer(self, x: TensorType, scale: TensorType, b: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        self.require_float(x)
        require(x.rank >= 3, f"InstanceNormalization takes [N, C, spatial...], not {x}")
        _require_vector(scale, x.shape[1], "InstanceNormalization's scale")
        _require_vector(b, x.shape[1], "InstanceNormalization's bias")
        return (x,)

    def evaluate(self, x: Any, scale: Any, b: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        shape = (-1,) + (1,) * (x.ndim - 2)
        axes = tuple(range(2, x.ndim))

        def apply(x: Any, scale: Any, b: Any) -> Any:
            return _standardized(x, axes, self.epsilon)[0] * scale.reshape(shape) + b.reshape(shape)

        return (compute_wide(apply, x, scale, b),)


@dataclass(frozen=True)
class LayerNormalization(Normalization):
    """The trailing axes from `axis` on to mean 0 and variance 1, then scaled and shifted per element.

    With `statistics` two more outputs: the mean and 1 / sqrt(variance + epsilon), float32 for narrow floats.
    """

    axis: int = -1
    epsilon: float = 1e-5
    statistics: bool = False

    def infer(self, x: TensorType, scale: TensorType, b: TensorType | None = None) -> tuple[TensorType, ...]:  # noqa: D102
        self.require_float(x)
        axis = normal_axis(self.axis, x.rank)
        require_broadcastable(scale.shape, x.shape, "LayerNormalization's scale")
        if b is not None:
            require_broadcastable(b.shape, x.shape, "LayerNormalization's bias")
        if not self.statistics:
            return (x,)
        reduced = TensorType(wide_dtype(x.dtype), (*x.shape[:axis], *(1 for _ in x.shape[axis:])))
        return x, reduced, reduced

    def evaluate(self, x: Any, scale: Any, b: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        axes = tuple(range(normal_axis(self.axis, x.ndim), x.ndim))
        y, mean, inverse = _standardized(widen(x), axes, self.epsilon)
        y = y * widen(scale)
        if b is not None:
            y = y + widen(b)
        return (y.astype(x.dtype), mean, inverse) if self.statistics else (y.astype(x.dtype),)


@dataclass(frozen=True)
class GroupNormalization(Normalization):
    """Each group of channels of each sample of [N, C, ...] to mean 0 and variance 1; scale and shift are per channel [C]."""

    num_groups: int
    epsilon: float = 1e-5

    def infer(self, x: TensorType, scale: TensorType, b: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        self.require_float(x)
        require(x.rank >= 2, f"GroupNormalization takes [N, C, ...], not {x}")
        channels = x.shape[1]
        require(self.num_groups > 0, f"GroupNormalization cannot make {self.num_groups} groups")
        require(
            not isinstance(channels, int) or channels % self.num_groups == 0,
            f"GroupNormalization cannot split {channels} channels into {self.num_groups} groups",
        )
        _require_vector(scale, channels, "GroupNormalization's scale")
        _require_vector(b, channels, "GroupNormalization's bias")
        return (x,)

    def evaluate(self, x: Any, scale: Any, b: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        shape = (-1,) + (1,) * (x.ndim - 2)

        def apply(x: Any, scale: Any, b: Any) -> Any:
            grouped = x.reshape(x.shape[0], self.num_groups, x.shape[1] // self.num_groups, *x.shape[2:])
            y = _standardized(grouped, tuple(range(2, grouped.ndim)), self.epsilon)[0]
            return y.reshape(x.shape) * scale.reshape(shape) + b.reshape(shape)

        return (compute_wide(apply, x, scale, b),)


@dataclass(frozen=True)
class RMSNormalization(Normalization):
    """The trailing axes from `axis` on divided by their root mean square, then scaled per element."""

    axis: int = -1
    epsilon: float = 1e-5

    def infer(self, x: TensorType, scale: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        self.require_float(x)
        normal_axis(self.axis, x.rank)
        require_broadcastable(scale.shape, x.shape, "RMSNormalization's scale")
        return (x,)

    def evaluate(self, x: Any, scale: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        axes = tuple(range(normal_axis(self.axis, x.ndim), x.ndim))

        def apply(x: Any, scale: Any) -> Any:
            return x / np.sqrt(np.mean(x * x, axis=axes, keepdims=True) + self.epsilon) * scale

        return (compute_wide(apply, x, scale),)


@dataclass(frozen=True)
class MeanVarianceNormalization(Normalization):
    """(x - mean) / (standard deviation + 1e-9) over `axes`."""

    axes: tuple[int, ...] = (0, 2, 3)

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        self.require_float(x)
        normal_axes(self.axes, x.rank)
        return (x,)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        axes = normal_axes(self.axes, x.ndim)

        def apply(x: Any) -> Any:
            centred = x - np.mean(x, axis=axes, keepdims=True)
            return centred / (np.sqrt(np.mean(centred * centred, axis=axes, keepdims=True)) + 1e-9)

        return (compute_wide(apply, x),)


@dataclass(frozen=True)
class LRN(Normalization):
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta, on [N, C, ...]."""

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    @property
    def work(self) -> int:  # noqa: D102
        return self.size + 5

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        self.require_float(x)
        require(x.rank >= 2, f"LRN takes [N, C, ...], not {x}")
        require(self.size > 0, f"LRN cannot take {self.size} channels together")
        return (x,)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (compute_wide(self._apply, x),)

    def _apply(self, x: Any) -> Any:
        before = (self.size - 1) // 2
        margins = [(0, 0), (before, self.size - 1 - before)] + [(0, 0)] * (x.ndim - 2)
        squares = np.pad(x * x, margins)
        total = sum((squares[:, i : i + x.shape[1]] for i in range(1, self.size)), start=squares[:, : x.shape[1]])
        return np.asarray(x / (self.bias + self.alpha / self.size * total) ** self.beta)


def _standardized(x: Any, axes: tuple[int, ...], epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`x` with mean 0 and variance 1 over `axes`, the mean, and 1 / sqrt(variance + epsilon)."""
    mean = np.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    inverse = 1 / np.sqrt(np.mean(centred * centred, axis=axes, keepdims=True) + epsilon)
    return centred * inverse, mean, inverse


def _require_vector(t: TensorType, size: Dim, what: str) -> None:
    require(t.dtype.is_float, f"{what} is {t.dtype}, not a float")
    require(t.rank == 1 and may_equal(t.shape[0], size), f"{what} is {t}, not one value for each of {size} channels")
