"""Loops whose condition is always true: the host need not ask the device for it, and the launches can be recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lepton_compiler.backends.tvm.program import Branch, Buffer, Call, Clear, Copy, Ref, Repeat, SetCounter, Statement
from lepton_compiler.backends.tvm.weights import WeightStore


def without_true_conditions(statements: Sequence[Statement], weights: WeightStore) -> tuple[Statement, ...]:
    """The statements, where loops with a count have no condition that only constants, all of them true, are copied to."""
    constants = {offset: array.tobytes()[:1] for offset, array in weights.arrays}
    writes = list(_writes(statements))

    def is_true(condition: Ref) -> bool:
        sources = [source for buffer, source in writes if buffer is condition.buffer]
        return bool(sources) and all(
            s is not None and s.buffer.kind == "weight" and constants.get(s.buffer.start) == b"\1" for s in sources
        )

    def changed(s: Statement) -> Statement:
        match s:
            case Branch():
                return replace(s, then=tuple(map(changed, s.then)), other=tuple(map(changed, s.other)))
            case Repeat():
                dropped = s.count is not None and s.condition is not None and is_true(s.condition)
                return replace(s, condition=None if dropped else s.condition, body=tuple(map(changed, s.body)))
        return s

    return tuple(map(changed, statements))


def _writes(statements: Sequence[Statement]) -> Iterator[tuple[Buffer, Ref | None]]:
    """The buffers that statements write to, each with what is copied there, if it is a copy."""
    for s in statements:
        match s:
            case Copy():
                yield s.target.buffer, s.source
            case Clear() | SetCounter():
                yield s.target.buffer, None
            case Call():
                for place, parameter in zip(s.arguments, s.kernel.parameters, strict=True):
                    if parameter.kind in ("output", "workspace"):
                        yield place.buffer, None
            case Branch():
                yield from _writes([*s.then, *s.other])
            case Repeat():
                yield from _writes(s.body)
