"""A recurrent layer as its kernel takes it: sizes only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_compiler.ir.types import FLOAT32, TensorType
from lepton_compiler.ops.recurrent import GRU, LSTM, RNN, DynamicQuantizeLSTM, Recurrent

MOST_ELEMENTS = 2**31 - 2**20
"""Of a tensor: the kernel's indices are 32-bit integers."""
MOST_STEPS = 2**20
"""The barrier of the grid counts arrivals in 32 bits."""


@dataclass(frozen=True)
class Problem:
    """The steps of a layer.

    Attributes:
        cell: as the device code calls it: `rnn`, `lstm`, `gru`, or `gru_linear` for a GRU with `linear_before_reset`.
        time, batch, directions, hidden: sizes.
        rounded: whether the hidden state is rounded to 8 bits, by the range of all of its rows, before it is multiplied with 8-bit integers.
    """

    cell: str
    time: int
    batch: int
    directions: int
    hidden: int
    rounded: bool = False

    @property
    def gates(self) -> int:
        """Sums of each unit and step."""
        return {"rnn": 1, "lstm": 4}.get(self.cell, 3)

    @property
    def products(self) -> int:
        """Products of a step, one after another: a GRU that resets the state first has two."""
        return 2 if self.cell == "gru" else 1

    @property
    def kept(self) -> int:
        """Numbers that a unit keeps from step to step, or from product to product."""
        return 2 if self.cell in ("lstm", "gru") else 1

    @property
    def meetings(self) -> int:
        """How often the blocks that share the units wait for each other."""
        return self.time * self.products - 1

    @property
    def weights_bytes(self) -> int:
        """Of one direction's weights of the hidden state, as they are stored."""
        return (1 if self.rounded else 4) * self.gates * self.hidden * self.hidden


def problem_of(layer: Recurrent, gates: TensorType) -> Problem:
    """The sizes of a layer whose gates, [time, batch, ...] or with layout 1 [batch, time, ...], are of a static type."""
    time, batch = gates.static_shape[1::-1] if layer.layout else gates.static_shape[:2]
    match layer:
        case LSTM():
            cell = "lstm"
        case GRU(linear_before_reset=True):
            cell = "gru_linear"
        case GRU():
            cell = "gru"
        case _:
            cell = "rnn"
    return Problem(cell, time, batch, layer.directions, layer.hidden_size, isinstance(layer, DynamicQuantizeLSTM))


def takes(layer: Recurrent, x: TensorType) -> bool:
    """Whether there is a kernel for a layer on such a sequence: of float32 or narrower floats, neither empty nor too large."""
    if not isinstance(layer, LSTM | GRU | RNN) or not x.is_static or x.size == 0:
        return False
    largest = x.static_shape[0] * x.static_shape[1] * layer.directions * layer.gates * layer.hidden_size
    time = x.static_shape[1 if layer.layout else 0]
    narrow = x.dtype == FLOAT32 or x.dtype.name in ("float16", "bfloat16")
    return narrow and _fits([largest, layer.directions * layer.gates * layer.hidden_size**2]) and time <= MOST_STEPS


def _fits(sizes: Sequence[int]) -> bool:
    return max(sizes) <= MOST_ELEMENTS
