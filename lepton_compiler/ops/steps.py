"""The steps of a recurrent layer on their own, after the product that no step depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.ir.op import Cost, Op, Types, require, traffic
from lepton_compiler.ir.types import FLOAT32, TensorType
from lepton_compiler.ops.precision import widen
from lepton_compiler.ops.recurrent import LSTM, DynamicQuantizeLSTM, Recurrent, quantized_product


@dataclass(frozen=True)
class RecurrentSteps(Op):
    """What is left of a recurrent layer once its input is multiplied; a backend that runs all steps in one kernel writes layers so.

    Operands: `gates` [time, batch, directions * gates * hidden], or [batch, time, ...] with layout 1: what the input and the biases add
    to the gates, direction by direction, in the order of the layer's gates; `r` [directions, gates * hidden, hidden]; `b` [directions,
    gates * hidden], what is added to the products with the hidden state; `sequence_lens`, initial states, and `p`, the peephole weights
    of an LSTM, as the layer has them. Results are those of the layer. A `DynamicQuantizeLSTM` has 8-bit integers `r`, without a zero point,
    and their scale [directions] or [directions, 4 * hidden]; it rounds the hidden state to 8 bits by its own range.

    Attributes:
        layer: an `RNN`, `GRU`, `LSTM` or `DynamicQuantizeLSTM`.
    """

    layer: Op

    @property
    def recurrent(self) -> Recurrent:
        """The layer, as what it must be."""
        assert isinstance(self.layer, Recurrent)
        return self.layer

    def infer(  # noqa: D102
        self,
        gates: TensorType,
        r: TensorType,
        b: TensorType | None = None,
        sequence_lens: TensorType | None = None,
        initial_h: TensorType | None = None,
        initial_c: TensorType | None = None,
        p: TensorType | None = None,
        r_scale: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        require(isinstance(self.layer, Recurrent), f"RecurrentSteps: {self.layer.name} is no recurrent layer")
        layer, cell = self.recurrent, (initial_c, p)
        rows = layer.gates * layer.hidden_size
        require(gates.rank == 3, f"RecurrentSteps: gates {gates} must have rank 3")
        layer.check_operand("gates", gates, gates, (*gates.shape[:2], layer.directions * rows))
        layer.check_operand("b", b, gates, (layer.directions, rows))
        require(isinstance(layer, LSTM) or cell == (None, None), f"RecurrentSteps: a {layer.name} has no cell")
        layer.check_operand("p", p, gates, (layer.directions, 3 * layer.hidden_size))
        x, w = TensorType(gates.dtype, (*gates.shape[:2], 1)), TensorType(gates.dtype, (layer.directions, rows, 1))
        if isinstance(layer, DynamicQuantizeLSTM):
            require(r.dtype.is_integer and r.dtype.bits == 8, f"RecurrentSteps: r is {r}, needs 8-bit integers")
            fits = r_scale is not None and r_scale.dtype == FLOAT32 and r_scale.shape in ((layer.directions,), (layer.directions, rows))
            require(fits, f"RecurrentSteps: the scale of r is {r_scale}, needs {layer.directions} or {layer.directions} x {rows} numbers")
            r = TensorType(gates.dtype, r.shape)
        return layer.infer_layer(x, w, r, None, sequence_lens, (initial_h, initial_c)[: layer.states])

    def evaluate(  # noqa: D102
        self,
        gates: Any,
        r: Any,
        b: Any = None,
        sequence_lens: Any = None,
        initial_h: Any = None,
        initial_c: Any = None,
        p: Any = None,
        r_scale: Any = None,
    ) -> tuple[np.ndarray, ...]:
        layer, wide = self.recurrent, widen(gates)
        rows = layer.gates * layer.hidden_size
        bias = np.zeros((layer.directions, rows), wide.dtype) if b is None else widen(b)
        parts = np.split(np.swapaxes(wide, 0, 1) if layer.layout else wide, layer.directions, 2)
        initial = (initial_h, initial_c)[: layer.states]
        if r_scale is None:
            weights, product = widen(r), lambda data, weights: np.asarray(data @ weights.T)
        else:
            weights, product = [(r[d].astype(np.int32), r_scale[d]) for d in range(layer.directions)], quantized_product
        results = layer.run_steps(parts, weights, bias, sequence_lens, initial, p, product)
        return tuple(a.astype(gates.dtype, copy=False) for a in results)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        gates, r = inputs[:2]
        assert gates is not None and r is not None
        steps = gates.static_shape[0] * gates.static_shape[1]
        return Cost(
            steps * r.size,
            steps * self.recurrent.directions * self.recurrent.hidden_size * 4 * self.recurrent.gates,
            traffic(inputs, outputs),
        )
