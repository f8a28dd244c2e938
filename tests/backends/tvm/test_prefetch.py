"""Prefetching of weights: every line of the next block is asked for, and only where that pays."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends import tvm
from lepton_compiler.backends.tvm.schedules.prefetch import LINE, plan_prefetch
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.backends.tvm.worker import kernel_text
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import FLOAT32, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.target import parse_target

TARGET = parse_target("x86_64", "skylake-avx512")


@pytest.mark.parametrize(
    ("row_bytes", "depth", "tiles"), [(128, 512, 1), (128, 512, 2), (256, 100, 3), (320, 77, 13), (128, 333, 784), (64, 2048, 5)]
)
def test_tiles_ask_for_each_line_of_the_next_block(row_bytes, depth, tiles):
    ahead = plan_prefetch(row_bytes, depth, tiles, 8, 16, TARGET)
    assert ahead is not None
    asked = [line for turn in range(tiles) for step in range(depth) for line in ahead.lines_at(turn, step)]
    lines = row_bytes // LINE * depth
    assert set(range(lines)) <= set(asked)
    assert len(set(asked)) <= 2 * lines  # beyond the next block lies the one after it


def test_blocks_that_would_drive_each_other_out_of_the_cache_are_not_prefetched():
    assert plan_prefetch(128, 4000, 8, 8, 16, TARGET) is not None
    assert plan_prefetch(128, 5000, 8, 8, 16, TARGET) is None


def test_weights_that_level_1_holds_are_not_prefetched():
    assert plan_prefetch(128, 64, 8, 8, 2, TARGET) is None


def products(rows: int) -> Graph:
    """A matrix of `rows` rows times weights."""
    graph = Graph("g")
    x = graph.add_input("x", TensorType(FLOAT32, (rows, 512)))
    w = graph.constant(np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32), "w")
    graph.set_outputs([Builder(graph).MatMul(x, w)])
    return graph


@pytest.mark.parametrize(("rows", "found"), [(64, True), (1, False)])
@pytest.mark.parametrize("cpu", ["x86-64-v3", "x86-64-v4"])
def test_products_prefetch_their_weights_unless_they_only_read_them(rows, found, cpu):
    target = parse_target("x86_64", cpu)
    legal = lc.optimize(products(rows), 3, target, ",".join(tvm.REQUIRED_PASSES))
    (node,) = tvm.kernel_nodes(legal)
    assert ("prefetcht1" in kernel_text("0" * 12, spec_of(node), target, "asm")) == found
