"""Kernels that make codes of a few channels and put the channels side by side: the first step of models that take images plane by plane.

for block of pixels:                        in parallel
    for vector of pixels:
        for channel: codes of the vector    whatever element-wise operators there are
        y = codes of all channels, interleaved
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.compute.integer_product import spans
from lepton_compiler.backends.tvm.lower.context import ELEMENTS, Arg, Context, Expr, expression
from lepton_compiler.backends.tvm.lower.procedure import Buffer, load, procedure, store, when
from lepton_compiler.backends.tvm.lower.whole import read_through
from lepton_compiler.backends.tvm.spec import KernelSpec
from lepton_compiler.ir.types import INT8, UINT8, TensorType
from lepton_compiler.target import Target

MOST_CHANNELS = 4
"""Channels for which processors have instructions, or short sequences, that interleave."""
VECTORS = 64
"""Vectors of pixels that are a unit of work."""


def flattened(spec: KernelSpec, target: Target) -> KernelSpec | None:
    """A kernel of element-wise operators that ends in a transposition of planes (batch, channels, pixels) to (batch, pixels, channels), few of
    them, of codes, over arrays of just these axes; None for another kernel.
    """
    *before, last = spec.steps
    kind = spec.types[spec.outputs[0]]
    if last.op.name != "Transpose" or len(spec.outputs) != 1 or kind.dtype not in (INT8, UINT8) or target.lanes(8) == 1:
        return None
    source = last.inputs[0]
    assert source is not None
    shape, perm = spec.types[source].static_shape, tuple(p % kind.rank for p in vars(last.op)["perm"])
    axis = perm[-1]
    whole = [k for k in range(len(spec.types)) if k != last.outputs[0]]
    alike = all(spec.types[k].static_shape in ((), shape) or spec.types[k].size == 1 for k in whole)
    in_order = perm == (*(k for k in range(kind.rank) if k != axis), axis)
    if not (in_order and alike and 1 < shape[axis] <= MOST_CHANNELS) or any(
        s.op.name not in ELEMENTS or s.op.name == "Lookup" for s in before
    ):
        return None
    planes = _product(shape[:axis]), shape[axis], _product(shape[axis + 1 :])
    if planes[2] < target.lanes(8):
        return None
    types = [TensorType(t.dtype, planes if t.size == kind.size else ()) for t in spec.types]
    return replace(spec, types=tuple(types))


def lower_interleaved(ctx: Context, codes: Arg, sources: Sequence[Arg]) -> list[Any]:
    """The codes (batch, channels, pixels), an expression of `sources`, as one run of bytes (batch, pixels, channels)."""
    batch, channels, pixels = codes.shape
    ctx.outputs = (TensorType(codes.type.dtype, (batch * pixels * channels,)),)
    stored = [a for a in sources if a.number is None]
    lanes = ctx.target.lanes(8)

    def write(*given: Any) -> None:
        *loaded, y = given
        with read_through(stored, loaded):
            full = pixels // lanes
            units = -(-full // VECTORS)
            with T.parallel(0, batch * units) as unit:
                image, first = (unit // units, unit % units * VECTORS) if batch > 1 else (tirx.const(0, "int32"), unit * VECTORS)
                with T.serial(0, min(VECTORS, full)) as k, when(*([first + k < full] if full % VECTORS and full > VECTORS else [])):
                    _put(codes, image, (first + k) * lanes, lanes, y)
            if pixels % lanes:
                with T.serial(0, batch) as image:
                    for begin, width, count in spans(pixels % lanes, lanes):
                        for k in range(count):
                            _put(codes, image, tirx.const(full * lanes + begin + k * width, "int32"), width, y)

    return procedure(ctx, "interleaved", stored, write)


def _put(codes: Arg, image: Expr, first: Expr, width: int, y: Buffer) -> None:
    """Store the codes of `width` pixels."""
    _, channels, pixels = codes.shape
    lines = [T.alloc_buffer((width,), codes.dtype, scope="global") for _ in range(channels)]
    for channel, line in enumerate(lines):
        with T.vectorized(0, width) if width > 1 else T.serial(0, 1) as lane:
            store(line, [lane], expression(codes, [image, tirx.const(channel, "int32"), first + lane]))
    start = (image * pixels + first) * channels
    if width == 1:
        for channel, line in enumerate(lines):
            store(y, [start + channel], load(line, [0]))
        return
    order = [tirx.const(channel * width + lane, "int32") for lane in range(width) for channel in range(channels)]
    store(y, [tirx.Ramp(start, 1, width * channels)], tirx.Shuffle([load(line, [tirx.Ramp(0, 1, width)]) for line in lines], order))


def _product(extents: Sequence[int]) -> int:
    return int(np.prod(extents, dtype=np.int64))
