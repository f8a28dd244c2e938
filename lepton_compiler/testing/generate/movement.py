"""Operators that move elements: views, permutations, joins, slices, padding, repetition."""

from __future__ import annotations

import math

from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import TensorType
from lepton_compiler.ops.builder import make_op
from lepton_compiler.testing.generate.maker import LARGEST, Maker, step

ANY = ("float", "float", "int", "uint", "bool")
FAR = 1 << 40


@step(6)
def reshape(m: Maker) -> None:
    """Another shape of the same elements."""
    x = m.value(ANY, 0, 4)
    shape, at = list(x.type.static_shape), m.number(0, x.type.rank)
    match m.number(0, 4):
        case 0 if x.type.size:
            m.b.Reshape(x, shape=(-1,))
        case 1:
            m.b.Unsqueeze(x, axes=(at,))
        case 2 if 1 in shape:
            m.b.Squeeze(x, axes=tuple(m.some([i - m.pick((0, len(shape))) for i, d in enumerate(shape) if d == 1], 1)))
        case 3 if at and shape[at - 1] % 2 == 0:
            m.b.Reshape(x, shape=(*shape[: at - 1], 2, shape[at - 1] // 2, *shape[at:]))
        case _:
            m.b.Reshape(x, shape=_factors(m, math.prod(shape)))


def _factors(m: Maker, total: int) -> tuple[int, ...]:
    """A random shape of `total` elements."""
    shape: list[int] = []
    while total > 1 and len(shape) < 3:
        shape.append(m.pick([d for d in range(1, total + 1) if total % d == 0]))
        total //= shape[-1]
    return (*shape, total)


@step(6)
def transpose(m: Maker) -> None:
    """A permutation of the axes."""
    x = m.value(ANY, 1)
    m.b.Transpose(x, perm=tuple(m.some(range(x.type.rank), x.type.rank)))


@step(5)
def concat(m: Maker) -> None:
    """Values of one shape, or of shapes that differ along the axis."""
    x = m.value(ANY, 1)
    axis, shape = m.axis(x.type.rank), x.type.static_shape
    parts = [x]
    for _ in range(m.number(0, 3)):
        other = [m.number(0, 3) if i == axis % len(shape) else d for i, d in enumerate(shape)]
        parts.append(m.like(x.type) if m.flag() else m.fresh(TensorType(x.type.dtype, tuple(other))))
    m.rng.shuffle(parts)
    m.add(make_op("Concat", {"axis": axis}), *parts)


@step(3)
def split(m: Maker) -> None:
    """Two or three parts, one of them perhaps empty."""
    x = m.value(ANY, 1)
    axis = m.axis(x.type.rank)
    size = x.type.static_shape[axis]
    cuts = sorted(m.number(0, size) for _ in range(m.number(1, 2)))
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
    m.b.node(make_op("Split", {"axis": axis, "sizes": tuple(sizes)}), [x])


@step(5)
def cut(m: Maker) -> None:
    """A slice along some axes, forwards or backwards, with bounds beyond the ends."""
    x = m.value(ANY, 1)
    axes = m.axes(x.type.rank, 1)
    rows = []
    for axis in axes:
        size = x.type.static_shape[axis]
        low, high = sorted((m.number(0, size), m.number(0, size)))
        forwards = m.flag(0.75)
        start, end = (low, high) if forwards else (high - 1, low - 1 if low else -FAR)
        start = start - size if m.flag(0.2) and 0 <= start < size else start
        rows.append((start, FAR if forwards and m.flag(0.4) else end, m.number(1, 3) * (1 if forwards else -1)))
    starts, ends, steps = (tuple(c) for c in zip(*rows, strict=True))
    m.b.Slice(x, starts=starts, ends=ends, axes=axes, steps=steps)


@step(5)
def pad(m: Maker) -> None:
    """Padding in all modes, and cropping."""
    x = m.value(ANY, 1, 4)
    mode = m.pick(("constant", "constant", "edge", "reflect", "wrap"))
    shape, rank = x.type.static_shape, x.type.rank
    if mode != "constant" and 0 in shape:
        return
    most = [2 if mode == "constant" else min(2, d - (mode == "reflect")) for d in shape]
    pads = [m.number(0, n) if m.flag(0.6) else 0 for n in (*most, *most)]
    if m.flag(0.2):
        at = m.number(0, rank - 1)
        pads[at], pads[at + rank] = -m.number(0, shape[at] // 2), -m.number(0, shape[at] // 2)
    if rank == 4 and m.flag(0.6):
        pads[:2], pads[4:6] = [0, 0], [0, 0]
    fill = m.fresh(TensorType(x.type.dtype, ())) if mode == "constant" and m.flag(0.4) else None
    m.add(make_op("Pad", {"pads": tuple(pads), "mode": mode}), x, fill)


@step(4)
def spread(m: Maker) -> None:
    """Expand and Tile."""
    x = m.value(ANY, 0, 4)
    shape = x.type.static_shape
    if x.type.size > LARGEST // 8:
        return
    if m.flag():
        wanted = tuple(m.number(0 if m.flag(0.05) else 1, 3) if d == 1 else d for d in shape)
        m.b.Expand(x, shape=(m.number(1, 2), *wanted) if m.flag() else wanted)
    else:
        m.b.Tile(x, repeats=tuple(m.number(0 if m.flag(0.05) else 1, 2) for _ in shape))


@step(2)
def blocks(m: Maker) -> None:
    """Channels to pixels and back."""
    n, c, h, w = m.number(1, 2), m.number(1, 2), m.number(1, 3), m.number(1, 3)
    element, b = m.any_type(), m.number(1, 2)
    if m.flag():
        x = m.like(TensorType(element, (n, c * b * b, h, w)))
        m.b.DepthToSpace(x, blocksize=b, mode=m.pick(("DCR", "CRD")))
    else:
        m.b.SpaceToDepth(m.like(TensorType(element, (n, c, h * b, w * b))), blocksize=b)


@step(2)
def triangle(m: Maker) -> None:
    """The upper or lower part of matrices, and diagonals."""
    x = m.value(ANY, 2)
    if x.type.rank == 2 and m.flag(0.4):
        m.b.EyeLike(x, k=m.number(-2, 2), dtype=m.any_type())
    else:
        m.b.Trilu(x, k=m.number(-2, 2), upper=m.flag())


@step(1)
def sizes(m: Maker) -> None:
    """Shape arithmetic as exporters write it, ending in a constant or a reshape."""
    x: Value = m.value(ANY, 1)
    total = m.b.Size(x) if m.flag(0.3) else m.b.ReduceProd(m.b.Shape(x, start=m.number(0, 1)), axes=(0,), keepdims=False)
    match m.number(0, 2):
        case 0:
            m.b.Add(total, 1)
        case 1:
            m.b.Concat(m.b.Shape(x), m.b.Unsqueeze(total, axes=(0,)), axis=0)
        case _:
            m.b.Mul(m.b.Cast(total, to=m.float_type()), 0.125)


@step(1)
def ramp(m: Maker) -> None:
    """Constants that have a rule instead of elements."""
    if m.flag():
        m.b.ConstantOfShape(shape=m.shape(0, 4), value=m.pick((0, 1, 2)), dtype=m.any_type())
    else:
        start, count = m.number(-3, 3), m.number(0, 6)
        m.b.Range(
            start=start, limit=start + 2 * count, delta=2, dtype=m.pick([t for t in (m.any_type(), m.float_type()) if t.kind != "bool"])
        )
