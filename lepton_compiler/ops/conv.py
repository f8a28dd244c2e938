"""Convolutions: sums over sliding windows, and their transposes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.ir.dim import Dim, floordiv, symbol
from lepton_compiler.ir.op import Cost, Op, Types, require, traffic
from lepton_compiler.ir.types import INT32, TensorType
from lepton_compiler.ops.precision import widen
from lepton_compiler.ops.shape import count
from lepton_compiler.ops.window import (
    channels_first,
    channels_last,
    check_window,
    ints,
    kernel_slices,
    pad_spatial,
    product,
    window_shape,
    windows,
)

LAYOUTS = ("NCHW", "NHWC")
WHOLE: tuple[Any, ...] = (slice(None), slice(None))
PATCH_BYTES = 1 << 27
"""Upper bound on the bytes of gathered windows that the evaluator holds at once."""


@dataclass(frozen=True)
class Conv(Op):
    """Cross-correlation of `x` [N, C, spatial...] with `w` [M, C/groups, kernel...], plus `b` [M].

    `pads` holds all begins, then all ends. With layout "NHWC", `x` and the output are [N, spatial..., C]; `w` stays.
    Floats narrower than 32 bits are summed in float32; integers wrap in their own type.
    """

    strides: tuple[int, ...] = (1, 1)
    pads: tuple[Dim, ...] = (0, 0, 0, 0)
    dilations: tuple[int, ...] = (1, 1)
    groups: int = 1
    layout: str = "NCHW"

    def infer(self, x: TensorType, w: TensorType, b: TensorType | None = None) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.layout in LAYOUTS, f"Conv: layout '{self.layout}' is not one of {', '.join(LAYOUTS)}")
        require(x.dtype == w.dtype, f"Conv: x is {x.dtype}, w is {w.dtype}")
        source = channels_first(x) if self.layout == "NHWC" and x.rank >= 3 else x
        out = _convolved(self, source, w, TensorType(x.dtype, ()))
        if b is not None:
            _check_bias("Conv", b, w.shape[0], x)
        return (channels_last(out) if self.layout == "NHWC" else out,)

    def evaluate(self, x: Any, w: Any, b: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        source = channels_first(x) if self.layout == "NHWC" else x
        y = convolve(widen(source), widen(w), self.strides, ints(self.pads), self.dilations, self.groups)
        y = _biased(y, b).astype(x.dtype, copy=False)
        return (channels_last(y) if self.layout == "NHWC" else y,)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return _conv_cost(inputs, outputs)


@dataclass(frozen=True)
class ConvInteger(Op):
    """`Conv` of 8-bit integers less their zero points (scalar; for `w` also one per output channel), summed in int32.

    Padding adds nothing to a sum. With layout "NHWC", `x` and the output are [N, spatial..., C]; `w` stays.
    """

    strides: tuple[int, ...] = (1, 1)
    pads: tuple[Dim, ...] = (0, 0, 0, 0)
    dilations: tuple[int, ...] = (1, 1)
    groups: int = 1
    layout: str = "NCHW"

    def infer(  # noqa: D102
        self, x: TensorType, w: TensorType, x_zero_point: TensorType | None = None, w_zero_point: TensorType | None = None
    ) -> tuple[TensorType, ...]:
        require(self.layout in LAYOUTS, f"ConvInteger: layout '{self.layout}' is not one of {', '.join(LAYOUTS)}")
        for name, t, zero in (("x", x, x_zero_point), ("w", w, w_zero_point)):
            require(t.dtype.is_integer, f"ConvInteger: {name} is {t.dtype}, needs an integer type")
            require(zero is None or zero.dtype == t.dtype, f"ConvInteger: the zero point of {name} must be {t.dtype}")
            require(zero is None or zero.rank <= 1, f"ConvInteger: the zero point of {name} must be a scalar or a vector")
        out = _convolved(self, channels_first(x) if self.layout == "NHWC" and x.rank >= 3 else x, w, TensorType(INT32, ()))
        return (channels_last(out) if self.layout == "NHWC" else out,)

    def evaluate(self, x: Any, w: Any, x_zero_point: Any = None, w_zero_point: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        x, w = x.astype(np.int32), w.astype(np.int32)
        if x_zero_point is not None:
            x = x - x_zero_point.astype(np.int32).reshape(-1)
        if w_zero_point is not None:
            w = w - w_zero_point.astype(np.int32).reshape(-1, *[1] * (w.ndim - 1))
        x = channels_first(x) if self.layout == "NHWC" else x
        y = convolve(x, w, self.strides, ints(self.pads), self.dilations, self.groups)
        return (channels_last(y) if self.layout == "NHWC" else y,)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return _conv_cost(inputs, outputs)


@dataclass(frozen=True)
class ConvTranspose(Op):
    """The transpose of `Conv`: spreads `x` [N, C, spatial...] by `w` [C, M/groups, kernel...], plus `b` [M].

    Each axis has `(n - 1) * stride + (k - 1) * dilation + 1 + output_padding - pads` elements. Negative pads add zeros.
    """

    strides: tuple[int, ...] = (1, 1)
    pads: tuple[Dim, ...] = (0, 0, 0, 0)
    dilations: tuple[int, ...] = (1, 1)
    output_padding: tuple[int, ...] = (0, 0)
    groups: int = 1
    layout: str = "NCHW"

    def infer(self, x: TensorType, w: TensorType, b: TensorType | None = None) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.layout in LAYOUTS, f"ConvTranspose: layout '{self.layout}' is not one of {', '.join(LAYOUTS)}")
        require(x.dtype == w.dtype, f"ConvTranspose: x is {x.dtype}, w is {w.dtype}")
        require(x.rank >= 3 and x.rank == w.rank, f"ConvTranspose: x {x} and w {w} must have the same rank, at least 3")
        spatial = x.rank - 2
        check_window(
            "ConvTranspose", spatial, strides=self.strides, dilations=self.dilations, pads=self.pads, output_padding=self.output_padding
        )
        source = channels_first(x) if self.layout == "NHWC" else x
        _check_channels("ConvTranspose", source.shape[1], w.shape[0], "x has", "w takes")
        require(
            not isinstance(w.shape[0], int) or w.shape[0] % self.groups == 0,
            f"ConvTranspose: {w.shape[0]} channels do not split into {self.groups} groups",
        )
        sizes: list[Dim] = []
        for i, n in enumerate(source.shape[2:]):
            reach = (w.shape[2 + i] - 1) * self.dilations[i] + 1
            size = (n - 1) * self.strides[i] + reach + self.output_padding[i] - self.pads[i] - self.pads[spatial + i]
            require(not isinstance(size, int) or size >= 0, f"ConvTranspose: pads {self.pads} are larger than the output")
            sizes.append(size)
        channels = w.shape[1] * self.groups
        if b is not None:
            _check_bias("ConvTranspose", b, channels, x)
        out = TensorType(x.dtype, (x.shape[0], channels, *sizes))
        return (channels_last(out) if self.layout == "NHWC" else out,)

    def evaluate(self, x: Any, w: Any, b: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        source = widen(channels_first(x) if self.layout == "NHWC" else x)
        kernel, spatial = w.shape[2:], source.shape[2:]
        columns = self._columns(source, widen(w))
        reaches = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilations, strict=True)]
        full = [max(0, (n - 1) * s) + r for n, s, r in zip(spatial, self.strides, reaches, strict=True)]
        y = np.zeros((x.shape[0], columns.shape[1], *full), columns.dtype)
        for position, index in kernel_slices(kernel, self.strides, self.dilations, spatial):
            y[index] += columns[(*WHOLE, *position)]
        rank, pads = len(spatial), ints(self.pads)
        y = pad_spatial(y, [-p for p in pads[:rank]], [o - p for o, p in zip(self.output_padding, pads[rank:], strict=True)])
        y = _biased(y, b).astype(x.dtype, copy=False)
        return (channels_last(y) if self.layout == "NHWC" else y,)

    def _columns(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """What each input pixel adds to each kernel position: `[N, M, *kernel, *spatial]`."""
        batch, channels, *spatial = x.shape
        groups, per_group = self.groups, w.shape[1]
        pixels = x.reshape(batch, groups, channels // groups, math.prod(spatial))
        weights = w.reshape(groups, channels // groups, -1).transpose(0, 2, 1)
        return product(weights, pixels).reshape(batch, groups * per_group, *w.shape[2:], *spatial)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        x, w = inputs[0], inputs[1]
        assert x is not None and w is not None
        channels = x.static_shape[-1 if self.layout == "NHWC" else 1]
        macs = x.size // max(1, channels) * w.size
        return Cost(macs, 0, traffic(inputs, outputs))


@dataclass(frozen=True)
class Col2Im(Op):
    """Add the columns of `x` [N, C * prod(block_shape), L] back into an image [N, C, *image_shape]: the transpose of im2col."""

    image_shape: tuple[Dim, ...]
    block_shape: tuple[Dim, ...]
    dilations: tuple[int, ...] = (1, 1)
    pads: tuple[Dim, ...] = (0, 0, 0, 0)
    strides: tuple[int, ...] = (1, 1)

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        spatial = len(self.image_shape)
        check_window("Col2Im", spatial, block_shape=self.block_shape, dilations=self.dilations, pads=self.pads, strides=self.strides)
        require(x.rank == 3, f"Col2Im: x {x} must be [N, C * block, L]")
        block: Dim = count(self.block_shape)
        if isinstance(x.shape[1], int) and isinstance(block, int):
            require(x.shape[1] % block == 0, f"Col2Im: {x.shape[1]} channels are not a multiple of the block's {block} elements")
        columns: Dim = count(window_shape(self.image_shape, self.block_shape, self.strides, self.dilations, self.pads))
        if isinstance(x.shape[2], int) and isinstance(columns, int):
            require(x.shape[2] == columns, f"Col2Im: x has {x.shape[2]} columns, the image has {columns} blocks")
        return (TensorType(x.dtype, (x.shape[0], floordiv(x.shape[1], block), *self.image_shape)),)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        x, rank = inputs[0], len(self.strides)
        known = self.image_shape if "image_shape" not in params else tuple(symbol(f"?{i + 1}") for i in range(rank))
        channels: Dim = symbol("?0") if "block_shape" in params else floordiv(x.shape[1], count(self.block_shape))
        return (TensorType(x.dtype, (x.shape[0], channels, *known)),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        image, block, pads = ints(self.image_shape), ints(self.block_shape), ints(self.pads)
        rank = len(image)
        out = ints(window_shape(image, block, self.strides, self.dilations, pads))
        columns = widen(x).reshape(x.shape[0], -1, *block, *out)
        padded = [n + b + e for n, b, e in zip(image, pads[:rank], pads[rank:], strict=True)]
        y = np.zeros((x.shape[0], columns.shape[1], *padded), columns.dtype)
        for position, index in kernel_slices(block, self.strides, self.dilations, out):
            y[index] += columns[(*WHOLE, *position)]
        y = pad_spatial(y, [-p for p in pads[:rank]], [-p for p in pads[rank:]])
        return (y.astype(x.dtype, copy=False),)


@dataclass(frozen=True)
class DeformConv(Op):
    """Two-dimensional convolution that samples, bilinearly, at learnt offsets.

    `x` [N, C, H, W], `w` [M, C/groups, kH, kW], `offset` [N, offset_groups * kH * kW * 2, oH, oW] as (dy, dx) pairs,
    `b` [M], `mask` [N, offset_groups * kH * kW, oH, oW]. Samples outside the image are zero.
    """

    strides: tuple[int, ...] = (1, 1)
    pads: tuple[Dim, ...] = (0, 0, 0, 0)
    dilations: tuple[int, ...] = (1, 1)
    groups: int = 1
    offset_groups: int = 1

    def infer(  # noqa: D102
        self, x: TensorType, w: TensorType, offset: TensorType, b: TensorType | None = None, mask: TensorType | None = None
    ) -> tuple[TensorType, ...]:
        require(x.rank == 4, f"DeformConv: x {x} must be [N, C, H, W]")
        out = _convolved(self, x, w, TensorType(x.dtype, ()))
        taps = w.shape[2] * w.shape[3] * self.offset_groups
        for name, t, channels in (("offset", offset, taps * 2), ("mask", mask, taps)):
            if t is not None:
                require(t.rank == 4, f"DeformConv: {name} {t} must have rank 4")
                _check_channels("DeformConv", t.shape[1], channels, f"{name} has", "needs")
        if b is not None:
            _check_bias("DeformConv", b, w.shape[0], x)
        return (out,)

    def evaluate(self, x: Any, w: Any, offset: Any, b: Any = None, mask: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        batch, (oh, ow) = x.shape[0], offset.shape[2:]
        patches = deformed_patches(x, offset, mask, w.shape[2:], self)
        columns = patches.reshape(batch, self.groups, -1, oh * ow)
        y = product(widen(w).reshape(self.groups, w.shape[0] // self.groups, -1), columns)
        return (_biased(y.reshape(batch, w.shape[0], oh, ow), b).astype(x.dtype, copy=False),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return _conv_cost(inputs, outputs)


@dataclass(frozen=True)
class DeformPatches(Op):
    """What the taps of a `DeformConv` see, for a matrix product with its weights.

    `x` [N, H, W, C]; `offset` and `mask` as `DeformConv` has them. Gives [N, oH, oW, blocks, kH * kW, C / blocks]: the channels in
    `blocks`, a multiple of `offset_groups`, one after the other.
    """

    kernel_shape: tuple[int, int]
    strides: tuple[int, ...] = (1, 1)
    pads: tuple[Dim, ...] = (0, 0, 0, 0)
    dilations: tuple[int, ...] = (1, 1)
    offset_groups: int = 1
    blocks: int = 1

    def infer(self, x: TensorType, offset: TensorType, mask: TensorType | None = None) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.rank == 4, f"DeformPatches: x {x} must be [N, H, W, C]")
        check_window("DeformPatches", 2, kernel_shape=self.kernel_shape, strides=self.strides, pads=self.pads, dilations=self.dilations)
        require(self.blocks % self.offset_groups == 0, f"DeformPatches: {self.blocks} blocks do not split into {self.offset_groups} groups")
        taps = math.prod(self.kernel_shape)
        for name, t, channels in (("offset", offset, 2 * taps), ("mask", mask, taps)):
            if t is not None:
                require(t.rank == 4, f"DeformPatches: {name} {t} must have rank 4")
                _check_channels("DeformPatches", t.shape[1], channels * self.offset_groups, f"{name} has", "needs")
        out = window_shape(x.shape[1:3], self.kernel_shape, self.strides, self.dilations, self.pads)
        return (TensorType(x.dtype, (x.shape[0], *out, self.blocks, taps, floordiv(x.shape[3], self.blocks))),)

    def evaluate(self, x: Any, offset: Any, mask: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        patches = deformed_patches(channels_first(x), offset, mask, self.kernel_shape, self)
        batch, channels, _, _, oh, ow = patches.shape
        blocks = patches.reshape(batch, self.blocks, channels // self.blocks, -1, oh, ow)
        return (np.ascontiguousarray(blocks.transpose(0, 4, 5, 1, 3, 2).astype(x.dtype, copy=False)),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        assert outputs[0] is not None
        return Cost(0, 4 * outputs[0].size, traffic(inputs, outputs))


def deformed_patches(x: Any, offset: Any, mask: Any, kernel: Sequence[int], op: DeformConv | DeformPatches) -> np.ndarray:
    """The samples of every tap, [N, C, kH, kW, oH, oW], of a channels-first `x`, in its type, wide."""
    batch, channels = x.shape[:2]
    (kh, kw), (oh, ow), pads = kernel, offset.shape[2:], ints(op.pads)
    shifts = widen(offset).reshape(batch, op.offset_groups, kh, kw, 2, oh, ow)
    scale = None if mask is None else widen(mask).reshape(batch, op.offset_groups, kh, kw, 1, oh, ow)
    source = widen(x).reshape(batch * op.offset_groups, channels // op.offset_groups, *x.shape[2:])
    patches = np.empty((batch, channels, kh, kw, oh, ow), source.dtype)
    for i in range(kh):
        for j in range(kw):
            rows = (np.arange(oh) * op.strides[0] - pads[0] + i * op.dilations[0]).astype(shifts.dtype)[:, None] + shifts[:, :, i, j, 0]
            cols = (np.arange(ow) * op.strides[1] - pads[1] + j * op.dilations[1]).astype(shifts.dtype) + shifts[:, :, i, j, 1]
            taken = bilinear(source, rows.reshape(-1, oh, ow), cols.reshape(-1, oh, ow))
            taken = taken.reshape(batch, op.offset_groups, -1, oh, ow)
            patches[:, :, i, j] = (taken if scale is None else taken * scale[:, :, i, j]).reshape(batch, channels, oh, ow)
    return patches


def bilinear(x: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Sample `x` [B, C, H, W] at `rows`, `cols` [B, ...]; what lies outside, or nowhere (NaN), is zero. Gives [B, C, ...]."""
    height, width = x.shape[2:]
    top, left = np.floor(rows), np.floor(cols)
    batch = np.arange(x.shape[0]).reshape(-1, *[1] * (rows.ndim - 1))
    total = np.zeros((*rows.shape, x.shape[1]), x.dtype)
    for r in (top, top + 1):
        for c in (left, left + 1):
            weight = (1 - np.abs(rows - r)) * (1 - np.abs(cols - c))
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            i, j = (np.clip(np.nan_to_num(at), 0, n - 1).astype(np.int64) for at, n in ((r, height), (c, width)))
            total += x[batch, :, i, j] * np.where(inside, weight, 0)[..., None].astype(x.dtype)
    return np.moveaxis(total, -1, 1)


