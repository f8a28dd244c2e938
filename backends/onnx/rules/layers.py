"""Operators whose ONNX form differs in more than names: windows with layouts, casts, quantization, normalization."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from lepton_compiler.backends.onnx.body import Emission
from lepton_compiler.backends.onnx.rules import attributes, reflected
from lepton_compiler.backends.onnx.tensors import type_number
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.types import DTYPES, FLOAT32, FLOAT64, INT32, INT64, UINT8
from lepton_compiler.ops.attention import Attention
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.conv import ConvInteger
from lepton_compiler.ops.normalize import BatchNormalization, LayerNormalization
from lepton_compiler.ops.quantize import DequantizeLinear, QuantizeLinear
from lepton_compiler.ops.recurrent import Recurrent
from lepton_compiler.ops.resize import GridSample

UINT64 = DTYPES["uint64"]


def window(emission: Emission) -> None:
    """Convolutions and pooling: channels-last ones between two transposes."""
    op, rank = emission.op, emission.x.rank
    given = attributes(emission, "layout", "indices", "dilations")
    dilations = getattr(op, "dilations", ())
    if any(d != 1 for d in dilations) or op.name not in ("AveragePool", "LpPool"):
        given |= {"dilations": dilations or None}
        if "dilations" not in onnx.defs.get_schema(op.name, emission.opset, "").attributes:
            raise UnsupportedError(f"{op.name} of ONNX opset {emission.opset} has no dilations", hint="choose a newer opset")
    if getattr(op, "layout", "NCHW") == "NCHW":
        emission.emit(op.name, emission.inputs, **given)
        return
    first = emission.body.emit("Transpose", emission.inputs[:1], perm=(0, rank - 1, *range(1, rank - 1)))
    y = emission.body.emit(op.name, [first, *emission.inputs[1:]], name=emission.label, **given)
    emission.emit("Transpose", [y], perm=(0, *range(2, rank), 1))


def conv_integer(emission: Emission) -> None:
    """Zero points of the weights that differ are taken off afterwards: ONNX Runtime takes one for all.

    conv(x - zx, w - zw) = conv(x - zx, w) - zw * conv(x - zx, 1), channel by channel.
    """
    zero = emission.node.inputs[3] if len(emission.node.inputs) > 3 else None
    if zero is None or zero.type.rank == 0 or zero.type.shape == (1,):
        window(emission)
        return
    op, body, weights = emission.op, emission.body, emission.node.inputs[1]
    assert isinstance(op, ConvInteger) and weights is not None
    given = attributes(emission) | {"dilations": op.dilations}
    x, w, zx, zw = emission.inputs
    one = body.array(np.ones((1,) * weights.type.rank, weights.type.dtype.numpy), "one")
    y, sums = (body.emit("ConvInteger", [x, k, zx], **given) for k in (w, body.emit("Expand", [one, body.emit("Shape", [w])])))
    column = body.array(np.array([-1, *(1,) * (weights.type.rank - 2)]), "column")
    factors = body.emit("Reshape", [body.emit("Cast", [zw], to=INT32), column])
    emission.emit("Sub", [y, body.emit("Mul", [sums, factors])])


def col2im(emission: Emission) -> None:
    """Shapes of image and block are operands."""
    given = attributes(emission, "image_shape", "block_shape")
    emission.emit("Col2Im", [emission.inputs[0], emission.vector("image_shape"), emission.vector("block_shape")], **given)


def max_unpool(emission: Emission) -> None:
    """A larger output shape is padding: ONNX Runtime takes the indices to be those of the larger shape."""
    given, body = attributes(emission, "output_shape"), emission.body
    if "output_shape" not in emission.late and emission.op.attributes()["output_shape"] is None:
        emission.emit("MaxUnpool", emission.inputs[:2], **given)
        return
    y = body.emit("MaxUnpool", emission.inputs[:2], name=emission.label, **given)
    more = body.emit("Sub", [emission.vector("output_shape"), body.emit("Shape", [y])])
    zeros = body.array(np.zeros(emission.x.rank, np.int64), "zeros")
    emission.emit("Pad", [y, body.emit("Concat", [zeros, more], axis=0)])


def cast(emission: Emission) -> None:
    """Attributes that only concern 8-bit floats are given only for these."""
    op = emission.op
    assert isinstance(op, Cast)
    saturate = False if emission.opset >= 19 and not op.saturate else None
    mode = op.round_mode if emission.opset >= 24 and op.round_mode != "up" else None
    emission.emit("Cast", emission.inputs, to=op.to, saturate=saturate, round_mode=mode)


def quantize(emission: Emission) -> None:
    """Without a zero point ONNX makes uint8, so another type needs one, or an attribute in newer opsets."""
    op = emission.op
    assert isinstance(op, QuantizeLinear)
    inputs, more = _parameters(emission), dict[str, Any]()
    if len(inputs) < 3 and op.dtype != UINT8:
        if emission.opset < 21:
            raise UnsupportedError(
                f"QuantizeLinear to {op.dtype} without zero point needs opset 21", hint="choose a newer opset, or give a zero point"
            )
        more["output_dtype"] = op.dtype
    if op.precision is not None and emission.opset >= 23:
        more["precision"] = op.precision
    if emission.opset >= 19 and not op.saturate:
        emission.emit("QuantizeLinear", inputs, axis=_axis(emission), block_size=op.block_size or None, saturate=False, **more)
    else:
        emission.emit("QuantizeLinear", inputs, axis=_axis(emission), block_size=_block(emission), **more)


def dequantize(emission: Emission) -> None:
    """The result has the scale's type, or a cast follows."""
    op, scale = emission.op, emission.types[1]
    assert isinstance(op, DequantizeLinear) and scale is not None
    inputs = _parameters(emission)
    if scale.dtype == op.dtype:
        emission.emit("DequantizeLinear", inputs, axis=_axis(emission), block_size=_block(emission))
    elif emission.opset >= 23:
        emission.emit("DequantizeLinear", inputs, axis=_axis(emission), block_size=_block(emission), output_dtype=op.dtype)
    else:
        y = emission.body.emit("DequantizeLinear", inputs, axis=_axis(emission), block_size=_block(emission))
        emission.emit("Cast", [y], to=type_number(op.dtype))


