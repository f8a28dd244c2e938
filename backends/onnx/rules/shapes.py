"""Operators whose attributes are operands in ONNX: shapes, axes, counts."""

from __future__ import annotations

import numpy as np

from lepton_compiler.backends.onnx.body import Emission
from lepton_compiler.backends.onnx.rules import Rule, attributes, reflected
from lepton_compiler.backends.onnx.tensors import tensor_proto, type_number
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.types import BOOL, DTYPES, FLOAT32, INT64, UINT8
from lepton_compiler.ops.resize import Resize
from lepton_compiler.ops.shape import ConstantOfShape, Range, Reshape, Shape, Size

NARROW = frozenset(DTYPES[name] for name in ("float16", "bfloat16", "int8", "uint8", "uint16", "uint32", "uint64"))
"""Types that ONNX's Range does not count in."""


def reshape(emission: Emission) -> None:
    """The target is an operand; one symbolic dimension is left to the runtime, those of the operand are copied."""
    op = emission.op
    assert isinstance(op, Reshape)
    if "shape" in emission.late:
        emission.emit("Reshape", [emission.inputs[0], emission.vector("shape")], allowzero=True if emission.opset >= 14 else None)
        return
    zero = any(d == 0 for d in op.shape)
    target: list[Dim] = list(op.shape)
    if not zero:
        own = emission.x.shape
        target = [0 if not isinstance(d, int) and i < len(own) and own[i] == d else d for i, d in enumerate(target)]
        if sum(not isinstance(d, int) for d in target) == 1 and -1 not in target:
            target = [d if isinstance(d, int) else -1 for d in target]
    allow = True if zero and emission.opset >= 14 else None
    emission.emit("Reshape", [emission.inputs[0], emission.body.dims(target)], allowzero=allow)


def one_vector(attribute: str, *kept: str) -> Rule:
    """A rule for operators of which one attribute is the second operand."""

    def rule(emission: Emission) -> None:
        given = {name: value for name, value in attributes(emission, attribute).items() if name in kept}
        emission.emit(emission.op.name, [emission.inputs[0], emission.vector(attribute)], **given)

    return rule


def one_scalar(attribute: str) -> Rule:
    """A rule for operators of which one scalar attribute is the second operand."""

    def rule(emission: Emission) -> None:
        emission.emit(emission.op.name, [emission.inputs[0], emission.scalar(attribute)], **attributes(emission, attribute))

    return rule


def reduce(emission: Emission) -> None:
    """Truth values of which there may be none go by uint8: ONNX Runtime has no extreme of no truth values."""
    if emission.x.dtype != BOOL or all(isinstance(d, int) and d > 0 for d in emission.x.shape):
        _reduce(emission)
        return
    body, results = emission.body, emission.outputs
    emission.inputs[0] = body.emit("Cast", emission.inputs[:1], to=UINT8)
    emission.outputs = [body.names.fresh(f"{results[0]}_uint8")]
    _reduce(emission)
    body.emit("Cast", emission.outputs, results, to=BOOL)


def _reduce(emission: Emission) -> None:
    """Axes are an attribute before opset 18, for ReduceSum before 13; no axes at all means none here and all there."""
    keepdims = emission.op.attributes()["keepdims"]
    if _is_global_average(emission):
        emission.emit("GlobalAveragePool", emission.inputs)
        return
    if "axes" not in emission.late and emission.op.attributes()["axes"] == () and emission.opset >= 18:
        emission.emit(emission.op.name, emission.inputs, keepdims=keepdims, noop_with_empty_axes=True)
    elif emission.opset >= 18 or emission.op.name == "ReduceSum":
        noop = True if "axes" in emission.late else None
        emission.emit(emission.op.name, [emission.inputs[0], emission.vector("axes")], keepdims=keepdims, noop_with_empty_axes=noop)
    else:
        emission.static("axes")
        axes = emission.op.attributes()["axes"]
        if not axes:
            raise UnsupportedError(f"{emission.op.name} of no axes needs opset 18", hint="choose a newer opset")
        emission.emit(emission.op.name, emission.inputs, axes=axes, keepdims=keepdims)


def _is_global_average(emission: Emission) -> bool:
    """Whether this is the mean over all spatial axes of an image, for which runtimes have a kernel of its own."""
    op, x = emission.op.attributes(), emission.x
    spatial = emission.op.name == "ReduceMean" and x.dtype.is_float and 3 <= x.rank <= 5 and op["keepdims"] and "axes" not in emission.late
    return bool(spatial) and {a % x.rank for a in op["axes"]} == set(range(2, x.rank))


def top_k(emission: Emission) -> None:
    """K is a vector of one element."""
    k = emission.vector("k") if "k" in emission.late else emission.body.size(emission.op.attributes()["k"])
    if "k" in emission.late:
        k = emission.body.emit("Reshape", [k, emission.body.array(np.array([1], np.int64))])
    emission.emit("TopK", [emission.inputs[0], k], **attributes(emission, "k"))


