"""Embedding tables as codes: the rows that are looked up are decoded, the table never is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.ops.binary import Mul
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.indexing import Gather
from lepton_compiler.passes.quantize import parameters
from lepton_compiler.passes.quantize.roles import layer_name

SMALLEST = 4096
"""Tables of fewer elements stay as they are."""


@dataclass(frozen=True)
class Table:
    """A table on codes: its name, its values before, the codes and the scale of each row."""

    name: str
    float_rows: np.ndarray
    codes: np.ndarray
    scales: np.ndarray


def is_table(node: Node) -> bool:
    """Whether a node looks up rows of a constant matrix worth storing as codes."""
    table = node.inputs[0] if node.op.name == "Gather" and node.op.axis == 0 else None  # type: ignore[attr-defined]
    return table is not None and table.is_constant and table.type.dtype == FLOAT32 and table.type.rank == 2 and table.type.size >= SMALLEST


def place_tables(graph: Graph, keep: tuple[str, ...] = ()) -> list[Table]:
    """Gather(table, i)  -->  Mul(Cast(Gather(codes, i)), Gather(scales, i)), 8 bits and a scale per row, in nested graphs too."""
    placed = []
    for part in list(bodies(graph)):
        for node in part.nodes:
            if is_table(node) and layer_name(node) not in keep:
                placed.append(_place(node))
    return placed


def _place(node: Node) -> Table:
    graph, (table, indices), name = node.graph, node.inputs[:2], node.output.name
    assert table is not None and indices is not None
    label, rows = layer_name(node), table.numpy()
    scales = parameters.weight_scales(rows, 0, 8)[:, None]
    codes = parameters.weight_codes(rows, scales, 8)
    b = Builder(graph, before=node, loc=node.loc.by("quantize"))
    found = b(Cast(to=FLOAT32), b(Gather(axis=0), b.constant(codes, name=f"{name}_codes"), indices))
    result = b(Mul(), found, b(Gather(axis=0), b.constant(scales, name=f"{name}_scale"), indices))
    graph.replace_all_uses(node.output, result)
    graph.remove(node)
    graph.rename(result, name)
    return Table(label, rows, codes, scales)
