"""Transposed convolutions as one convolution: each phase of the stride is a set of output channels, which are then interleaved.

Output row o, with pads in front, is `o + p = s q + r`: it sums `x[q - j] w[r + s j]` over j. For each phase r that is a convolution of
`ceil(k / s)` taps; all phases read the same input, so that they are one convolution with `s` times as many channels per axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.conv import Conv, ConvTranspose


def splits_into_phases(node: Node) -> bool:
    """Whether a node is a transposed convolution that `conv_transpose` can write as a convolution."""
    op = node.op
    if not isinstance(op, ConvTranspose) or op.layout != "NCHW" or op.groups != 1 or set(op.dilations) != {1}:
        return False
    x, w = node.present_inputs[:2]
    static = x.type.is_static and node.output.type.is_static and x.type.size > 0 and node.output.type.size > 0
    return w.tensor is not None and x.type.dtype.is_float and static and all(min(pads) >= 0 for pads in _pads(op, node))


def _axes(op: ConvTranspose, node: Node) -> list[tuple[int, int, int, int, int]]:
    """Per axis: input size, output size, kernel, stride, pad in front."""
    x, w = node.present_inputs[:2]
    sizes = zip(x.type.static_shape[2:], node.output.type.static_shape[2:], w.type.static_shape[2:], strict=True)
    return [(n, out, k, s, int(p)) for (n, out, k), s, p in zip(sizes, op.strides, op.pads, strict=False)]  # type: ignore[arg-type]


def _pads(op: ConvTranspose, node: Node) -> list[tuple[int, int]]:
    """Per axis the zeros before and after the input of the convolution that gives the positions needed, and no other."""
    found = []
    for n, out, k, s, p in _axes(op, node):
        taps, first, last = -(-k // s), p // s, (out - 1 + p) // s
        before = taps - 1 - first
        found.append((before, last - first + taps - n - before))
    return found


def conv_transpose(build: Builder, node: Node) -> Sequence[Value]:
    """ConvTranspose(x, w)  -->  Conv(x, phases of w), interleaved and cut to size."""
    op = node.op
    assert isinstance(op, ConvTranspose)
    if not splits_into_phases(node):
        raise UnsupportedError("only transposed convolutions by constants, without groups and dilations, are convolutions of their phases")
    x, w, b = (*node.inputs, None)[:3]
    assert x is not None and w is not None
    axes, pads = _axes(op, node), _pads(op, node)
    strides, maps = [s for *_, s, _ in axes], w.type.static_shape[1]
    many = math.prod(strides)
    bias = None if b is None else build.constant(np.tile(b.numpy(), many)) if b.tensor is not None else build.Concat(*[b] * many, axis=0)
    kernel = build.constant(_phases(w.numpy(), strides), name=w.name)
    conv = Conv(strides=(1,) * len(axes), pads=tuple(p for side in zip(*pads, strict=True) for p in side), dilations=(1,) * len(axes))
    z = build(conv, x, kernel, bias)
    sizes, rank, batch = z.type.static_shape[2:], len(axes), z.type.static_shape[0]
    last = build.Transpose(z, perm=(0, *range(2, 2 + rank), 1))  # channels last, as convolutions have them natively
    apart = build.Reshape(last, shape=(batch, *sizes, *strides, maps))
    mixed = build.Transpose(apart, perm=(0, *(a for i in range(rank) for a in (1 + i, 1 + rank + i)), 1 + 2 * rank))
    whole_size = build.Reshape(mixed, shape=(batch, *(q * s for q, s in zip(sizes, strides, strict=True)), maps))
    y = build.Transpose(whole_size, perm=(0, 1 + rank, *range(1, 1 + rank)))
    starts = tuple(p - p // s * s for *_, s, p in axes)
    ends = tuple(start + out for start, (_, out, *_) in zip(starts, axes, strict=True))
    whole = y.type == node.output.type
    return [y if whole else build.Slice(y, starts=starts, ends=ends, axes=tuple(range(2, 2 + rank)), steps=(1,) * rank)]


def _phases(w: np.ndarray, strides: Sequence[int]) -> np.ndarray:
    """`[C, M, kernel...]` to `[phases * M, C, taps...]`, taps past the kernel being zero."""
    taps = [-(-k // s) for k, s in zip(w.shape[2:], strides, strict=True)]
    result = np.zeros((*strides, w.shape[1], w.shape[0], *taps), w.dtype)
    for phase in np.ndindex(*strides):
        for tap in np.ndindex(*taps):
            at = tuple(r + s * (j - 1 - t) for r, s, j, t in zip(phase, strides, taps, tap, strict=True))
            if all(a < k for a, k in zip(at, w.shape[2:], strict=True)):
                result[(*phase, slice(None), slice(None), *tap)] = w[(slice(None), slice(None), *at)].T
    return result.reshape(-1, *result.shape[len(strides) + 1 :])
