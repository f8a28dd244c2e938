"""Convolution over channels-last tensors as implicit matrix multiplication.

The weights are packed at compile time into blocks of output channels, `[block, KH, KW, IC/groups, lane]`, so that
the inner loop reads them with contiguous vector loads and broadcasts single elements of the input:
a register tile holds (pixels x vectors of output channels) accumulators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te

from lepton_compiler.backends.tvm.compute.window import Window, ints
from lepton_compiler.backends.tvm.schedules import kinds

Tensor = Any
"""`tvm.te.Tensor`; TVM carries no types."""


def conv2d_nhwc(
    x: Tensor,
    w_packed: Tensor,
    *,
    out_channels: int,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
    acc_dtype: str = "float32",
) -> tuple[Tensor, list[Tensor]]:
    """`x [N, H, W, C]` convolved to `y [N, OH, OW, OC]` of `acc_dtype`.

    Args:
        x: the input.
        w_packed: weights from `pack_conv_weights` with the same `groups`.
        out_channels: OC, which need not be a multiple of the block.
        strides: of the rows and columns.
        pads: zeros at the top, left, bottom, right.
        dilations: of the rows and columns.
        groups: channel groups; `C` and `OC` are multiples of it.
        acc_dtype: type of the sum and of the result.

    Returns:
        The result and the workspaces: intermediate tensors that must be parameters of the kernel.
    """
    window = Window.of(x.shape, w_packed.shape[1:3], strides, pads, dilations)
    if window.is_pointwise() and groups == 1:
        return _pointwise(x, w_packed, out_channels, acc_dtype), []
    workspaces = []
    if window.needs_copy():
        x, window = window.padded(x)
        workspaces.append(x)
    blocks, kh, kw, icg, block = ints(w_packed.shape)
    blocks, ocg = blocks // groups, out_channels // groups
    rh, rw, rc = te.reduce_axis((0, kh), "rh"), te.reduce_axis((0, kw), "rw"), te.reduce_axis((0, icg), "rc")

    def element(b: Any, g: Any, i: Any, j: Any, o: Any, lane: Any) -> Any:
        pixel = window.pixel(x, b, i, j, rh, rw, g * icg + rc)
        return te.sum(pixel.astype(acc_dtype) * w_packed[g * blocks + o, rh, rw, rc, lane].astype(acc_dtype), [rh, rw, rc])

    n, oh, ow = int(x.shape[0]), window.oh, window.ow
    attrs = {kinds.KIND: kinds.TILE, **window.row_condition(2, 6)}
    acc = te.compute((n, groups, oh, ow, blocks, block), element, "conv", attrs=attrs)
    y = te.compute(
        (n, oh, ow, out_channels), lambda b, i, j, o: acc[b, o // ocg, i, j, o % ocg // block, o % ocg % block], "conv_out"
    )  # fmt: skip
    return y, workspaces


def depthwise_conv2d_nhwc(
    x: Tensor,
    w: Tensor,
    *,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    acc_dtype: str = "float32",
) -> tuple[Tensor, list[Tensor]]:
    """Each channel of `x [N, H, W, C]` convolved with its own filters, `w [KH, KW, C * m]`: `y [N, OH, OW, C * m]`.

    Output channel `o` reads input channel `o // m`. Arguments and results are as for `conv2d_nhwc`.
    """
    window = Window.of(x.shape, w.shape[:2], strides, pads, dilations)
    workspaces = []
    if window.needs_copy():
        x, window = window.padded(x)
        workspaces.append(x)
    kh, kw, channels = ints(w.shape)
    multiplier = channels // int(x.shape[3])
    rh, rw = te.reduce_axis((0, kh), "rh"), te.reduce_axis((0, kw), "rw")

    def element(b: Any, i: Any, j: Any, o: Any) -> Any:
        pixel = window.pixel(x, b, i, j, rh, rw, o // multiplier)
        return te.sum(pixel.astype(acc_dtype) * w[rh, rw, o].astype(acc_dtype), [rh, rw])

    shape = (int(x.shape[0]), window.oh, window.ow, channels)
    acc = te.compute(shape, element, "depthwise", attrs={kinds.KIND: kinds.DEPTHWISE, **window.row_condition(1, 4)})
    return te.compute(shape, lambda *i: acc(*i), "depthwise_out"), workspaces


def _pointwise(x: Tensor, w_packed: Tensor, out_channels: int, acc_dtype: str) -> Tensor:
    """1x1, stride 1: all pixels of all images are the rows of one matrix."""
    n, h, w, c = ints(x.shape)
    blocks, _, _, _, block = ints(w_packed.shape)
    rc = te.reduce_axis((0, c), "rc")

    def element(p: Any, o: Any, lane: Any) -> Any:
        pixel = x[p // (h * w), p // w % h, p % w, rc]
        return te.sum(pixel.astype(acc_dtype) * w_packed[o, 0, 0, rc, lane].astype(acc_dtype), [rc])

    acc = te.compute((n * h * w, blocks, block), element, "conv", attrs={kinds.KIND: kinds.TILE})
    return te.compute((n, h, w, out_channels), lambda b, i, j, o: acc[(b * h + i) * w + j, o // block, o % block], "conv_out")
