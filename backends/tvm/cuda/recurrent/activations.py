"""The activations of recurrent layers in CUDA C; a NaN stays one, as in the evaluator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton_compiler.ops.recurrent import Recurrent

Row = tuple[str, float | None, float | None]
"""Name, alpha and beta."""
CLIPPED = 2
"""Activations of a direction, from the first one on, whose operand is clipped where the layer says so."""

TEXTS = {
    "Affine": "A * x + B",
    "Elu": "x < 0.0f ? A * expm1f(x) : x",
    "HardSigmoid": "A * x + B < 0.0f ? 0.0f : A * x + B > 1.0f ? 1.0f : A * x + B",
    "LeakyRelu": "x < 0.0f ? A * x : x",
    "Relu": "x < 0.0f ? 0.0f : x",
    "ScaledTanh": "A * tanhf(B * x)",
    "Sigmoid": "1.0f / (1.0f + expf(-x))",
    "Softplus": "(x < 0.0f ? 0.0f : x) + log1pf(expf(-fabsf(x)))",
    "Softsign": "x / (1.0f + fabsf(x))",
    "Tanh": "tanhf(x)",
    "ThresholdedRelu": "x > A ? x : 0.0f",
}
"""By name; A and B stand for alpha and beta."""


def number(value: float) -> str:
    """A float32 in CUDA C, to the bit."""
    narrow = np.float32(value)
    if not np.isfinite(narrow):
        return f"__int_as_float(0x{int(narrow.view(np.uint32)):08x})"
    text = f"{narrow!s}f" if "." in str(narrow) or "e" in str(narrow) else f"{narrow!s}.0f"
    return f"({text})" if text.startswith("-") else text


def expression(row: Row) -> str:
    """An activation of `x`."""
    name, alpha, beta = row
    return TEXTS[name].replace("A", number(alpha or 0.0)).replace("B", number(beta or 0.0))


def functions(layer: Recurrent) -> list[str]:
    """The members f, g and h of a layer: its activations, in order, of a direction."""
    rows = layer.activation_rows()
    lines = []
    for k, name in enumerate("fgh"[: layer.per_direction]):
        lines.append(f"  static __device__ __forceinline__ float {name}(int direction, float x) {{")
        if layer.clip is not None and k < CLIPPED:
            bound = number(layer.clip)
            lines.append(f"    x = x < -{bound} ? -{bound} : x > {bound} ? {bound} : x;")
        lines += [*_chosen([direction[k] for direction in rows]), "  }"]
    return lines


def _chosen(rows: Sequence[Row]) -> list[str]:
    if len(set(rows)) == 1:
        return [f"    return {expression(rows[0])};"]
    return [f"    return direction == 0 ? ({expression(rows[0])}) : ({expression(rows[1])});"]
