"""Constant weights as the generator of tensor cores reads them: rows along the sum, of numbers or of the codes that stand for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lepton_compiler.backends.tvm.cuda.tensor_cores import Codes
from lepton_compiler.backends.tvm.lower.context import Arg

CODES = frozenset({"int4", "int8", "uint4", "uint8"})
"""Types that are converted to floats as they are read."""
WORD = 32
"""Bits that are converted at once; they share a scale."""

Pack = Callable[..., Any]
"""Gives the buffer of a weight that a packing function rearranges."""


@dataclass(frozen=True)
class Weights:
    """Rows along the sum, filled up with zeros.

    Attributes:
        buffer: of the rows.
        depth: elements of a row.
        source: the codes that the elements are converted from, if so.
        scales: buffer of the scales of groups of them, `[rows, groups]`, if there are such.
        group: how many share one.
    """

    buffer: Any
    depth: int
    source: Arg | None = None
    scales: Any = None
    group: int = 0

    def codes(self, name: Callable[[Any], str]) -> Codes | None:
        """How the generator is told; `name` gives the parameter that is a buffer."""
        if self.source is None:
            return None
        kind = self.source.type.dtype
        scales = "" if self.scales is None else name(self.scales)
        groups = 0 if self.scales is None else int(self.scales.shape[1])
        return Codes(8 if kind.bits == 8 else 4, kind.name.startswith("int"), scales, self.group, groups)


def are_converted(w: Arg, along: int) -> bool:
    """Whether these are weights that are converted from codes, perhaps with scales of groups along the axis `along`."""
    if w.stored is None or w.stored.type.dtype.name not in CODES:
        return False
    if w.scales is None:
        return True
    scales, group = w.scales
    expected = tuple(-(-n // group) if axis == along else n for axis, n in enumerate(w.shape))
    return group % (WORD // w.stored.type.dtype.bits) == 0 and scales.shape == expected


def packed_weights(pack: Pack, w: Arg, function: str, *arguments: int, turn: bool = False) -> Weights:
    """Weights by a packing function; `turn`: scales of groups lie across the rows that it makes."""
    buffer = pack(w, function, *arguments)
    if w.stored is None:
        return Weights(buffer, int(buffer.shape[1]))
    depth = int(buffer.shape[1]) * 8 // w.stored.type.dtype.bits
    if w.scales is None:
        return Weights(buffer, depth, w.stored)
    scales, group = w.scales
    return Weights(buffer, depth, w.stored, pack(scales, "transpose", *((1, 0) if turn else (0, 1))), group)