def convolve(
    x: np.ndarray, w: np.ndarray, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int], groups: int
) -> np.ndarray:
    """Grouped cross-correlation of channels-first arrays, in their own type."""
    kernel, rank = w.shape[2:], w.ndim - 2
    padded = pad_spatial(x, pads[:rank], pads[rank:])
    out = ints(window_shape(x.shape[2:], kernel, strides, dilations, pads))
    batch, channels, maps = x.shape[0], x.shape[1], w.shape[0]
    if not math.prod(out) or not w.size or not batch:
        return np.zeros((batch, maps, *out), x.dtype)
    if channels == groups:
        return _depthwise(padded, w, strides, dilations, out)
    y = np.empty((batch, groups, maps // groups, *out), x.dtype)
    weights = w.reshape(groups, maps // groups, -1)
    view = windows(padded, kernel, strides, dilations, out)
    view = np.moveaxis(view, range(2, 2 + rank), range(2 + rank, 2 + 2 * rank))  # [N, C, *kernel, *out]
    bytes_per_row = x.itemsize * channels * math.prod(kernel) * math.prod(out[1:])
    rows = max(1, PATCH_BYTES // bytes_per_row)
    for n in range(batch):
        for start in range(0, out[0], rows):
            part = view[n][(slice(None), *[slice(None)] * rank, slice(start, start + rows))]
            columns = part.reshape(groups, weights.shape[2], -1)
            y[n, :, :, start : start + rows] = product(weights, columns).reshape(groups, maps // groups, *part.shape[1 + rank :])
    return y.reshape(batch, maps, *out)


def _depthwise(x: np.ndarray, w: np.ndarray, strides: Sequence[int], dilations: Sequence[int], out: Sequence[int]) -> np.ndarray:
    """One input channel per group: a multiply-add over the whole output for each kernel position."""
    groups, multiplier = x.shape[1], w.shape[0] // x.shape[1]
    y = np.zeros((x.shape[0], groups, multiplier, *out), x.dtype)
    taps = w.reshape(groups, multiplier, *w.shape[2:])
    for position, index in kernel_slices(w.shape[2:], strides, dilations, out):
        factor = taps[(*WHOLE, *position)]
        y += x[index][:, :, None] * factor.reshape(1, groups, multiplier, *[1] * len(out))
    return y.reshape(x.shape[0], w.shape[0], *out)


def _convolved(op: Conv | ConvInteger | DeformConv, x: TensorType, w: TensorType, result: TensorType) -> TensorType:
    require(x.rank >= 3 and x.rank == w.rank, f"{op.name}: x {x} and w {w} must have the same rank, at least 3")
    check_window(op.name, x.rank - 2, strides=op.strides, dilations=op.dilations, pads=op.pads)
    require(op.groups >= 1, f"{op.name}: groups={op.groups} must be positive")
    _check_channels(op.name, x.shape[1], w.shape[1] * op.groups, "x has", f"w with {op.groups} groups takes")
    maps = w.shape[0]
    require(not isinstance(maps, int) or maps % op.groups == 0, f"{op.name}: {maps} output channels do not split into {op.groups} groups")
    sizes = window_shape(x.shape[2:], w.shape[2:], op.strides, op.dilations, op.pads)
    return TensorType(result.dtype, (x.shape[0], maps, *sizes))


def _check_channels(name: str, given: Dim, wanted: Dim, who: str, needs: str) -> None:
    if isinstance(given, int) and isinstance(wanted, int):
        require(given == wanted, f"{name}: {who} {given} channels, {needs} {wanted}")


def _check_bias(name: str, b: TensorType, channels: Dim, x: TensorType) -> None:
    require(b.rank == 1, f"{name}: the bias {b} must have rank 1")
    require(b.dtype == x.dtype, f"{name}: x is {x.dtype}, the bias is {b.dtype}")
    _check_channels(name, b.shape[0], channels, "the bias has", "the output has")


def _biased(y: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    return y if b is None else y + b.astype(y.dtype).reshape(-1, *[1] * (y.ndim - 2))


def _conv_cost(inputs: Types, outputs: Types) -> Cost:
    out, w = outputs[0], inputs[1]
    assert out is not None and w is not None
    return Cost(out.size * math.prod(w.static_shape[1:]), 0, traffic(inputs, outputs))
