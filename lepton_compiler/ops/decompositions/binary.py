"""Sum and Mean as additions."""

from __future__ import annotations

from functools import reduce

from lepton_compiler.ir.graph import Value
from lepton_compiler.ops import binary as ops
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import decomposition_in_float32


@decomposition_in_float32(ops.Sum)
def _(build: Builder, op: ops.Sum, *xs: Value) -> Value:
    return reduce(build.Add, xs)


@decomposition_in_float32(ops.Mean)
def _(build: Builder, op: ops.Mean, *xs: Value) -> Value:
    return build.Div(reduce(build.Add, xs), float(len(xs)))
