"""Another constant in the place of one."""

from __future__ import annotations

import numpy as np

from lepton_compiler.ir.graph import Node


def exchange(node: Node, index: int, array: np.ndarray) -> None:
    """Let operand `index` of a node, a constant, be another one of the same type of elements and name."""
    graph, old = node.graph, node.present_inputs[index]
    new = graph.constant(array.astype(old.type.dtype.numpy), old.name)
    graph.set_inputs(node, [new if i == index else v for i, v in enumerate(node.inputs)])
