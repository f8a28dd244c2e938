"""Operators that move elements: transposes, slices, joins, padding, gathers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, compute, lowers, number, wide
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import dtype


def _i(value: int) -> Expr:
    return tirx.const(value, "int32")


@lowers("Reshape", "Squeeze", "Unsqueeze")
def lower_reshape(ctx: Context, op: Op, x: Arg) -> list[Any]:
    """The same elements in row-major order under another shape."""
    shape = ctx.outputs[0].static_shape
    return [compute(shape, lambda *i: x[unravel(ravel(i, shape), x.shape)], "reshape")]


def ravel(index: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """Row-major position of `index`."""
    flat: Expr = _i(0)
    for k, size in zip(index, shape, strict=True):
        flat = flat * size + k
    return flat


def unravel(flat: Expr, shape: Sequence[int]) -> list[Expr]:
    """Row-major index of position `flat`."""
    index: list[Expr] = []
    for axis, size in reversed(list(enumerate(shape))):
        index.append(flat if axis == 0 else tirx.floormod(flat, size))
        flat = tirx.floordiv(flat, size)
    return index[::-1]


@lowers("Transpose")
def lower_transpose(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Axis k of the result is axis `perm[k]` of the operand."""
    perm = [p % len(x.shape) for p in op.perm]

    def body(*i: Expr) -> Expr:
        source: list[Expr] = [None] * len(perm)
        for k, p in enumerate(perm):
            source[p] = i[k]
        return x[source]

    return [compute(ctx.outputs[0].static_shape, body, "transpose")]


@lowers("Expand")
def lower_expand(ctx: Context, op: Op, x: Arg) -> list[Any]:
    """Numpy broadcasting."""
    return [compute(ctx.outputs[0].static_shape, lambda *i: x.at(i), "expand")]


@lowers("Tile")
def lower_tile(ctx: Context, op: Op, x: Arg) -> list[Any]:
    """Repetition along each axis."""
    return [compute(ctx.outputs[0].static_shape, lambda *i: x[[tirx.floormod(k, d) for k, d in zip(i, x.shape, strict=True)]], "tile")]


@lowers("ConstantOfShape")
def lower_fill(ctx: Context, op: Any) -> list[Any]:
    """One value everywhere."""
    kind = ctx.outputs[0]
    return [compute(kind.static_shape, lambda *i: number(op.value, kind.dtype), "fill")]


@lowers("Range")
def lower_range(ctx: Context, op: Any) -> list[Any]:
    """`start + k * delta`; float16 is rounded at the end."""
    shape, narrow = ctx.outputs[0].static_shape, ctx.outputs[0].dtype.name
    kind = dtype(wide(narrow))

    def body(k: Expr) -> Expr:
        value = number(op.start, kind) + k.astype(kind.name) * number(op.delta, kind)
        return value if kind.name == narrow else value.astype(narrow)

    return [compute(shape, body, "range")]


