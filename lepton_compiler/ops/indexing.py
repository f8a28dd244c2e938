"""Reading and writing elements by index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lepton_compiler.ir.dim import Dim, SymDim, ceildiv, maximum, minimum, symbol
from lepton_compiler.ir.op import Cost, Op, Types, require, traffic
from lepton_compiler.ir.types import INT64, TensorType
from lepton_compiler.ops.axes import normal_axis
from lepton_compiler.ops.precision import widen
from lepton_compiler.ops.rearrange import Concat, DepthToSpace, Pad, SpaceToDepth, Split, Tile
from lepton_compiler.ops.shape import count, placeholders

__all__ = [
    "Compress",
    "Concat",
    "DepthToSpace",
    "Gather",
    "GatherElements",
    "GatherND",
    "NonZero",
    "OneHot",
    "Pad",
    "ReverseSequence",
    "ScatterElements",
    "ScatterND",
    "Slice",
    "SpaceToDepth",
    "Split",
    "TensorScatter",
    "Tile",
    "Trilu",
    "Unique",
]

FAR = 1 << 31
"""Slice bounds at least this large, which exporters write for "to the end", are beyond any symbolic size."""
REDUCTIONS = ("none", "add", "mul", "max", "min")


@dataclass(frozen=True)
class Gather(Op):
    """The slices of `x` along `axis` that `indices` (of any shape, negative ones from the end) name."""

    symbolic: ClassVar[bool] = True
    axis: int = 0

    def infer(self, x: TensorType, indices: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        _check_indices("Gather", indices)
        axis = normal_axis(self.axis, x.rank)
        return (TensorType(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])),)

    def evaluate(self, x: Any, indices: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (np.asarray(np.take(x, indices.astype(np.int64), self.axis)),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return _touched(inputs[1:], outputs)


@dataclass(frozen=True)
class GatherElements(Op):
    """`y[i, j, ...] = x[i, indices[i, j, ...], ...]`, the index standing at `axis`."""

    axis: int = 0

    def infer(self, x: TensorType, indices: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        _check_indices("GatherElements", indices)
        require(x.rank == indices.rank, f"GatherElements: x {x} and indices {indices} differ in rank")
        normal_axis(self.axis, x.rank)
        return (TensorType(x.dtype, indices.shape),)

    def evaluate(self, x: Any, indices: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (x[_element_index(x, indices, self.axis)],)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return _touched(inputs[1:], outputs)


@dataclass(frozen=True)
class GatherND(Op):
    """The slices of `x` that the index tuples in the last axis of `indices` name, after `batch_dims` shared axes."""

    batch_dims: int = 0

    def infer(self, x: TensorType, indices: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        _check_indices("GatherND", indices)
        require(0 <= self.batch_dims < min(x.rank, indices.rank), f"GatherND: batch_dims {self.batch_dims} does not fit {x} and {indices}")
        depth = indices.shape[-1]
        require(isinstance(depth, int), f"GatherND: the last axis of {indices} must be known")
        end = self.batch_dims + int(depth)  # type: ignore[arg-type]
        require(end <= x.rank, f"GatherND: indices {indices} have more entries than {x} has axes")
        return (TensorType(x.dtype, (*indices.shape[:-1], *x.shape[end:])),)

    def evaluate(self, x: Any, indices: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        b = self.batch_dims
        inner = indices.shape[b:-1]
        lead = [np.arange(n).reshape(*[-1 if i == j else 1 for j in range(b)], *[1] * len(inner)) for i, n in enumerate(x.shape[:b])]
        index = (*lead, *np.moveaxis(indices.astype(np.int64), -1, 0))
        if not index:
            return (np.array(np.broadcast_to(x, (*indices.shape[:-1], *x.shape))),)
        return (np.asarray(x[index]),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return _touched(inputs[1:], outputs)


@dataclass(frozen=True)
class ScatterElements(Op):
    """A copy of `x` with `x[i, indices[i, j, ...], ...] = updates[i, j, ...]`, or combined by `reduction`."""

    axis: int = 0
    reduction: str = "none"

    def infer(self, x: TensorType, indices: TensorType, updates: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        _check_indices("ScatterElements", indices)
        _check_update("ScatterElements", self.reduction, x, updates)
        require(x.rank == indices.rank == updates.rank, f"ScatterElements: {x}, {indices}, {updates} differ in rank")
        normal_axis(self.axis, x.rank)
        for a, b in zip(indices.shape, updates.shape, strict=True):
            require(
                a == b or not (isinstance(a, int) and isinstance(b, int)),
                f"ScatterElements: indices {indices} and updates {updates} differ",
            )
        return (x,)

    def evaluate(self, x: Any, indices: Any, updates: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (_combine(x, _element_index(x, indices, self.axis), updates, self.reduction),)


@dataclass(frozen=True)
class ScatterND(Op):
    """A copy of `x` with `updates` written, or combined by `reduction`, at the index tuples in the last axis of `indices`."""

    reduction: str = "none"

    def infer(self, x: TensorType, indices: TensorType, updates: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        _check_indices("ScatterND", indices)
        _check_update("ScatterND", self.reduction, x, updates)
        require(indices.rank >= 1 and isinstance(indices.shape[-1], int), f"ScatterND: the last axis of {indices} must be known")
        depth = int(indices.shape[-1])  # type: ignore[arg-type]
        require(depth <= x.rank, f"ScatterND: indices {indices} have more entries than {x} has axes")
        wanted = (*indices.shape[:-1], *x.shape[depth:])
        fits = updates.rank == len(wanted) and all(
            a == b for a, b in zip(updates.shape, wanted, strict=True) if isinstance(a, int) and isinstance(b, int)
        )
        require(fits, f"ScatterND: updates {updates} must have shape {list(wanted)}")
        return (x,)

    def evaluate(self, x: Any, indices: Any, updates: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        whole = np.zeros(indices.shape[:-1], np.int64)  # makes a place of all of `x` where the index tuples are empty
        return (_combine(x[None], (whole, *np.moveaxis(indices.astype(np.int64), -1, 0)), updates, self.reduction)[0],)


@dataclass(frozen=True)
class TensorScatter(Op):
    """Write `update` into the cache `past` along `axis`, batch row by batch row, from `write_indices` [batch] (default 0) on.

    In mode "circular" positions wrap around at the end of the axis.
    """

    axis: int = -2
    mode: str = "linear"

    def infer(self, past: TensorType, update: TensorType, write_indices: TensorType | None = None) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.mode in ("linear", "circular"), f"TensorScatter: unknown mode '{self.mode}'")
        require(past.rank == update.rank and past.dtype == update.dtype, f"TensorScatter: update {update} does not go with {past}")
        require(normal_axis(self.axis, past.rank) != 0, "TensorScatter: axis 0 is the batch")
        require(write_indices is None or write_indices.rank == 1, f"TensorScatter: write_indices {write_indices} must be [batch]")
        return (past,)

    def evaluate(self, past: Any, update: Any, write_indices: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        y, axis = np.array(past), self.axis % past.ndim
        starts = np.zeros(past.shape[0], np.int64) if write_indices is None else write_indices.astype(np.int64)
        size, steps = past.shape[axis], np.arange(update.shape[axis])
        if self.mode == "linear" and starts.size and int(starts.max()) + len(steps) > size:
            raise ValueError(f"writing {len(steps)} positions from {int(starts.max())} exceeds the axis of {size}")
        for n, start in enumerate(starts):
            np.moveaxis(y[n], axis - 1, 0)[(start + steps) % size] = np.moveaxis(update[n], axis - 1, 0)
        return (y,)


@dataclass(frozen=True)
class Slice(Op):
    """`x[start:end:step]` along each of `axes`, with ONNX's clamping: bounds beyond the ends stop there.

    On a symbolic axis, a symbolic or negative bound is taken to lie inside; binding the symbols makes the result exact.
    """

    symbolic: ClassVar[bool] = True
    starts: tuple[Dim, ...] = ()
    ends: tuple[Dim, ...] = ()
    axes: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        shape = list(x.shape)
        for axis, start, end, step in self._rows(x.rank):
            shape[axis] = _slice_size(shape[axis], start, end, step)
        return (TensorType(x.dtype, tuple(shape)),)

    def _rows(self, rank: int) -> list[tuple[int, Dim, Dim, int]]:
        axes = self.axes or tuple(range(len(self.starts)))
        steps = self.steps or (1,) * len(self.starts)
        require(len({len(self.starts), len(self.ends), len(axes), len(steps)}) == 1, "Slice: starts, ends, axes and steps differ in length")
        require(all(s != 0 for s in steps), "Slice: a step is zero")
        return [(normal_axis(a, rank), b, e, s) for a, b, e, s in zip(axes, self.starts, self.ends, steps, strict=True)]

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        x = inputs[0]
        changed = range(x.rank)
        if "axes" not in params and self.axes:
            changed = {normal_axis(a, x.rank) for a in self.axes}  # type: ignore[assignment]
        return (TensorType(x.dtype, tuple(symbol(f"?{i}") if i in changed else d for i, d in enumerate(x.shape))),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        index = [slice(None)] * x.ndim
        for axis, start, end, step in self._rows(x.ndim):
            index[axis] = _python_slice(x.shape[axis], int(start), int(end), int(step))  # type: ignore[arg-type]
        return (np.array(x[tuple(index)]),)


@dataclass(frozen=True)
class Compress(Op):
    """The slices of `x` along `axis` (None: elements of the flattened `x`) whose `condition` is true."""

    axis: int | None = None

    def infer(self, x: TensorType, condition: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(condition.dtype.kind == "bool" and condition.rank == 1, f"Compress: condition {condition} must be a boolean vector")
        if self.axis is None:
            return (TensorType(x.dtype, placeholders(1)),)
        axis = normal_axis(self.axis, x.rank)
        return (TensorType(x.dtype, (*x.shape[:axis], symbol("?0"), *x.shape[axis + 1 :])),)

    def evaluate(self, x: Any, condition: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        kept = np.flatnonzero(condition)
        return (np.take(x.reshape(-1) if self.axis is None else x, kept, self.axis or 0),)


@dataclass(frozen=True)
class OneHot(Op):
    """`values` = [off, on]: along a new `axis` of size `depth`, "on" at each index (negative ones from the end), "off" elsewhere."""

    depth: Dim = 1
    axis: int = -1

    def infer(self, indices: TensorType, values: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(values.shape == (2,), f"OneHot: values {values} must be [off, on]")
        axis = normal_axis(self.axis, indices.rank + 1)
        return (TensorType(values.dtype, (*indices.shape[:axis], self.depth, *indices.shape[axis:])),)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return OneHot(symbol("?0"), self.axis).infer(*inputs[:2])

    def evaluate(self, indices: Any, values: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        depth = int(self.depth)  # type: ignore[arg-type]
        whole = indices.astype(np.int64)
        places = np.expand_dims(np.where(whole < 0, whole + depth, whole), self.axis)
        ladder = np.arange(depth).reshape([-1 if i == self.axis % places.ndim else 1 for i in range(places.ndim)])
        return (np.where(places == ladder, values[1], values[0]).astype(values.dtype, copy=False),)


@dataclass(frozen=True)
class NonZero(Op):
    """The indices of the non-zero elements in row-major order: int64 [rank, count]."""

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (TensorType(INT64, (x.rank, symbol("?0"))),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        if not x.ndim:
            return (np.zeros((0, int(bool(x))), np.int64),)
        return (np.array(np.nonzero(x), np.int64),)


@dataclass(frozen=True)
class Unique(Op):
    """The distinct elements, or slices along `axis`; sorted, or in order of first appearance.

    Outputs: the distinct ones; where each first appears; for each element which one it is; how often each appears.
    """

    axis: int | None = None
    sorted: bool = True

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        found = symbol("?0")
        if self.axis is None:
            shape, total = (found,), count(x.shape)
        else:
            axis = normal_axis(self.axis, x.rank)
            shape, total = (*x.shape[:axis], found, *x.shape[axis + 1 :]), x.shape[axis]  # type: ignore[assignment]
        vectors = (TensorType(INT64, (n,)) for n in (found, total, found))
        return (TensorType(x.dtype, shape), *vectors)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        y, first, inverse, counts = np.unique(x, True, True, True, axis=self.axis)
        inverse = inverse.reshape(-1)
        if not self.sorted:
            order = np.argsort(first, kind="stable")
            y, first, counts = np.take(y, order, self.axis or 0), first[order], counts[order]
            inverse = np.argsort(order)[inverse]
        return (y, *(a.astype(np.int64) for a in (first, inverse, counts)))


@dataclass(frozen=True)
class ReverseSequence(Op):
    """Reverse the first `sequence_lens[b]` steps along `time_axis` for each row `b` of `batch_axis`."""

    batch_axis: int = 1
    time_axis: int = 0

    def infer(self, x: TensorType, sequence_lens: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.rank >= 2, f"ReverseSequence: {x} must have rank 2 or more")
        require(sequence_lens.rank == 1, f"ReverseSequence: sequence_lens {sequence_lens} must be a vector")
        axes = normal_axis(self.batch_axis, x.rank), normal_axis(self.time_axis, x.rank)
        require(axes[0] != axes[1], "ReverseSequence: batch_axis and time_axis are the same")
        return (x,)

    def evaluate(self, x: Any, sequence_lens: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        view = np.moveaxis(x, (self.batch_axis, self.time_axis), (0, 1))
        steps, lengths = np.arange(view.shape[1]), sequence_lens.astype(np.int64)[:, None]
        source = np.where(steps < lengths, lengths - 1 - steps, steps)
        y = view[np.arange(view.shape[0])[:, None], source]
        return (np.ascontiguousarray(np.moveaxis(y, (0, 1), (self.batch_axis, self.time_axis))),)


@dataclass(frozen=True)
class Trilu(Op):
    """The upper (or lower) triangle of the last two axes from diagonal `k` on, zeros elsewhere."""

    k: int = 0
    upper: bool = True

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.rank >= 2, f"Trilu: {x} must have rank 2 or more")
        return (x,)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return self.infer(inputs[0])

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (np.where(self.mask(*x.shape[-2:]), x, np.zeros((), x.dtype)),)

    def mask(self, rows: int, cols: int) -> np.ndarray:
        """Which elements of a `rows` by `cols` matrix are kept."""
        ahead = np.arange(cols) - np.arange(rows)[:, None]
        kept: np.ndarray = ahead >= self.k if self.upper else ahead <= self.k
        return kept


def _check_indices(name: str, indices: TensorType) -> None:
    require(indices.dtype.is_integer, f"{name}: indices are {indices.dtype}, needs integers")


def _check_update(name: str, reduction: str, x: TensorType, updates: TensorType) -> None:
    require(reduction in REDUCTIONS, f"{name}: reduction '{reduction}' is not one of {', '.join(REDUCTIONS)}")
    require(x.dtype == updates.dtype, f"{name}: x is {x.dtype}, updates are {updates.dtype}")


def _element_index(x: np.ndarray, indices: np.ndarray, axis: int) -> tuple[Any, ...]:
    grid = [np.arange(n).reshape([-1 if i == j else 1 for j in range(indices.ndim)]) for i, n in enumerate(indices.shape)]
    grid[axis] = indices.astype(np.int64)
    return tuple(grid)


def _combine(x: np.ndarray, index: tuple[Any, ...], updates: np.ndarray, reduction: str) -> np.ndarray:
    """A copy of `x` with updates written; of several plain writes to one place the last wins."""
    if reduction == "none":
        y = np.array(x)
        y[index] = updates
        return y
    y = np.array(widen(x))
    function = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[reduction]
    function.at(y, index, widen(updates))
    return y.astype(x.dtype)


def _touched(inputs: Types, outputs: Types) -> Cost:
    """Cost of reading only what is picked: as many bytes as come out, beside the indices."""
    size = sum(t.size for t in outputs if t)
    return Cost(0, size, traffic(inputs, outputs) + traffic((), outputs))


def _python_slice(size: int, start: int, end: int, step: int) -> slice:
    """The Python slice that clamps as ONNX does."""
    start, end = (b + size if b < 0 else b for b in (start, end))
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    first, last = min(max(start, -1), size - 1), min(max(end, -1), size - 1)
    return slice(0, 0, 1) if first < 0 else slice(first, None if last < 0 else last, step)


def _slice_size(size: Dim, start: Dim, end: Dim, step: int) -> Dim:
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int) and isinstance(step, int):
        return len(range(size)[_python_slice(size, start, end, step)])
    if not isinstance(step, int):
        return symbol("?0")
    low, high = _bound(size, start, step < 0), _bound(size, end, step < 0)
    span = ceildiv(high - low, step)
    return max(span, 0) if isinstance(span, int) else span


def _bound(size: Dim, bound: Dim, backwards: bool) -> Dim:
    """Where a slice bound lies on an axis; -1 when a backward slice runs past the front."""
    last = size - 1 if backwards else size
    if isinstance(bound, SymDim):
        inside = size + bound if all(factor < 0 for _, factor in bound.terms) else bound
        return last if not backwards and maximum(inside, last) == inside else inside
    if bound >= FAR:
        return last
    if bound <= -FAR:
        return -1 if backwards else 0
    if bound < 0:
        return size + bound
    if bound <= 1 and not backwards:  # symbolic sizes are at least one
        return bound
    return minimum(bound, last)
