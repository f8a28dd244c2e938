"""Tables of bytes as gathers."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import INT32
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import decomposition
from lepton_compiler.ops.lookup import Lookup


@decomposition(Lookup)
def _(build: Builder, node: Node) -> Sequence[Value]:
    x, table = node.present_inputs
    return [build.Gather(table, build.Cast(x, to=INT32), axis=0)]  # a negative index counts from the end, as a negative code does
