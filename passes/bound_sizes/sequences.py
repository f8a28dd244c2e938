"""Ranges whose length is computed at run time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lepton_compiler.analysis.value_range import Ranges
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import FLOAT64, INT64
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.bound_sizes.extents import Extents, number
from lepton_compiler.passes.bound_sizes.limits import at_most
from lepton_compiler.passes.bound_sizes.producers import PRODUCERS

LONGEST = 1 << 24
"""Elements beyond which a length that follows from the range of a value bounds nothing."""


def late_range(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """Range whose limit is computed at run time  -->  the longest one, and how much of it counts

    Its length is bounded by what `--bound` says, else by the range of the values that the limit is computed from.
    """
    op: Any = node.op
    template = op.template
    given = dict(zip(op.params, node.inputs[-len(op.params) :], strict=True))
    limit = given.pop("limit", None)
    if limit is None or any(v is not None for v in given.values()):
        raise UnsupportedError("where it starts, or its step, is computed at run time", hint="make them constants of the model")
    where = node.loc.sources[-1] if node.loc.sources else node.output.name
    bound = extents.limits.of(node)
    if bound is None:
        bound = _length_of(template, Ranges().of(limit))
    if bound is None:
        raise UnsupportedError(
            "nothing says how many elements it can give", hint=f"say the largest number: --bound {where}=N, or bounds={{'{where}': N}}"
        )
    end = template.start + bound * template.delta
    values = b(replace(template, limit=end))
    if template.dtype.is_integer:
        count = _steps(b, b.Cast(b.Reshape(limit, shape=()), to=INT64), int(template.start), int(template.delta))
    else:
        ratio = b.Div(b.Sub(b.Cast(b.Reshape(limit, shape=()), to=FLOAT64), _real(b, template.start)), _real(b, template.delta))
        count = b.Max(b.Cast(b.Ceil(ratio), to=INT64), number(b, 0))
    extents.define(node.output.type.shape[0], bound, at_most(b, count, bound, where))
    return [values]


def _steps(b: Builder, limit: Value, start: int, delta: int) -> Value:
    """How many numbers there are from `start` before the int64 scalar `limit`."""
    room = b.Sub(limit, number(b, start)) if delta > 0 else b.Sub(number(b, start), limit)
    return b.Div(b.Max(b.Add(room, number(b, abs(delta) - 1)), number(b, 0)), number(b, abs(delta)))


def _real(b: Builder, value: float) -> Value:
    return b.constant(np.array(value, np.float64))


def _length_of(template: Any, interval: tuple[float, float]) -> int | None:
    """The most elements of a range whose limit lies in an interval."""
    farthest = interval[1] if template.delta > 0 else interval[0]
    if not math.isfinite(farthest):
        return None
    length = math.ceil((farthest - float(template.start)) / float(template.delta))
    return max(0, length) if length < LONGEST else None


PRODUCERS["Dynamic(Range)"] = late_range
