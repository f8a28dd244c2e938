"""The work of a kernel: what moves, and what of it are weights."""

from __future__ import annotations

from lepton_compiler.backends.tvm.package.work import work
from lepton_compiler.ir.text import parse_graph

PRODUCT = """graph @g(%x: float32[2,4]) {
  %w = const float32[4,3] (1.0, 0.0, -1.0, 0.5, 0.5, 0.5, -1.0, 2.0, 0.25, 0.0, 1.0, 0.0)
  %y = MatMul()(%x, %w) : float32[2,3]
  return %y
}
"""
LOOKUP = """graph @g(%table: float32[1000,4], %i: int64[2]) {
  %y = Gather(axis=0)(%table, %i) : float32[2,4]
  return %y
}
"""


def test_weights_are_counted_apart():
    assert work(next(iter(parse_graph(PRODUCT)))) == {"macs": 24, "bytes": 4 * (8 + 12 + 6), "constant_bytes": 48}


def test_of_a_table_only_what_is_picked_counts():
    assert work(next(iter(parse_graph(LOOKUP)))) == {"macs": 0, "bytes": 32 + 16 + 32, "constant_bytes": 0}
