"""The operator set: one row per operator, one file per family. `ops.get("Conv")` is the class."""

from __future__ import annotations

from lepton_compiler.ir.op import Op
from lepton_compiler.ir.op import registry as registry

FAMILIES: dict[str, str] = {
    "unary": "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Cos Cosh Erf Exp Floor IsInf IsNaN Log Neg Not Reciprocal "
    "Round Sigmoid Sign Sin Sinh Sqrt Tan Tanh",
    "activation": "Celu Clip Elu Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Shrink Softplus Softsign Swish ThresholdedRelu",
    "binary": "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul "
    "Or Pow Sub Sum Where Xor",
    "cast": "BitCast Cast",
    "matmul": "Det Einsum Gemm MatMul MatMulInteger",
    "conv": "Col2Im Conv ConvInteger ConvTranspose DeformConv DeformPatches",
    "pool": "AveragePool LpPool MaxPool MaxUnpool",
    "reduce": "ArgMax ArgMin CumProd CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare TopK",
    "normalize": "BatchNormalization GroupNormalization Hardmax InstanceNormalization LayerNormalization LogSoftmax LpNormalization LRN "
    "MeanVarianceNormalization RMSNormalization Softmax",
    "attention": "Attention RotaryEmbedding",
    "shape": "ConstantOfShape EyeLike Expand Range Reshape Shape Size Squeeze Transpose Unsqueeze",
    "indexing": "Compress Concat DepthToSpace Gather GatherElements GatherND NonZero OneHot Pad ReverseSequence ScatterElements ScatterND "
    "Slice SpaceToDepth Split TensorScatter Tile Trilu Unique",
    "resize": "AffineGrid GridSample Resize",
    "detection": "MaxRoiPool NonMaxSuppression RoiAlign",
    "lookup": "Lookup",
    "quantize": "DequantizeLinear DynamicQuantizeLinear QuantizeLinear",
    "recurrent": "DynamicQuantizeLSTM GRU LSTM RNN",
    "steps": "RecurrentSteps",
    "signal": "BlackmanWindow DFT HammingWindow HannWindow MelWeightMatrix STFT",
    "ensemble": "TreeEnsemble",
    "ngram": "TfIdfVectorizer",
    "control": "Fail Fused If Loop Scan",
    "dynamic": "Dynamic Sized",
}

TABLE = {name: f"lepton_compiler.ops.{family}:{name}" for family, names in FAMILIES.items() for name in names.split()}
"""The rows of `registry`, which reads them when it is first asked."""


def get(name: str) -> type[Op]:
    """The operator class called `name`."""
    cls: type[Op] = registry.get(name)
    return cls
