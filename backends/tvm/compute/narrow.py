"""Convolutions to fewer channels than half a vector holds: vectors run along the row of pixels instead of along the channels.

The input is copied once, padded, each row with its channels first and split by the phase of the stride: `[N, H, C, phase, W']`. So the
pixels that one tap of the filter meets along the row stand side by side. A register tile then holds (output channels x vectors of
pixels) accumulators: it loads vectors of pixels and broadcasts single weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from lepton_compiler.backends.tvm.compute.window import Window, ints
from lepton_compiler.backends.tvm.schedules import kinds, tiling
from lepton_compiler.target import Target

Tensor = Any
"""`tvm.te.Tensor`; TVM carries no types."""

WORTH_A_COPY = 8
"""Multiplications with each element of the input from which copying it pays."""


def pays(window: Window, out_channels: int, target: Target) -> bool:
    """Whether to compute a convolution this way."""
    kh, kw = window.kernel
    lanes = target.lanes(tiling.ACC_BITS)
    used = out_channels * kh * kw // (window.strides[0] * window.strides[1])
    return 2 * out_channels <= lanes <= window.ow and used >= WORTH_A_COPY


def conv2d_narrow(
    x: Tensor, weight: Callable[..., Any], window: Window, out_channels: int, target: Target, acc_dtype: str = "float32"
) -> tuple[Tensor, list[Tensor]]:
    """`x [N, H, W, C]` convolved to `y [N, OH, OW, OC]` of `acc_dtype`.

    Args:
        x: the input.
        weight: the weight at (input channel, filter row, filter column, output channel).
        window: the filter and how it moves over `x`.
        out_channels: OC.
        target: the machine.
        acc_dtype: type of the sum and of the result.

    Returns:
        The result and the workspaces: intermediate tensors that must be parameters of the kernel.
    """
    n, _, _, c = ints(x.shape)
    block = tiling.narrow_vectors(out_channels, window.ow, target) * target.lanes(tiling.ACC_BITS)
    blocks = -(-window.ow // block)
    copied = _phases(x, window, blocks * block, target.lanes(tiling.ACC_BITS))
    (kh, kw), (down, across), (apart, beside) = window.kernel, window.strides, window.dilations
    rc, rh, rw = te.reduce_axis((0, c), "rc"), te.reduce_axis((0, kh), "rh"), te.reduce_axis((0, kw), "rw")

    def element(b: Any, i: Any, k: Any, o: Any, lane: Any) -> Any:
        at = rw * beside
        pixel = copied[b, i * down + rh * apart, rc, at % across, o * block + lane + at // across]
        return te.sum(pixel.astype(acc_dtype) * weight(rc, rh, rw, k).astype(acc_dtype), [rc, rh, rw])

    acc = te.compute((n, window.oh, out_channels, blocks, block), element, "conv", attrs={kinds.KIND: kinds.TILE})
    shape = (n, window.oh, window.ow, out_channels)
    return te.compute(shape, lambda b, i, j, k: acc[b, i, k, j // block, j % block], "conv_out"), [copied]


def _phases(x: Tensor, window: Window, pixels: int, lanes: int) -> Tensor:
    """`[N, H, C, phase, W']` of the padded input: pixel `W' * stride + phase` of each row, zero where there is none; W' is whole vectors."""
    n, h, w, c = ints(x.shape)
    top, left, bottom, _ = window.pads
    stride, reach = window.strides[1], (window.kernel[1] - 1) * window.dilations[1]

    def element(b: Any, i: Any, k: Any, phase: Any, j: Any) -> Any:
        row, column = i - top, j * stride + phase - left
        inside = tirx.all(row >= 0, row < h, column >= 0, column < w)
        return tirx.if_then_else(inside, x[b, row, column, k], tirx.const(0, x.dtype))

    width = -(-(pixels + reach // stride) // lanes) * lanes
    return te.compute((n, h + top + bottom, c, stride, width), element, "phases")