def _parameters(emission: Emission) -> list[str]:
    return [name for name in emission.inputs if name]


def _axis(emission: Emission) -> int | None:
    scale = emission.types[1]
    axis = emission.op.attributes()["axis"]
    return int(axis) if scale is not None and scale.rank else None


def _block(emission: Emission) -> int | None:
    block = emission.op.attributes()["block_size"]
    if block and emission.opset < 21:
        raise UnsupportedError("blocked quantization needs opset 21", hint="choose a newer opset")
    return int(block) or None


def batch_normalization(emission: Emission) -> None:
    """ONNX normalises axis 1 only."""
    op, rank = emission.op, emission.x.rank
    assert isinstance(op, BatchNormalization)
    axis = op.axis % rank
    if axis == 1:
        emission.emit("BatchNormalization", emission.inputs, epsilon=op.epsilon)
        return
    perm = (0, axis, *(i for i in range(1, rank) if i != axis)) if axis else (1, 0, *range(2, rank))
    back = tuple(perm.index(i) for i in range(rank))
    x = emission.body.emit("Transpose", emission.inputs[:1], perm=perm)
    y = emission.body.emit("BatchNormalization", [x, *emission.inputs[1:]], epsilon=op.epsilon)
    emission.emit("Transpose", [y], perm=back)


def layer_normalization(emission: Emission) -> None:
    """Statistics are simply further outputs."""
    op = emission.op
    assert isinstance(op, LayerNormalization)
    emission.emit("LayerNormalization", emission.inputs, axis=op.axis, epsilon=op.epsilon)


