"""Pooling, with explicit windows; global pooling is a reduction."""

from __future__ import annotations

from lepton_compiler import ops
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.frontends.onnx.rules.convolution import spatial, spatial_attr, window_pads
from lepton_compiler.frontends.onnx.rules.elementwise import from_attributes
from lepton_compiler.ir.graph import Value
from lepton_compiler.ops.binary import Pow
from lepton_compiler.ops.pool import AveragePool, LpPool, MaxPool, MaxUnpool
from lepton_compiler.ops.reduce import ReduceSum
from lepton_compiler.ops.unary import Abs


def pool(call: Call) -> Result:
    """MaxPool, AveragePool and LpPool."""
    x = call.value(0)
    sizes = spatial(x)
    rank = len(sizes)
    kernel, strides = spatial_attr(call, "kernel_shape", rank, 0), spatial_attr(call, "strides", rank, 1)
    dilations = spatial_attr(call, "dilations", rank, 1)
    pads = window_pads(call, sizes, kernel, strides, dilations)
    ceil = bool(call.attr("ceil_mode", 0)) and call.attr("auto_pad", "NOTSET") in ("NOTSET", "VALID", "")
    match call.op_type:
        case "MaxPool":
            order = int(call.attr("storage_order", 0))
            return call.add_all(MaxPool(kernel, strides, pads, dilations, ceil, order, indices=call.wants(1)), x)
        case "AveragePool":
            return call.add(AveragePool(kernel, strides, pads, dilations, ceil, bool(call.attr("count_include_pad", 0))), x)
    return call.add(LpPool(kernel, strides, pads, dilations, ceil, _power(call)), x)


def _power(call: Call) -> int:
    """The p of a p-norm, which opset 1 gave as a float.

    Raises:
        UnsupportedError: not a whole number from 1 on.
    """
    p = float(call.attr("p", 2))
    if p < 1 or p != int(p):
        raise UnsupportedError(f"{call.op_type} with p={p:g} is not supported", hint="p must be a whole number from 1 on")
    return int(p)


def max_unpool(call: Call) -> Result:
    """MaxUnpool; its output shape is an optional operand in ONNX."""
    x = call.value(0)
    rank = len(spatial(x))
    template = MaxUnpool(
        kernel_shape=spatial_attr(call, "kernel_shape", rank, 0),
        strides=spatial_attr(call, "strides", rank, 1),
        pads=tuple(call.attr("pads") or (0,) * (2 * rank)),
    )
    return call.parametric(template, [x, call.value(1)], output_shape=call.optional(2))


def global_pool(call: Call) -> Result:
    """The mean or maximum, or the p-norm, over all spatial dimensions."""
    x = call.value(0)
    axes = tuple(range(2, x.type.rank))
    if call.op_type == "GlobalLpPool":
        return _norm(call, x, axes, _power(call))
    return call.add(ops.get("ReduceMean" if call.op_type == "GlobalAveragePool" else "ReduceMax")(axes=axes), x)  # type: ignore[call-arg]


def _norm(call: Call, x: Value, axes: tuple[int, ...], p: int) -> Value:
    """The p-norm over `axes`, which stay."""
    if p <= 2:
        return call.add(ops.get(f"ReduceL{p}")(axes=axes), x)  # type: ignore[call-arg]
    powers = call.add(Pow(), call.add(Abs(), x), call.like(x, p))
    return call.add(Pow(), call.add(ReduceSum(axes=axes), powers), call.like(x, 1 / p))


def roi_align(call: Call) -> Result:
    """RoiAlign; before opset 16 its coordinates had no half-pixel shift."""
    default = "half_pixel" if call.version >= 16 else "output_half_pixel"
    op = from_attributes(call, ops.get("RoiAlign"), coordinate_transformation_mode=call.attr("coordinate_transformation_mode", default))
    return call.add(op, *call.inputs)


def non_max_suppression(call: Call) -> Result:
    """NonMaxSuppression; its limits stay operands."""
    return call.add(from_attributes(call, ops.get("NonMaxSuppression")), *call.inputs)


RULES = {
    "MaxPool": pool,
    "AveragePool": pool,
    "LpPool": pool,
    "MaxUnpool": max_unpool,
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
    "GlobalLpPool": global_pool,
    "RoiAlign": roi_align,
    "NonMaxSuppression": non_max_suppression,
}
