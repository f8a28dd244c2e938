"""What this backend can lower, known without loading TVM. A test holds it against the registered rules."""

from __future__ import annotations

from lepton_compiler.ir.graph import Node

CONTROL = frozenset({"Fail", "If", "Loop", "Scan"})
"""Operators that become C control flow."""

RESHAPES = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
"""Operators whose result is the operand's bytes under another shape."""

VIEWS = RESHAPES | {"Sized"}
"""Operators that cost nothing at run time; `Sized` only stands at outputs of the model."""

KERNELS = frozenset(
    (
        "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitCast BitShift BitwiseAnd "
        "BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu Clip Concat ConstantOfShape Conv ConvTranspose Cos Cosh CumProd "
        "CumSum DepthToSpace DequantizeLinear Div Elu Equal Erf Exp Expand EyeLike Floor Gather GatherElements GatherND Gelu Gemm "
        "Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul "
        "Max MaxPool Mean Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow QuantizeLinear Range Reciprocal ReduceMax ReduceMean "
        "ReduceMin ReduceProd ReduceSum Relu Reshape Resize ReverseSequence Round ScatterElements ScatterND Selu Shrink Sigmoid Sign "
        "Sin Sinh Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK "
        "Transpose Trilu Unsqueeze Where Xor "
    ).split()
)
"""Operators with a lowering rule."""

ELEMENT_TYPES = frozenset("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split())
"""Element types with native arithmetic."""


def refusal(node: Node) -> str | None:
    """Why this backend cannot take `node` as it is, or None."""
    if node.op.name == "Fused" or node.op.name in CONTROL:
        return None
    if node.op.name not in KERNELS:
        return "there is no native kernel for it"
    if getattr(node.op, "indices", False):
        return "there is no native kernel that also returns indices"
    types = {v.type.dtype.name for v in (*node.present_inputs, *node.outputs)}
    strange = sorted(types - ELEMENT_TYPES)
    return f"there is no native arithmetic for {', '.join(strange)}" if strange else None