def grid_sample(emission: Emission) -> None:
    """Opset 16 had other names for the modes."""
    op = emission.op
    assert isinstance(op, GridSample)
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(op.mode, op.mode) if emission.opset < 20 else op.mode
    emission.emit("GridSample", emission.inputs, mode=mode, padding_mode=op.padding_mode, align_corners=op.align_corners)


def recurrent(emission: Emission) -> None:
    """Activations are given once for each direction."""
    op = emission.op
    assert isinstance(op, Recurrent)
    if op.layout == 1:
        _batch_first(emission, op)
        return
    emission.emit(op.name, emission.inputs, **_recurrent_attributes(emission, op))


def _recurrent_attributes(emission: Emission, op: Recurrent) -> dict[str, Any]:
    repeat = op.directions if len(op.activations) == op.per_direction else 1
    given = attributes(emission, "activations", "layout") | {"activations": op.activations * repeat}
    for name in ("activation_alpha", "activation_beta"):
        values = getattr(op, name)
        if values:
            given[name] = values * (op.directions if repeat > 1 else 1)
    return given


def _batch_first(emission: Emission, op: Recurrent) -> None:
    """Layout 1 between transposes: few runtimes have it."""
    body, inputs = emission.body, list(emission.inputs)
    for i in (0, 5, 6):
        if i < len(inputs) and inputs[i]:
            inputs[i] = body.emit("Transpose", [inputs[i]], perm=(1, 0, 2))
    inner = [body.names.fresh(name) for name in emission.outputs]
    body.emit(op.name, inputs, inner, name=emission.label, **_recurrent_attributes(emission, op))
    for i, (name, result) in enumerate(zip(inner, emission.outputs, strict=True)):
        body.emit("Transpose", [name], [result], perm=(1, 0, 2) if i else (2, 0, 1, 3))


def attention(emission: Emission) -> None:
    """Outputs are counted; a precision is the number of a type."""
    op = emission.op
    assert isinstance(op, Attention)
    emission.emit("Attention", emission.inputs, **attributes(emission, "outputs"))


def non_max_suppression(emission: Emission) -> None:
    """Its limits are operands here and there."""
    emission.emit("NonMaxSuppression", emission.inputs, **attributes(emission))


def dft(emission: Emission) -> None:
    """The axis is an attribute before opset 20 and an operand since."""
    op = emission.op.attributes()
    length = emission.scalar("length") if "length" in emission.late or op["length"] is not None else ""
    given = {"inverse": op["inverse"], "onesided": op["onesided"]}
    if emission.opset < 20:
        emission.static("axis")
        _in_float64(emission, [emission.inputs[0], length], 0, axis=op["axis"], **given)
    else:
        _in_float64(emission, [emission.inputs[0], length, emission.scalar("axis")], 0, **given)


def stft(emission: Emission) -> None:
    """Frame step and length are operands."""
    op = emission.op.attributes()
    length = emission.scalar("frame_length") if "frame_length" in emission.late or op["frame_length"] is not None else ""
    signal, window = [*emission.inputs, ""][:2]
    _in_float64(emission, [signal, emission.scalar("frame_step"), window, length], 0, 2, onesided=op["onesided"])


def _in_float64(emission: Emission, inputs: list[str], *signals: int, **given: Any) -> None:
    """Emit a transform, the operands `signals` cast to float64.

    In float32 ONNX Runtime rounds the angles too: for a length of 1000 it is off by 3e-4 of the largest value, and no faster.
    """
    body, element = emission.body, emission.x.dtype
    if element != FLOAT64:
        for i in signals:
            inputs[i] = body.emit("Cast", [inputs[i]], to=type_number(FLOAT64)) if inputs[i] else ""
        emission.emit("Cast", [body.emit(emission.op.name, inputs, name=emission.label, **given)], to=type_number(element))
    else:
        emission.emit(emission.op.name, inputs, **given)