def shape(emission: Emission) -> None:
    """Slices of the shape came with opset 15."""
    op = emission.op
    assert isinstance(op, Shape)
    if op.start == 0 and op.end is None:
        emission.emit("Shape", emission.inputs)
    elif emission.opset >= 15:
        emission.emit("Shape", emission.inputs, start=op.start, end=op.end)
    else:
        every = emission.body.emit("Shape", emission.inputs)
        ends = np.array([np.iinfo(np.int64).max if op.end is None else op.end])
        emission.emit("Slice", [every, emission.body.array(np.array([op.start])), emission.body.array(ends)])


def size(emission: Emission) -> None:
    """Size has no attributes."""
    assert isinstance(emission.op, Size)
    emission.emit("Size", emission.inputs)


def constant_of_shape(emission: Emission) -> None:
    """The value is a tensor of one element."""
    op = emission.op
    assert isinstance(op, ConstantOfShape)
    value = tensor_proto("value", Tensor(np.array([op.value]).astype(op.dtype.numpy)))
    emission.emit("ConstantOfShape", [emission.vector("shape")], value=value)


def range_(emission: Emission) -> None:
    """All three numbers are operands of the result's type."""
    op = emission.op
    assert isinstance(op, Range)
    numbers = ("start", "limit", "delta")
    if op.dtype not in NARROW:
        emission.emit("Range", [emission.scalar(name, op.dtype) for name in numbers])
        return
    wide = FLOAT32 if op.dtype.is_float else INT64
    y = emission.body.emit("Range", [emission.scalar(name, wide) for name in numbers])
    emission.emit("Cast", [y], to=type_number(op.dtype))


def slice_(emission: Emission) -> None:
    """Four operands."""
    count = len(emission.op.attributes()["starts"])
    if count == 0 and not emission.late:
        emission.emit("Identity", emission.inputs)
        return
    emission.emit("Slice", [emission.inputs[0], *(emission.vector(name) for name in ("starts", "ends", "axes", "steps"))])


def split(emission: Emission) -> None:
    """Sizes are an operand."""
    emission.emit("Split", [emission.inputs[0], emission.vector("sizes")], axis=emission.op.attributes()["axis"])


def pad(emission: Emission) -> None:
    """Pads come before the value."""
    value = emission.inputs[1] if len(emission.inputs) > 1 else ""
    emission.emit("Pad", [emission.inputs[0], emission.vector("pads"), value], mode=emission.op.attributes()["mode"])


def one_hot(emission: Emission) -> None:
    """The depth comes between indices and values."""
    indices, values = emission.inputs
    emission.emit("OneHot", [indices, emission.scalar("depth"), values], axis=emission.op.attributes()["axis"])


def trilu(emission: Emission) -> None:
    """The diagonal is an operand."""
    emission.emit("Trilu", [emission.inputs[0], emission.scalar("k")], upper=emission.op.attributes()["upper"])


def resize(emission: Emission) -> None:
    """Sizes where they give back the scales, or the scales are not known; else scales."""
    op = emission.op
    assert isinstance(op, Resize)
    given = attributes(emission, "sizes", "scales", "roi")
    roi = emission.vector("roi", FLOAT32) if "roi" in emission.late or op.roi else ""
    if op.coordinate_transformation_mode == "tf_crop_and_resize" and not roi:
        roi = emission.body.array(np.array([0.0] * emission.x.rank + [1.0] * emission.x.rank, np.float32), "roi")
    if op.coordinate_transformation_mode != "tf_crop_and_resize":
        given.pop("extrapolation_value", None)
    if "sizes" in emission.late or ("scales" not in emission.late and (not op.scales or _is_ratio(op, emission.x.shape))):
        emission.emit("Resize", [emission.inputs[0], roi, "", emission.vector("sizes")], **given)
    else:
        emission.emit("Resize", [emission.inputs[0], roi, emission.vector("scales", FLOAT32)], **given)


def _is_ratio(op: Resize, shape: tuple[Dim, ...]) -> bool:
    """Whether the scales are the ratios of output and input, or do not even give the sizes."""
    if not op.sizes or not all(isinstance(d, int) for d in (*op.sizes, *shape)):
        return False
    pairs = [(int(n), int(d), s) for n, d, s in zip(op.sizes, shape, op.scales, strict=True) if isinstance(n, int) and isinstance(d, int)]
    exact = all(d == 0 or abs(s * d - n) < 1e-6 * max(n, 1) for n, d, s in pairs)
    return exact or any(int(np.floor(np.float32(d) * np.float32(s))) != n for n, d, s in pairs)


RULES = {
    "Reshape": reshape,
    "Expand": one_vector("shape"),
    "Squeeze": one_vector("axes"),
    "Unsqueeze": one_vector("axes"),
    "Tile": one_vector("repeats"),
    "AffineGrid": one_vector("size", "align_corners"),
    "CumSum": one_scalar("axis"),
    "CumProd": one_scalar("axis"),
    "TopK": top_k,
    "Shape": shape,
    "Size": size,
    "ConstantOfShape": constant_of_shape,
    "Range": range_,
    "Slice": slice_,
    "Split": split,
    "Pad": pad,
    "OneHot": one_hot,
    "Trilu": trilu,
    "Resize": resize,
    "EyeLike": reflected,
} | dict.fromkeys(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare".split(), reduce
)
