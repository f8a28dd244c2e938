"""Transposed convolutions as convolutions, one for each phase of the stride, whose results are interleaved.

Output row o, with p of padding in front, is `o + p = s q + r`: it sums `x[q - j] w[r + s j]` over j. For each phase r that is a convolution
of `ceil((k - r) / s)` taps. Phases of equally many taps are one convolution with so many times the channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.conv import Conv, ConvTranspose
from lepton_compiler.ops.decompose import expand
from lepton_compiler.pipeline import Pass, PassContext

Phase = tuple[int, ...]


@dataclass(frozen=True)
class SplitTransposed(Pass):
    """ConvTranspose(x, w)  -->  Conv(x, phases of w), interleaved and cut to size

    For constant weights without groups and dilations, where no output lies beyond the reach of all phases.
    """

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        for part in list(bodies(graph)):
            for node in part.nodes:
                if splits_into_phases(node):
                    factor = _factor_after(node)
                    if factor is None:
                        expand(node, phase_by_phase)
                    else:  # fewer elements are moved if what is done with each is done before: the result may become codes
                        expand(factor, lambda build, mul, conv=node: phase_by_phase(build, conv, mul.present_inputs[1]))  # type: ignore[misc]


def splits_into_phases(node: Node) -> bool:
    """Whether a node is a transposed convolution that `phase_by_phase` can write."""
    op = node.op
    if not isinstance(op, ConvTranspose) or op.layout != "NCHW" or op.groups != 1 or set(op.dilations) != {1}:
        return False
    x, w = node.present_inputs[:2]
    static = x.type.is_static and node.output.type.is_static and x.type.size > 0 and node.output.type.size > 0
    if w.tensor is None or not x.type.dtype.is_float or not static or any(p < 0 for p in op.pads):  # type: ignore[operator]
        return False
    axes = _axes(op, node)
    return all(k >= s for _, _, k, s, _ in axes) and all(min(_pads(axis, r)) >= 0 for axis in axes for r in range(axis[3]))


def _axes(op: ConvTranspose, node: Node) -> list[tuple[int, int, int, int, int]]:
    """Per axis: input size, output size, kernel, stride, pad in front."""
    x, w = node.present_inputs[:2]
    sizes = zip(x.type.static_shape[2:], node.output.type.static_shape[2:], w.type.static_shape[2:], strict=True)
    return [(n, out, k, s, int(p)) for (n, out, k), s, p in zip(sizes, op.strides, op.pads, strict=False)]  # type: ignore[arg-type]


def _pads(axis: tuple[int, int, int, int, int], phase: int) -> tuple[int, int]:
    """The zeros before and after the input of the convolution that gives just the positions needed of a phase."""
    n, out, k, s, p = axis
    taps, first, last = -(-(k - phase) // s), p // s, (out - 1 + p) // s
    before = taps - 1 - first
    return before, last - first + taps - n - before


def _factor_after(node: Node) -> Node | None:
    """The multiplication by a constant per channel that alone reads the result, if that is so."""
    users = list(node.output.users)
    if len(users) != 1 or users[0].op.name != "Mul" or node.output.is_output or users[0].present_inputs[0] is not node.output:
        return None
    shape, channels = users[0].present_inputs[1].type.shape, node.output.type.shape[1]
    alone = shape == () or (len(shape) == node.output.type.rank - 1 and shape[0] == channels and set(shape[1:]) == {1})
    return users[0] if users[0].present_inputs[1].tensor is not None and alone else None


def phase_by_phase(build: Builder, node: Node, factor: Value | None = None) -> Sequence[Value]:
    """The convolutions of all phases side by side, interleaved channels-last, as convolutions have them natively, times `factor`."""
    op = node.op
    assert isinstance(op, ConvTranspose)
    x, w, b = (*node.inputs, None)[:3]
    assert x is not None and w is not None
    axes = _axes(op, node)
    strides, rank = [s for _, _, _, s, _ in axes], len(axes)
    phases = list(np.ndindex(*strides))
    alike = [list(group) for _, group in itertools.groupby(phases, lambda r: [_pads(a, at) for a, at in zip(axes, r, strict=True)])]
    parts = [_convolved(build, group, axes, x, w, b) for group in alike]
    z = parts[0] if len(parts) == 1 else build.Concat(*parts, axis=1)
    if factor is not None:
        numbers = factor.numpy()
        tiled = np.tile(numbers, (z.type.static_shape[1] // numbers.shape[0], *(1,) * rank)) if numbers.ndim else numbers
        z = build.Mul(z, build.constant(tiled, name=factor.name))
    batch, _, *sizes = z.type.static_shape
    last = build.Transpose(z, perm=(0, *range(2, 2 + rank), 1))
    apart = build.Reshape(last, shape=(batch, *sizes, *strides, w.type.static_shape[1]))
    mixed = build.Transpose(apart, perm=(0, *(a for i in range(rank) for a in (1 + i, 1 + rank + i)), 1 + 2 * rank))
    joined = build.Reshape(mixed, shape=(batch, *(q * s for q, s in zip(sizes, strides, strict=True)), w.type.static_shape[1]))
    y = build.Transpose(joined, perm=(0, 1 + rank, *range(1, 1 + rank)))
    starts = tuple(p - p // s * s for _, _, _, s, p in axes)
    ends = tuple(start + out for start, (_, out, *_) in zip(starts, axes, strict=True))
    whole = y.type == node.output.type
    return [y if whole else build.Slice(y, starts=starts, ends=ends, axes=tuple(range(2, 2 + rank)), steps=(1,) * rank)]


def _convolved(
    build: Builder, phases: Sequence[Phase], axes: Sequence[tuple[int, int, int, int, int]], x: Value, w: Value, b: Value | None
) -> Value:
    """Some phases of equal padding and equally many taps: `[N, phases * M, positions...]`."""
    pads = [_pads(axis, r) for axis, r in zip(axes, phases[0], strict=True)]
    bias = None
    if b is not None:
        bias = build.constant(np.tile(b.numpy(), len(phases))) if b.tensor is not None else build.Concat(*[b] * len(phases), axis=0)
    kernel = build.constant(_kernel(w.numpy(), phases, [s for _, _, _, s, _ in axes]), name=w.name)
    ones = (1,) * len(axes)
    return build(Conv(strides=ones, pads=tuple(p for side in zip(*pads, strict=True) for p in side), dilations=ones), x, kernel, bias)


def _kernel(w: np.ndarray, phases: Sequence[Phase], strides: Sequence[int]) -> np.ndarray:
    """`[C, M, kernel...]` to `[phases * M, C, taps...]`, each phase's taps from the last to the first."""
    taken = []
    for phase in phases:
        taps = w[(slice(None), slice(None), *(slice(r, None, s) for r, s in zip(phase, strides, strict=True)))]
        taken.append(np.flip(taps, axis=tuple(range(2, w.ndim))).swapaxes(0, 1))
    return np.ascontiguousarray(np.concatenate(taken))