def window_function(emission: Emission) -> None:
    """The size is an operand."""
    op = emission.op.attributes()
    emission.emit(emission.op.name, [emission.scalar("size")], periodic=op["periodic"], output_datatype=op["dtype"])


def tf_idf_vectorizer(emission: Emission) -> None:
    """The n-grams are attributes."""
    pool, indexes, weights = ([] if v is None else emission.constant(v).tolist() for v in (*emission.node.inputs, None)[1:4])
    given = attributes(emission, "columns") | {"pool_int64s": pool, "ngram_indexes": indexes, "weights": weights or None}
    emission.emit("TfIdfVectorizer", emission.inputs[:1], **given)


def modulo(emission: Emission) -> None:
    """The remainder of floats with the sign of the divisor, which ONNX has only for integers."""
    if emission.op.attributes()["fmod"] or not emission.x.dtype.is_float:
        emission.emit("Mod", emission.inputs, fmod=emission.op.attributes()["fmod"])
        return
    body, divisor = emission.body, emission.inputs[1]
    rest = body.emit("Mod", emission.inputs, fmod=True)
    zero = body.array(np.zeros((), emission.x.dtype.numpy), "zero")
    differ = body.emit("Less", [body.emit("Mul", [body.emit("Sign", [rest]), body.emit("Sign", [divisor])]), zero])
    emission.emit("Where", [differ, body.emit("Add", [rest, divisor]), rest])


def bit_shift(emission: Emission) -> None:
    """ONNX shifts unsigned numbers; to the right, a negative one is shifted as its complement."""
    kind, direction, body = emission.x.dtype, emission.op.attributes()["direction"], emission.body
    if kind.kind == "uint":
        emission.emit("BitShift", emission.inputs, direction=direction)
        return

    def shifted(name: str) -> str:
        wide = [body.emit("Cast", [n], to=type_number(UINT64)) for n in (name, emission.inputs[1])]
        return body.emit("BitShift", wide, direction=direction)

    if direction == "LEFT":
        emission.emit("Cast", [shifted(emission.inputs[0])], to=type_number(kind))
        return
    negative = body.emit("Less", [emission.inputs[0], body.array(np.zeros((), kind.numpy), "zero")])
    magnitude = body.emit("Where", [negative, body.emit("BitwiseNot", emission.inputs[:1]), emission.inputs[0]])
    result = body.emit("Cast", [shifted(magnitude)], to=type_number(kind))
    emission.emit("Where", [negative, body.emit("BitwiseNot", [result]), result])


def mel_weight_matrix(emission: Emission) -> None:
    """Everything is an operand."""
    counts = [emission.scalar(name, INT64) for name in ("num_mel_bins", "dft_length", "sample_rate")]
    edges = [emission.scalar(name, FLOAT32) for name in ("lower_edge_hertz", "upper_edge_hertz")]
    emission.emit("MelWeightMatrix", [*counts, *edges], output_datatype=emission.op.attributes()["dtype"])


RULES = {
    "Conv": window,
    "ConvInteger": conv_integer,
    "ConvTranspose": window,
    "DeformConv": reflected,
    "MaxPool": window,
    "AveragePool": window,
    "LpPool": window,
    "MaxUnpool": max_unpool,
    "Col2Im": col2im,
    "Cast": cast,
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "GridSample": grid_sample,
    "LSTM": recurrent,
    "GRU": recurrent,
    "RNN": recurrent,
    "Attention": attention,
    "NonMaxSuppression": non_max_suppression,
    "DFT": dft,
    "STFT": stft,
    "HannWindow": window_function,
    "HammingWindow": window_function,
    "BlackmanWindow": window_function,
    "TfIdfVectorizer": tf_idf_vectorizer,
    "Mod": modulo,
    "BitShift": bit_shift,
    "MelWeightMatrix": mel_weight_matrix,
}
