"""The experimental operators of the first opsets, which the standard dropped with opset 9 and old model collections still hold."""

from __future__ import annotations

import numpy as np

from lepton_compiler import ops
from lepton_compiler.errors import ModelError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.frontends.onnx.rules.elementwise import reflected
from lepton_compiler.ir.graph import Value
from lepton_compiler.ops.binary import Add, Mul
from lepton_compiler.ops.indexing import Slice
from lepton_compiler.ops.reduce import ReduceMean


def affine(call: Call) -> Result:
    """Affine: alpha * x + beta; Scale: scale * x."""
    x = call.value(0)
    if call.op_type == "Scale":
        return call.add(Mul(), x, call.like(x, call.attr("scale", 1.0)))
    scaled = call.add(Mul(), x, call.like(x, call.attr("alpha", 1.0)))
    return call.add(Add(), scaled, call.like(x, call.attr("beta", 0.0)))


def image_scaler(call: Call) -> Result:
    """The image times `scale`, plus a bias per channel."""
    x = call.value(0)
    bias = np.array(call.attr("bias", ()), x.type.dtype.numpy)
    scaled = call.add(Mul(), x, call.like(x, call.attr("scale", 1.0)))
    return call.add(Add(), scaled, call.constant(bias.reshape(-1, *(1,) * (x.type.rank - 2)))) if bias.size else scaled


def crop(call: Call) -> Result:
    """An image without `border` (left, top, right, bottom), or of size `scale` (height, width) from its upper left corner on."""
    x, border, size = call.value(0), tuple(call.attr("border", ())), tuple(call.attr("scale", ()))
    if x.type.rank != 4 or len(border) != 4 or len(size) not in (0, 2):
        raise ModelError(f"Crop takes [N, C, H, W], four borders and two sizes, not {x.type}, {list(border)} and {list(size)}")
    left, top, right, bottom = border
    rows, columns = x.type.shape[2:]
    ends = (top + size[0], left + size[1]) if size else (rows - bottom, columns - right)
    return call.add(Slice(starts=(top, left), ends=ends, axes=(2, 3), steps=(1, 1)), x)


def scaled_function(call: Call) -> Result:
    """ParametricSoftplus and ScaledTanh: alpha * f(beta * x)."""
    x = call.value(0)
    function = ops.get("Tanh" if call.op_type == "ScaledTanh" else "Softplus")()
    inner: Value = call.add(Mul(), x, call.like(x, call.attr("beta", 1.0)))
    return call.add(Mul(), call.add(function, inner), call.like(x, call.attr("alpha", 1.0)))


def mean_variance_normalization(call: Call) -> Result:
    """Per channel or across channels, with or without the division by the deviation."""
    if call.version >= 9:
        return reflected(call)
    x = call.value(0)
    axes = tuple(range(x.type.rank)) if call.attr("across_channels", 0) else (0, *range(2, x.type.rank))
    if call.attr("normalize_variance", 1):
        return call.add(ops.get("MeanVarianceNormalization")(axes=axes), x)  # type: ignore[call-arg]
    return call.add(ops.get("Sub")(), x, call.add(ReduceMean(axes=axes), x))


RULES = {
    "Affine": affine,
    "Scale": affine,
    "ImageScaler": image_scaler,
    "Crop": crop,
    "ParametricSoftplus": scaled_function,
    "ScaledTanh": scaled_function,
    "MeanVarianceNormalization": mean_variance_normalization,
}
