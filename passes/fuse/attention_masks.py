"""What is done to scores on their way to the softmax: causal masks told by what they hold, and masks that are computed on the way."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_compiler.analysis.layouts import RESHAPES
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.evaluator import evaluate_node
from lepton_compiler.passes.fuse.attention_parts import Attention
from lepton_compiler.passes.fuse.kinds import is_arithmetic

SPREAD = RESHAPES | {"Transpose", "Expand"}
"""Views of masks, which cost nothing where they are read element by element."""
CHEAP = frozenset(
    "Abs Add And Cast Clip Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Max Min Mul Neg Not Or Relu Sign Sub Where Xor".split()
)
"""Operators that may be repeated for each score that reads one element of their result."""
HIDDEN = -6e4
"""What is added to the score of a key that is not to be seen; its weight is zero beside any key that is."""
LARGEST = 1 << 24
"""Elements of a mask that is looked at."""


def owned(found: Attention) -> set[Node]:
    """The nodes that nobody needs once the attention is one kernel: its own, and what computes masks only for it, if that is cheap."""
    nodes = {found.first, found.softmax, found.second, *(n for n, _ in found.path), *found.between}
    pending = [v for n, which in found.path for k, v in enumerate(n.inputs) if v is not None and k != which]
    while pending:
        node = pending.pop().producer
        if node is None or node in nodes or not _joins(node, found.softmax.output.type.size, nodes):
            continue
        nodes.add(node)
        pending += node.present_inputs
    return nodes


def _joins(node: Node, scores: int, nodes: set[Node]) -> bool:
    kinds, view = node.output.type, node.op.name in SPREAD
    if not kinds.is_static or not (view or is_arithmetic(node)):
        return False
    cheap = view or node.op.name in CHEAP or kinds.size == scores
    return cheap and not node.output.is_output and all(user in nodes for user in node.output.users)


def causal(found: Attention, node: Node, which: int) -> int | None:
    """How many keys after its own number a query sees, where a step of the path hides all later ones and nothing else.

    Hiding a key by a finite number is another thing than not to look at it where a query sees no key at all, so that there must then be
    no other mask.
    """
    shape = node.output.type.static_shape
    if len(shape) < 2 or node.op.name not in ("Add", "Where"):
        return None
    mask = _added(node, which)
    if mask is None or mask.ndim < 2 or mask.shape[-2:] != shape[-2:] or mask.size != shape[-2] * shape[-1]:
        return None
    mask = mask.reshape(shape[-2:])
    shown = mask == 0
    if not np.all(shown | (mask <= HIDDEN)):
        return None
    ahead = int(np.count_nonzero(shown[0])) - 1
    rows, columns = (np.arange(n) for n in shown.shape)
    if ahead < 0 or not np.array_equal(shown, columns <= rows[:, None] + ahead) or np.all(shown):
        return None
    return ahead if np.all(shown | np.isneginf(mask)) or not _others(found, node) else None


def _added(node: Node, which: int) -> np.ndarray | None:
    """What a node adds to scores, as far as it is known: a mask, or zero and what it puts in their place."""
    if node.op.name == "Add":
        return known(node.present_inputs[1 - which])
    condition, instead = known(node.present_inputs[0]), node.present_inputs[3 - which]
    if which == 0 or condition is None or instead.tensor is None or instead.type.size != 1:
        return None
    return np.where(condition if which == 1 else ~condition, 0.0, float(instead.numpy().reshape(-1)[0]))


def _others(found: Attention, step: Node) -> bool:
    """Whether other steps of the path read anything but numbers."""
    steps = [(n, which) for n, which in found.path if n is not step]
    return any(v is not None and k != which and v.type.size != 1 for n, which in steps for k, v in enumerate(n.inputs))


def known(value: Value) -> np.ndarray | None:
    """The elements of a constant, or of what element-wise operators make of constants."""
    if value.tensor is not None:
        return value.numpy()
    node = value.producer
    if node is None or not (is_arithmetic(node) or node.op.name in SPREAD) or not value.type.is_static or value.type.size > LARGEST:
        return None
    operands = [None if v is None else known(v) for v in node.inputs]
    if any(a is None and v is not None for a, v in zip(operands, node.inputs, strict=True)):
        return None
    result: Any = evaluate_node(node, operands)[0]
    return np.asarray(result)
