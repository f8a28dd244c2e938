"""Repeating and moving blocks of elements as reshapes, transpositions and broadcasts."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import decomposition
from lepton_compiler.ops.rearrange import DepthToSpace, SpaceToDepth, Tile
from lepton_compiler.ops.shape import Expand, Reshape, Transpose


@decomposition(DepthToSpace)
def depth_to_space(build: Builder, node: Node) -> Sequence[Value]:
    """Reshape to six axes, Transpose, Reshape."""
    assert isinstance(node.op, DepthToSpace)
    return [_rearranged(build, node, *node.op.split_shape(_shape(node)))]


@decomposition(SpaceToDepth)
def space_to_depth(build: Builder, node: Node) -> Sequence[Value]:
    """Reshape to six axes, Transpose, Reshape."""
    assert isinstance(node.op, SpaceToDepth)
    return [_rearranged(build, node, *node.op.split_shape(_shape(node)))]


def _rearranged(build: Builder, node: Node, split: tuple[Dim, ...], perm: tuple[int, ...]) -> Value:
    blocks = build(Transpose(perm=perm), build(Reshape(shape=split), node.inputs[0]))
    return build(Reshape(shape=node.output.type.shape), blocks)


@decomposition(Tile)
def tile(build: Builder, node: Node) -> Sequence[Value]:
    """Reshape to [1, d, ...], Expand to [repeats, d, ...], Reshape."""
    assert isinstance(node.op, Tile)
    apart: list[Dim] = []
    wide: list[Dim] = []
    for size, repeat in zip(_shape(node), node.op.repeats, strict=True):
        if repeat != 1:
            apart.append(1)
            wide.append(repeat)
        apart.append(size)
        wide.append(size)
    spread = build(Expand(shape=tuple(wide)), build(Reshape(shape=tuple(apart)), node.inputs[0]))
    return [build(Reshape(shape=node.output.type.shape), spread)]


def _shape(node: Node) -> tuple[Dim, ...]:
    x = node.inputs[0]
    assert x is not None
    return x.type.shape
