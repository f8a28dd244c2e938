"""What this backend can lower, known without loading TVM. A test holds it against the registered rules."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_compiler.analysis.layouts import offset_of
from lepton_compiler.backends.tvm.carriers import CARRIERS
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.rearrange import Concat
from lepton_compiler.target import Target

CONTROL = frozenset({"Fail", "If", "Loop", "Scan"})
"""Operators that become C control flow."""

RESHAPES = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
"""Operators whose result is the operand's bytes under another shape."""

VIEWS = RESHAPES | {"Sized"}
"""Operators that cost nothing at run time; `Sized` only stands at outputs of the model."""

KERNELS = frozenset(
    (
        "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitCast BitShift BitwiseAnd "
        "BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu Clip Concat ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumProd "
        "CumSum DeformPatches DepthToSpace DequantizeLinear Det Div DynamicQuantizeLinear Elu Equal Erf Exp Expand EyeLike Floor Gather GatherElements GatherND Gelu Gemm "
        "Greater GreaterOrEqual GridSample HardSigmoid HardSwish IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Lookup MatMul "
        "MatMulInteger Max MaxPool MaxRoiPool Mean Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow QuantizeLinear Range Reciprocal ReduceMax ReduceMean "
        "ReduceMin ReduceProd ReduceSum Relu Reshape Resize ReverseSequence RMSNormalization RoiAlign Round ScatterElements ScatterND Selu Shrink Sigmoid Sign "
        "Sin Sinh Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK "
        "Transpose Trilu Unsqueeze Where Xor "
    ).split()
)
"""Operators with a lowering rule."""

GPU_KERNELS = frozenset({"RecurrentSteps"})
"""Operators that have a kernel on GPUs only."""

