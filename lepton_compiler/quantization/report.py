"""What was done to each layer, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        name: of the value that it gives.
        operator: its operator.
        weights: shape of its weights.
        precision: `int8`, `w4`, `float32`..., as data x weights where these differ.
        reason: why it has that precision.
        low: of the range of its data; None where that is in floating point.
        high: the other end.
        scale: of its data.
        zero_point: of its data.
        weights_sqnr: signal to noise of its weights, in decibels.
        output_sqnr: signal to noise of its result in the quantized model, against the float model, in decibels.
        share: its part of the error of the outputs; None where that was not worked out.
    """

    name: str
    operator: str
    weights: tuple[int, ...]
    precision: str
    reason: str
    low: float | None = None
    high: float | None = None
    scale: float | None = None
    zero_point: int | None = None
    weights_sqnr: float | None = None
    output_sqnr: float | None = None
    share: float | None = None


@dataclass(frozen=True)
class Report:
    """The outcome of a quantization.

    Attributes:
        recipe: the options, as text.
        model: name of the graph.
        layers: in the order of the model.
        samples: how many samples were used.
        drop: what was lost, as a fraction; None where there is no data to tell by.
        measure: what `drop` is measured by.
        bound: what was allowed.
        weight_bytes: of constants before and after.
        warnings: what the user should know about the data.
    """

    recipe: str
    layers: tuple[LayerRow, ...]
    samples: int = 0
    drop: float | None = None
    measure: str = ""
    bound: float | None = None
    weight_bytes: tuple[int, int] = (0, 0)
    warnings: tuple[str, ...] = field(default=())
    model: str = ""

    @property
    def kept(self) -> list[str]:
        """The layers in floating point."""
        return [row.name for row in self.layers if row.precision == "float32"]

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def summary(self) -> str:
        """One line for the terminal."""
        kept = len(self.kept)
        before, after = self.weight_bytes
        text = f"{len(self.layers) - kept} of {len(self.layers)} layers quantized, weights {before:,} -> {after:,} bytes"
        return text if self.drop is None else f"{text}, {self.measure} {'gained' if self.drop < 0 else 'lost'} {100 * abs(self.drop):.3g} %"


def bytes_ratio(report: Report) -> float:
    """Bytes of weights after, divided by those before."""
    before, after = report.weight_bytes
    return after / before if before else 1.0


def row_values(row: LayerRow) -> Mapping[str, Any]:
    """A row by column name."""
    return asdict(row)
