"""Rounding the weights of a layer together, so that its results change least.

Rounding to nearest treats weights one by one, although errors of weights that multiply similar data add up or cancel. Here each column of
weights is rounded in turn, and the columns after it make up for its error as well as the data allows: E. Frantar et al., "GPTQ", ICLR 2023,
after B. Hassibi and D. Stork, "Second order derivatives for network pruning", NeurIPS 1992. Where this is worse than rounding to nearest on the
same data, a row keeps its nearest roundings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton_compiler.ir.graph import Node
from lepton_compiler.ops.window import channels_first, ints

ROWS = 4096
"""Rows of data, such as windows of a convolution, that a layer is fitted on."""
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
        Codes of the shape of the weights, as int8; None for a layer whose form or size does not allow this.
    """
    rows = _rows(node, data, weights.shape[2:])
    if rows is None:
        return None
    matrix, factor = (_as_matrix(node, a) for a in (weights, np.broadcast_to(scales, weights.shape)))
    groups, size = len(rows), rows[0].shape[1]
    if float(len(matrix)) * size * size > LARGEST:
        return None
    parts = [_round(rows[g], m, f, bits) for g, (m, f) in enumerate(zip(np.split(matrix, groups), np.split(factor, groups), strict=True))]
    return _from_matrix(node, np.concatenate(parts), weights.shape).astype(np.int8)


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


def _rows(node: Node, data: Sequence[np.ndarray], taps: Sequence[int]) -> list[np.ndarray] | None:
    """What each output sums over, at most `ROWS` of them, as a matrix per group of channels."""
    share = max(1, ROWS // max(1, len(data)))
    rng = np.random.default_rng(0)
    match node.op.name:
        case "MatMul" | "Gemm":
            rows = [a.reshape(-1, a.shape[-1]) for a in data]
            return [np.concatenate([r[np.sort(rng.permutation(len(r))[:share])] for r in rows]).astype(np.float64)]
        case "Conv":
            parts = [_windows(node.op, taps, a, share, rng) for a in data]
            return list(np.concatenate(parts, 1)) if parts else None
    return None


def _windows(op: Any, taps: Sequence[int], x: np.ndarray, share: int, rng: np.random.Generator) -> np.ndarray:
    """Some windows of a convolution: [groups, rows, channels per group * taps]."""
    x = channels_first(x) if op.layout == "NHWC" else x
    spatial, pads = x.ndim - 2, ints(op.pads)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)])
    reach = [(k - 1) * d + 1 for k, d in zip(taps, op.dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(range(2, x.ndim)))
    steps = tuple(slice(None, None, s) for s in op.strides)
    holes = tuple(slice(None, None, d) for d in op.dilations)
    index: tuple[Any, ...] = (slice(None), slice(None), *steps, *holes)
    view = view[index]
    places = np.prod([view.shape[0], *view.shape[2 : 2 + spatial]], dtype=np.int64)
    chosen = np.sort(rng.permutation(int(places))[:share])
    batch, *at = np.unravel_index(chosen, (view.shape[0], *view.shape[2 : 2 + spatial]))
    index = (batch, slice(None), *at)
    windows = view[index]
    return np.asarray(windows.reshape(len(chosen), op.groups, -1).transpose(1, 0, 2), np.float64)


def _round(rows: np.ndarray, weights: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """Codes [out, in] of a matrix that `rows` [n, in] are multiplied by."""
    most = 2 ** (bits - 1) - 1
    nearest = np.clip(np.rint(weights / scales), -most, most)
    square = rows.T @ rows / max(1, len(rows))
    damping = DAMPING * float(np.mean(np.diag(square)))
    if damping <= 0:
        return np.asarray(nearest)
    damped = square + damping * np.eye(len(square))
    order = np.argsort(-np.diag(square), kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left, scale = weights[:, order].copy(), scales[:, order]
    codes = np.empty_like(left)
    for k in range(left.shape[1]):
        codes[:, k] = np.clip(np.rint(left[:, k] / scale[:, k]), -most, most)
        error = (left[:, k] - codes[:, k] * scale[:, k]) / upper[k, k]
        left[:, k + 1 :] -= np.outer(error, upper[k, k + 1 :])
    together = np.empty_like(codes)
    together[:, order] = codes
    return np.asarray(np.where(_change(together, weights, scales, damped) < _change(nearest, weights, scales, damped), together, nearest))


def _change(codes: np.ndarray, weights: np.ndarray, scales: np.ndarray, square: np.ndarray) -> np.ndarray:
    """The mean squared change of each output, as a column."""
    error = codes * scales - weights
    return np.asarray(((error @ square) * error).sum(1)[:, None])
