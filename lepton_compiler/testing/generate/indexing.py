"""Reading and writing elements by index; indices are constants or computed, and always within bounds."""

from __future__ import annotations

import math

import numpy as np

from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import DTYPES, TensorType
from lepton_compiler.ops.builder import make_op
from lepton_compiler.testing.generate.maker import Maker, step

ANY = ("float", "float", "int", "uint", "bool")
INDEX = (DTYPES["int64"], DTYPES["int32"])


def indices(m: Maker, shape: tuple[int, ...], size: int, negative: bool = True) -> Value:
    """Integers below `size`, counted from either end."""
    kind = m.pick(INDEX)
    if m.flag(0.4) and size:
        source = m.b.Mod(m.like(TensorType(kind, shape)), size)
        return m.b.Sub(source, size) if negative and m.flag(0.3) else source
    low = -size if negative and m.flag() else 0
    draw = np.random.default_rng(m.number(0, 99))
    return m.weight(np.asarray(draw.integers(low, max(size, low + 1), shape), kind.numpy))


def full(x: Value) -> bool:
    """Whether a value has elements to read."""
    return 0 not in x.type.static_shape


@step(4)
def gather(m: Maker) -> None:
    """Slices along an axis."""
    x = m.value(ANY, 1, 4)
    axis = m.axis(x.type.rank)
    if full(x):
        m.add(make_op("Gather", {"axis": axis}), x, indices(m, m.shape(0, 2), x.type.static_shape[axis]))


@step(2)
def gather_elements(m: Maker) -> None:
    """Element by element."""
    x = m.value(ANY, 1, 4)
    axis, shape = m.axis(x.type.rank), x.type.static_shape
    if full(x):
        wanted = tuple(m.number(0 if m.flag(0.05) else 1, 4) if i == axis % len(shape) else m.number(1, d) for i, d in enumerate(shape))
        m.add(make_op("GatherElements", {"axis": axis}), x, indices(m, wanted, shape[axis]))


@step(2)
def gather_nd(m: Maker) -> None:
    """Slices at index tuples."""
    x = m.value(ANY, 1, 4)
    if full(x):
        batch = m.number(0, min(1, x.type.rank - 1))
        depth = m.number(1, x.type.rank - batch)
        lead = (*x.type.static_shape[:batch], *m.shape(0, 1))
        columns = [m.b.Unsqueeze(indices(m, lead, d), axes=(len(lead),)) for d in x.type.static_shape[batch : batch + depth]]
        same = [m.b.Cast(c, to=INDEX[0]) for c in columns]
        m.add(make_op("GatherND", {"batch_dims": batch}), x, m.b.Concat(*same, axis=-1))


@step(2)
def scatter_elements(m: Maker) -> None:
    """Writing element by element; plain writes meet no place twice."""
    x = m.value(("float", "float", "int"), 1, 4)
    axis, shape = m.axis(x.type.rank), x.type.static_shape
    if not full(x):
        return
    mode = m.pick(("none", "add", "mul", "max", "min"))
    wanted = [m.number(1, d) for d in shape]
    if mode != "none":
        at = indices(m, tuple(wanted), shape[axis])
    else:
        column = [-1 if i == axis % len(shape) else 1 for i in range(len(shape))]
        places = np.array(m.rng.sample(range(shape[axis]), wanted[axis % len(shape)]), np.int64).reshape(column)
        at = m.weight(np.array(np.broadcast_to(places, wanted)))
    m.add(make_op("ScatterElements", {"axis": axis, "reduction": mode}), x, at, m.fresh(TensorType(x.type.dtype, tuple(wanted))))


@step(2)
def scatter_nd(m: Maker) -> None:
    """Writing slices at index tuples; plain writes meet no place twice."""
    x = m.value(("float", "float", "int"), 1, 4)
    shape = x.type.static_shape
    if not full(x):
        return
    mode, depth = m.pick(("none", "add", "mul", "max", "min")), m.number(1, x.type.rank)
    places = math.prod(shape[:depth])
    draw = np.random.default_rng(m.number(0, 99))
    chosen = draw.choice(places, m.number(1, min(4, places)), replace=mode != "none")
    at = np.stack(np.unravel_index(chosen, shape[:depth]), -1).astype(np.int64)
    updates = m.fresh(TensorType(x.type.dtype, (len(chosen), *shape[depth:])))
    m.add(make_op("ScatterND", {"reduction": mode}), x, m.weight(at), updates)


@step(1)
def one_hot(m: Maker) -> None:
    """Indices to rows of zeros with a one, or other values."""
    depth, shape = m.number(1, 5), m.shape(0, 2)
    values = m.like(TensorType(m.any_type(), (2,)))
    m.add(make_op("OneHot", {"depth": depth, "axis": m.number(-len(shape) - 1, len(shape))}), indices(m, shape, depth), values)


@step(1)
def reverse_sequence(m: Maker) -> None:
    """Each row backwards up to its length."""
    x = m.value(ANY, 2, 4)
    if full(x):
        batch = m.number(0, 1)
        lengths = m.b.Add(indices(m, (x.type.static_shape[batch],), x.type.static_shape[1 - batch], negative=False), 1)
        m.add(make_op("ReverseSequence", {"batch_axis": batch, "time_axis": 1 - batch}), x, lengths)


@step(1)
def tensor_scatter(m: Maker) -> None:
    """Writing into a cache."""
    shape = (m.number(1, 3), *(m.number(2, 4) for _ in range(m.number(1, 3))))
    past = m.like(TensorType(m.float_type(), shape))
    axis, mode = m.number(1, len(shape) - 1), m.pick(("linear", "circular"))
    steps = m.number(1, shape[axis])
    update = m.fresh(TensorType(past.type.dtype, tuple(steps if i == axis else d for i, d in enumerate(shape))))
    starts = m.weight(np.array([m.number(0, shape[axis] - steps) for _ in range(shape[0])], np.int64)) if m.flag(0.8) else None
    m.add(make_op("TensorScatter", {"axis": axis - m.pick((0, len(shape))), "mode": mode}), past, update, starts)
