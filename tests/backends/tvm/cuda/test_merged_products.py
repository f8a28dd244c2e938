"""Products of the same data as one kernel, whose parts attention and others read in place: run in the emulator, compared with the evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.feeds import random_feeds
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ops.builder import Builder
from lepton_compiler.runtime.model import CompiledModel

HEADS = 2


def weights(b: Builder, seed: int, *shape: int) -> Value:
    return b.constant(np.random.default_rng(seed).standard_normal(shape).astype(np.float32) / 4, name=f"w{seed}")


def attended(b: Builder, x: Value, width: int = 32, biases: tuple[bool, ...] = (True, False, True), context: Value | None = None) -> Value:
    """Attention with heads, of projections of `x`; keys and values are those of `context`."""
    found = []
    for seed, (data, biased) in enumerate(zip((x, *[context or x] * 2), biases, strict=True)):
        y = b.MatMul(data, weights(b, seed, data.type.static_shape[-1], width))
        y = b.Add(y, weights(b, 10 + seed, width)) if biased else y
        n, count, _ = y.type.static_shape
        found.append(b.Transpose(b.Reshape(y, shape=(n, count, HEADS, width // HEADS)), perm=(0, 2, 1, 3)))
    q, k, v = found
    scores = b.Mul(b.MatMul(q, b.Transpose(k, perm=(0, 1, 3, 2))), 0.25)
    return b.Transpose(b.MatMul(b.Softmax(scores, axis=3), v), perm=(0, 2, 1, 3))


def graph_of(**shapes: str) -> tuple[Graph, Builder, list[Value]]:
    inputs = ", ".join(f"%{name}: float32[{shape}]" for name, shape in shapes.items())
    graph = parse_graph(f"graph @net({inputs}) {{\n  return {', '.join(f'%{name}' for name in shapes)}\n}}\n")
    return graph, Builder(graph), list(graph.inputs)


def calls(model: CompiledModel) -> list[str]:
    """The operators of each kernel."""
    return [call["symbol"].removeprefix("lepton_").rpartition("_")[0] for call in model.manifest["calls"]]


PRECISIONS: Mapping[str, tuple[dict[str, Any], str, float]] = {
    "fp32": ({}, "", 1e-5),
    "fp16": ({"precision": "fp16"}, "", 5e-3),
    "codes of columns": ({"quantize": "w8"}, "quantize{scheme=w8}", 1e-5),
    "codes of groups": ({"quantize": "w4"}, "quantize{scheme=w4}", 1e-5),
    "products of codes": ({"quantize": "dynamic"}, "quantize{scheme=dynamic}", 1e-5),
}
"""Options, the pass that makes what the evaluator computes, and what part of the range results may be away from that."""


@pytest.mark.parametrize("how", PRECISIONS)
def test_queries_keys_and_values_are_one_product(make, gpu, how):
    graph, b, (x,) = graph_of(x="2,20,64")
    graph.set_outputs([attended(b, x)])
    options, passes, tolerance = PRECISIONS[how]
    model, feeds = make(graph, level=3, **options), random_feeds(graph.inputs)
    assert sum("matmul" in call for call in calls(model)) == 1 and calls(model).count("attention") == 1
    (found,), (wanted,) = model.run(feeds).values(), lc.evaluate(lc.optimize(graph, level=2, target="cuda", passes=passes), feeds).values()
    assert not gpu.faults
    assert np.abs(found - wanted).max() <= tolerance * np.ptp(wanted)


def test_keys_and_values_of_other_data_are_one_product(agrees):
    graph, b, (x, context) = graph_of(x="1,5,32", context="1,9,48")
    graph.set_outputs([attended(b, x, context=context)])
    assert calls(agrees(graph)) == ["matmul_add", "matmul_add", "attention"]


def test_a_single_row_is_cut_into_parts_of_memory(agrees):
    graph, b, (x,) = graph_of(x="1,1,32")
    parts = [b.MatMul(x, weights(b, k, 32, 16)) for k in range(3)]
    graph.set_outputs(
        [b.Softmax(parts[0], axis=2), b.ReduceMax(parts[1], axes=(2,)), b.Transpose(b.Reshape(parts[2], shape=(4, 4)), perm=(1, 0))]
    )
    assert calls(agrees(graph)) == ["matmul", "softmax", "reducemax", "transpose"]


def test_results_that_would_have_to_be_copied_stay(agrees):
    graph, b, (x,) = graph_of(x="1,6,32")
    kept = b.Add(b.MatMul(x, weights(b, 0, 32, 16)), weights(b, 10, 16))
    heads = [kept, *(b.MatMul(x, weights(b, k, 32, 16)) for k in (1, 2))]
    q, k, v = (b.Transpose(b.Reshape(y, shape=(1, 6, 2, 8)), perm=(0, 2, 1, 3)) for y in heads)
    scores = b.MatMul(q, b.Transpose(k, perm=(0, 1, 3, 2)))
    graph.set_outputs([b.MatMul(b.Softmax(scores, axis=3), v), b.ReduceMax(kept, axes=(2,))])
    assert sorted(calls(agrees(graph))) == ["attention", "matmul", "matmul_add", "reducemax"]


def test_what_moves_elements_reads_slices(agrees):
    graph, b, (x, cos) = graph_of(x="1,6,32", cos="6,16")
    results = []
    for seed in range(2):
        y = b.Add(b.MatMul(x, weights(b, seed, 32, 32)), weights(b, 10 + seed, 32))
        q = b.Transpose(b.Reshape(y, shape=(1, 6, HEADS, 16)), perm=(0, 2, 1, 3))
        halves = [b.Slice(q, starts=(start,), ends=(start + 8,), axes=(3,), steps=(1,)) for start in (8, 0)]
        results.append(b.Add(b.Mul(q, cos), b.Concat(*halves, axis=3)))
    graph.set_outputs(results)
    found = calls(agrees(graph))
    assert found[0] == "matmul_add" and len(found) == 3
