"""Windows that slide over images with channels last, and how threads share the pixels of the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lepton_compiler.backends.tvm.cuda.tensor_cores import Element

Taken = Literal["products", "sum", "maximum"]
"""What becomes of the elements under a window: each times a weight, and their sum; their sum; the largest."""


@dataclass(frozen=True)
class Windows:
    """Windows over images `[images, height, width, channels]`, whose result is `[images, out_height, out_width, channels * multiplier]`.

    Attributes:
        taken: what becomes of the elements.
        element: their type.
        bytes: of an element.
        multiplier: results of a channel, side by side.
        kernel, strides, dilations: down and across.
        pads: above and to the left; what lies outside below and to the right follows from the size of the result.
    """

    taken: Taken
    element: Element
    bytes: int
    images: int
    height: int
    width: int
    channels: int
    multiplier: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]

    @property
    def taps(self) -> int:
        """Of a window."""
        return math.prod(self.kernel)

    @property
    def results(self) -> int:
        """Elements of the result."""
        return self.images * self.out_height * self.out_width * self.channels * self.multiplier


@dataclass(frozen=True)
class Share:
    """What a thread and a block of threads have.

    Attributes:
        vector: neighbouring channels of a thread.
        columns, rows: pixels of the result of a thread.
        lanes, across, down: threads of a block along the channels, the columns and the rows.
    """

    vector: int
    columns: int
    rows: int
    lanes: int
    across: int
    down: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.lanes * self.across * self.down

    def groups(self, windows: Windows) -> tuple[int, int, int]:
        """Threads that the channels, the columns and the rows of an image need."""
        return windows.channels // self.vector, -(-windows.out_width // self.columns), -(-windows.out_height // self.rows)

    def blocks(self, windows: Windows) -> int:
        """Blocks of an image."""
        channels, columns, rows = self.groups(windows)
        return -(-channels // self.lanes) * -(-columns // self.across) * -(-rows // self.down)

    def rows_read(self, windows: Windows) -> list[int]:
        """The rows of the image that a thread reads, counted from the first one under its windows."""
        return read(self.rows, windows.strides[0], windows.kernel[0], windows.dilations[0])

    def columns_read(self, windows: Windows) -> list[int]:
        """Likewise the columns."""
        return read(self.columns, windows.strides[1], windows.kernel[1], windows.dilations[1])


def read(windows: int, stride: int, taps: int, dilation: int) -> list[int]:
    """Places under the taps of neighbouring windows along an axis, in order."""
    return sorted({w * stride + t * dilation for w in range(windows) for t in range(taps)})
