"""Attention as one kernel, for backends that have one without a matrix of scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lepton_compiler.analysis.attention import SEPARATE
from lepton_compiler.analysis.layouts import RESHAPES
from lepton_compiler.ir.graph import Graph, Loc, Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.traverse import bodies, erase_dead
from lepton_compiler.ir.types import FLOAT32, INT64
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.passes.fuse.attention_masks import SPREAD, causal, owned
from lepton_compiler.passes.fuse.attention_parts import MULTIPLIED, Attention, Operand, find_attention, operands_of
from lepton_compiler.passes.fuse.kinds import is_arithmetic, kind
from lepton_compiler.passes.fuse.wrap import wrap
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.target import Target

NAME = "attention"
"""`Fused.kind` of these kernels."""


@dataclass(frozen=True)
class FuseAttention(Pass):
    """MatMul, Mul, Add, Softmax, MatMul  -->  Fused(kind="attention") { the same, with scores in float32 }

    The kernel reads queries, keys and values through the reshapes, transposes, slices and broadcasts before them, computes masks that only
    it needs, and writes through the transpose after it. All between the products is float32 in it, whatever it was before: a backend that
    keeps no scores has no reason to round them. A mask that hides what comes after a query, and nothing else, is written as a comparison of
    numbers of keys and queries, so that a backend can leave out these keys, infinite and undefined ones as well.

    Attention that stays in separate kernels says why in the origin of its softmax.

    Attributes:
        float32, float16, bfloat16: elements of the largest keys and values of each type that the backend takes; 0 where it takes none.
    """

    float32: int = 128
    float16: int = 256
    bfloat16: int = 256

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        most = largest_heads({"float32": self.float32, "float16": self.float16, "bfloat16": self.bfloat16}, ctx.target)
        for part in list(bodies(graph)):
            done = [_fuse(node, most) for node in part.nodes if node.op.name == "Softmax"]
            if any(done):
                erase_dead(part)


def largest_heads(most: Mapping[str, int], target: Target) -> dict[str, int]:
    """Elements of the largest keys and values by element type: 0 where a GPU of the target does not multiply it."""
    return {name: n if all(name in gpu.multiplied for gpu in target.gpus) else 0 for name, n in most.items()}


def _fuse(softmax: Node, most: dict[str, int]) -> bool:
    """Make one kernel of the attention around a softmax, if there is one; says whether it did."""
    found = find_attention(softmax)
    if found is None:
        return False
    operands = found if isinstance(found, str) else operands_of(found, most)
    if isinstance(found, str) or isinstance(operands, str):
        softmax.loc = softmax.loc.by(f"{SEPARATE}{operands}")
        return False
    _Writer(found, operands).write()
    return True


class _Writer:
    """Writes the nodes of one kernel."""

    def __init__(self, found: Attention, operands: tuple[Operand, Operand, Operand]) -> None:
        self.found, self.operands = found, operands
        self.after = _epilogue(found.second)
        self.sink = self.after[-1][0] if self.after else found.second
        self.owned = owned(found)
        origins = {*self.owned, *(n for n, _ in self.after), *(n for o in operands for n in o.passed)}
        loc = Loc().merge(*(n.loc for n in found.first.graph if n in origins)).by("fuse-attention")
        self.build = Builder(found.first.graph, before=self.sink, loc=loc)
        self.masks: dict[Value, Value] = {}
        self.views: dict[tuple[Op, tuple[Value | None, ...]], Node] = {}

    def write(self) -> None:
        """Add the kernel, and let it give what the nodes gave."""
        b, found = self.build, self.found
        bases = [b.Transpose(o.base, perm=_swap(o.base)) if o.swapped else o.base for o in self.operands]
        b.created.clear()  # what was added so far is a kernel of its own
        q, k, v = (self.operand(o, base) for o, base in zip(self.operands, bases, strict=True))
        factor = self.operands[0].factor * self.operands[1].factor
        scores = b.MatMul(q, k)
        if factor != 1:
            scores = b.Mul(scores, factor)
        for node, which in found.path:
            scores = self.step(node, which, scores)
        result = b.MatMul(self.weights(scores), v)
        if found.second.output.type.dtype != FLOAT32:
            result = b(Cast(to=found.second.output.type.dtype), result)
        for node, which in self.after:
            result = b(node.op, *(result if n == which else operand for n, operand in enumerate(node.inputs)))
        graph, old = found.first.graph, self.sink.output
        name = old.name
        graph.replace_all_uses(old, result)
        graph.rename(old, graph.fresh_name(name))
        graph.rename(result, name)
        wrap(graph, b.created, 1, NAME)

    def operand(self, o: Operand, base: Value) -> Value:
        """A view of what is in memory, as float32."""
        value = self.build.Transpose(base, perm=_swap(base)) if o.swapped else base
        for node, output in o.views:
            key = node.op, (value, *node.inputs[1:])
            if key not in self.views:
                self.views[key] = self.build.node(*key)
            value = self.views[key].outputs[output]
        return self.wide(value)

    def wide(self, value: Value) -> Value:
        """Floats of any length as float32."""
        if not value.type.dtype.is_float or value.type.dtype == FLOAT32:
            return value
        if value.tensor is not None:
            return self.build.constant(value.numpy().astype(np.float32), name=value.name)
        return self.build(Cast(to=FLOAT32), value)

    def step(self, node: Node, which: int, scores: Value) -> Value:
        """One operator between the first product and the softmax."""
        if node.op.name == "Cast":
            return scores
        ahead = causal(self.found, node, which)
        if ahead is not None:
            queries, keys = node.output.type.static_shape[-2:]
            b = self.build
            row = b.Reshape(b.Range(start=ahead, limit=ahead + queries, delta=1, dtype=INT64), shape=(queries, 1))
            seen = b.LessOrEqual(b.Range(start=0, limit=keys, delta=1, dtype=INT64), row)
            return b.Where(seen, scores, b.constant(np.float32(-np.inf)))
        operands = [v if v is None else scores if k == which else self.wide(self.mask(_whole(v))) for k, v in enumerate(node.inputs)]
        return self.build(node.op, *operands)

    def mask(self, value: Value) -> Value:
        """What a step reads beside the scores: computed in the kernel as far as nobody else needs it, and through views."""
        if value.type.dtype == FLOAT32:
            value = _whole(value)
        node = value.producer
        if node is None or not (node in self.owned or (node.op.name in SPREAD and value.type.is_static)):
            return value
        if value not in self.masks:
            self.masks[value] = self.build(node.op, *(v if v is None else self.mask(v) for v in node.inputs))
        return self.masks[value]

    def weights(self, scores: Value) -> Value:
        """The softmax, and what becomes of rows without keys."""
        b, empty = self.build, self.found.empty
        weights = b(self.found.softmax.op, scores)
        for node in self.found.between:
            if node.op.name in RESHAPES:
                weights = b(node.op, weights)
            elif node.op.name == "Where" and empty == "never_nan":
                weights = b.Where(b.IsNaN(weights), b.constant(0.0, weights), weights)
            elif node.op.name == "Where":
                peak = b.ReduceMax(scores, axes=(scores.type.rank - 1,), keepdims=True)
                weights = b.Where(b.Equal(peak, b.constant(-np.inf, peak)), b.constant(0.0, weights), weights)
        return weights


def _epilogue(product: Node) -> list[tuple[Node, int]]:
    """What can be done with each sum before it is stored: element-wise operators and transposes, each with the operand that is the sum."""
    value, found = product.output, list[tuple[Node, int]]()
    while len(value.uses) == 1 and not value.is_output:
        ((node, which),) = value.uses
        whole = is_arithmetic(node) and node.output.type.shape == value.type.shape
        if not whole and kind(node) not in ("view", "transpose"):
            break
        found.append((node, which))
        value = node.output
    while found and kind(found[-1][0]) == "view":  # costs nothing outside
        found.pop()
    return found


def _whole(value: Value) -> Value:
    """A float as it was in float32 before conversions to shorter ones, if it was."""
    found = value
    while (node := value.producer) is not None and node.op.name == "Cast":
        value = node.present_inputs[0]
        if value.type.dtype.name not in MULTIPLIED:
            break
        if value.type.dtype == FLOAT32:
            found = value
    return found


def _swap(value: Value) -> tuple[int, ...]:
    rank = value.type.rank
    return (*range(rank - 2), rank - 1, rank - 2)
