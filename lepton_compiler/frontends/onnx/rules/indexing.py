"""Slices, splits, pads and their kin, whose parameters moved from attributes to operands over the opsets."""

from __future__ import annotations

import numpy as np

from lepton_compiler import ops
from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result, static
from lepton_compiler.frontends.onnx.rules.elementwise import from_attributes
from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import INT64
from lepton_compiler.ops.binary import Add, Less, Where
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.indexing import Gather, OneHot, ScatterElements, Slice, Trilu
from lepton_compiler.ops.rearrange import Concat, Pad, SpaceToDepth, Split


def slice_(call: Call) -> Result:
    """Slice; attributes before opset 10, operands since."""
    x = call.value(0)
    if call.version < 10:
        begins, ends = tuple(call.attr("starts", ())), tuple(call.attr("ends", ()))
        axes = tuple(call.attr("axes", range(len(begins))))
        return call.add(Slice(starts=begins, ends=ends, axes=axes, steps=(1,) * len(begins)), x)
    starts, axes_value = call.value(1), call.optional(3)
    count = starts.type.shape[0] if starts.type.rank == 1 else None
    if not isinstance(count, int):
        raise UnsupportedError("the number of sliced axes is not known at compile time")
    template = Slice(starts=(0,) * count, ends=(0,) * count, axes=tuple(range(count)), steps=(1,) * count)
    return call.parametric(template, [x], starts=starts, ends=call.value(2), axes=axes_value, steps=call.optional(4))


def split(call: Call) -> Result:
    """Split into given sizes, or into as many equal parts as there are outputs."""
    x, axis, parts = call.value(0), int(call.attr("axis", 0)), call.output_count
    if call.has("split"):
        return call.add_all(Split(axis=axis, sizes=tuple(call.attr("split"))), x)
    if call.optional(1) is not None:
        return call.parametric(Split(axis=axis, sizes=(0,) * parts), [x], sizes=call.value(1))
    parts = int(call.attr("num_outputs", parts))
    total = static(x.type, axis)
    each: Dim = -(-total // parts)
    last = total - each * (parts - 1)
    return call.add_all(Split(axis=axis, sizes=(*(each,) * (parts - 1), last)), x)


def pad(call: Call) -> Result:
    """Pad; attributes before opset 11, operands since, on some axes only since opset 18."""
    x, mode = call.value(0), call.attr("mode", "constant")
    rank = x.type.rank
    if call.version < 11:
        value = call.like(x, call.attr("value", 0.0)) if mode == "constant" else None
        return call.add(Pad(pads=tuple(call.attr("pads", ())), mode=mode), x, value)
    pads, axes = call.value(1), call.optional(3)
    if axes is not None:
        pads = _full_pads(call, pads, axes, rank)
    return call.parametric(Pad(pads=(0,) * (2 * rank), mode=mode), [x, call.optional(2)], pads=pads)


def _full_pads(call: Call, pads: Value, axes: Value, rank: int) -> Value:
    """Pads of all axes from the pads of some."""
    known, count = call.known_ints(axes), axes.type.shape[0]
    if not isinstance(count, int):
        raise UnsupportedError("the number of padded axes is not known at compile time")
    if known is not None:
        if any(not -rank <= a < rank for a in known):
            raise ModelError(f"axes {list(known)} are out of range for rank {rank}")
        places = {a % rank: i for i, a in enumerate(known)}
        index = [places.get(a, 2 * count) for a in range(rank)] + [places[a] + count if a in places else 2 * count for a in range(rank)]
        return call.add(Gather(axis=0), call.add(Concat(axis=0), pads, call.constant(np.zeros(1, pads.type.dtype.numpy))), call.ints(index))
    wide = axes if axes.type.dtype == INT64 else call.add(Cast(to=INT64), axes)
    begins = call.add(Where(), call.add(Less(), wide, call.ints([0])), call.add(Add(), wide, call.ints([rank])), wide)
    places_value = call.add(Concat(axis=0), begins, call.add(Add(), begins, call.ints([rank])))
    zeros = call.constant(np.zeros(2 * rank, pads.type.dtype.numpy))
    return call.add(ScatterElements(axis=0), zeros, places_value, pads)


def one_hot(call: Call) -> Result:
    """OneHot; the depth is an operand in ONNX, possibly a float."""
    depth = call.value(1)
    template = OneHot(depth=1, axis=int(call.attr("axis", -1)))
    known = call.known(depth)
    if known is not None:
        depth = call.constant(np.array(int(known.reshape(-1)[0]), np.int64)) if depth.is_constant else depth
    elif depth.type.dtype != INT64:
        depth = call.add(Cast(to=INT64), depth)
    return call.parametric(template, [call.value(0), call.value(2)], depth=depth)


def trilu(call: Call) -> Result:
    """Trilu; the diagonal is an optional operand."""
    return call.parametric(Trilu(k=0, upper=bool(call.attr("upper", 1))), [call.value(0)], k=call.optional(1))


def space_to_depth(call: Call) -> Result:
    """SpaceToDepth, in depth-column-row order; the other order is a transposition of channels."""
    x, block = call.value(0), int(call.attr("blocksize", 1))
    if call.attr("mode", "DCR") == "DCR":
        return call.add(SpaceToDepth(blocksize=block), x)
    y = call.add(SpaceToDepth(blocksize=block), x)
    n, c, h, w = y.type.shape
    blocks = call.add(ops.get("Reshape")(shape=(n, block * block, c // (block * block), h, w)), y)  # type: ignore[call-arg]
    return call.add(ops.get("Reshape")(shape=(n, c, h, w)), call.add(ops.get("Transpose")(perm=(0, 2, 1, 3, 4)), blocks))  # type: ignore[call-arg]


def grid_sample(call: Call) -> Result:
    """GridSample; opset 16 had other names for the modes."""
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(call.attr("mode", "linear"), call.attr("mode", "linear"))
    return call.add(from_attributes(call, ops.get("GridSample"), mode=mode), *call.inputs)


RULES = {
    "Slice": slice_,
    "Split": split,
    "Pad": pad,
    "OneHot": one_hot,
    "Trilu": trilu,
    "SpaceToDepth": space_to_depth,
    "GridSample": grid_sample,
}
