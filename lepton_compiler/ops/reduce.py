"""Reductions along axes, running sums, and the largest elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.dim import Dim, symbol
from lepton_compiler.ir.op import Cost, Op, Types, require, traffic
from lepton_compiler.ir.types import INT64, Kind, TensorType
from lepton_compiler.ops.axes import normal_axes, normal_axis
from lepton_compiler.ops.precision import compute_wide, widen
from lepton_compiler.ops.unary import NUMERIC


def reduced_shape(shape: tuple[Dim, ...], axes: tuple[int, ...], *, keepdims: bool) -> tuple[Dim, ...]:
    """The shape after reducing `axes`, which stay as size 1 with `keepdims`.

    Raises:
        InferenceError: an axis does not exist or is named twice.
    """
    gone = normal_axes(axes, len(shape))
    if keepdims:
        return tuple(1 if i in gone else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in gone)


@dataclass(frozen=True)
class Reduce(Op):
    """Base: one value from all elements along `axes`; no axes, no reduction. Narrow floats are accumulated in float32.

    Class attributes:
        kinds: kinds of element types that the operator takes.
    """

    axes: tuple[int, ...]
    keepdims: bool = True
    kinds: ClassVar[tuple[Kind, ...]] = NUMERIC

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype.kind in self.kinds, f"{self.name} takes {' or '.join(self.kinds)} elements, not {x.dtype}")
        return (TensorType(x.dtype, reduced_shape(x.shape, self.axes, keepdims=self.keepdims)),)

    def infer_dynamic(self, params: tuple[str, ...], x: TensorType, axes: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(params == ("axes",), f"{self.name} cannot take {', '.join(params)} at run time")
        count = axes.shape[0] if axes.rank == 1 else 1
        if self.keepdims:
            rank = x.rank
        elif isinstance(count, int):
            rank = x.rank - count
        else:
            raise UnsupportedError(f"{self.name} needs to know how many axes it reduces", hint="make its axes a constant of the model")
        require(rank >= 0, f"{self.name} reduces {count} axes of {x}")
        return (TensorType(x.dtype, tuple(symbol(f"?{i}") for i in range(rank))),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        axes = normal_axes(self.axes, x.ndim)
        return (compute_wide(lambda x: self.apply(x, axes), x).astype(x.dtype),)

    def apply(self, x: Any, axes: tuple[int, ...]) -> Any:
        """The reduction itself."""
        raise NotImplementedError(f"{self.name}.apply")

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return Cost(0, sum(t.size for t in inputs if t), traffic(inputs, outputs))


@dataclass(frozen=True)
class ReduceSum(Reduce):
    """Sum; integers wrap around."""

    symbolic: ClassVar[bool] = True

    def apply(self, x: Any, axes: tuple[int, ...]) -> Any:  # noqa: D102
        return np.sum(x, axis=axes, keepdims=self.keepdims, dtype=x.dtype)


@dataclass(frozen=True)
class ReduceProd(Reduce):
    """Product; integers wrap around."""

    symbolic: ClassVar[bool] = True

    def apply(self, x: Any, axes: tuple[int, ...]) -> Any:  # noqa: D102
        return np.prod(x, axis=axes, keepdims=self.keepdims, dtype=x.dtype)


@dataclass(frozen=True)
class ReduceMean(Reduce):
    """Mean; that of integers is truncated towards zero, that of nothing is NaN."""

    def apply(self, x: Any, axes: tuple[int, ...]) -> Any:  # noqa: D102
        if np.issubdtype(x.dtype, np.inexact):
            return np.mean(x, axis=axes, keepdims=self.keepdims, dtype=x.dtype)
        return np.trunc(np.mean(x, axis=axes, keepdims=self.keepdims, dtype=np.float64)).astype(x.dtype)


@dataclass(frozen=True)
class ReduceMax(Reduce):
    """Largest element; of nothing, the smallest value of the type."""

    kinds: ClassVar[tuple[Kind, ...]] = (*NUMERIC, "bool")

    def apply(self, x: Any, axes: tuple[int, ...]) -> Any:  # noqa: D102
        return np.max(x, axis=axes, keepdims=self.keepdims, initial=_extreme(x.dtype, largest=False))


@dataclass(frozen=True)
class ReduceMin(Reduce):
    """Smallest element; of nothing, the largest value of the type."""

    kinds: ClassVar[tuple[Kind, ...]] = (*NUMERIC, "bool")

    def apply(self, x: Any, axes: tuple[int, ...]) -> Any:  # noqa: D102
        return np.min(x, axis=axes, keepdims=self.keepdims, initial=_extreme(x.dtype, largest=True))


@dataclass(frozen=True)
class ReduceL1(Reduce):
    """Sum of absolute values."""

    def apply(self, x: Any, axes: tuple[int, ...]) -> Any:  # noqa: D102
        return np.sum(np.abs(x), axis=axes, keepdims=self.keepdims, dtype=x.dtype)


@dataclass(frozen=True)
class ReduceL2(Reduce):
    """Square root of the sum of squares."""

    def apply(self, x: Any, axes: tuple[int, ...]) -> Any:  # noqa: D102
        wide = _inexact(x)
        return np.sqrt(np.sum(np.square(wide), axis=axes, keepdims=self.keepdims)).astype(x.dtype)


@dataclass(frozen=True)
class ReduceSumSquare(Reduce):
    """Sum of squares."""

    def apply(self, x: Any, axes: tuple[int, ...]) -> Any:  # noqa: D102
        return np.sum(np.square(x), axis=axes, keepdims=self.keepdims, dtype=x.dtype)


@dataclass(frozen=True)
class ReduceLogSum(Reduce):
    """Logarithm of the sum."""

    def apply(self, x: Any, axes: tuple[int, ...]) -> Any:  # noqa: D102
        return np.log(np.sum(_inexact(x), axis=axes, keepdims=self.keepdims)).astype(x.dtype)


@dataclass(frozen=True)
class ReduceLogSumExp(Reduce):
    """Logarithm of the sum of exponentials, without overflow."""

    def apply(self, x: Any, axes: tuple[int, ...]) -> Any:  # noqa: D102
        wide = _inexact(x)
        peak = np.max(wide, axis=axes, keepdims=True, initial=-np.inf)
        peak = np.where(np.isfinite(peak), peak, 0).astype(wide.dtype)
        result = np.log(np.sum(np.exp(wide - peak), axis=axes, keepdims=True)) + peak
        return (result if self.keepdims else np.squeeze(result, axis=axes)).astype(x.dtype)


@dataclass(frozen=True)
class ArgReduce(Op):
    """Base: the int64 index of an extreme element along an axis, of the first of several or the last. NaN is extreme."""

    axis: int = 0
    keepdims: bool = True
    select_last_index: bool = False

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype.kind in NUMERIC, f"{self.name} takes numbers, not {x.dtype}")
        require(x.shape[normal_axis(self.axis, x.rank)] != 0, f"{self.name} along axis {self.axis} of {x}, which is empty")
        return (TensorType(INT64, reduced_shape(x.shape, (self.axis,), keepdims=self.keepdims)),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        wide = widen(x)
        if self.select_last_index:
            found = x.shape[self.axis] - 1 - self.find(np.flip(wide, self.axis))
        else:
            found = self.find(wide)
        return (np.asarray(found, np.int64),)

    def find(self, x: Any) -> Any:
        """The first index of the extreme element."""
        raise NotImplementedError(f"{self.name}.find")

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return Cost(0, sum(t.size for t in inputs if t), traffic(inputs, outputs))


@dataclass(frozen=True)
class ArgMax(ArgReduce):
    """Index of the largest element."""

    def find(self, x: Any) -> Any:  # noqa: D102
        return np.asarray(np.argmax(x, axis=self.axis, keepdims=self.keepdims))


@dataclass(frozen=True)
class ArgMin(ArgReduce):
    """Index of the smallest element."""

    def find(self, x: Any) -> Any:  # noqa: D102
        return np.asarray(np.argmin(x, axis=self.axis, keepdims=self.keepdims))


@dataclass(frozen=True)
class Cumulative(Op):
    """Base: the running result along an axis; `exclusive` leaves out the element itself, `reverse` starts at the end."""

    axis: int
    exclusive: bool = False
    reverse: bool = False
    start: ClassVar[int] = 0

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype.kind in NUMERIC, f"{self.name} takes numbers, not {x.dtype}")
        normal_axis(self.axis, x.rank)
        return (x,)

    def infer_dynamic(self, params: tuple[str, ...], x: TensorType, axis: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(params == ("axis",), f"{self.name} cannot take {', '.join(params)} at run time")
        return (x,)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (compute_wide(self._apply, x),)

    def _apply(self, x: Any) -> Any:
        forward = np.flip(x, self.axis) if self.reverse else x
        if self.exclusive:
            moved = np.moveaxis(forward, self.axis, -1)
            first = np.full((*moved.shape[:-1], min(1, moved.shape[-1])), self.start, x.dtype)
            forward = np.moveaxis(np.concatenate([first, moved[..., :-1]], axis=-1), -1, self.axis)
        result = self.accumulate(forward)
        return np.flip(result, self.axis) if self.reverse else result

    def accumulate(self, x: Any) -> Any:
        """The running result, each element included, from the start."""
        raise NotImplementedError(f"{self.name}.accumulate")


@dataclass(frozen=True)
class CumSum(Cumulative):
    """Running sum."""

    def accumulate(self, x: Any) -> Any:  # noqa: D102
        return np.cumsum(x, axis=self.axis, dtype=x.dtype)


@dataclass(frozen=True)
class CumProd(Cumulative):
    """Running product."""

    start: ClassVar[int] = 1

    def accumulate(self, x: Any) -> Any:  # noqa: D102
        return np.cumprod(x, axis=self.axis, dtype=x.dtype)


@dataclass(frozen=True)
class TopK(Op):
    """The k largest (or smallest) elements along an axis, best first, and their int64 indices.

    Of equal elements the one with the lower index comes first; NaN counts as larger than everything. `sorted=False`
    leaves the order open; this evaluator sorts all the same.
    """

    k: Dim
    axis: int = -1
    largest: bool = True
    sorted: bool = True

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype.kind in NUMERIC, f"TopK takes numbers, not {x.dtype}")
        size = x.shape[normal_axis(self.axis, x.rank)]
        if isinstance(self.k, int):
            require(self.k >= 0, f"TopK cannot give {self.k} elements")
            require(not isinstance(size, int) or self.k <= size, f"TopK wants {self.k} of the {size} elements along axis {self.axis}")
        return self._types(x, self.k)

    def infer_dynamic(self, params: tuple[str, ...], x: TensorType, k: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(params == ("k",), f"TopK cannot take {', '.join(params)} at run time")
        return self._types(x, symbol("?0"))

    def _types(self, x: TensorType, k: Dim) -> tuple[TensorType, ...]:
        axis = normal_axis(self.axis, x.rank)
        shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
        return TensorType(x.dtype, shape), TensorType(INT64, shape)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        keys = np.moveaxis(widen(x), self.axis, -1)
        size, k = keys.shape[-1], int(self.k)  # type: ignore[arg-type]
        require(k <= size, f"TopK wants {k} of {size} elements")
        if self.largest:
            order = size - 1 - np.argsort(keys[..., ::-1], axis=-1, kind="stable")[..., ::-1]
        else:
            order = np.argsort(keys, axis=-1, kind="stable")
        chosen = np.moveaxis(order[..., :k], -1, self.axis).astype(np.int64)
        return np.take_along_axis(x, chosen, axis=self.axis), chosen

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return Cost(0, sum(t.size * max(1, t.size.bit_length()) for t in inputs if t), traffic(inputs, outputs))


def _inexact(x: Any) -> Any:
    """Integers as float64, for functions that integers do not have."""
    return x if np.issubdtype(x.dtype, np.inexact) else x.astype(np.float64)


def _extreme(element: np.dtype, *, largest: bool) -> Any:
    """The largest or smallest value of a type, as a scalar of that type."""
    if element == np.bool_:
        return np.bool_(largest)
    if np.issubdtype(element, np.inexact):
        return element.type(np.inf if largest else -np.inf)
    info = ml_dtypes.iinfo(element)
    return element.type(info.max if largest else info.min)
