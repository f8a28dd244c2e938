"""Shapes: reading them, changing them without touching the elements, and tensors made from a shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import Dim, SymDim, ceildiv, floordiv, symbol
from lepton_compiler.ir.op import Cost, Op, Types, require
from lepton_compiler.ir.types import FLOAT32, INT64, DType, TensorType
from lepton_compiler.ops.axes import normal_axes
from lepton_compiler.ops.broadcasting import broadcast_shapes, shape_text


def count(shape: Sequence[Dim]) -> Dim:
    """The number of elements of a shape that may be symbolic."""
    total: Dim = 1
    for dim in shape:
        total = total * dim
    return total


def placeholders(n: int, first: int = 0) -> tuple[Dim, ...]:
    """`n` dimensions that only the data decides."""
    return tuple(symbol(f"?{first + i}") for i in range(n))


def length_of(name: str, parameter: TensorType | None) -> int:
    """How many values a parameter tensor holds.

    Raises:
        InferenceError: that is not known at compile time, so that the rank of the result is not known either.
    """
    shape = parameter.shape if parameter is not None else ()
    if parameter is None or len(shape) > 1 or not all(isinstance(d, int) for d in shape):
        raise InferenceError(
            f"{name}: the rank of the result depends on data: its parameter is {parameter}",
            hint="bind the input shapes that it is computed from",
        )
    return parameter.size


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements, in row-major order, with another shape.

    `shape` may hold one -1, which stands for whatever is left.
    """

    symbolic: ClassVar[bool] = True
    shape: tuple[Dim, ...] = ()

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (TensorType(x.dtype, self.resolve(x.shape)),)

    def resolve(self, source: Sequence[Dim]) -> tuple[Dim, ...]:
        """The shape of the result for an operand of shape `source`.

        Raises:
            InferenceError: the numbers of elements differ.
        """
        shape = list(self.shape)
        free = [i for i, d in enumerate(shape) if isinstance(d, int) and d == -1]
        require(len(free) <= 1, f"Reshape: {self.shape} has more than one -1")
        require(all(d >= -1 for d in shape if isinstance(d, int)), f"Reshape: {self.shape} has a negative size")
        total, rest = count(source), count([d for i, d in enumerate(shape) if i not in free])
        if isinstance(total, int) and isinstance(rest, int):
            fits = rest != 0 and total % rest == 0 if free else total == rest
            require(fits, f"Reshape: {shape_text(source)} with {total} elements does not fit {shape_text(self.shape)}")
        if free:
            shape[free[0]] = floordiv(total, rest)
        return tuple(shape)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        rank = length_of("Reshape", inputs[-1])
        if rank == 1:
            return (TensorType(inputs[0].dtype, (count(inputs[0].shape),)),)
        return (TensorType(inputs[0].dtype, placeholders(rank)),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (x.reshape([int(d) for d in self.resolve(x.shape)]),)  # type: ignore[arg-type]

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return Cost()


@dataclass(frozen=True)
class Squeeze(Op):
    """Drop the axes given, which must have size one."""

    symbolic: ClassVar[bool] = True
    axes: tuple[int, ...] = ()

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        axes = normal_axes(self.axes, x.rank)
        for axis in axes:
            size = x.shape[axis]
            require(not isinstance(size, int) or size == 1, f"Squeeze: axis {axis} of {x} does not have size one")
        return (TensorType(x.dtype, tuple(d for i, d in enumerate(x.shape) if i not in axes)),)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        x, dropped = inputs[0], length_of("Squeeze", inputs[-1])
        kept = [d for d in x.shape if d != 1]
        if x.is_static and len(kept) == x.rank - dropped:
            return (TensorType(x.dtype, tuple(kept)),)
        return (TensorType(x.dtype, placeholders(x.rank - dropped)),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (np.squeeze(x, tuple({a % x.ndim for a in self.axes})) if self.axes else x,)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return Cost()


@dataclass(frozen=True)
class Unsqueeze(Op):
    """Insert axes of size one; `axes` count in the result."""

    symbolic: ClassVar[bool] = True
    axes: tuple[int, ...] = ()

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        rank = x.rank + len(self.axes)
        axes = normal_axes(self.axes, rank)
        old = iter(x.shape)
        return (TensorType(x.dtype, tuple(1 if i in axes else next(old) for i in range(rank))),)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        added = length_of("Unsqueeze", inputs[-1])
        return (TensorType(inputs[0].dtype, placeholders(inputs[0].rank + added)),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (np.expand_dims(x, self.axes) if self.axes else x,)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return Cost()


@dataclass(frozen=True)
class Transpose(Op):
    """Axis `i` of the result is axis `perm[i]` of `x`."""

    symbolic: ClassVar[bool] = True
    perm: tuple[int, ...] = ()

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(sorted(self.perm) == list(range(x.rank)), f"Transpose: perm {self.perm} is not a permutation of the {x.rank} axes of {x}")
        return (TensorType(x.dtype, tuple(x.shape[p] for p in self.perm)),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (np.ascontiguousarray(np.transpose(x, self.perm)) if x.ndim else x,)


@dataclass(frozen=True)
class Expand(Op):
    """`x` broadcast against `shape`, by numpy's rules in both directions."""

    symbolic: ClassVar[bool] = True
    shape: tuple[Dim, ...] = ()

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (TensorType(x.dtype, broadcast_shapes(x.shape, self.shape)),)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        x = inputs[0]
        rank = max(x.rank, length_of("Expand", inputs[-1]))
        left = (1,) * (rank - x.rank) + x.shape
        fixed = [isinstance(d, int) and d > 1 for d in left]
        return (TensorType(x.dtype, tuple(d if f else symbol(f"?{i}") for i, (d, f) in enumerate(zip(left, fixed, strict=True)))),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        shape = np.broadcast_shapes(x.shape, tuple(int(d) for d in self.shape))  # type: ignore[arg-type]
        return (np.array(np.broadcast_to(x, shape)),)


@dataclass(frozen=True)
class Shape(Op):
    """The shape of `x` from axis `start` to before axis `end`, as an int64 vector."""

    symbolic: ClassVar[bool] = True
    start: int = 0
    end: int | None = None

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (TensorType(INT64, (len(self._part(x.shape)),)),)

    def _part(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        rank = len(shape)
        end = rank if self.end is None else self.end
        first, last = (min(max(a + rank if a < 0 else a, 0), rank) for a in (self.start, end))
        return tuple(shape[first : max(first, last)])

    def content_of(self, x: TensorType) -> tuple[np.ndarray, ...]:
        """The output as an object array of dimensions."""
        return (_objects(self._part(x.shape)),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (np.array(self._part(x.shape), np.int64),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return Cost()


@dataclass(frozen=True)
class Size(Op):
    """The number of elements of `x`, as an int64 scalar."""

    symbolic: ClassVar[bool] = True

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (TensorType(INT64, ()),)

    def content_of(self, x: TensorType) -> tuple[np.ndarray, ...]:
        """The output as an object array."""
        return (_objects((count(x.shape),)).reshape(()),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (np.array(math.prod(x.shape), np.int64),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return Cost()


@dataclass(frozen=True)
class ConstantOfShape(Op):
    """A tensor of `shape` filled with `value`."""

    symbolic: ClassVar[bool] = True
    shape: tuple[Dim, ...] = ()
    value: int | float | bool = 0.0
    dtype: DType = FLOAT32

    def infer(self) -> tuple[TensorType, ...]:  # noqa: D102
        require(all(d >= 0 for d in self.shape if isinstance(d, int)), f"ConstantOfShape: {shape_text(self.shape)} has a negative size")
        return (TensorType(self.dtype, self.shape),)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (TensorType(self.dtype, placeholders(length_of("ConstantOfShape", inputs[-1]))),)

    def evaluate(self) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (np.full([int(d) for d in self.shape], self.value, self.dtype.numpy),)  # type: ignore[arg-type]

    def evaluate_symbolic(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (self.evaluate()[0].astype(object),)


@dataclass(frozen=True)
class Range(Op):
    """The numbers `start`, `start + delta`, ... before `limit`."""

    symbolic: ClassVar[bool] = True
    start: Dim | float = 0
    limit: Dim | float = 0
    delta: Dim | float = 1
    dtype: DType = INT64

    def infer(self) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.delta != 0, "Range: delta is zero")
        return (TensorType(self.dtype, (self._length(),)),)

    def _length(self) -> Dim:
        start, limit, delta = self._bounds()
        if any(isinstance(v, SymDim) for v in (start, limit, delta)):
            return ceildiv(limit - start, delta)
        if all(isinstance(v, int) for v in (start, limit, delta)):
            return int(max(0, -(-(limit - start) // delta)))
        return int(max(0, math.ceil((limit - start) / delta)))

    def _bounds(self) -> tuple[Any, Any, Any]:
        return self.start, self.limit, self.delta

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (TensorType(self.dtype, placeholders(1)),)

    def evaluate(self) -> tuple[np.ndarray, ...]:  # noqa: D102
        start, _, delta = self._bounds()
        steps = np.arange(int(self._length()))  # type: ignore[arg-type]
        kind = self.dtype.numpy
        if self.dtype.is_integer:
            return ((steps * delta + start).astype(kind),)
        wide = np.dtype(np.float64 if kind == np.float64 else np.float32)
        return ((wide.type(start) + steps.astype(wide) * wide.type(delta)).astype(kind),)

    def evaluate_symbolic(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:  # noqa: D102
        n = self._length()
        if not isinstance(n, int):
            raise TypeError("the length is symbolic")
        start, _, delta = self._bounds()
        return (_objects([start + delta * i for i in range(n)]),)


@dataclass(frozen=True)
class EyeLike(Op):
    """Ones on diagonal `k` of a matrix of the shape of `x`, zeros elsewhere."""

    k: int = 0
    dtype: DType = FLOAT32

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.rank == 2, f"EyeLike: {x} must be a matrix")
        return (TensorType(self.dtype, x.shape),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        rows, cols = x.shape
        return (np.eye(rows, cols, self.k).astype(self.dtype.numpy),)


def _objects(items: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(items), object)
    array[:] = list(items)
    return array
