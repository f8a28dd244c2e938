"""Operators as they were in the first opsets: attributes that became operands, explicit broadcasting, other defaults.

`RULES` gives for each operator the opset that made it what the other files of this folder import, and the rule for older ones. What a
legacy optimisation attribute (`consumed_inputs`) says does not matter to results.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from lepton_compiler import ops
from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.frontends.onnx.rules import elementwise, indexing, normalization, resizing, shapes
from lepton_compiler.frontends.onnx.rules.elementwise import reshape_to
from lepton_compiler.frontends.onnx.weights import element_type
from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import TensorType
from lepton_compiler.ops.activation import PRelu, Selu
from lepton_compiler.ops.broadcasting import may_equal
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.rearrange import Concat, Pad, Split, Tile

Rule = Callable[[Call], Result]

BINARY = "Add And Div Equal Greater Less Mul Or Pow Sub Xor".split()


def aligned_binary(call: Call) -> Result:
    """Before opset 7 the second operand was broadcast, on request, with its first dimension at `axis` of the first operand."""
    a, b = call.value(0), call.value(1)
    op = ops.get(call.op_type)()
    if not call.attr("broadcast", 0):
        if a.type.rank != b.type.rank or not all(map(may_equal, a.type.shape, b.type.shape)):
            raise ModelError(
                f"{a.type} and {b.type} differ, and the node does not ask for broadcasting",
                hint="set broadcast=1, as opsets before 7 want it",
            )
        return call.add(op, a, b)
    return call.add(op, a, reshape_to(call, b, _aligned(a.type, b.type, call.attr("axis"))))


def _aligned(a: TensorType, b: TensorType, axis: int | None) -> tuple[Dim, ...]:
    """The shape of `b` with which today's broadcasting puts its first dimension at `axis` of `a`; at the end where `axis` is None.

    Raises:
        ModelError: the shape of `b` is not a contiguous part of that of `a`.
    """
    if all(d == 1 for d in b.shape):
        return ()
    first = a.rank - b.rank if axis is None else axis + a.rank if axis < 0 else axis
    place = a.shape[max(0, first) : max(0, first) + b.rank]
    if first < 0 or len(place) != b.rank or not all(d == 1 or may_equal(d, p) for d, p in zip(b.shape, place, strict=True)):
        raise ModelError(f"{b} cannot be broadcast to {a} at axis {first}")
    return (*b.shape, *(1,) * (a.rank - first - b.rank))


def prelu(call: Call) -> Result:
    """A slope per channel had the shape [C]."""
    x, slope = call.value(0), call.value(1)
    if slope.type.rank == 1 and slope.type.shape != (1,) and x.type.rank > 1:
        slope = reshape_to(call, slope, (*slope.type.shape, *(1,) * (x.type.rank - 2)))
    return call.add(PRelu(), x, slope)


def cast(call: Call) -> Result:
    """The type was given by name."""
    name = str(call.attr("to", ""))
    numbers = dict(onnx.TensorProto.DataType.items())
    if name.upper() not in numbers:
        raise ModelError(f"attribute 'to' is '{name}', not the name of an element type")
    return call.add(Cast(to=element_type(numbers[name.upper()])), call.value(0))


def concat(call: Call) -> Result:
    """The axis had a default."""
    return call.add(Concat(axis=int(call.attr("axis", 1))), *call.inputs)


def selu(call: Call) -> Result:
    """The constants had four decimals."""
    return call.add(Selu(alpha=float(call.attr("alpha", 1.6732)), gamma=float(call.attr("gamma", 1.0507))), call.value(0))


def reshape(call: Call) -> Result:
    """The shape was an attribute."""
    if not call.has("shape"):
        raise ModelError("attribute 'shape' is missing")
    call.inputs[1:] = [call.ints(call.attr("shape"))]
    return shapes.reshape(call)


def pad(call: Call) -> Result:
    """`pads` was called `paddings`."""
    x, mode = call.value(0), call.attr("mode", "constant")
    value = call.like(x, call.attr("value", 0.0)) if mode == "constant" else None
    return call.add(Pad(pads=tuple(call.attr("paddings", ())), mode=mode), x, value)


def split(call: Call) -> Result:
    """The sizes were an attribute or an operand, and the axis had no default."""
    if not call.has("axis"):
        raise ModelError("attribute 'axis' is missing, which has no default in opset 1")
    if call.has("split") or call.optional(1) is None:
        return indexing.split(call)
    sizes = call.known_ints(call.value(1))
    if sizes is None:
        raise UnsupportedError("the sizes of Split of opset 1 are not known at compile time", hint="make them a constant of the model")
    return call.add_all(Split(axis=int(call.attr("axis")), sizes=sizes), call.value(0))


def tile(call: Call) -> Result:
    """One axis, which was an operand as the number of copies was."""
    x = call.value(0)
    copies, axis = (call.known_ints(call.value(i)) for i in (1, 2))
    if copies is None or axis is None or len(copies) != 1 or len(axis) != 1:
        raise UnsupportedError("copies and axis of Tile of opset 1 are not known at compile time", hint="make them constants of the model")
    if not -x.type.rank <= axis[0] < x.type.rank:
        raise ModelError(f"axis {axis[0]} is out of range for {x.type}")
    return call.add(Tile(repeats=tuple(copies[0] if i == axis[0] % x.type.rank else 1 for i in range(x.type.rank))), x)


def upsample(call: Call) -> Result:
    """Images only, with an attribute for each axis."""
    x = call.value(0)
    if x.type.rank != 4:
        raise ModelError(f"Upsample of opset 1 takes [N, C, H, W], not {x.type}")
    scales = [1.0, 1.0, *(float(call.attr(f"{side}_scale", 0.0)) for side in ("height", "width"))]
    return resizing.upsample_by(call, call.constant(np.array(scales, np.float32)))


def dropout(call: Call) -> Result:
    """Inference unless the node says otherwise."""
    _refuse_training(call)
    return elementwise.dropout(call)


def batch_normalization(call: Call) -> Result:
    """Inference unless the node says otherwise."""
    _refuse_training(call)
    return normalization.batch_normalization(call)


def _refuse_training(call: Call) -> None:
    """Exporters left `is_test` away, so only a zero counts; `onnx.version_converter` reads it the same way."""
    if not call.attr("is_test", 1):
        raise UnsupportedError(f"{call.op_type} in training mode (is_test=0) is not supported", hint="export the model for inference")


def one_hot(call: Call) -> Result:
    """Negative indices did not count from the end: they chose nothing, like those beyond the depth."""
    indices = call.value(0)
    if indices.type.dtype.kind != "uint":
        call.inputs[0] = _out_of_reach(call, indices)
    return indexing.one_hot(call)


def _out_of_reach(call: Call, indices: Value) -> Value:
    """The indices, negative ones replaced by the largest number."""
    element = indices.type.dtype
    largest = np.iinfo(element.numpy).max if element.is_integer else 2**31 - 1
    negative = call.add(ops.get("Less")(), indices, call.like(indices, 0))
    return call.add(ops.get("Where")(), negative, call.like(indices, largest), indices)


ALIGNED: tuple[int, Rule] = (7, aligned_binary)

RULES: dict[str, tuple[int, Rule]] = dict.fromkeys(BINARY, ALIGNED) | {
    "PRelu": (7, prelu),
    "Cast": (6, cast),
    "Concat": (4, concat),
    "Selu": (6, selu),
    "Reshape": (5, reshape),
    "Pad": (2, pad),
    "Split": (2, split),
    "Tile": (6, tile),
    "Upsample": (7, upsample),
    "Dropout": (7, dropout),
    "BatchNormalization": (7, batch_normalization),
    "OneHot": (11, one_hot),
}
