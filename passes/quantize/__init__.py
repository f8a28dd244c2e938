"""Quantization: layers of a float graph on codes of 4, 8 or 16 bits, with explicit `QuantizeLinear` and `DequantizeLinear`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from lepton_compiler.calibration import Range, read_ranges
from lepton_compiler.errors import UsageError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import DTYPES, DType
from lepton_compiler.passes.quantize.dynamic import place_dynamic
from lepton_compiler.passes.quantize.place import Placement, place
from lepton_compiler.passes.quantize.profile import profile, profile_for
from lepton_compiler.passes.quantize.recurrent import expand_recurrent
from lepton_compiler.passes.quantize.tables import place_tables
from lepton_compiler.passes.quantize.weight_only import place_weights
from lepton_compiler.pipeline import Pass, PassContext

Scheme = Literal["int8", "int16x8", "dynamic", "w8", "w4"]
STATIC = ("int8", "int16x8")
"""Schemes that need the ranges of data."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Conv(x, w)  -->  DQ(Q(Conv(DQ(Q(x)), DQ(codes of w))))

    Attributes:
        scheme: `int8`: data and weights, ranges known in advance; `int16x8`: the same with data of 16 bits; `dynamic`: data by its own
            range as the model runs, products only; `w8`, `w4`: weights only.
        profile: rules of the target, `auto` or a key of `PROFILES`.
        per_channel: weights of static schemes have a scale per output channel.
        group: of `w4`, how many consecutive factors of a sum share a scale.
        keep: layers that stay in floating point, by the name of the value that they give.
        wide: layers of static schemes whose data gets 16 bits.
        ranges: a file of ranges that `--calibrate` wrote, for static schemes.
    """

    approximate: ClassVar[bool] = True

    scheme: Scheme = "int8"
    profile: str = "auto"
    per_channel: bool = True
    group: int = 64
    keep: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    ranges: str = ""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        expand_recurrent(graph)
        place_tables(graph, self.keep)
        match self.scheme:
            case "dynamic":
                place_dynamic(graph, self.keep)
            case "w8" | "w4":
                place_weights(graph, 4 if self.scheme == "w4" else 8, self.group, self.keep)
            case _:
                if not self.ranges:
                    raise UsageError(f"quantize{{scheme={self.scheme}}} needs ranges of data", hint="say --quantize with --calibrate DATA")
                self.place_static(graph, read_ranges(Path(self.ranges)), ctx.target.arch)

    def place_static(self, graph: Graph, ranges: Mapping[str, Range], arch: str, emit: str = "lib") -> Placement:
        """Quantize statically, in place, with known ranges; recurrent layers have been expanded."""
        rules = profile(profile_for(arch, emit) if self.profile == "auto" else self.profile)
        element = DTYPES["int16"] if self.scheme == "int16x8" else rules.activations
        return place(graph, ranges, rules, activations=element, per_channel=self.per_channel, keep=self.keep, wide=self.wide)


def activation_type(step: Quantize, arch: str, emit: str) -> DType:
    """The type of the codes of data in a static scheme."""
    rules = profile(profile_for(arch, emit) if step.profile == "auto" else step.profile)
    return DTYPES["int16"] if step.scheme == "int16x8" else rules.activations
