"""Element-wise operators and everything whose ONNX attributes are lepton's fields: imported by reflection."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import onnx

from lepton_compiler import ops
from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result, tensor_of
from lepton_compiler.frontends.onnx.weights import read_sparse
from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import BOOL
from lepton_compiler.ops.cast import BitCast, Cast
from lepton_compiler.ops.matmul import Gemm
from lepton_compiler.ops.shape import ConstantOfShape

REFLECTED = """
Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Cos Cosh Erf Exp Floor IsInf IsNaN Log Neg Not Reciprocal Round Sigmoid Sign Sin Sinh
Sqrt Tan Tanh Celu Elu Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Shrink Softplus Softsign Swish ThresholdedRelu
Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow Sub Sum
Where Xor Det Einsum MatMul MatMulInteger Compress Concat Gather GatherElements GatherND NonZero ReverseSequence ScatterElements ScatterND
TensorScatter Unique DepthToSpace LRN LpNormalization MeanVarianceNormalization RMSNormalization InstanceNormalization RotaryEmbedding
MaxRoiPool DynamicQuantizeLinear
""".split()
"""ONNX operators that are lepton operators of the same name, attributes and operands."""


def reflected(call: Call) -> Result:
    """The lepton operator of the same name, its fields filled from the attributes of the same names."""
    return call.add_all(from_attributes(call, ops.get(call.op_type)), *call.inputs)


def from_attributes(call: Call, cls: type[Op], **given: Any) -> Op:
    """An operator whose fields are the attributes of the same names, except those in `given`."""
    for field in fields(cls):
        value = None if field.name in given else call.attr(field.name)
        if value is not None:
            given[field.name] = _as_field(value, str(field.type), field.name)
    return cls(**given)


def _as_field(value: Any, kind: str, name: str) -> Any:
    base = kind.split("|")[0].strip().partition("[")[0]
    wanted: dict[str, tuple[type, ...]] = {"int": (int,), "bool": (int,), "float": (float, int), "str": (str,), "tuple": (tuple,)}
    if base in wanted and not isinstance(value, wanted[base]):
        raise ModelError(f"attribute '{name}' should be {base}, it is {type(value).__name__}")
    return bool(value) if base == "bool" else float(value) if base == "float" else value


def identity(call: Call) -> Result:
    """The operand itself."""
    return call.value(0)


def constant(call: Call) -> Result:
    """A constant, in one of its spellings."""
    proto, sparse = call.attr("value"), call.attr("sparse_value")
    name = next((o for o in call.proto.output if o), "constant")
    if isinstance(proto, onnx.TensorProto):
        return call.constant(tensor_of(call, proto), name)
    if isinstance(sparse, onnx.SparseTensorProto):
        return call.constant(read_sparse(sparse, call.importer.folder).numpy(), name)
    for attribute, kind in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64), ("value_ints", np.int64)):
        if call.has(attribute):
            return call.constant(np.array(call.attr(attribute), kind), name)
    if call.has("value_string") or call.has("value_strings"):
        raise UnsupportedError("string tensors are not supported", hint="convert text to numbers outside the model")
    raise ModelError("a Constant without value")


def cast(call: Call) -> Result:
    """Cast to the type of the attribute `to`."""
    to = call.dtype_attr("to")
    if to is None:
        raise ModelError("attribute 'to' is missing")
    return call.add(_cast_op(call, to), call.value(0))


def cast_like(call: Call) -> Result:
    """Cast to the type of the second operand."""
    return call.add(_cast_op(call, call.value(1).type.dtype), call.value(0))


def _cast_op(call: Call, to: Any) -> Op:
    return Cast(to=to, saturate=bool(call.attr("saturate", 1)), round_mode=call.attr("round_mode", "up"))


def bit_cast(call: Call) -> Result:
    """Reinterpret the bits."""
    to = call.dtype_attr("to")
    if to is None:
        raise ModelError("attribute 'to' is missing")
    return call.add(BitCast(to=to), call.value(0))


def clip(call: Call) -> Result:
    """Clip; the bounds are attributes before opset 11."""
    x = call.value(0)
    if call.version >= 11:
        return call.add(ops.get("Clip")(), x, call.optional(1), call.optional(2))
    bounds = [call.like(x, call.attr(name)) if call.has(name) else None for name in ("min", "max")]
    return call.add(ops.get("Clip")(), x, *bounds)


def dropout(call: Call) -> Result:
    """Inference: the operand itself, and a mask of ones."""
    training = call.optional(2)
    if training is not None:
        known = call.known_ints(training)
        ratio = call.known(call.inputs[1]) if call.optional(1) is not None and call.inputs[1] is not None else np.array(0.5)
        if known is None or (known[0] and (ratio is None or float(ratio.reshape(-1)[0]) != 0.0)):
            raise UnsupportedError("Dropout in training mode is not supported", hint="export the model for inference")
    x = call.value(0)
    mask = BOOL if call.version >= 10 else x.type.dtype
    one: bool | float = True if mask == BOOL else 1.0
    return [x, call.add(ConstantOfShape(shape=x.type.shape, value=one, dtype=mask))] if call.wants(1) else [x]


def gemm(call: Call) -> Result:
    """General matrix product; `transA` is a flag here, and the bias may be absent from opset 11 on."""
    op = Gemm(float(call.attr("alpha", 1.0)), float(call.attr("beta", 1.0)), bool(call.attr("transA", 0)), bool(call.attr("transB", 0)))
    return call.add(op, call.value(0), call.value(1), call.optional(2))


def flatten(call: Call) -> Result:
    """Two dimensions: those before the axis, and the rest."""
    x = call.value(0)
    axis = int(call.attr("axis", 1))
    if not -x.type.rank <= axis <= x.type.rank:
        raise ModelError(f"axis {axis} is out of range for {x.type}")
    axis += x.type.rank if axis < 0 else 0
    return reshape_to(call, x, (product(x.type.shape[:axis]), product(x.type.shape[axis:])))


def reshape_to(call: Call, x: Value, shape: tuple[Dim, ...]) -> Value:
    """Reshape to known dimensions; nothing where the shape is right already."""
    return x if x.type.shape == shape else call.add(ops.get("Reshape")(shape=shape), x)  # type: ignore[call-arg]


def product(dims: tuple[Dim, ...]) -> Dim:
    """The product of dimensions."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


def has_element(call: Call) -> Result:
    """OptionalHasElement of a tensor, which is always there, or of nothing."""
    return call.constant(np.array(call.optional(0) is not None))


def scatter(call: Call) -> Result:
    """The old name of ScatterElements."""
    return call.add(from_attributes(call, ops.get("ScatterElements")), *call.inputs)


RULES = dict.fromkeys(REFLECTED, reflected) | {
    "Identity": identity,
    "Constant": constant,
    "Cast": cast,
    "CastLike": cast_like,
    "BitCast": bit_cast,
    "Clip": clip,
    "Dropout": dropout,
    "Gemm": gemm,
    "Flatten": flatten,
    "Scatter": scatter,
    "OptionalHasElement": has_element,
    "OptionalGetElement": identity,
}
