"""Signal processing: lengths are operands in ONNX and attributes here."""

from __future__ import annotations

from lepton_compiler import ops
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.frontends.onnx.rules.elementwise import from_attributes
from lepton_compiler.ir.types import FLOAT32


def dft(call: Call) -> Result:
    """DFT; the axis is an attribute before opset 20 and an operand since."""
    given = {"axis": int(call.attr("axis", 1 if call.version < 20 else -2)), "length": None}
    template = from_attributes(call, ops.get("DFT"), **given)
    return call.parametric(template, [call.value(0)], length=call.optional(1), axis=call.optional(2))


def stft(call: Call) -> Result:
    """STFT: (signal, frame step, window, frame length)."""
    step, length = call.known_ints(call.value(1)), call.optional(3)
    known = call.known_ints(length) if length is not None else None
    if step is None or (length is not None and known is None):
        raise UnsupportedError("frame step and length of STFT are not known at compile time", hint="make them constants of the model")
    op = ops.get("STFT")(frame_step=step[0], frame_length=known[0] if known else None, onesided=bool(call.attr("onesided", 1)))  # type: ignore[call-arg]
    return call.add(op, call.value(0), call.optional(2))


def window(call: Call) -> Result:
    """Hann, Hamming and Blackman windows."""
    kind = call.dtype_attr("output_datatype") or FLOAT32
    template = ops.get(call.op_type)(size=1, periodic=bool(call.attr("periodic", 1)), dtype=kind)  # type: ignore[call-arg]
    return call.parametric(template, [], size=call.value(0))


def mel_weight_matrix(call: Call) -> Result:
    """MelWeightMatrix."""
    kind = call.dtype_attr("output_datatype") or FLOAT32
    names = ("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz")
    template = ops.get("MelWeightMatrix")(1, 1, 1, 0.0, 0.0, kind)  # type: ignore[call-arg]
    return call.parametric(template, [], **{name: call.value(i) for i, name in enumerate(names)})


RULES = {
    "DFT": dft,
    "STFT": stft,
    "HannWindow": window,
    "HammingWindow": window,
    "BlackmanWindow": window,
    "MelWeightMatrix": mel_weight_matrix,
}