ELEMENT_TYPES = frozenset("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split())
"""Element types with native arithmetic."""

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
"""Operators that read their operands several times, in kernels that convert nothing but weights on the way."""

POOLS = frozenset({"AveragePool", "MaxPool"})
"""Operators that read their operand several times, which kernels for GPUs convert on the way."""

MULTIPLIED = frozenset({"bfloat16", "float16"})
"""Element types that tensor cores of GPUs multiply."""

CONVERSIONS = frozenset({"BitCast", "Cast", "DequantizeLinear", "QuantizeLinear"})
"""Operators that read and write the codes of the types in `CARRIERS`."""

MOVES = frozenset(
    (
        "Compress Concat ConstantOfShape DepthToSpace Expand EyeLike Gather GatherElements GatherND MaxUnpool OneHot Pad Reshape "
        "ReverseSequence ScatterElements ScatterND Shape Size Sized Slice SpaceToDepth Split Squeeze TensorScatter Tile Transpose Trilu "
        "Unsqueeze Where"
    ).split()
)
"""Operators that only move elements, of whatever type, or decompose to such; Scatter operators where they combine nothing."""


def is_view(node: Node) -> bool:
    """Whether a node's result lies in its operand's bytes: `offset_of` says where."""
    return node.op.name in VIEWS or offset_of(node) is not None


def joins(node: Node) -> bool:
    """Whether a `Concat` along the outermost axis needs no kernel, because kernels that nobody else reads write their parts of it."""
    if not isinstance(node.op, Concat) or not node.output.type.is_static or len(set(node.inputs)) < len(node.inputs):
        return False
    return all(n == 1 for n in node.output.type.static_shape[: node.op.axis]) and all(_fills(v, node) for v in node.present_inputs)


def _fills(value: Value, concat: Node) -> bool:
    node = value.producer
    if node is None or node.graph is not concat.graph or len(value.uses) != 1 or value.is_output or node.op.name in (*CONTROL, "Concat"):
        return False
    return not is_view(node) and not computes_nothing(node)


def computes_nothing(node: Node) -> bool:
    """Whether all results of a node are empty, so that it needs no kernel."""
    return all(v.type.is_static and v.type.size == 0 for v in node.outputs)


def reads_narrow(node: Node, target: Target | None) -> bool:
    """Whether a node is a product or a pool of numbers of 16 bits, on a target that reads them as they are: a GPU."""
    pool = node.op.name in POOLS and not getattr(node.op, "indices", False)
    if target is None or not target.gpus or not (pool or node.op.name in PRODUCTS):
        return False
    kinds = element_types(node)
    return len(kinds) == 1 and kinds <= MULTIPLIED


def refusal(node: Node, target: Target | None = None) -> str | None:
    """Why this backend cannot take `node` as it is, on `target` or on any machine, or None."""
    if node.op.name == "Fused" or node.op.name in CONTROL:
        return None
    if node.op.name not in KERNELS and not (target is not None and target.gpus and node.op.name in GPU_KERNELS):
        return "there is no native kernel for it"
    if node.op.name in ("ConvInteger", "MatMulInteger") and not is_integer_product(node, target):
        return "it is no product of 8-bit data and constant weights, with a zero point each"
    strange = element_types(node) - ELEMENT_TYPES
    if handles_codes(node) or reads_narrow(node, target):
        strange -= set(CARRIERS)
    return f"there is no native arithmetic for {', '.join(sorted(strange))}" if strange else None


MOST_TAPS = 2**24 // (255 * 128)
"""Products of 8-bit numbers that float32 adds up exactly."""


def is_integer_product(node: Node, target: Target | None = None) -> bool:
    """Whether a product of integers has the form that its kernel takes: constant 8-bit weights, a zero point for each operand.

    Filters of single channels have signed weights without a zero point, except on cores without vectors. GPUs take all but several zero
    points of the data.
    """
    x, w, *zeros = node.inputs
    assert x is not None and w is not None
    if target is not None and target.gpus:
        return _is_product_of_bytes(node, x, w, zeros)
    ranks = (x.type.rank >= 2 and w.type.rank == 2) if node.op.name == "MatMulInteger" else x.type.rank in (3, 4)
    if not ranks or not _is_known(node, w) or any(t.dtype.name not in ("int8", "uint8") for t in (x.type, w.type)):
        return False
    groups = getattr(node.op, "groups", 1)
    depthwise = groups > 1 and groups == w.type.shape[0] and w.type.shape[1] == 1
    if depthwise and (target is None or not target.keeps_codes):
        weights_as_floats = w.type.dtype.name == "int8" and (len(zeros) < 2 or zeros[1] is None)
        depthwise = weights_as_floats and w.type.size // groups <= MOST_TAPS
    if (groups != 1 and not depthwise) or w.type.size == 0 or (x.type.is_static and x.type.size == 0):
        return False
    single = all(zero is None or zero.type.size == 1 for zero in zeros)
    return single and (len(zeros) < 2 or zeros[1] is None or _is_known(node, zeros[1]))


def _is_product_of_bytes(node: Node, x: Value, w: Value, zeros: Sequence[Value | None]) -> bool:
    """Whether a GPU has a kernel: for codes of 8 bits, one zero point of the data, one of the weights or one for each of their output channels."""
    conv = node.op.name == "ConvInteger"
    if min(x.type.rank, w.type.rank) < (3 if conv else 2) or any(t.dtype.name not in ("int8", "uint8") for t in (x.type, w.type)):
        return False
    data, weights = (*zeros, None, None)[:2]
    along = weights is None or weights.type.size == 1 or weights.type.shape[-1] == weights.type.size == w.type.shape[0 if conv else -1]
    return along and (data is None or data.type.size == 1) and w.type.size > 0 and not (x.type.is_static and x.type.size == 0)


def _is_known(node: Node, value: Value) -> bool:
    """Whether an operand is a constant, also one of the kernel around the node."""
    kernel = node.graph.owner
    if kernel is not None and kernel.op.name == "Fused" and value in node.graph.inputs:
        return kernel.present_inputs[node.graph.inputs.index(value)].tensor is not None
    return value.tensor is not None


def element_types(node: Node) -> set[str]:
    """The names of the element types of what a node reads and writes."""
    return {v.type.dtype.name for v in (*node.present_inputs, *node.outputs)}


def handles_codes(node: Node) -> bool:
    """Whether a node can do its work on codes, without arithmetic on the numbers that they stand for."""
    op = getattr(node.op, "template", node.op)
    return op.name in CONVERSIONS or (op.name in MOVES and getattr(op, "reduction", "none") == "none")
