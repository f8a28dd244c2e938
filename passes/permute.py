"""Operators that can work on transposed operands: which attributes change, and how operands and results are permuted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Union

from lepton_compiler.ir.graph import Node
from lepton_compiler.ir.op import Op

Perm = tuple[int, ...]
ELEMENTWISE_FAMILIES = frozenset({"unary", "activation", "binary", "cast"})


@dataclass(frozen=True)
class Permuted:
    """`op` on operands transposed by `operands` gives results transposed by `outputs`.

    An operand of lower rank gets leading axes of size one before it is transposed; None leaves an operand or result as it is.
    """

    op: Op
    operands: tuple[Union[Perm, None], ...]
    outputs: tuple[Union[Perm, None], ...]


def permute_op(node: Node, perm: Perm) -> Permuted | None:
    """How to compute `node` from operands transposed by `perm` (axis i of the new operand is axis `perm[i]`), or None if it cannot be.

    Operators with negative axes are left alone: `canonicalize` renumbers them.
    """
    first = next((v for v in node.inputs if v is not None), None)
    axes = getattr(node.op, "axes", ()) or (getattr(node.op, "axis", 0),)
    if first is None or node.regions or any(isinstance(a, int) and a < 0 for a in axes):
        return None
    family = type(node.op).__module__.rpartition(".")[2]
    if family in ELEMENTWISE_FAMILIES and node.op.name not in ("BitCast", "Clip"):
        return _elementwise(node, perm)
    rule = RULES.get(node.op.name)
    return rule(node, perm) if rule is not None and first.type.rank == len(perm) else None


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes `perm`."""
    return tuple(perm.index(i) for i in range(len(perm)))


def compose(outer: Perm, inner: Perm) -> Perm:
    """Transposing by `inner`, then by `outer`, is transposing by this."""
    return tuple(inner[i] for i in outer)


def _elementwise(node: Node, perm: Perm) -> Permuted | None:
    if node.output.type.rank != len(perm):
        return None
    return Permuted(node.op, tuple(None if v is None or all(d == 1 for d in v.type.shape) else perm for v in node.inputs), (perm,))


def _first_only(node: Node, perm: Perm, op: Op) -> Permuted:
    return Permuted(op, (perm, *(None,) * (len(node.inputs) - 1)), (perm,) * len(node.outputs))


def _same(node: Node, perm: Perm) -> Permuted | None:
    return _first_only(node, perm, node.op)


def _first_output(node: Node, perm: Perm) -> Permuted:
    return Permuted(node.op, (perm,), (perm, *(None,) * (len(node.outputs) - 1)))


def _axis(node: Node, perm: Perm) -> Permuted | None:
    op: Any = node.op
    if not 0 <= op.axis < len(perm) or bool(getattr(op, "block_size", 0)):
        return (
            _first_only(node, perm, op) if len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].type.rank == 0 else None
        )
    return _first_only(node, perm, replace(op, axis=perm.index(op.axis)))


def _concat(node: Node, perm: Perm) -> Permuted | None:
    op: Any = node.op
    return Permuted(replace(op, axis=perm.index(op.axis)), (perm,) * len(node.inputs), (perm,))


def _pad(node: Node, perm: Perm) -> Permuted | None:
    op: Any = node.op
    rank = len(perm)
    pads = tuple(op.pads[p] for p in perm) + tuple(op.pads[rank + p] for p in perm)
    return _first_only(node, perm, replace(op, pads=pads))


def _slice(node: Node, perm: Perm) -> Permuted | None:
    op: Any = node.op
    axes = op.axes or tuple(range(len(op.starts)))
    return _first_only(node, perm, replace(op, axes=tuple(perm.index(a) for a in axes)))


def _reduce(node: Node, perm: Perm) -> Permuted | None:
    op: Any = node.op
    axes = tuple(sorted(perm.index(a) for a in op.axes))
    if op.keepdims:
        return _first_only(node, perm, replace(op, axes=axes))
    kept = [a for a in range(len(perm)) if a not in op.axes]
    order = tuple(kept.index(a) for a in perm if a in kept)
    return Permuted(replace(op, axes=axes), (perm,), (order if order != tuple(range(len(kept))) else None,))


def _arg(node: Node, perm: Perm) -> Permuted | None:
    return _axis(node, perm) if getattr(node.op, "keepdims") else None  # noqa: B009


def _resize(node: Node, perm: Perm) -> Permuted | None:
    op: Any = node.op
    rank = len(perm)
    sizes, scales = tuple(op.sizes[p] for p in perm if op.sizes), tuple(op.scales[p] for p in perm if op.scales)
    roi = tuple(op.roi[p + side] for side in (0, rank) for p in perm if op.roi)
    return _first_only(node, perm, replace(op, sizes=sizes, scales=scales, roi=roi))


def _tile(node: Node, perm: Perm) -> Permuted | None:
    op: Any = node.op
    return _first_only(node, perm, replace(op, repeats=tuple(op.repeats[p] for p in perm)))


def _expand(node: Node, perm: Perm) -> Permuted | None:
    op: Any = node.op
    if len(op.shape) > len(perm):
        return None
    shape = (1,) * (len(perm) - len(op.shape)) + op.shape
    return _first_only(node, perm, replace(op, shape=tuple(shape[p] for p in perm)))


RULES: dict[str, Callable[[Node, Perm], Permuted | None]] = {
    "Clip": _same,
    "DynamicQuantizeLinear": _first_output,
    "Concat": _concat,
    "Pad": _pad,
    "Slice": _slice,
    "Resize": _resize,
    "Tile": _tile,
    "Expand": _expand,
    **dict.fromkeys(("Split", "Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "CumSum", "BatchNormalization"), _axis),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _axis),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(
        "ReduceSum ReduceProd ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp".split(),
        _reduce,
    ),
}
