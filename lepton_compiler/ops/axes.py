"""Axis attributes, which count from the end when negative."""

from __future__ import annotations

from collections.abc import Iterable

from lepton_compiler.ir.op import require


def normal_axis(axis: int, rank: int) -> int:
    """`axis` as a number from 0 to `rank - 1`.

    Raises:
        InferenceError: there is no such axis.
    """
    require(-rank <= axis < rank, f"axis {axis} does not exist in a tensor of rank {rank}")
    return axis % rank


def normal_axes(axes: Iterable[int], rank: int) -> tuple[int, ...]:
    """`axes` as distinct numbers from 0 to `rank - 1`, in their order.

    Raises:
        InferenceError: an axis does not exist, or is named twice.
    """
    found = tuple(normal_axis(axis, rank) for axis in axes)
    require(len(set(found)) == len(found), f"axes {found} name an axis twice")
    return found
