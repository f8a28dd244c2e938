"""What is worth trying for a kernel: neighbours of the analytic choice, most promising first.

The search goes in stages. Each proposes a handful of changes to the best choice so far: the algorithm, the register tile, the cache
block, the steps of the reduction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.compute.winograd import SMALLEST, Plan, plan
from lepton_compiler.backends.tvm.schedules import tiling
from lepton_compiler.backends.tvm.spec import KernelSpec, Step
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.target import Target

STAGES = ("algorithm", "tile", "block", "steps")
TILES, BLOCKS = 9, 6
"""Most candidates of a stage."""


@dataclass(frozen=True)
class Form:
    """The loops of a kernel that has parameters.

    Attributes:
        depthwise: one filter per channel: vectors run along the channels of both operands.
        pixels: extent of the axis that register tiles cut.
        rows: extent of the axis that cache blocks cut.
        columns: output channels (of a group), or columns of the matrix.
        depth: extent of the innermost reduction.
        image: (images, rows, columns) of the output where Winograd's algorithm can be taken.
        channels: of the input, for the same.
    """

    depthwise: bool
    pixels: int
    rows: int
    columns: int
    depth: int
    image: tuple[int, int, int] | None = None
    channels: int = 0

    def winograd(self, target: Target) -> Plan | None:
        """The analytic plan."""
        return plan(self.image[0], self.image[1:], self.channels, self.columns, target) if self.image else None


def form_of(spec: KernelSpec) -> Form | None:
    """The form of a kernel around one convolution or product with known weights; None where there is nothing to choose."""
    anchors = [s for s in spec.steps if s.op.name in ("Conv", "Gemm", "MatMul")]
    if len(anchors) != 1:
        return None
    step, op = anchors[0], anchors[0].op
    if step.inputs[0] is None or step.inputs[1] is None:
        return None
    left, right, out = (spec.types[i].static_shape for i in (step.inputs[0], step.inputs[1], step.outputs[0]))
    if 0 in (*left, *right, *out) or len(left) < 2 or len(right) < 2:
        return None
    if op.name == "Conv":
        return _convolution(spec, step, op, left, right, out) if len(out) in (3, 4) and step.inputs[1] in spec.constants else None
    columns, depth = out[-1], right[-1] if getattr(op, "trans_b", False) else right[-2]
    known = step.inputs[1] in spec.constants and len(right) == 2
    rows = math.prod(out[:-1]) if known else out[-2]
    return Form(False, rows, rows, columns, depth)


def _convolution(spec: KernelSpec, step: Step, op: Any, x: tuple[int, ...], w: tuple[int, ...], y: tuple[int, ...]) -> Form:
    batch, *size = (y[0], *y[1:-1]) if op.layout == "NHWC" else (y[0], *y[2:])
    channels = x[-1] if op.layout == "NHWC" else x[1]
    height, width = (1, size[0]) if len(size) == 1 else (size[0], size[1])
    if width == 1:
        height, width = width, height
    if op.groups > 1 and op.groups == channels and w[1] == 1:
        return Form(True, width, height, w[0], 1)
    if set(w[2:]) == {1} and set(op.strides) == {1} and not any(op.pads) and op.groups == 1:
        return Form(False, batch * height * width, batch * height * width, w[0], w[1])
    plain = op.layout == "NHWC" and op.groups == 1 and w[2:] == (3, 3) and set(op.strides) == {1} and set(op.dilations) == {1}
    suits = plain and min(channels, w[0]) >= SMALLEST and spec.types[step.outputs[0]].dtype == FLOAT32
    return Form(False, width, height, w[0] // op.groups, w[1], (batch, height, width) if suits else None, channels)


def candidates(form: Form, stage: str, best: Choice, target: Target) -> list[Choice]:
    """The choices that a stage tries, given the best one so far; never that one itself."""
    transformed = best.winograd if best.winograd is not None else getattr(form.winograd(target), "m", 0)
    match stage:
        case "algorithm":
            found = _algorithms(form, target)
        case "tile":
            found = _transformed_tiles(form, best, transformed, target) if transformed else _tiles(form, best, target)
        case "block":
            found = _blocks(form, best, transformed, target)
        case _:
            found = _steps(form, best, transformed)
    return [choice for choice in dict.fromkeys(found) if choice not in (best, ANALYTIC)]


def _steps(form: Form, best: Choice, transformed: int) -> list[Choice]:
    """The reduction unrolled, and without prefetching."""
    if form.depthwise:
        return []
    unrolled = [] if transformed else [replace(best, unroll=n) for n in (2, 4) if form.depth % n == 0 and form.depth > n]
    return [*unrolled, replace(best, prefetch=0)]


def _algorithms(form: Form, target: Target) -> list[Choice]:
    """The direct sum and both tiles of Winograd's algorithm, each with chunks that fit level 2 and with one chunk."""
    if form.image is None:
        return []
    found = [Choice(winograd=0)] if form.winograd(target) else []
    for m in (4, 2):
        point = (m + 2) ** 2 * (form.channels + form.columns) * 4
        tiles = form.image[0] * -(-form.image[1] // m) * -(-form.image[2] // m)
        fitting = max(1, target.l2_bytes // 2 // point)
        found += [Choice(winograd=m, rows=rows) for rows in ((fitting, tiles) if fitting < tiles else (tiles,))]
    return found


def _tiles(form: Form, best: Choice, target: Target) -> list[Choice]:
    """Register tiles by their estimated cost."""
    lanes = target.lanes(tiling.ACC_BITS)
    if form.depthwise:
        pairs = [(v, p) for v in (1, 2, 3, 4) for p in (1, 2, 3, 4, 6, 8) if v * p <= target.vector_registers - 2]
        whole = [(v, p) for v, p in pairs if (v == 1 or form.columns % (v * lanes) == 0) and p <= form.pixels]
        return [replace(best, vectors=v, pixels=p) for v, p in sorted(whole, key=lambda t: abs(t[0] * t[1] - 8))][:TILES]
    most = min(5 if target.vector_registers >= 32 else 3, -(-form.columns // lanes))
    costs: dict[tuple[int, int], float] = {}
    for vectors in range(1, most + 1):
        blocks = -(-form.columns // (vectors * lanes))
        for pixels in range(1, min(tiling.max_pixels(vectors, target), form.pixels) + 1):
            costs[vectors, pixels] = blocks * _cost(form.pixels, pixels, vectors)
    analytic = tiling.vectors_per_block(form.columns, target)
    usual = (analytic, tiling.pixel_tile(form.pixels, analytic, target))
    order = sorted((pair for pair in costs if pair != usual), key=lambda pair: costs[pair])
    return [replace(best, vectors=v, pixels=p) for v, p in _varied(order)]


def _cost(extent: int, pixels: int, vectors: int) -> float:
    """Estimated cycles of a step of the reduction over a row: multiply-adds, or what hides their latency, and loads."""

    def tile(count: int) -> float:
        return max(count * vectors, tiling.LATENCY_CHAINS) + 0.3 * (count + vectors)

    full, tail = divmod(extent, pixels)
    return full * tile(pixels) + (1.1 * tile(tail) if tail else 0.0)


def _varied(order: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The first few of an order, not more than three with the same number of vectors."""
    taken: list[tuple[int, int]] = []
    for pair in order:
        if sum(v == pair[0] for v, _ in taken) < 3:
            taken.append(pair)
    return taken[:TILES]


def _transformed_tiles(form: Form, best: Choice, m: int, target: Target) -> list[Choice]:
    """Register tiles of the products in Winograd's algorithm."""
    lanes, analytic = target.lanes(tiling.ACC_BITS), form.winograd(target)
    rows = best.rows or (analytic.chunk if analytic and analytic.m == m else None)
    base = replace(best, winograd=m, rows=rows)
    most = min(5 if target.vector_registers >= 32 else 3, -(-form.columns // lanes))
    pairs = [(v, tiling.max_pixels(v, target) - less) for v in range(1, most + 1) for less in (0, 1, 2)]
    usual = (analytic.vectors, analytic.rows) if analytic and analytic.m == m else None

    def cost(pair: tuple[int, int]) -> float:
        padded = -(-form.columns // (pair[0] * lanes)) * pair[0]
        return padded * (1 + 0.3 * (pair[0] + pair[1]) / (pair[0] * pair[1]))

    order = sorted((p for p in pairs if p[1] >= 1 and p != usual), key=cost)
    return [replace(base, vectors=v, pixels=p) for v, p in order[: TILES // 2]]


def _blocks(form: Form, best: Choice, m: int, target: Target) -> list[Choice]:
    """Cache blocks in powers of two around what fits the caches, and everything at once."""
    if form.depthwise:
        return []
    if m:
        assert form.image is not None
        tiles = form.image[0] * -(-form.image[1] // m) * -(-form.image[2] // m)
        analytic = form.winograd(target)
        start = best.rows or (analytic.chunk if analytic else tiles)
        sizes = [max(1, start // 2), start * 2, max(1, start // 4), tiles]
        return [replace(best, winograd=m, rows=min(s, tiles)) for s in sizes][:BLOCKS]
    flat = form.pixels == form.rows
    unit = (
        (best.pixels or tiling.pixel_tile(form.pixels, best.vectors or tiling.vectors_per_block(form.columns, target), target))
        if flat
        else 1
    )
    sizes = [unit * 2**k for k in (0, 2, 1, 3, 4, 5, 6) if unit * 2**k < form.rows]
    return [replace(best, rows=size) for size in [form.rows, *sizes]][:BLOCKS]
