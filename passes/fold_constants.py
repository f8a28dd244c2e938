"""Computing at compile time what does not depend on the inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ops.evaluator import evaluate_node
from lepton_compiler.pipeline import Pass, PassContext


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Mul(const, const)  -->  const; Shape(x: float32[1,3])  -->  const

    Results must not make the model much larger: a tensor is folded if it has at most `limit` bytes or `growth` times the bytes of its
    operands. Small integer tensors whose contents are known as dimensions are folded too, once these are all numbers.

    Attributes:
        limit: bytes that any result may have.
        growth: how many times larger than the operands a larger result may be.
        dequantize: whether quantized weights may turn into float weights, four to eight times larger.
        small: bytes of float weights that quantized ones become in any case.
    """

    limit: int = 1 << 20
    growth: float = 1.0
    dequantize: bool = True
    small: int = 16 << 10

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        for part in list(bodies(graph)):
            for node in part:
                _know_empty(part, node)
                arrays = self._results(node)
                if arrays is not None:
                    _replace(node, arrays)

    def _results(self, node: Node) -> list[np.ndarray] | None:
        if not all(v.is_constant for v in node.present_inputs):
            return _known_contents(node)
        if node.regions or not self._fits(node):
            return None
        try:
            with np.errstate(all="ignore"):
                return evaluate_node(node, [None if v is None else v.numpy() for v in node.inputs])
        except LeptonError:
            return None  # it fails at run time as well, with the user's own inputs to tell about

    def _fits(self, node: Node) -> bool:
        if not all(out.type.is_static for out in node.outputs):
            return all(v.type.nbytes <= self.limit for v in node.present_inputs) and node.op.name in DATA_SIZED
        size = sum(out.type.nbytes for out in node.outputs)
        source = sum(v.type.nbytes for v in node.present_inputs)
        if node.op.name == "ConstantOfShape" and any(user.op.name in WEIGHTED for user in node.output.users):
            return True
        if node.op.name == "DequantizeLinear":
            return self.dequantize or size <= self.small
        return size <= max(self.limit, self.growth * source)


NUMBERS = (int, bool, np.integer, np.bool_)


def _known_contents(node: Node) -> list[np.ndarray] | None:
    """The outputs of shape arithmetic whose dimensions are all numbers, and numbers that their types hold."""
    arrays = []
    for out in node.outputs:
        content = out.content
        if content is None or not all(isinstance(d, NUMBERS) for d in content.flat):
            return None
        try:
            arrays.append(np.asarray(content.tolist(), out.type.dtype.numpy).reshape(content.shape))
        except OverflowError:
            return None
    return arrays


DATA_SIZED = frozenset({"NonZero", "Compress", "Unique", "NonMaxSuppression", "Dynamic"})
"""Operators whose results may be folded although inference does not know their size; none is larger than a few times the operands."""

WEIGHTED = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
"""Operators whose weights must be constants to run fast, whatever their size."""


def _know_empty(graph: Graph, node: Node) -> None:
    """Make the operands without elements constants: there is nothing in them to wait for."""
    empty = [v is not None and not v.is_constant and v.type.is_static and v.type.size == 0 for v in node.inputs]
    if any(empty) and not node.regions:
        operands = [
            graph.constant(np.zeros(v.type.static_shape, v.type.dtype.numpy), v.name) if nothing and v else v
            for v, nothing in zip(node.inputs, empty, strict=True)
        ]
        graph.set_inputs(node, operands)


def _replace(node: Node, arrays: list[np.ndarray]) -> None:
    graph, names = node.graph, []
    for old, array in zip(node.outputs, arrays, strict=True):
        if old.uses or old.is_output:
            new = graph.constant(np.array(array, old.type.dtype.numpy, order="C"), old.name)
            names.append((new, old.name))
            graph.replace_all_uses(old, new)
    graph.remove(node)
    for value, name in names:
        graph.rename(value, name)
