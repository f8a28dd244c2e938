"""Writing graphs: `b.Conv(x, w, strides=(2, 2))` appends a node and gives its output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Union

import numpy as np

from lepton_compiler import ops
from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.graph import Graph, Loc, Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.tensor import Tensor

Arg = Union[Value, int, float, np.ndarray, None]


class Builder:
    """Adds nodes to a graph, at its end or before a node, all with one provenance.

    `b.Op(operands, attribute=value)` builds by operator name; `b(op, operands)` from an operator instance.
    Numbers and arrays among the operands become constants; a number takes the element type of the first value.

    Attributes:
        created: the nodes added so far, in order.
    """

    def __init__(self, graph: Graph, before: Node | None = None, loc: Loc | None = None) -> None:
        self.graph, self.before, self.loc = graph, before, loc or Loc()
        self.created: list[Node] = []

    def node(self, op: Op, inputs: Sequence[Arg], *, names: Sequence[str] = (), regions: Sequence[Graph] = ()) -> Node:
        """Add a node.

        Raises:
            InferenceError: the operands do not fit the operator.
        """
        like = next((v for v in inputs if isinstance(v, Value)), None)
        operands = [v if v is None or isinstance(v, Value) else self.constant(v, like) for v in inputs]
        node = self.graph.add(op, operands, names=names, before=self.before, regions=regions, loc=self.loc)
        self.created.append(node)
        return node

    def constant(self, array: Tensor | Any, like: Value | None = None, name: str = "c") -> Value:
        """A constant; of the element type of `like` where `array` is a plain number."""
        if isinstance(array, (bool, int, float)) and like is not None:
            array = np.asarray(array, like.type.dtype.numpy)
        return self.graph.constant(array, name)

    def __call__(self, op: Op, *inputs: Arg) -> Value:
        """Add a node; gives its only output."""
        return self.node(op, inputs).output

    def __getattr__(self, name: str) -> Callable[..., Value]:
        if not name[:1].isupper() or name not in ops.registry:
            raise AttributeError(f"no operator '{name}'")
        return lambda *inputs, **attributes: self(make_op(name, attributes), *inputs)


def make_op(name: str, attributes: dict[str, Any]) -> Op:
    """The operator `name` with these attributes.

    Raises:
        LeptonError: it has no such attribute, or needs one that is not given.
    """
    cls = ops.get(name)
    try:
        return cls(**attributes)
    except TypeError as error:
        raise LeptonError(f"{name}: {error}") from error
