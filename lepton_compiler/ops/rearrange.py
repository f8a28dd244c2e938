"""Putting tensors together, taking them apart, and moving blocks of elements around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lepton_compiler.ir.dim import Dim, floordiv, symbol
from lepton_compiler.ir.op import Op, require
from lepton_compiler.ir.types import TensorType
from lepton_compiler.ops.axes import normal_axis
from lepton_compiler.ops.shape import length_of, placeholders
from lepton_compiler.ops.window import ints, pad_spatial


@dataclass(frozen=True)
class Concat(Op):
    """The operands one after another along `axis`."""

    symbolic: ClassVar[bool] = True
    axis: int = 0

    def infer(self, *xs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(len(xs) > 0, "Concat needs at least one operand")
        first = xs[0]
        axis = normal_axis(self.axis, first.rank)
        shape = list(first.shape)
        for x in xs[1:]:
            require(x.dtype == first.dtype and x.rank == first.rank, f"Concat: {x} does not go with {first}")
            for i, d in enumerate(x.shape):
                if i == axis:
                    shape[i] = shape[i] + d
                    continue
                conflict = isinstance(d, int) and isinstance(shape[i], int) and d != shape[i]
                require(not conflict, f"Concat: {x} and {first} differ outside axis {axis}")
                shape[i] = d if isinstance(d, int) else shape[i]
        return (TensorType(first.dtype, tuple(shape)),)

    def evaluate(self, *xs: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (np.concatenate(xs, self.axis),)


@dataclass(frozen=True)
class Split(Op):
    """Pieces of `x` along `axis`, of the sizes given."""

    symbolic: ClassVar[bool] = True
    axis: int = 0
    sizes: tuple[Dim, ...] = ()

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        axis = normal_axis(self.axis, x.rank)
        require(len(self.sizes) > 0, "Split: no sizes")
        require(all(s >= 0 for s in self.sizes if isinstance(s, int)), f"Split: sizes {self.sizes} must not be negative")
        total: Dim = 0
        for size in self.sizes:
            total = total + size
        fits = total == x.shape[axis] or not (isinstance(total, int) and isinstance(x.shape[axis], int))
        require(fits, f"Split: sizes {self.sizes} add up to {total}, axis {axis} of {x} has {x.shape[axis]}")
        return tuple(TensorType(x.dtype, (*x.shape[:axis], s, *x.shape[axis + 1 :])) for s in self.sizes)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        x, n = inputs[0], length_of("Split", inputs[-1])
        axis = normal_axis(self.axis, x.rank)
        return tuple(TensorType(x.dtype, (*x.shape[:axis], symbol(f"?{i}"), *x.shape[axis + 1 :])) for i in range(n))

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        sizes = ints(self.sizes)
        if sum(sizes) != x.shape[self.axis]:
            raise ValueError(f"sizes {sizes} do not add up to the {x.shape[self.axis]} elements of axis {self.axis}")
        return tuple(np.split(x, np.cumsum(sizes)[:-1], self.axis))


@dataclass(frozen=True)
class Pad(Op):
    """`x` with more elements around it: `pads` has all begins, then all ends; negative ones crop.

    The mode says what they are: "constant" (`value`, default zero), "edge", "reflect" (mirror without the edge), "wrap".
    """

    pads: tuple[Dim, ...] = ()
    mode: str = "constant"

    def infer(self, x: TensorType, value: TensorType | None = None) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.mode in ("constant", "edge", "reflect", "wrap"), f"Pad: unknown mode '{self.mode}'")
        require(len(self.pads) == 2 * x.rank, f"Pad: pads {self.pads} needs {2 * x.rank} entries for {x}")
        require(value is None or value.dtype == x.dtype, f"Pad: the value is {value}, x is {x}")
        shape = tuple(b + d + e for b, d, e in zip(self.pads, x.shape, self.pads[x.rank :], strict=False))
        require(all(d >= 0 for d in shape if isinstance(d, int)), f"Pad: pads {self.pads} crop more than {x} has")
        return (TensorType(x.dtype, shape),)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (TensorType(inputs[0].dtype, placeholders(inputs[0].rank)),)

    def evaluate(self, x: Any, value: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        pads = ints(self.pads)
        begins, ends = pads[: x.ndim], pads[x.ndim :]
        if self.mode == "constant":
            return (np.array(pad_spatial(x, begins, ends, 0 if value is None else value.reshape(())[()])),)
        x = pad_spatial(x, [min(b, 0) for b in begins], [min(e, 0) for e in ends])
        for axis, (before, after) in enumerate(zip(begins, ends, strict=True)):
            x = np.take(x, source_index(self.mode, x.shape[axis], max(before, 0), max(after, 0)), axis)
        return (np.array(x),)


def source_index(mode: str, size: int, before: int, after: int) -> np.ndarray:
    """Which element of an axis of `size` each element of the padded axis repeats.

    Raises:
        ValueError: there is nothing to repeat.
    """
    at = np.arange(-before, size + after)
    if not size and at.size:
        raise ValueError(f"mode '{mode}' cannot pad an empty axis")
    if mode == "edge":
        return np.clip(at, 0, max(size - 1, 0))
    if mode == "wrap":
        return at % max(size, 1)
    period = max(1, 2 * (size - 1))
    at = at % period
    return np.where(at < size, at, period - at)


@dataclass(frozen=True)
class Tile(Op):
    """`x` repeated along each axis."""

    symbolic: ClassVar[bool] = True
    repeats: tuple[Dim, ...] = ()

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(len(self.repeats) == x.rank, f"Tile: repeats {self.repeats} needs {x.rank} entries for {x}")
        require(all(r >= 0 for r in self.repeats if isinstance(r, int)), f"Tile: repeats {self.repeats} must not be negative")
        return (TensorType(x.dtype, tuple(d * r for d, r in zip(x.shape, self.repeats, strict=True))),)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (TensorType(inputs[0].dtype, placeholders(inputs[0].rank)),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (np.tile(x, ints(self.repeats)),)


@dataclass(frozen=True)
class DepthToSpace(Op):
    """[N, C, H, W] to [N, C / b^2, H b, W b]: channels become blocks; mode "DCR" (depth, column, row) or "CRD"."""

    blocksize: int = 1
    mode: str = "DCR"

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.rank == 4, f"DepthToSpace: {x} must be [N, C, H, W]")
        require(self.mode in ("DCR", "CRD"), f"DepthToSpace: unknown mode '{self.mode}'")
        n, c, h, w = x.shape
        area = self.blocksize**2
        require(
            self.blocksize >= 1 and (not isinstance(c, int) or c % area == 0),
            f"DepthToSpace: {c} channels do not split into blocks of {area}",
        )
        return (TensorType(x.dtype, (n, floordiv(c, area), h * self.blocksize, w * self.blocksize)),)

    def split_shape(self, shape: tuple[Dim, ...]) -> tuple[tuple[Dim, ...], tuple[int, ...]]:
        """The six-dimensional shape and the permutation that do the work."""
        n, c, h, w = shape
        b = self.blocksize
        if self.mode == "DCR":
            return (n, b, b, floordiv(c, b * b), h, w), (0, 3, 4, 1, 5, 2)
        return (n, floordiv(c, b * b), b, b, h, w), (0, 1, 4, 2, 5, 3)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        (n, c, h, w), b = x.shape, self.blocksize
        split, perm = self.split_shape(x.shape)
        return (x.reshape(split).transpose(perm).reshape(n, c // (b * b), h * b, w * b),)


@dataclass(frozen=True)
class SpaceToDepth(Op):
    """[N, C, H, W] to [N, C b^2, H / b, W / b]: blocks become channels, the inverse of `DepthToSpace` in mode "DCR"."""

    blocksize: int = 1

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.rank == 4, f"SpaceToDepth: {x} must be [N, C, H, W]")
        (n, c, h, w), b = x.shape, self.blocksize
        fits = b >= 1 and all(d % b == 0 for d in (h, w) if isinstance(d, int))
        require(fits, f"SpaceToDepth: {x} does not split into blocks of {b}")
        return (TensorType(x.dtype, (n, c * b * b, floordiv(h, b), floordiv(w, b))),)

    def split_shape(self, shape: tuple[Dim, ...]) -> tuple[tuple[Dim, ...], tuple[int, ...]]:
        """The six-dimensional shape and the permutation that do the work."""
        (n, c, h, w), b = shape, self.blocksize
        return (n, c, floordiv(h, b), b, floordiv(w, b), b), (0, 3, 5, 1, 2, 4)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        (n, c, h, w), b = x.shape, self.blocksize
        split, perm = self.split_shape(x.shape)
        return (x.reshape(split).transpose(perm).reshape(n, c * b * b, h // b, w // b),)
