"""Branches and loops, with nested ones, and values from outside."""

from __future__ import annotations

import numpy as np

from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import BOOL, INT64, TensorType
from lepton_compiler.ops.control import If, Loop, Scan
from lepton_compiler.testing.generate.arithmetic import converted
from lepton_compiler.testing.generate.maker import Maker, step

DEEPEST = 2


def body(m: Maker, name: str) -> tuple[Graph, Maker]:
    """A nested graph, and its maker."""
    graph = Graph(name)
    return graph, Maker(m.rng, graph, m.wild, m.depth + 1)


def captured(m: Maker) -> list[Value]:
    """Values from outside that a nested graph reads."""
    return list(dict.fromkeys(m.value(("float", "float", "int", "bool"), 0, 3) for _ in range(m.number(0, 2))))


def grow(inner: Maker, most: int) -> None:
    """A few constructions inside a nested graph."""
    for _ in range(inner.number(1, most)):
        inner.step()


def fitted(m: Maker, type: TensorType, seeds: list[Value]) -> Value:
    """A result of this type: a value that has it, or one that depends on a value and takes its shape."""
    found = m.find(lambda v: v.type == type and v not in seeds)
    if found is not None and m.flag(0.9):
        return found
    source = m.find(lambda v: 0 not in v.type.static_shape)
    if source is None:
        return m.tame(type)
    scalar = m.b.ReduceMax(source, axes=tuple(range(source.type.rank)), keepdims=False)
    if type.dtype.kind == "bool" or source.type.dtype.kind == "bool":
        scalar = m.b.Cast(scalar, to=type.dtype)
    else:
        scalar = converted(m, m.b.Clip(scalar, 0, 3) if not source.type.dtype.is_float else m.b.Tanh(scalar), type.dtype)
    return m.b.Expand(scalar, shape=type.static_shape)


@step(3)
def branch(m: Maker) -> None:
    """If, whose condition is an input, or computed; both branches return the same types."""
    if m.depth >= DEEPEST:
        return
    captures = captured(m)
    condition = m.like(TensorType(BOOL, m.pick(((), (1,)))))
    wanted: list[TensorType] = []
    regions = []
    for name in ("then", "else"):
        graph, inner = body(m, name)
        seeds = [inner.formal(f"{name}{i}", v.type, m.known(v)) for i, v in enumerate(captures)]
        grow(inner, 3)
        results = [fitted(inner, t, []) for t in wanted] if wanted else inner.ends(2) or [fitted(inner, TensorType(BOOL, ()), seeds)]
        results = results if wanted else [v for v in results if v.type.is_static] or [inner.tame(TensorType(BOOL, ()))]
        wanted = [v.type for v in results]
        graph.set_outputs(results)
        regions.append(graph)
    m.b.node(If(), [condition, *captures], regions=regions)


@step(3)
def loop(m: Maker) -> None:
    """Loop over a known number of iterations with scanned results, or until a condition fails."""
    if m.depth >= DEEPEST:
        return
    captures, carried = captured(m), [m.value(("float", "float", "int"), 0, 3) for _ in range(m.number(0, 2))]
    graph, inner = body(m, "body")
    inner.formal("iteration", TensorType(INT64, ()), np.array(0, np.int64))
    going = inner.formal("going", TensorType(BOOL, ()), np.array(True))
    formals = [inner.formal(f"v{i}", v.type, m.known(v)) for i, v in enumerate([*carried, *captures])]
    grow(inner, 4)
    states = [fitted(inner, v.type, formals) for v in carried]
    counted = m.flag(0.7) or not carried
    scanned = [v for v in inner.ends(2) if v.type.is_static] if counted else []
    proceed = inner.b.And(going, going) if counted else fitted(inner, TensorType(BOOL, ()), [])
    graph.set_outputs([proceed, *states, *scanned])
    trips = m.number(0, 3)
    count = m.weight(np.array(trips, np.int64)) if counted or m.flag() else m.b.Min(m.like(TensorType(INT64, ())), 3)
    start = None if counted else (m.like(TensorType(BOOL, ())) if m.flag() else None)
    m.b.node(Loop(carried=len(carried), trips=trips if counted else None), [count, start, *carried, *captures], regions=[graph])


@step(3)
def scan(m: Maker) -> None:
    """Scan along axes, forwards and backwards."""
    if m.depth >= DEEPEST:
        return
    captures, carried = captured(m), [m.value(("float", "float", "int"), 0, 2) for _ in range(m.number(0, 2))]
    first = m.value(("float", "int"), 1, 3)
    axes = [m.number(0, first.type.rank - 1)]
    length = first.type.static_shape[axes[0]]
    sequences = [first]
    if m.flag(0.3):
        sequences.append(m.fresh(TensorType(first.type.dtype, (length, m.number(1, 3)))))
        axes.append(0)
    graph, inner = body(m, "body")
    states = [inner.formal(f"s{i}", v.type, m.known(v)) for i, v in enumerate(carried)]
    for i, (v, axis) in enumerate(zip(sequences, axes, strict=True)):
        shape = tuple(d for k, d in enumerate(v.type.static_shape) if k != axis)
        held = m.known(v).take(0, axis) if length else np.zeros(shape, v.type.dtype.numpy)
        inner.formal(f"e{i}", TensorType(v.type.dtype, shape), np.asarray(held))
    for i, v in enumerate(captures):
        inner.formal(f"c{i}", v.type, m.known(v))
    grow(inner, 4)
    results = [fitted(inner, v.type, states) for v in carried]
    stacked = [v for v in inner.ends(2) if v.type.is_static and v.type.rank < 5] or [inner.tame(TensorType(BOOL, ()))]
    graph.set_outputs([*results, *stacked])
    op = Scan(
        num_scan_inputs=len(sequences), carried=len(carried), input_axes=tuple(axes) if any(axes) or m.flag(0.2) else (),
        input_directions=tuple(m.number(0, 1) for _ in sequences) if m.flag(0.4) else (),
        output_axes=tuple(m.number(0, v.type.rank) for v in stacked) if m.flag(0.3) else (),
        output_directions=tuple(m.number(0, 1) for _ in stacked) if m.flag(0.4) else (),
    )  # fmt: skip
    m.b.node(op, [*carried, *sequences, *captures], regions=[graph])
