"""Numpy's broadcasting rule on symbolic shapes."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import Dim, maximum
from lepton_compiler.ir.op import require

Shape = tuple[Dim, ...]


def may_equal(a: Dim, b: Dim) -> bool:
    """Whether two dimensions can be the same size: false only for two different numbers."""
    return not (isinstance(a, int) and isinstance(b, int)) or a == b


def broadcast_dim(a: Dim, b: Dim) -> Dim:
    """The size that two aligned dimensions broadcast to.

    A symbolic size against a number above 1 takes the number, the only result that can be valid.

    Raises:
        InferenceError: two different numbers, none of them 1.
    """
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        raise InferenceError(f"sizes {a} and {b} do not broadcast")
    if isinstance(a, int):
        return a
    return b if isinstance(b, int) else maximum(a, b)


def broadcast_shapes(*shapes: Sequence[Dim]) -> Shape:
    """The common shape of operands that are broadcast against each other.

    Raises:
        InferenceError: the shapes do not broadcast; the message shows them.
    """
    rank = max(map(len, shapes), default=0)
    result: list[Dim] = [1] * rank
    try:
        for shape in shapes:
            for i, dim in enumerate(shape, rank - len(shape)):
                result[i] = broadcast_dim(result[i], dim)
    except InferenceError as error:
        raise InferenceError(f"shapes {', '.join(shape_text(s) for s in shapes)} do not broadcast: {error}") from error
    return tuple(result)


def require_broadcastable(shape: Sequence[Dim], target: Sequence[Dim], what: str) -> None:
    """Check that `shape` broadcasts to `target` without changing it (ONNX's unidirectional broadcasting).

    Raises:
        InferenceError: it does not; `what` names the operand.
    """
    fits = len(shape) <= len(target)
    fits = fits and all(d == 1 or may_equal(d, t) for d, t in zip(reversed(shape), reversed(target), strict=False))
    require(fits, f"{what} of shape {shape_text(shape)} does not broadcast to {shape_text(target)}")


def shape_text(shape: Sequence[Dim]) -> str:
    """A shape as diagnostics print it: `[1,n,3]`."""
    return f"[{','.join(map(str, shape))}]"
