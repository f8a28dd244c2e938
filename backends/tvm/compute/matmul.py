"""Matrix multiplication: batched with two run-time operands, and with a right operand packed at compile time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from lepton_compiler.backends.tvm.compute.window import ints
from lepton_compiler.backends.tvm.schedules.kinds import KIND, TILE

Tensor = Any
"""`tvm.te.Tensor`; TVM carries no types."""


def matmul_packed(a: Tensor, b_packed: Tensor, n: int, *, acc_dtype: str = "float32") -> tuple[Tensor, list[Tensor]]:
    """`a [..., K]` times the packed `[K, N]`: `[..., N]` of `acc_dtype`, and no workspaces."""
    *outer, k = ints(a.shape)
    blocks, _, lanes = ints(b_packed.shape)
    rows = int(np.prod(outer, dtype=np.int64))
    rk = te.reduce_axis((0, k), "rk")

    def element(m: Any, o: Any, lane: Any) -> Any:
        return te.sum(a[(*_unflatten(m, outer), rk)].astype(acc_dtype) * b_packed[o, rk, lane].astype(acc_dtype), [rk])

    acc = te.compute((rows, blocks, lanes), element, "matmul", attrs={KIND: TILE})
    return te.compute((*outer, n), lambda *i: acc[_flatten(i[:-1], outer), i[-1] // lanes, i[-1] % lanes], "matmul_out"), []


def matmul(
    a: Tensor, b: Tensor, *, n_block: int, trans_a: bool = False, trans_b: bool = False, acc_dtype: str = "float32"
) -> tuple[Tensor, list[Tensor]]:
    """`a [..., M, K]` times `b [..., K, N]` (either transposed in its last two axes): `[..., M, N]` of `acc_dtype`.

    Leading axes broadcast. `b` is packed at run time into a workspace unless its rows are already whole blocks
    of `n_block` (see `schedules.n_block`).

    Returns:
        The result and the workspaces: intermediate tensors that must be parameters of the kernel.
    """
    a_shape, b_shape = ints(a.shape), ints(b.shape)
    batch = list(np.broadcast_shapes(a_shape[:-2], b_shape[:-2]))
    m, k = a_shape[:-3:-1] if trans_a else a_shape[-2:]
    n = b_shape[-2] if trans_b else b_shape[-1]
    blocks = -(-n // n_block)
    workspaces = []
    direct = not trans_b and n % n_block == 0
    packed = b if direct else _pack(b, n, k, n_block, trans_b)
    if not direct:
        workspaces.append(packed)
    rk = te.reduce_axis((0, k), "rk")

    def element(*i: Any) -> Any:
        *outer, row, o, lane = i
        a_at = _broadcast(outer, a_shape[:-2], batch)
        b_at = _broadcast(outer, b_shape[:-2], batch)
        left = a[(*a_at, rk, row)] if trans_a else a[(*a_at, row, rk)]
        right = packed[(*b_at, rk, o * n_block + lane)] if direct else packed[(*b_at, o, rk, lane)]
        return te.sum(left.astype(acc_dtype) * right.astype(acc_dtype), [rk])

    acc = te.compute((*batch, m, blocks, n_block), element, "matmul", attrs={KIND: TILE})
    return te.compute((*batch, m, n), lambda *i: acc[(*i[:-1], i[-1] // n_block, i[-1] % n_block)], "matmul_out"), workspaces


def _pack(b: Tensor, n: int, k: int, n_block: int, trans_b: bool) -> Tensor:
    """Blocks `[..., ceil(N/n_block), K, n_block]` of a run-time operand; columns beyond N are zero."""
    batch = ints(b.shape)[:-2]

    def element(*i: Any) -> Any:
        *outer, o, row, lane = i
        column = o * n_block + lane
        value = b[(*outer, column, row)] if trans_b else b[(*outer, row, column)]
        return value if n % n_block == 0 else tirx.if_then_else(column < n, value, tirx.const(0, b.dtype))

    return te.compute((*batch, -(-n // n_block), k, n_block), element, "packed")


def _broadcast(index: Sequence[Any], shape: Sequence[int], batch: Sequence[int]) -> list[Any]:
    """The index into an operand with leading axes `shape` for an index into the broadcast `batch`."""
    kept = index[len(batch) - len(shape) :]
    return [0 if extent == 1 else i for i, extent in zip(kept, shape, strict=True)]


def _flatten(index: Sequence[Any], shape: Sequence[int]) -> Any:
    flat: Any = tirx.const(0, "int32")
    for i, extent in zip(index, shape, strict=True):
        flat = flat * extent + i
    return flat


def _unflatten(flat: Any, shape: Sequence[int]) -> list[Any]:
    index: list[Any] = []
    for position, extent in reversed(list(enumerate(shape))):
        index.insert(0, flat % extent if position else flat)
        flat = flat // extent
    return index
