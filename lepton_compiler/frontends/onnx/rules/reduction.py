"""Reductions, arg-reductions, running sums and TopK: axes are always explicit attributes."""

from __future__ import annotations

from lepton_compiler import ops
from lepton_compiler.errors import ModelError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.frontends.onnx.rules.elementwise import from_attributes
from lepton_compiler.ops.reduce import TopK

REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare".split()


def reduce(call: Call) -> Result:
    """All reductions; the axes are an attribute in old opsets and an operand in new ones; absent means all."""
    x, axes = call.value(0), call.optional(1)
    cls, keepdims = ops.get(call.op_type), bool(call.attr("keepdims", 1))
    everything = tuple(range(x.type.rank))
    if call.has("axes"):
        return call.add(cls(axes=tuple(call.attr("axes")), keepdims=keepdims), x)  # type: ignore[call-arg]
    if axes is None or axes.type.shape == (0,):
        none = bool(call.attr("noop_with_empty_axes", 0))
        return call.add(cls(axes=() if none else everything, keepdims=keepdims), x)  # type: ignore[call-arg]
    return call.parametric(cls(axes=(), keepdims=keepdims), [x], axes=axes)  # type: ignore[call-arg]


def arg_reduce(call: Call) -> Result:
    """ArgMax and ArgMin."""
    return call.add(from_attributes(call, ops.get(call.op_type)), call.value(0))


def cumulative(call: Call) -> Result:
    """CumSum and CumProd; the axis is an operand in ONNX."""
    template = from_attributes(call, ops.get(call.op_type), axis=0)
    return call.parametric(template, [call.value(0)], axis=call.value(1))


def top_k(call: Call) -> Result:
    """TopK; k is an operand from opset 10 on."""
    axis, largest = int(call.attr("axis", -1)), bool(call.attr("largest", 1))
    template = TopK(k=int(call.attr("k", 0)), axis=axis, largest=largest, sorted=bool(call.attr("sorted", 1)))
    if call.version < 10:
        if not call.has("k"):
            raise ModelError("attribute 'k' is missing")
        return call.add_all(template, call.value(0))
    return call.parametric(template, [call.value(0)], k=call.value(1))


RULES = dict.fromkeys(REDUCTIONS, reduce) | {
    "ArgMax": arg_reduce,
    "ArgMin": arg_reduce,
    "CumSum": cumulative,
    "CumProd": cumulative,
    "TopK": top_k,
}
