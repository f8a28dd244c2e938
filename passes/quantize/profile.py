"""What runtimes and machines want of a quantized graph."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.errors import UsageError
from lepton_compiler.ir.types import DTYPES, DType


@dataclass(frozen=True)
class Profile:
    """Rules for placing `QuantizeLinear` and `DequantizeLinear`.

    Attributes:
        activations: type of the codes of data; weights are int8.
        tails: element-wise operators that a layer or sum takes along before its result is quantized; None: all of them.
        averages_keep: averages have the codes of what they average.
        outputs: outputs of the model that layers compute are quantized too.
    """

    activations: DType
    tails: frozenset[str] | None = None
    averages_keep: bool = False
    outputs: bool = False


CLAMPS = frozenset({"Relu", "Clip"})

PROFILES: dict[str, Profile] = {
    "x86": Profile(DTYPES["uint8"]),
    "arm": Profile(DTYPES["int8"]),
    "cortex-m": Profile(DTYPES["int8"], CLAMPS, averages_keep=True, outputs=True),
    "tflite": Profile(DTYPES["int8"], CLAMPS, averages_keep=True, outputs=True),
    "onnx": Profile(DTYPES["uint8"], CLAMPS),
}
"""By name. x86 multiplies unsigned by signed bytes (VNNI), ARM signed by signed; TFLite and ONNX Runtime fuse clamps only."""


def profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in PROFILES:
        raise UsageError(f"no quantization profile '{name}'", hint=f"known: {', '.join(PROFILES)}")
    return PROFILES[name]


def profile_for(arch: str, emit: str) -> str:
    """The name of the profile that a target's architecture and the kind of output ask for."""
    if emit in ("onnx", "tflite"):
        return emit
    return "x86" if arch == "x86_64" else "cortex-m" if arch.startswith(("thumb", "cortex")) else "arm"
