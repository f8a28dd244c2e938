"""The identity matrix as a comparison of indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import BOOL
from lepton_compiler.ops.binary import Equal
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.decompose import decomposition
from lepton_compiler.ops.decompositions.indexing import diagonals
from lepton_compiler.ops.shape import EyeLike


@decomposition(EyeLike)
def eye_like(build: Builder, node: Node) -> Sequence[Value]:
    """Compare row and column numbers, then Cast."""
    assert isinstance(node.op, EyeLike)
    ones = build(Equal(), diagonals(build, *node.output.type.shape), build.constant(np.array(node.op.k, np.int64)))
    return [ones if node.op.dtype == BOOL else build(Cast(to=node.op.dtype), ones)]
