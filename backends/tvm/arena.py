"""The arena that a graph needs, without a kernel compiled: buffers and life spans follow from the graph alone.

Workspaces, which some kernels ask for when they are lowered, are not in it.
"""

from __future__ import annotations

from lepton_compiler.analysis.memory import Interval, Plan, plan_memory
from lepton_compiler.backends.tvm import kernel_nodes
from lepton_compiler.backends.tvm.kernels import Kernel
from lepton_compiler.backends.tvm.program import build_program
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.backends.tvm.weights import WeightStore
from lepton_compiler.ir.graph import Graph
from lepton_compiler.states import States

NOTHING = Kernel("", b"", (), ())


def plan_of(graph: Graph, states: States | None = None) -> Plan:
    """The memory plan of a graph of static shapes that the required passes have made legal; `states` stay in the arena."""
    program = build_program(graph, {node: (spec_of(node), NOTHING) for node in kernel_nodes(graph)}, WeightStore(), states=states)
    return plan_memory([Interval(b.name, b.size, b.start, b.end) for b in program.buffers])
