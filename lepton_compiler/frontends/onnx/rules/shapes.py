"""Shape operators: targets given as tensors become attributes wherever they are known."""

from __future__ import annotations

import numpy as np

from lepton_compiler import ops
from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result, tensor_of
from lepton_compiler.frontends.onnx.rules.elementwise import reshape_to
from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.ops.binary import Equal, Where
from lepton_compiler.ops.rearrange import Concat
from lepton_compiler.ops.shape import ConstantOfShape, Expand, EyeLike, Range, Reshape, Shape, Size, Squeeze, Transpose, Unsqueeze


def shape(call: Call) -> Result:
    """Shape, a slice of it from opset 15 on."""
    end = call.attr("end")
    return call.add(Shape(start=int(call.attr("start", 0)), end=None if end is None else int(end)), call.value(0))


def size(call: Call) -> Result:
    """Size."""
    return call.add(Size(), call.value(0))


def reshape(call: Call) -> Result:
    """Reshape; a zero copies the operand's dimension unless `allowzero`."""
    x, target = call.value(0), call.value(1)
    dims, copies = call.known_dims(target), not call.attr("allowzero", 0)
    if dims is None:
        return call.parametric(Reshape(shape=()), [x], shape=_filled(call, x, target) if copies else target)
    if copies and any(d == 0 and i >= x.type.rank for i, d in enumerate(dims)):
        raise ModelError(f"the target {list(dims)} copies a dimension that {x.type} does not have")
    if copies:
        dims = tuple(x.type.shape[i] if d == 0 else d for i, d in enumerate(dims))
    return reshape_to(call, x, dims)


def _filled(call: Call, x: Value, target: Value) -> Value:
    """A target that is computed at run time, its zeros replaced by the dimensions of `x`."""
    rank = target.type.shape[0] if target.type.rank == 1 else None
    if not isinstance(rank, int):
        raise UnsupportedError("the rank of the result of Reshape is not known at compile time")
    own = call.add(Shape(start=0, end=min(rank, x.type.rank)), x)
    if rank > x.type.rank:
        own = call.add(Concat(axis=0), own, call.ints([1] * (rank - x.type.rank)))
    return call.add(Where(), call.add(Equal(), target, call.ints([0])), own, target)


def expand(call: Call) -> Result:
    """Expand to the joint broadcast shape."""
    return call.parametric(Expand(shape=()), [call.value(0)], shape=call.value(1))


def squeeze(call: Call) -> Result:
    """Squeeze; without axes, all dimensions that are 1."""
    x = call.value(0)
    if call.has("axes"):
        return call.add(Squeeze(axes=tuple(call.attr("axes"))), x)
    if call.optional(1) is None:
        if not x.type.is_static:
            raise UnsupportedError("Squeeze without axes needs a known shape", hint="bind the dimensions with inputs=, --input or --dim")
        return call.add(Squeeze(axes=tuple(i for i, d in enumerate(x.type.shape) if d == 1)), x)
    return call.parametric(Squeeze(axes=()), [x], axes=call.value(1))


def unsqueeze(call: Call) -> Result:
    """Unsqueeze."""
    x = call.value(0)
    if call.has("axes"):
        return call.add(Unsqueeze(axes=tuple(call.attr("axes"))), x)
    return call.parametric(Unsqueeze(axes=()), [x], axes=call.value(1))


def transpose(call: Call) -> Result:
    """Transpose; without a permutation, all axes reversed."""
    x = call.value(0)
    perm = tuple(call.attr("perm", tuple(reversed(range(x.type.rank)))))
    return x if perm == tuple(range(x.type.rank)) else call.add(Transpose(perm=perm), x)


def constant_of_shape(call: Call) -> Result:
    """ConstantOfShape; float32 zero by default."""
    value, kind = np.zeros(1, np.float32), FLOAT32
    if call.has("value"):
        value = tensor_of(call, call.attr("value"))
    if value.size != 1:
        raise ModelError("attribute 'value' must have one element")
    kind = call.graph.constant(value).type.dtype if call.has("value") else kind
    number = value.reshape(-1)[0]
    plain = bool(number) if kind.kind == "bool" else int(number) if kind.is_integer else float(number)
    return call.parametric(ConstantOfShape(shape=(), value=plain, dtype=kind), [], shape=call.value(0))


def range_(call: Call) -> Result:
    """Range."""
    start, limit, delta = (call.value(i) for i in range(3))
    kind = start.type.dtype
    zero, one = (0.0, 1.0) if kind.is_float else (0, 1)
    return call.parametric(Range(start=zero, limit=zero, delta=one, dtype=kind), [], start=start, limit=limit, delta=delta)


def eye_like(call: Call) -> Result:
    """EyeLike."""
    x = call.value(0)
    return call.add(EyeLike(k=int(call.attr("k", 0)), dtype=call.dtype_attr("dtype") or x.type.dtype), x)


def tile(call: Call) -> Result:
    """Tile."""
    return call.parametric(ops.get("Tile")(repeats=()), [call.value(0)], repeats=call.value(1))  # type: ignore[call-arg]


def affine_grid(call: Call) -> Result:
    """AffineGrid; the size is an operand in ONNX."""
    length = call.value(1).type.shape[0]
    dims: tuple[Dim, ...] = (0,) * (length if isinstance(length, int) else 4)
    template = ops.get("AffineGrid")(size=dims, align_corners=bool(call.attr("align_corners", 0)))  # type: ignore[call-arg]
    return call.parametric(template, [call.value(0)], size=call.value(1))


RULES = {
    "Shape": shape,
    "Size": size,
    "Reshape": reshape,
    "Expand": expand,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "ConstantOfShape": constant_of_shape,
    "Range": range_,
    "EyeLike": eye_like,
    "Tile": tile,
    "AffineGrid": affine_grid,
}
