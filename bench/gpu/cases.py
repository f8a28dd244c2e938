"""What is measured on a GPU: models of the zoo for agreement, nets and single layers for speed, each in every precision that it has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lepton_compiler import zoo

Kind = Literal["model", "net", "layer", "candidates"]
PRECISIONS = ("fp32", "fp16", "int8")
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 1e-2, "int8": 5e-2}
"""Largest difference, relative to the range of an output; that of `int8` is the quantizer's, whose kernels are exact."""
QUANTIZED = ("resnet50", "mobilenetv2", "gemm", "conv")
"""How the nets and layers are called that are measured with 8-bit integers, too."""
SANITIZED = (
    "onnx/light_squeezenet",
    "onnx/light_shufflenet",
    "rapidocr/ch_ppocr_mobile_v2_0_cls_infer",
    "silero-vad/silero_vad_16k_op15",
    "text2tashkeel/rawi_v2_int8",
)
"""Models that compute-sanitizer watches: dense and grouped convolutions, recurrent layers, attention, integers."""

Shape = tuple[int, ...]
BATCHES = (1, 32)
NETS: dict[str, Shape] = {"resnet50": (3, 224, 224), "mobilenetv2": (3, 224, 224), "minilm": (128, 384), "bert-base": (128, 768)}
"""By name the input without its batch."""
PRODUCTS = (
    (128, 768, 768),
    (128, 768, 3072),
    (128, 3072, 768),
    (1024, 1024, 1024),
    (4096, 4096, 4096),
    (32, 2048, 1000),
    (1, 4096, 4096),
)
"""Rows, depth, columns."""
CONVOLUTIONS = ((3, 64, 7, 2, 224), (64, 64, 3, 1, 56), (256, 64, 1, 1, 56), (128, 128, 3, 1, 28), (512, 512, 3, 1, 7))
"""Channels, channels of the result, edge of the kernel, stride, edge of the image."""
RECURRENT = (("lstm", 128, False), ("lstm", 256, True), ("gru", 64, True), ("gru", 512, False))
"""Kind, units, whether there are both directions."""
STEPS = 100


@dataclass(frozen=True)
class Case:
    """One artefact.

    Attributes:
        kind: of subject.
        subject: id of the model; or net with its batch and length; or layer with its sizes. Of candidates: the net or layer that they are for.
        precision: of products; `int8` quantizes the net or layer.
    """

    kind: Kind
    subject: str
    precision: str

    @property
    def name(self) -> str:
        """For readers."""
        return f"{self.subject} {self.precision}"

    @property
    def file(self) -> str:
        """Of the archive."""
        return re.sub(r"[^a-z0-9]+", "_", f"{self.kind} {self.name}".lower()) + ".tar.xz"


def net_shapes() -> dict[str, Shape]:
    """By subject the input of the nets."""
    return {
        f"{name} {batch}{f'x{shape[0]}' if len(shape) == 2 else ''}": (batch, *shape) for batch in BATCHES for name, shape in NETS.items()
    }


def layer_shapes() -> dict[str, Shape]:
    """By subject the input of the layers."""
    products: dict[str, Shape] = {f"gemm {m}x{k}x{n}": (m, k) for m, k, n in PRODUCTS}
    convolutions: dict[str, Shape] = {
        f"conv {batch}x{c}x{edge} to {o}, {size}x{size}/{stride}": (batch, c, edge, edge)
        for batch in BATCHES
        for c, o, size, stride, edge in CONVOLUTIONS
    }
    recurrent: dict[str, Shape] = {
        f"{kind} {batch}x{STEPS}x{units}{', both directions' if both else ''}": (batch, STEPS, units)
        for batch in BATCHES
        for kind, units, both in RECURRENT
    }
    return products | convolutions | recurrent


def cases(wanted: Sequence[str], precisions: Sequence[str], candidates: bool = False) -> list[Case]:
    """All cases whose name or kind has one of the parts in `wanted`, or all: nets first, half precision first, small batches first.

    With `candidates`, also those of tuning for the nets and layers.
    """
    subjects: list[tuple[Kind, str]] = [("net", name) for name in net_shapes()]
    subjects += [("layer", name) for name in layer_shapes()]
    subjects += [("model", entry.id) for entry in zoo.entries() if entry.format == "onnx"]
    if candidates:
        subjects += [("candidates", subject) for kind, subject in subjects if kind != "model"]
    every = [
        Case(kind, subject, precision)
        for kind, subject in subjects
        for precision in reversed(precisions)
        if precision != "int8" or (kind in ("net", "layer") and subject.startswith(QUANTIZED))
    ]
    return [case for case in every if not wanted or any(part in f"{case.kind} {case.name}" for part in wanted)]
