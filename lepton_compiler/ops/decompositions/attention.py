"""Attention and rotary embedding in terms of matrix products, softmax pieces and data movement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import BOOL, INT64
from lepton_compiler.ops import attention as ops
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import as_type, decomposition, wide

MINUS_INFINITY = float("-inf")


@decomposition(ops.Attention)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op = node.op
    assert isinstance(op, ops.Attention)
    q, k, v, mask, past_key, past_value, nonpad = (*node.inputs, None, None, None, None)[:7]
    assert q is not None and k is not None and v is not None
    sizes = op.sizes(q.type, k.type, v.type, past_key.type if past_key is not None else None)
    scale = op.scale
    if scale is None:
        if not isinstance(sizes.head_size, int):
            raise UnsupportedError(
                "the size of the heads must be known to lower Attention", where=node.describe(), hint="bind the dimension"
            )
        scale = sizes.head_size**-0.5
    element, folded = q.type.dtype, q.type.rank == 3
    if folded:
        q = _split(build, q, sizes.q_heads, sizes.head_size)
        k, v = _split(build, k, sizes.kv_heads, sizes.head_size), _split(build, v, sizes.kv_heads, sizes.v_size)
    if past_key is not None and past_value is not None:
        k, v = build.Concat(past_key, k, axis=2), build.Concat(past_value, v, axis=2)
    scores = _scores(build, sizes, wide(build, q), wide(build, k), scale)
    capped = scores
    if op.softcap > 0:
        capped = build.Mul(build.Tanh(build.Div(scores, op.softcap)), op.softcap)
    bias = _bias(build, op, sizes, scores, mask, nonpad)
    masked = capped if bias is None else build.Add(capped, bias)
    weights = _weights(build, op, masked, bias)
    rows = _group_rows(sizes)
    grouped = build.Reshape(weights, shape=(sizes.batch, sizes.kv_heads, rows, sizes.total_length))
    y = build.Reshape(build.MatMul(grouped, wide(build, v)), shape=(sizes.batch, sizes.q_heads, sizes.q_length, sizes.v_size))
    if folded:
        y = build.Reshape(build.Transpose(y, perm=(0, 2, 1, 3)), shape=(sizes.batch, sizes.q_length, sizes.q_heads * sizes.v_size))
    exposed = (scores, capped, masked, weights)[op.qk_matmul_output_mode]
    results = [as_type(build, y, element), k, v]
    if op.outputs == 4:
        results.append(as_type(build, exposed, element))
    return results[: op.outputs]


def _split(build: Builder, x: Value, heads: Dim, size: Dim) -> Value:
    """[batch, length, heads * size] to [batch, heads, length, size]."""
    batch, length = x.type.shape[:2]
    return build.Transpose(build.Reshape(x, shape=(batch, length, heads, size)), perm=(0, 2, 1, 3))


def _group_rows(sizes: ops.Heads) -> Dim:
    """Query heads that share a key head stand above each other in one matrix; this is its number of rows."""
    return sizes.q_heads // sizes.kv_heads * sizes.q_length


def _scores(build: Builder, sizes: ops.Heads, q: Value, k: Value, scale: float) -> Value:
    """The scaled logits [batch, heads, queries, keys]."""
    scaled = build.Mul(q, scale)
    grouped = build.Reshape(scaled, shape=(sizes.batch, sizes.kv_heads, _group_rows(sizes), sizes.head_size))
    product = build.MatMul(grouped, build.Transpose(k, perm=(0, 1, 3, 2)))
    return build.Reshape(product, shape=(sizes.batch, sizes.q_heads, sizes.q_length, sizes.total_length))


def _bias(build: Builder, op: ops.Attention, sizes: ops.Heads, scores: Value, mask: Value | None, nonpad: Value | None) -> Value | None:
    """What is added to the logits, or None if every query sees every key."""
    zero, hidden = build.constant(0.0, scores), build.constant(MINUS_INFINITY, scores)
    bias: Value | None = None
    if mask is not None:
        bias = build.Where(mask, zero, hidden) if mask.type.dtype == BOOL else as_type(build, mask, scores.type.dtype)
        missing = sizes.total_length - bias.type.shape[-1]
        if missing != 0:
            rank = bias.type.rank
            bias = build.Pad(bias, hidden, pads=(*(0,) * (2 * rank - 1), missing), mode="constant")
    visible = _visible(build, op, sizes, nonpad)
    if visible is None:
        return bias
    return build.Where(visible, zero if bias is None else bias, hidden)


def _visible(build: Builder, op: ops.Attention, sizes: ops.Heads, nonpad: Value | None) -> Value | None:
    """Which keys each query may see by its place, broadcastable to the logits; None if all."""
    windows = op.is_causal or op.left_window_size >= 0 or op.right_window_size >= 0
    if not windows and nonpad is None:
        return None
    column = _counting(build, 0, sizes.total_length, (1, sizes.total_length))
    tests: list[Value] = []
    if windows:
        row = _counting(build, sizes.past_length, sizes.q_length, (sizes.q_length, 1))
        if nonpad is not None:
            row = build.Add(row, build.Sub(_column(build, nonpad), _counting(build, sizes.q_length, 1, ())))
        if op.is_causal:
            tests.append(build.LessOrEqual(column, row))
        if op.left_window_size >= 0:
            tests.append(build.GreaterOrEqual(column, build.Sub(row, op.left_window_size)))
        if op.right_window_size >= 0:
            tests.append(build.LessOrEqual(column, build.Add(row, op.right_window_size)))
    if nonpad is not None:
        tests.append(build.Less(column, _column(build, nonpad)))
    visible = tests[0]
    for test in tests[1:]:
        visible = build.And(visible, test)
    return visible


def _column(build: Builder, nonpad: Value) -> Value:
    return as_type(build, build.Reshape(nonpad, shape=(nonpad.type.shape[0], 1, 1, 1)), INT64)


def _counting(build: Builder, start: Dim, count: Dim, shape: tuple[Dim, ...]) -> Value:
    """The `count` numbers from `start` on, in a shape."""
    if isinstance(start, int) and isinstance(count, int):
        return build.constant(np.arange(start, start + count, dtype=np.int64).reshape([int(d) for d in shape if isinstance(d, int)]))
    return build.Reshape(build.Range(start=start, limit=start + count, delta=1, dtype=INT64), shape=shape)


def _weights(build: Builder, op: ops.Attention, masked: Value, bias: Value | None) -> Value:
    """The softmax of the logits; zeros for a query that sees no key."""
    element = masked.type.dtype
    if op.softmax_precision is not None:
        masked = wide(build, as_type(build, masked, op.softmax_precision))
    weights = build.Softmax(masked, axis=-1)
    if op.softmax_precision is not None:
        weights = as_type(build, as_type(build, weights, op.softmax_precision), element)
    if bias is None:
        return weights
    peak = build.ReduceMax(bias, axes=(-1,), keepdims=True)
    return build.Where(build.Equal(peak, MINUS_INFINITY), build.constant(0.0, weights), weights)


@decomposition(ops.RotaryEmbedding)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op = node.op
    assert isinstance(op, ops.RotaryEmbedding)
    x, cos, sin, places = (*node.inputs, None)[:4]
    assert x is not None and cos is not None and sin is not None
    width, size = op.rotated(x.type), x.type.shape[-1]
    if not isinstance(width, int) or not isinstance(size, int):
        raise UnsupportedError(
            "the size of the heads must be known to lower RotaryEmbedding", where=node.describe(), hint="bind the dimension"
        )
    heads = x
    if x.type.rank == 3:
        batch, length, _ = x.type.shape
        heads = build.Reshape(x, shape=(batch, length, op.num_heads, size // op.num_heads))
    axis = 2 if x.type.rank == 3 else 1  # of the heads, along which the angles do not change
    factors = (wide(build, c if places is None else build.Gather(c, places, axis=0)) for c in (cos, sin))
    cosine, sine = (build.Unsqueeze(c, axes=(axis,)) for c in factors)
    turned = wide(build, _slice(build, heads, 0, width))
    mixed = as_type(build, _rotate(build, turned, cosine, sine, width, interleaved=op.interleaved), x.type.dtype)
    full = heads.type.shape[-1]
    result = mixed if full == width else build.Concat(mixed, _slice(build, heads, width, int(full)), axis=-1)  # type: ignore[arg-type]
    return [build.Reshape(result, shape=x.type.shape) if x.type.rank == 3 else result]


def _rotate(build: Builder, x: Value, cos: Value, sin: Value, width: int, *, interleaved: bool) -> Value:
    """Rotate the pairs of the last axis."""
    half = width // 2
    if interleaved:
        pairs = build.Reshape(x, shape=(*x.type.shape[:-1], half, 2))
        first, second = (build.Squeeze(_slice(build, pairs, i, i + 1), axes=(4,)) for i in (0, 1))
    else:
        first, second = _slice(build, x, 0, half), _slice(build, x, half, width)
    real = build.Sub(build.Mul(first, cos), build.Mul(second, sin))
    imaginary = build.Add(build.Mul(first, sin), build.Mul(second, cos))
    if not interleaved:
        return build.Concat(real, imaginary, axis=-1)
    both = build.Concat(build.Unsqueeze(real, axes=(4,)), build.Unsqueeze(imaginary, axes=(4,)), axis=-1)
    return build.Reshape(both, shape=x.type.shape)


def _slice(build: Builder, x: Value, start: int, end: int) -> Value:
    """Elements `start` to `end` of the last axis."""
    if start == 0 and end == x.type.shape[-1]:
        return x
    return build.Slice(x, starts=(start,), ends=(end,), axes=(x.type.rank - 1,), steps=(1,))