@lowers("Slice")
def lower_slice(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Strided slices; starts and ends are clamped as Python clamps them."""
    origin, step = [0] * len(x.shape), [1] * len(x.shape)
    for start, end, axis, stride in zip(op.starts, op.ends, op.axes, op.steps, strict=True):
        begin, _, hop = slice(start, end, stride).indices(x.shape[axis])
        origin[axis], step[axis] = begin, hop
    shape = ctx.outputs[0].static_shape
    return [compute(shape, lambda *i: x[[o + k * s for o, k, s in zip(origin, i, step, strict=True)]], "slice")]


@lowers("Split")
def lower_split(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Consecutive slices along one axis."""
    axis, begin, parts = op.axis % len(x.shape), 0, []
    for kind in ctx.outputs:
        parts.append(_window(x, kind.static_shape, axis, begin))
        begin += kind.static_shape[axis]
    return parts


def _window(x: Arg, shape: tuple[int, ...], axis: int, begin: int) -> Any:
    return compute(shape, lambda *i: x[[k + begin if a == axis else k for a, k in enumerate(i)]], "split")


@lowers("Concat")
def lower_concat(ctx: Context, op: Any, *xs: Arg) -> list[Any]:
    """Operands side by side along one axis; a branch per operand, hoisted out of the inner loops."""
    axis = op.axis % len(ctx.outputs[0].shape)
    parts = [x for x in xs if x.shape[axis]]

    def body(*i: Expr) -> Expr:
        def read(x: Arg, begin: int) -> Expr:
            return x[[k - begin if a == axis else k for a, k in enumerate(i)]]

        begins = [sum(p.shape[axis] for p in parts[:n]) for n in range(len(parts))]
        result = read(parts[-1], begins[-1])
        for n in range(len(parts) - 2, -1, -1):
            result = tirx.if_then_else(i[axis] < begins[n + 1], read(parts[n], begins[n]), result)
        return result

    return [compute(ctx.outputs[0].static_shape, body, "concat")]


@lowers("Pad")
def lower_pad(ctx: Context, op: Any, x: Arg, value: Arg | None = None) -> list[Any]:
    """Constant, edge, reflect and wrap padding; negative pads crop."""
    rank = len(x.shape)
    before, after = op.pads[:rank], op.pads[rank:]

    def body(*i: Expr) -> Expr:
        source, inside = [], []
        for k, (b, a, size) in enumerate(zip(before, after, x.shape, strict=True)):
            at = i[k] - b
            if b > 0:
                inside.append(at >= 0)
            if a > 0:
                inside.append(at < size)
            source.append(_padded_index(at, size, op.mode) if b > 0 or a > 0 else at)
        if op.mode != "constant" or not inside:
            return x[source]
        fill = number(0, x.type.dtype) if value is None else value.at([])
        return tirx.if_then_else(tirx.all(*inside), x[source], fill)

    return [compute(ctx.outputs[0].static_shape, body, "pad")]


def _padded_index(at: Expr, size: int, mode: str) -> Expr:
    match mode:
        case "edge":
            return tirx.max(_i(0), tirx.min(at, _i(size - 1)))
        case "reflect":
            period = max(1, 2 * (size - 1))
            folded = tirx.floormod(at, period)
            return tirx.min(folded, period - folded)
        case "wrap":
            return tirx.floormod(at, size)
    return at


def wrapped(index: Expr, size: int) -> Expr:
    """An index that may be negative, as int32, kept inside the axis."""
    at = index.astype("int32")
    at = tirx.Select(at < 0, at + size, at)
    return tirx.max(_i(0), tirx.min(at, _i(size - 1)))


@lowers("Gather")
def lower_gather(ctx: Context, op: Any, x: Arg, indices: Arg) -> list[Any]:
    """Whole slices of `x` at `indices` along one axis."""
    axis, rank = op.axis % len(x.shape), len(indices.shape)

    def body(*i: Expr) -> Expr:
        chosen = wrapped(indices[i[axis : axis + rank]], x.shape[axis])
        return x[[*i[:axis], chosen, *i[axis + rank :]]]

    return [compute(ctx.outputs[0].static_shape, body, "gather")]


@lowers("GatherElements")
def lower_gather_elements(ctx: Context, op: Any, x: Arg, indices: Arg) -> list[Any]:
    """One element of `x` per element of `indices`."""
    axis = op.axis % len(x.shape)
    return [
        compute(indices.shape, lambda *i: x[[wrapped(indices[i], x.shape[axis]) if a == axis else k for a, k in enumerate(i)]], "gather")
    ]


@lowers("GatherND")
def lower_gather_nd(ctx: Context, op: Any, x: Arg, indices: Arg) -> list[Any]:
    """Slices of `x` at the index tuples in the last axis of `indices`."""
    *outer, depth = indices.shape
    batch = op.batch_dims

    def body(*i: Expr) -> Expr:
        where, rest = list(i[: len(outer)]), list(i[len(outer) :])
        tuple_ = [wrapped(indices[[*where, _i(d)]], x.shape[batch + d]) for d in range(depth)]
        return x[[*where[:batch], *tuple_, *rest]]

    return [compute(ctx.outputs[0].static_shape, body, "gather_nd")]


@lowers("OneHot")
def lower_one_hot(ctx: Context, op: Any, indices: Arg, values: Arg) -> list[Any]:
    """`values[1]` where the position along `axis` is the index, `values[0]` elsewhere."""
    shape = ctx.outputs[0].static_shape
    axis = op.axis % len(shape)
    depth = shape[axis]

    def body(*i: Expr) -> Expr:
        index = indices[[k for a, k in enumerate(i) if a != axis]].astype("int64")
        known = tirx.max(tirx.const(-depth - 1, "int64"), tirx.min(index, tirx.const(depth, "int64"))).astype("int32")
        known = tirx.Select(known < 0, known + depth, known)
        return tirx.Select(known.equal(i[axis]), values[[_i(1)]], values[[_i(0)]])

    return [compute(shape, body, "one_hot")]


@lowers("Trilu")
def lower_trilu(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """The upper or lower triangle of the last two axes, zero elsewhere."""

    def body(*i: Expr) -> Expr:
        distance = i[-1] - i[-2]
        keep = distance >= op.k if op.upper else distance <= op.k
        return tirx.Select(keep, x[i], number(0, x.type.dtype))

    return [compute(x.shape, body, "trilu")]


@lowers("EyeLike")
def lower_eye(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Ones on the k-th diagonal."""
    kind = ctx.outputs[0].dtype
    return [compute(x.shape, lambda r, c: tirx.Select(c - r == op.k, number(1, kind), number(0, kind)), "eye")]


@lowers("ReverseSequence")
def lower_reverse_sequence(ctx: Context, op: Any, x: Arg, lengths: Arg) -> list[Any]:
    """The first `lengths[b]` steps of each sequence, reversed."""

    def body(*i: Expr) -> Expr:
        length = lengths[[i[op.batch_axis]]].astype("int32")
        time = i[op.time_axis]
        source = tirx.Select(time < length, length - 1 - time, time)
        return x[[source if a == op.time_axis else k for a, k in enumerate(i)]]

    return [compute(x.shape, body, "reverse_sequence")]


@lowers("DepthToSpace")
def lower_depth_to_space(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Channels to blocks of pixels, NCHW."""
    b = op.blocksize
    channels = ctx.outputs[0].static_shape[1]

    def body(n: Expr, c: Expr, h: Expr, w: Expr) -> Expr:
        row, column = tirx.floormod(h, b), tirx.floormod(w, b)
        block = row * b + column
        channel = block * channels + c if op.mode == "DCR" else c * (b * b) + block
        return x[[n, channel, tirx.floordiv(h, b), tirx.floordiv(w, b)]]

    return [compute(ctx.outputs[0].static_shape, body, "depth_to_space")]


@lowers("SpaceToDepth")
def lower_space_to_depth(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Blocks of pixels to channels, NCHW."""
    b, channels = op.blocksize, x.shape[1]

    def body(n: Expr, c: Expr, h: Expr, w: Expr) -> Expr:
        block = tirx.floordiv(c, channels)
        return x[[n, tirx.floormod(c, channels), h * b + tirx.floordiv(block, b), w * b + tirx.floormod(block, b)]]

    return [compute(ctx.outputs[0].static_shape, body, "space_to_depth")]
