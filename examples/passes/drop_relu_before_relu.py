"""A pass in a screenful: `Relu(Relu(x))` --> `Relu(x)`.

Use it with `--load-pass drop_relu_before_relu.py --passes drop-relu-before-relu`.
"""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.ir.graph import Graph
from lepton_compiler.pipeline import Pass, PassContext


@dataclass(frozen=True)
class DropReluBeforeRelu(Pass):
    """Remove a Relu whose operand is a Relu already.

    Args:
        limit: how many to remove at most.
    """

    limit: int = 1000

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Visit every graph, nested ones too; the second Relu's users read the first one's result."""
        left = self.limit
        for inner in graph.graphs():
            for node in inner:
                producer = node.inputs[0].producer if node.op.name == "Relu" and node.inputs[0] else None
                if producer is not None and producer.op.name == "Relu" and left and not node.output.is_output:
                    inner.replace_all_uses(node.output, producer.output)
                    inner.remove(node)
                    left -= 1
