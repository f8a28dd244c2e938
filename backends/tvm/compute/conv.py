"""Convolution over channels-last tensors as implicit matrix multiplication.

The weights are packed at compile time into blocks of output channels, `[block, KH, KW, IC/groups, lane]`, so that
the inner loop reads them with contiguous vector loads and broadcasts single elements of the input:
a register tile holds (pixels x vectors of output channels) accumulators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import te, tirx

from lepton_compiler.backends.tvm.schedules.kinds import KIND, TILE

Tensor = Any
"""`tvm.te.Tensor`; TVM carries no types."""


def pack_conv_weights(w: npt.NDArray[Any], oc_block: int, groups: int = 1) -> npt.NDArray[Any]:
    """`[OC, IC/groups, KH, KW]` to `[groups * ceil(OC/groups / oc_block), KH, KW, IC/groups, oc_block]`, zero-padded per group."""
    oc, ic, kh, kw = w.shape
    per_group = oc // groups
    blocks = -(-per_group // oc_block)
    padded = np.zeros((groups, blocks * oc_block, ic, kh, kw), w.dtype)
    padded[:, :per_group] = w.reshape(groups, per_group, ic, kh, kw)
    split = padded.reshape(groups * blocks, oc_block, ic, kh, kw)
    return np.ascontiguousarray(split.transpose(0, 3, 4, 2, 1))


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
    n, h, w, c = _ints(x.shape)
    _, kh, kw, icg, _ = _ints(w_packed.shape)
    top, left, bottom, right = pads
    oh = (h + top + bottom - dilations[0] * (kh - 1) - 1) // strides[0] + 1
    ow = (w + left + right - dilations[1] * (kw - 1) - 1) // strides[1] + 1
    if (kh, kw, groups) == (1, 1, 1) and tuple(strides) == (1, 1) and not any(pads):
        return _pointwise(x, w_packed, out_channels, acc_dtype), []
    workspaces = []
    if any(pads):
        rows = max(h + top, (oh - 1) * strides[0] + dilations[0] * (kh - 1) + 1)
        columns = max(w + left, (ow - 1) * strides[1] + dilations[1] * (kw - 1) + 1)
        x = pad_nhwc(x, top, left, rows, columns)
        workspaces.append(x)
    if groups > 1:
        return _grouped(x, w_packed, (n, oh, ow, out_channels), strides, dilations, groups, acc_dtype), workspaces
    block = int(w_packed.shape[4])
    rh, rw, rc = te.reduce_axis((0, kh), "rh"), te.reduce_axis((0, kw), "rw"), te.reduce_axis((0, icg), "rc")

    def element(b: Any, i: Any, j: Any, o: Any, lane: Any) -> Any:
        pixel = x[b, i * strides[0] + rh * dilations[0], j * strides[1] + rw * dilations[1], rc]
        return te.sum(pixel.astype(acc_dtype) * w_packed[o, rh, rw, rc, lane].astype(acc_dtype), [rh, rw, rc])

    acc = te.compute((n, oh, ow, int(w_packed.shape[0]), block), element, "conv", attrs={KIND: TILE})
    y = te.compute((n, oh, ow, out_channels), lambda b, i, j, o: acc[b, i, j, o // block, o % block], "conv_out")
    return y, workspaces


def pad_nhwc(x: Tensor, top: int, left: int, rows: int, columns: int) -> Tensor:
    """Copy `x [N, H, W, C]` to (`top`, `left`) of a zeroed `[N, rows, columns, C]`."""
    n, h, w, c = _ints(x.shape)

    def element(b: Any, i: Any, j: Any, k: Any) -> Any:
        inside = tirx.all(i >= top, i < h + top, j >= left, j < w + left)
        return tirx.if_then_else(inside, x[b, i - top, j - left, k], tirx.const(0, x.dtype))

    return te.compute((n, rows, columns, c), element, "padded")


def _pointwise(x: Tensor, w_packed: Tensor, out_channels: int, acc_dtype: str) -> Tensor:
    """1x1, stride 1: all pixels of all images are the rows of one matrix."""
    n, h, w, c = _ints(x.shape)
    blocks, _, _, _, block = _ints(w_packed.shape)
    rc = te.reduce_axis((0, c), "rc")

    def element(p: Any, o: Any, lane: Any) -> Any:
        pixel = x[p // (h * w), p // w % h, p % w, rc]
        return te.sum(pixel.astype(acc_dtype) * w_packed[o, 0, 0, rc, lane].astype(acc_dtype), [rc])

    acc = te.compute((n * h * w, blocks, block), element, "conv", attrs={KIND: TILE})
    return te.compute((n, h, w, out_channels), lambda b, i, j, o: acc[(b * h + i) * w + j, o // block, o % block], "conv_out")


def _grouped(
    x: Tensor, w_packed: Tensor, shape: tuple[int, int, int, int], strides: Sequence[int], dilations: Sequence[int], groups: int, acc_dtype: str
) -> Tensor:
    """Each group is a convolution of its own; the group is an outer loop."""
    n, oh, ow, oc = shape
    blocks, kh, kw, icg, block = _ints(w_packed.shape)
    blocks, ocg = blocks // groups, oc // groups
    rh, rw, rc = te.reduce_axis((0, kh), "rh"), te.reduce_axis((0, kw), "rw"), te.reduce_axis((0, icg), "rc")

    def element(b: Any, g: Any, i: Any, j: Any, o: Any, lane: Any) -> Any:
        pixel = x[b, i * strides[0] + rh * dilations[0], j * strides[1] + rw * dilations[1], g * icg + rc]
        return te.sum(pixel.astype(acc_dtype) * w_packed[g * blocks + o, rh, rw, rc, lane].astype(acc_dtype), [rh, rw, rc])

    acc = te.compute((n, groups, oh, ow, blocks, block), element, "conv", attrs={KIND: TILE})
    return te.compute(shape, lambda b, i, j, o: acc[b, o // ocg, i, j, o % ocg // block, o % ocg % block], "conv_out")


def _ints(shape: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in shape)
