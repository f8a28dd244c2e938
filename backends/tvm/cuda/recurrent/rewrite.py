"""Recurrent layers that one kernel takes: a product for all time steps, then `RecurrentSteps`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_compiler.backends.tvm.cuda.recurrent.arrangement import arrange, seconds_apart, time_of
from lepton_compiler.backends.tvm.cuda.recurrent.problem import problem_of, takes
from lepton_compiler.backends.tvm.cuda.tensor_cores.device import device_of
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ir.types import FLOAT32, TensorType
from lepton_compiler.ops.binary import Add, Mul
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.indexing import Slice
from lepton_compiler.ops.matmul import MatMul, MatMulInteger
from lepton_compiler.ops.quantize import DynamicQuantizeLinear
from lepton_compiler.ops.recurrent import DynamicQuantizeLSTM, Recurrent
from lepton_compiler.ops.shape import Reshape, Transpose
from lepton_compiler.ops.steps import RecurrentSteps
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.target import Target

APART = {
    "steps-apart-for-form": "there is no kernel for a layer of this form",
    "steps-apart-for-room": "the weights do not fit the multiprocessors that are sure to be there",
    "steps-apart-for-speed": "launches for each step take less time",
}
"""Why a layer keeps launches for each step: by the name under which its provenance has it."""


@dataclass(frozen=True)
class PersistentLayers(Pass):
    """LSTM(x, w, r, b)  -->  gates = MatMul(x, w') + b'; RecurrentSteps(gates, r), where one kernel for all steps fits and pays."""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        for part in list(bodies(graph)) if ctx.target.gpus else []:
            for node in [n for n in part.nodes if isinstance(n.op, Recurrent)]:
                reason = apart(node, ctx.target)
                if reason:
                    node.loc = node.loc.by(reason)
                else:
                    _Layer(node).rewrite()


def apart(node: Node, target: Target) -> str:
    """Why a recurrent layer keeps launches for each step, as a key of `APART`; empty where it does not."""
    layer, x = node.op, node.present_inputs[0].type
    assert isinstance(layer, Recurrent)
    if not takes(layer, x) or (isinstance(layer, DynamicQuantizeLSTM) and not sums_exactly(node)):
        return "steps-apart-for-form"
    rows = layer.directions * layer.gates * layer.hidden_size
    problem = problem_of(layer, TensorType(FLOAT32, (*x.static_shape[:2], rows)))
    found = arrange(problem, target.gpus)
    if found is None:
        return "steps-apart-for-room"
    alternative = sum(seconds_apart(problem, device_of(gpu.name)) for gpu in target.gpus)
    return "steps-apart-for-speed" if alternative < time_of(problem, found, target.gpus) else ""


EXACT = 2**24
"""Whole numbers up to which float32 has all of them."""


def sums_exactly(node: Node) -> bool:
    """Whether float32 sums the products of a layer with 8-bit weights exactly, in any order: weights are known and not too large, and have no zero
    points; their scales are known.
    """
    _, w, r, *rest = node.inputs
    w_scale, w_zero, r_scale, r_zero = [*rest, None][5:9]
    if any(v is None or not v.is_constant for v in (w, r, w_scale, r_scale)):
        return False
    if any(zero is not None and (not zero.is_constant or zero.numpy().any()) for zero in (w_zero, r_zero)):
        return False
    assert r is not None
    return int(np.abs(r.numpy().astype(np.int64)).sum(-1).max()) * 255 <= EXACT


class _Layer:
    """One layer under way."""

    def __init__(self, node: Node) -> None:
        self.node = node
        assert isinstance(node.op, Recurrent)
        self.layer = node.op
        self.rows = self.layer.gates * self.layer.hidden_size
        self.build = Builder(node.graph, before=node, loc=node.loc.by(f"persistent-{node.op.name.lower()}"))

    def rewrite(self) -> None:
        """Put product and steps in the layer's place."""
        given: list[Value | None] = [*self.node.inputs, *[None] * 8][:8]
        (x, w, r, b, lengths), states = given[:5], given[5:]
        assert x is not None and w is not None and r is not None
        head, tail = self.biases(b)
        rounded = isinstance(self.layer, DynamicQuantizeLSTM)
        gates = self.integer_product(self.wide(x), w) if rounded else self.build(MatMul(), self.wide(x), self.weights(self.wide(w)))
        gates = gates if head is None else self.build(Add(), gates, head)
        operands: list[Value | None] = [gates, r if rounded else self.wide(r), tail, self.lengths(lengths, x)]
        operands += [None if s is None else self.wide(s) for s in states]
        operands += [self.node.inputs[10]] if rounded else []
        while operands[-1] is None:
            operands.pop()
        results = self.build.node(RecurrentSteps(layer=self.layer), operands).outputs
        graph = self.node.graph
        names = [old.name for old in self.node.outputs]
        made = [new if new.type.dtype == x.type.dtype else self.build(Cast(to=x.type.dtype), new) for new in results]
        for old, new in zip(self.node.outputs, made, strict=True):
            graph.replace_all_uses(old, new)
        graph.remove(self.node)
        for name, new in zip(names, made, strict=True):
            graph.rename(new, name)

    def apply(self, op: Op, *values: Value) -> Value:
        """A node, or its result where all operands are constants."""
        if all(v.is_constant for v in values):
            return self.build.constant(np.ascontiguousarray(op.evaluate(*(v.numpy() for v in values))[0]))
        return self.build(op, *values)

    def wide(self, value: Value) -> Value:
        """`value` in float32."""
        return value if value.type.dtype == FLOAT32 else self.apply(Cast(to=FLOAT32), value)

    def integer_product(self, x: Value, w: Value) -> Value:
        """`x`, rounded to 8 bits by its own range, times 8-bit weights."""
        codes, x_scale, x_zero = self.build.node(DynamicQuantizeLinear(), [x]).outputs
        sums = self.build(MatMulInteger(), codes, self.weights(w), x_zero)
        scale = self.node.inputs[8]
        assert scale is not None
        columns = np.broadcast_to(scale.numpy().reshape(self.layer.directions, -1), (self.layer.directions, self.rows)).reshape(-1)
        return self.build(
            Mul(), self.build(Cast(to=FLOAT32), sums), self.build(Mul(), x_scale, self.build.constant(np.ascontiguousarray(columns)))
        )

    def weights(self, w: Value) -> Value:
        """Those of all directions as one matrix, [input, directions * gates * hidden]."""
        flat = self.apply(Reshape(shape=(self.layer.directions * self.rows, w.type.shape[2])), w)
        return self.apply(Transpose(perm=(1, 0)), flat)

    def biases(self, b: Value | None) -> tuple[Value | None, Value | None]:
        """What is added to the product with the input, [directions * gates * hidden]; and to those with the state, where that differs."""
        if b is None:
            return None, None
        b = self.wide(b)
        of_input, of_state = (self.columns(b, k * self.rows, (k + 1) * self.rows) for k in (0, 1))
        if getattr(self.layer, "linear_before_reset", False):
            return self.flat(of_input), of_state
        return self.flat(self.apply(Add(), of_input, of_state)), None

    def columns(self, value: Value, start: int, end: int) -> Value:
        return self.apply(Slice(starts=(start,), ends=(end,), axes=(1,), steps=(1,)), value)

    def flat(self, value: Value) -> Value:
        return self.apply(Reshape(shape=(self.layer.directions * self.rows,)), value)

    def lengths(self, lengths: Value | None, x: Value) -> Value | None:
        """None also where all sequences are known to be as long as the tensor."""
        time = x.type.static_shape[1 if self.layer.layout else 0]
        whole = lengths is None or (lengths.is_constant and bool((lengths.numpy() >= time).all()))
        return None if whole else lengths
