"""Rounding the weights of a layer together, so that its results change least.

Rounding to nearest treats weights one by one, although errors of weights that multiply similar data add up or cancel. Here each column of
weights is rounded in turn, and the columns after it make up for its error as well as the data allows: E. Frantar et al., "GPTQ", ICLR 2023,
after B. Hassibi and D. Stork, "Second order derivatives for network pruning", NeurIPS 1992. Where this is worse than rounding to nearest on the
same data, a row keeps its nearest roundings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lepton_compiler.ir.graph import Node
from lepton_compiler.ops.window import channels_first, ints

ROWS = 4096
"""Rows of data, such as windows of a convolution, that a layer is fitted on."""
CHUNK = 256
"""Windows of a convolution that are in memory at once."""
BLOCK = 64
"""Columns whose errors reach the columns after them in one product."""
DAMPING = 0.01
"""Of the mean square of the data, what is added to each: the less data, the less the fit may follow it."""
LARGEST = 2e11
"""Multiplications above which a layer is rounded to nearest."""


def rounded_together(node: Node, data: Sequence[np.ndarray], weights: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray | None:
    """Codes for the weights of a layer.

    Args:
        node: a convolution or a product with constant weights.
        data: what the layer reads, one array per sample.
        weights: in floating point, in the shape that the node has them.
        scales: of the codes, in a shape that broadcasts to the weights.
        bits: of a code; codes are symmetric around zero.

    Returns:
        Codes of the shape of the weights, as int8; None for a layer whose form or size does not allow this, or without data.
    """
    if node.op.name not in ("Conv", "MatMul", "Gemm") or not data:
        return None
    matrix, factor = (_as_matrix(node, a) for a in (weights, np.broadcast_to(scales, weights.shape)))
    if float(len(matrix)) * matrix.shape[1] ** 2 > LARGEST:
        return None
    square = _products(node, data, weights.shape[2:])
    grouped = (len(square), -1, matrix.shape[1])
    codes = _round(square, matrix.reshape(grouped), factor.reshape(grouped), bits)
    return _from_matrix(node, codes.reshape(matrix.shape), weights.shape).astype(np.int8)


def _as_matrix(node: Node, weights: np.ndarray) -> np.ndarray:
    """One row per output channel."""
    if node.op.name == "Conv":
        return weights.reshape(len(weights), -1).astype(np.float64)
    return (weights if _transposed(node) else weights.T).astype(np.float64)


def _from_matrix(node: Node, matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    if node.op.name == "Conv":
        return matrix.reshape(shape)
    return np.ascontiguousarray(matrix if _transposed(node) else matrix.T)


def _transposed(node: Node) -> bool:
    return bool(getattr(node.op, "trans_b", False))


def _products(node: Node, data: Sequence[np.ndarray], taps: Sequence[int]) -> np.ndarray:
    """The mean products of what an output sums over: [groups, factors, factors]."""
    share = max(1, ROWS // len(data))
    rng = np.random.default_rng(0)
    total, count = np.zeros(()), 0
    for array in data:
        for rows in _matrix_rows(array, share, rng) if node.op.name != "Conv" else _windows(node.op, taps, array, share, rng):
            total = total + rows.transpose(0, 2, 1) @ rows
            count += rows.shape[1]
    return np.asarray(total / max(1, count))


def _matrix_rows(array: np.ndarray, share: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Some rows of a matrix: [1, rows, columns]."""
    rows = array.reshape(-1, array.shape[-1])
    yield rows[np.sort(rng.permutation(len(rows))[:share])].astype(np.float64)[None]


def _windows(op: Any, taps: Sequence[int], x: np.ndarray, share: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Some windows of a convolution, some at a time: [groups, rows, channels per group * taps]."""
    x = channels_first(x) if op.layout == "NHWC" else x
    spatial, pads = x.ndim - 2, ints(op.pads)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)])
    reach = [(k - 1) * d + 1 for k, d in zip(taps, op.dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(range(2, x.ndim)))
    steps = tuple(slice(None, None, s) for s in op.strides)
    holes = tuple(slice(None, None, d) for d in op.dilations)
    index: tuple[Any, ...] = (slice(None), slice(None), *steps, *holes)
    view = view[index]
    places = (view.shape[0], *view.shape[2 : 2 + spatial])
    chosen = np.sort(rng.permutation(int(np.prod(places, dtype=np.int64)))[:share])
    for k in range(0, len(chosen), CHUNK):
        batch, *at = np.unravel_index(chosen[k : k + CHUNK], places)
        index = (batch, slice(None), *at)
        windows = view[index]
        yield windows.reshape(len(windows), op.groups, -1).transpose(1, 0, 2).astype(np.float64)


def _round(square: np.ndarray, weights: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """Codes [groups, out, in] of matrices that multiply data with the mean products `square` [groups, in, in]."""
    most = 2 ** (bits - 1) - 1
    nearest = np.clip(np.rint(weights / scales), -most, most)
    diagonal = np.diagonal(square, axis1=1, axis2=2)
    damping = DAMPING * diagonal.mean(1)
    damping = np.where(damping > 0, damping, 1.0)  # without any data, every rounding is as good
    size = square.shape[1]
    damped = square + damping[:, None, None] * np.eye(size)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    columns = np.broadcast_to(order[:, None, :], weights.shape)
    inverse = np.linalg.inv(np.take_along_axis(np.take_along_axis(damped, order[:, :, None], 1), order[:, None, :], 2))
    upper = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1)
    codes = _in_turn(np.take_along_axis(weights, columns, 2), np.take_along_axis(scales, columns, 2), upper, most)
    together = np.empty_like(codes)
    np.put_along_axis(together, columns, codes, 2)
    return np.asarray(np.where(_change(together, weights, scales, damped) < _change(nearest, weights, scales, damped), together, nearest))


def _in_turn(weights: np.ndarray, scales: np.ndarray, upper: np.ndarray, most: int) -> np.ndarray:
    """Codes [groups, out, in] of columns that are rounded one after another, by the triangular factor [groups, in, in] of the inverse."""
    left, scale = (np.ascontiguousarray(a.transpose(0, 2, 1)) for a in (weights, scales))
    size = upper.shape[1]
    codes = np.empty_like(left)
    for begin in range(0, size, BLOCK):
        end = min(begin + BLOCK, size)
        errors = np.empty_like(left[:, begin:end])
        for k in range(begin, end):
            codes[:, k] = np.clip(np.rint(left[:, k] / scale[:, k]), -most, most)
            error = errors[:, k - begin] = (left[:, k] - codes[:, k] * scale[:, k]) / upper[:, k, k, None]
            left[:, k + 1 : end] -= error[:, None, :] * upper[:, k, k + 1 : end, None]
        left[:, end:] -= upper[:, begin:end, end:].transpose(0, 2, 1) @ errors
    return codes.transpose(0, 2, 1)


def _change(codes: np.ndarray, weights: np.ndarray, scales: np.ndarray, square: np.ndarray) -> np.ndarray:
    """The mean squared change of each output, as a column."""
    error = codes * scales - weights
    return np.asarray(((error @ square) * error).sum(-1)[..., None])
