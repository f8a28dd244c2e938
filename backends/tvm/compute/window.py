"""Sliding windows over channels-last images: output sizes, padding, the element that a tap of the filter reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import te, tirx

from lepton_compiler.backends.tvm.schedules import kinds

Tensor = Any
"""`tvm.te.Tensor`; TVM carries no types."""


def ints(shape: Any) -> tuple[int, ...]:
    """A TVM shape as Python integers."""
    return tuple(int(extent) for extent in shape)


@dataclass(frozen=True)
class Window:
    """A filter of `kernel` (rows, columns) that slides over images of `size`; `pads` are top, left, bottom, right."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]

    @staticmethod
    def of(shape: Any, kernel: Any, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]) -> Window:
        """The window of `kernel` over an image tensor `[N, H, W, C]`."""
        _, h, w, _ = ints(shape)
        kh, kw = ints(kernel)
        top, left, bottom, right = pads
        return Window((h, w), (kh, kw), (strides[0], strides[1]), (top, left, bottom, right), (dilations[0], dilations[1]))

    @property
    def oh(self) -> int:
        """Rows of the output."""
        return (self.size[0] + self.pads[0] + self.pads[2] - self.dilations[0] * (self.kernel[0] - 1) - 1) // self.strides[0] + 1

    @property
    def ow(self) -> int:
        """Columns of the output."""
        return (self.size[1] + self.pads[1] + self.pads[3] - self.dilations[1] * (self.kernel[1] - 1) - 1) // self.strides[1] + 1

    def is_pointwise(self) -> bool:
        """Whether each output pixel reads just the input pixel at its own place."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    def needs_copy(self) -> bool:
        """Whether so many columns touch the padding that a padded copy of the input is cheaper than conditions."""
        border = -(-self.pads[1] // self.strides[1]) + -(-self.pads[3] // self.strides[1])
        return border > 6 and 4 * border > self.ow

    def pixel(self, x: Tensor, n: Any, i: Any, j: Any, rh: Any, rw: Any, channel: Any) -> Any:
        """What the tap (rh, rw) of output pixel (i, j) reads: zero in the padding."""
        row, inside_rows = self._axis(0, i, rh, self.oh)
        column, inside_columns = self._axis(1, j, rw, self.ow)
        conditions = inside_rows + inside_columns
        value = x[n, row, column, channel]
        return tirx.if_then_else(tirx.all(*conditions), value, tirx.const(0, x.dtype)) if conditions else value

    def _axis(self, axis: int, at: Any, tap: Any, out: int) -> tuple[Any, list[Any]]:
        """The index along an axis and the conditions under which it is inside the image, those that can fail."""
        before, extent = self.pads[axis], self.size[axis]
        index = at * self.strides[axis] + tap * self.dilations[axis] - before
        last = (out - 1) * self.strides[axis] + (self.kernel[axis] - 1) * self.dilations[axis] - before
        return index, [index >= 0] * (before > 0) + [index < extent] * (last >= extent)

    def row_condition(self, spatial_axis: int, reduction_axis: int) -> dict[str, Any]:
        """Annotation for the schedule: the block axes of output row and filter row, and when the input row exists."""
        if not self._axis(0, tirx.Var("i", "int32"), tirx.Var("r", "int32"), self.oh)[1]:
            return {}
        return {kinds.ROWS_INSIDE: [spatial_axis, reduction_axis, self.strides[0], self.dilations[0], self.pads[0], self.size[0]]}

    def padded(self, x: Tensor) -> tuple[Tensor, Window]:
        """A zero-padded copy of `x`, and the window over it."""
        n, h, w, c = ints(x.shape)
        top, left, bottom, right = self.pads

        def element(b: Any, i: Any, j: Any, k: Any) -> Any:
            inside = tirx.all(i >= top, i < h + top, j >= left, j < w + left)
            return tirx.if_then_else(inside, x[b, i - top, j - left, k], tirx.const(0, x.dtype))

        size = (h + top + bottom, w + left + right)
        return te.compute((n, *size, c), element, "padded"), replace(self, size=size, pads=(0, 0, 0, 0))
