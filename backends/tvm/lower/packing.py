"""Rearrangements of weights that happen once, when the artefact is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lepton_compiler.backends.tvm.compute.conv import pack_conv_weights
from lepton_compiler.backends.tvm.compute.integer_product import (
    pack_integer_conv,
    pack_integer_matmul,
    sum_integer_conv,
    sum_integer_matmul,
)
from lepton_compiler.backends.tvm.compute.matmul import pack_matmul_weights
from lepton_compiler.backends.tvm.compute.micro_product import pack_micro_conv, pack_micro_depthwise, pack_micro_matmul
from lepton_compiler.backends.tvm.compute.winograd import pack_winograd_weights


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


PACKINGS: dict[str, Callable[..., Any]] = {
    "conv": _conv,
    "conv1d": _conv1d,
    "convtall": _convtall,
    "depthwise": _depthwise,
    "depthwise1d": _depthwise1d,
    "depthwisetall": _depthwisetall,
    "integer_conv": pack_integer_conv,
    "integer_conv_sums": sum_integer_conv,
    "integer_matmul": pack_integer_matmul,
    "integer_matmul_sums": sum_integer_matmul,
    "matmul": _matmul,
    "micro_conv": pack_micro_conv,
    "micro_depthwise": pack_micro_depthwise,
    "micro_matmul": pack_micro_matmul,
    "transpose": _transpose,
    "winograd": pack_winograd_weights,
}
