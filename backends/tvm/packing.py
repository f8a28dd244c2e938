"""Rearrangements of weights that happen once, when the artefact is built: numpy alone, so that a build from cached kernels loads no TVM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from lepton_compiler.backends.tvm.helium_packing import pack_helium_conv, pack_helium_depthwise, pack_helium_matmul
from lepton_compiler.backends.tvm.integer_packing import (
    pack_integer_conv,
    pack_integer_depthwise,
    pack_integer_depthwise_pairs,
    pack_integer_depthwise_rows,
    pack_integer_matmul,
    sum_integer_conv,
    sum_integer_matmul,
)
from lepton_compiler.backends.tvm.micro_packing import pack_micro_conv, pack_micro_depthwise, pack_micro_matmul
from lepton_compiler.backends.tvm.window_packing import WINDOW_PACKINGS
from lepton_compiler.backends.tvm.winograd_packing import pack_integer_winograd

WINOGRAD_FILTER: dict[int, Sequence[Sequence[float]]] = {
    2: ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
    ),
}  # fmt: skip
"""G of F(m x m, 3 x 3), by m; the other transforms are in `compute.winograd`."""


def pack_conv_weights(w: npt.NDArray[Any], oc_block: int, groups: int = 1) -> npt.NDArray[Any]:
    """`[OC, IC/groups, KH, KW]` to `[groups * ceil(OC/groups / oc_block), KH, KW, IC/groups, oc_block]`, zero-padded per group."""
    oc, ic, kh, kw = w.shape
    per_group = oc // groups
    blocks = -(-per_group // oc_block)
    padded = np.zeros((groups, blocks * oc_block, ic, kh, kw), w.dtype)
    padded[:, :per_group] = w.reshape(groups, per_group, ic, kh, kw)
    split = padded.reshape(groups * blocks, oc_block, ic, kh, kw)
    return np.ascontiguousarray(split.transpose(0, 3, 4, 2, 1))


def pack_matmul_weights(b: npt.NDArray[Any], n_block: int) -> npt.NDArray[Any]:
    """`[K, N]` to `[ceil(N/n_block), K, n_block]`, zero-padded."""
    k, n = b.shape
    blocks = -(-n // n_block)
    padded = np.zeros((k, blocks * n_block), b.dtype)
    padded[:, :n] = b
    return np.ascontiguousarray(padded.reshape(k, blocks, n_block).transpose(1, 0, 2))


def pack_winograd_weights(w: npt.NDArray[Any], m: int, block: int) -> npt.NDArray[Any]:
    """`[OC, IC, 3, 3]` to `[(m + 2)^2, ceil(OC / block), IC, block]`: G w G^T, computed in float64, zero-padded."""
    g = np.asarray(WINOGRAD_FILTER[m], np.float64)
    both = np.kron(g, g)
    oc, ic = w.shape[:2]
    packed = np.zeros((len(both), -(-oc // block), ic, block), w.dtype)
    for k in range(packed.shape[1]):
        part = w[k * block : (k + 1) * block].reshape(-1, ic, 9).transpose(2, 1, 0).astype(np.float64)
        packed[:, k, :, : part.shape[2]] = (both @ part.reshape(9, -1)).reshape(len(both), *part.shape[1:])
    return packed


def _conv(w: np.ndarray, oc_block: int, groups: int) -> np.ndarray:
    return pack_conv_weights(w, oc_block, groups)


def _matmul(b: np.ndarray, n_block: int, transposed: int) -> np.ndarray:
    return pack_matmul_weights(b.T if transposed else b, n_block)


def _depthwise(w: np.ndarray) -> np.ndarray:
    """`[C * m, 1, KH, KW]` to `[KH, KW, C * m]`."""
    return np.ascontiguousarray(w[:, 0].transpose(1, 2, 0))


def _transpose(w: np.ndarray, *perm: int) -> np.ndarray:
    return np.ascontiguousarray(w.transpose(perm))


def _conv1d(w: np.ndarray, oc_block: int, groups: int) -> np.ndarray:
    return pack_conv_weights(w[:, :, None, :], oc_block, groups)


def _convtall(w: np.ndarray, oc_block: int, groups: int) -> np.ndarray:
    return pack_conv_weights(w.transpose(0, 1, 3, 2), oc_block, groups)


def _depthwisetall(w: np.ndarray) -> np.ndarray:
    return _depthwise(w.transpose(0, 1, 3, 2))


def _depthwise1d(w: np.ndarray) -> np.ndarray:
    return _depthwise(w[:, :, None, :])


NIBBLES = "nibbles-"
"""Before the name of an arrangement: the same with two codes of 4 bits to a byte."""


def nibbles(codes: np.ndarray) -> np.ndarray:
    """`[..., R, L]` of int4 or uint4 to `[..., ceil(R / 2), L]` of uint8: rows 2 r and 2 r + 1 in the low and the high bits of row r."""
    rows = codes.view(np.uint8) & np.uint8(15)
    if rows.shape[-2] % 2:
        rows = np.concatenate([rows, np.zeros_like(rows[..., :1, :])], -2)
    return np.ascontiguousarray(rows[..., 0::2, :] | rows[..., 1::2, :] << np.uint8(4))


def _in_nibbles(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda w, *arguments: nibbles(function(w, *arguments))


def pack_filters(w: npt.NDArray[Any], channels_last: int) -> npt.NDArray[Any]:
    """`[OC, IC, taps...]` to `[OC, depth]`, depth being (taps, IC) or (IC, taps) and a multiple of 16 bytes: see `backends.tvm.cuda.tensor_cores`.

    Codes of 4 bits become uint8, two to a byte.
    """
    order = (0, *range(2, w.ndim), 1) if channels_last else tuple(range(w.ndim))
    rows = w.transpose(order).reshape(w.shape[0], -1)
    pairs = w.dtype in (ml_dtypes.int4, ml_dtypes.uint4)
    unit = 32 if pairs else max(1, 16 // w.itemsize)
    packed = np.zeros((w.shape[0], -(-rows.shape[1] // unit) * unit), w.dtype)
    packed[:, : rows.shape[1]] = rows
    return np.ascontiguousarray(nibbles(packed.T).T) if pairs else packed


def pack_columns(w: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`[K, N]` to `[N, K]`, rows filled up to a multiple of 16 bytes."""
    return pack_filters(w.T, 0)


