"""Random graphs over all operators, with inputs: what the passes and the native backend are tried on.

    case = random_case(seed)
    @given(graphs())
    def test_my_pass(graph): ...

Graphs are small and static as a rule; they hold loops and branches, all element types with native arithmetic, empty tensors, scalars,
broadcasting, ranks up to five, and, in a third of the cases, NaN, infinities, denormals and extreme integers among the inputs. What has no
defined result (a float that an integer type cannot hold, an index beyond the end, division of integers by zero) does not occur.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.testing.generate import arithmetic, control, indexing, movement, products, reductions, selection, sequences, windows
from lepton_compiler.testing.generate.maker import STEPS, Maker

__all__ = ["FAMILIES", "STEPS", "Case", "graphs", "random_case"]

FAMILIES = (arithmetic, control, indexing, movement, products, reductions, selection, sequences, windows)
"""The modules whose constructions are registered."""


@dataclass(frozen=True)
class Case:
    """A graph and what to feed it with."""

    graph: Graph
    feeds: dict[str, np.ndarray]


def random_case(seed: int, steps: int = 8) -> Case:
    """The case of that number: up to `steps` constructions."""
    return _case(random.Random(seed), steps)


@st.composite
def graphs(draw: st.DrawFn, steps: int = 8) -> Graph:
    """Graphs for hypothesis, which shrinks them; any feeds of the right types will do."""
    return _case(draw(st.randoms(use_true_random=False)), steps, wild=False).graph


def _case(rng: random.Random, steps: int, wild: bool = True) -> Case:
    graph = Graph()
    maker = Maker(rng, graph, rng.choice((0.0, 0.0, 0.2)) if wild else 0.0)
    for _ in range(rng.randint(1, steps)):
        maker.step()
    every: list[Value] = maker.ends(5)
    graph.set_outputs(every or [maker.b.Relu(maker.value(("float",)))])
    maker.known(graph.outputs[0])
    return Case(graph, {v.name: maker.arrays[v] for v in graph.inputs})
