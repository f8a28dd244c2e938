"""Functions of one byte, as the table of their results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.ir.op import Op, require
from lepton_compiler.ir.types import TensorType

ENTRIES = 256
"""Values of a byte."""


@dataclass(frozen=True)
class Lookup(Op):
    """table[x], for codes x of 8 bits; a negative code reads the entry of its bits as an unsigned number: -1 the last one."""

    def infer(self, x: TensorType, table: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype.is_integer and x.dtype.bits == 8, f"Lookup takes codes of 8 bits, not {x.dtype}")
        require(table.shape == (ENTRIES,), f"Lookup's table is {table}, not one of {ENTRIES} entries")
        return (TensorType(table.dtype, x.shape),)

    def evaluate(self, x: Any, table: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (table[np.ascontiguousarray(x).view(np.uint8)].reshape(x.shape),)