def sum_filters(w: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`[OC, IC, taps...]` of integers to the sum of each output channel's weights, int32."""
    sums: npt.NDArray[Any] = w.reshape(w.shape[0], -1).sum(axis=1, dtype=np.int32)
    return sums


def pack_taps(w: npt.NDArray[Any], integer: int) -> npt.NDArray[Any]:
    """Weights of depthwise convolutions, `[OC, 1, taps...]`, to `[taps, OC]`, in the type of the sums: float32, or int32."""
    return np.ascontiguousarray(w.reshape(w.shape[0], -1).T.astype(np.int32 if integer else np.float32))


PACKINGS: dict[str, Callable[..., Any]] = {
    "conv": _conv,
    "conv1d": _conv1d,
    "convtall": _convtall,
    "depthwise": _depthwise,
    "depthwise1d": _depthwise1d,
    "depthwisetall": _depthwisetall,
    "helium_conv": pack_helium_conv,
    "helium_depthwise": pack_helium_depthwise,
    "helium_matmul": pack_helium_matmul,
    "integer_conv": pack_integer_conv,
    "integer_conv_sums": sum_integer_conv,
    "integer_depthwise": pack_integer_depthwise,
    "integer_depthwise_pairs": pack_integer_depthwise_pairs,
    "integer_depthwise_rows": pack_integer_depthwise_rows,
    "integer_matmul": pack_integer_matmul,
    "integer_matmul_sums": sum_integer_matmul,
    "columns": pack_columns,
    "column_sums": lambda w: sum_filters(w.T),
    "filter_sums": sum_filters,
    "filters": pack_filters,
    "integer_winograd": pack_integer_winograd,
    "matmul": _matmul,
    "micro_conv": pack_micro_conv,
    "micro_depthwise": pack_micro_depthwise,
    "micro_matmul": pack_micro_matmul,
    "transpose": _transpose,
    "taps": pack_taps,
    "winograd": pack_winograd_weights,
    **WINDOW_PACKINGS,
}
GPU_PACKINGS = frozenset({"column_sums", "columns", "filter_sums", "filters", "taps"})
"""Those of `backends.tvm.cuda`."""
PACKINGS |= {
    NIBBLES + name: _in_nibbles(function) for name, function in PACKINGS.items() if name not in GPU_PACKINGS | {"transpose", "winograd"}
}
