"""Attention in graphs: found, computed as one kernel in the emulator, and compared with the evaluator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler import zoo
from lepton_compiler.backends import tvm
from lepton_compiler.backends.tvm import cuda
from lepton_compiler.driver import PRECISION_PASSES
from lepton_compiler.feeds import random_feeds
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ops.builder import Builder


def graph_of(signature: str, *lines: str, results: str = "%y") -> Graph:
    return parse_graph("\n".join([f"graph @net({signature}) {{", *(f"  {line}" for line in lines), f"  return {results}", "}", ""]))


def kernels(graph: Graph, target: str = "cuda", passes: Sequence[str] = cuda.REQUIRED_PASSES) -> Graph:
    """The graph as a backend gets it."""
    return lc.optimize(lc.optimize(graph, target=target), target=target, passes=",".join(passes))


def attentions(graph: Graph) -> int:
    return sum(getattr(node.op, "kind", "") == "attention" for node in graph)


def heads(queries: int, keys: int, head: int = 16, width: int = 16, kind: str = "float32") -> str:
    """Two batches of three heads, as most models have them before they exchange axes."""
    return f"%q: {kind}[2,{queries},3,{head}], %k: {kind}[2,{keys},3,{head}], %v: {kind}[2,{keys},3,{width}]"


EXCHANGED = (
    "%qt = Transpose(perm=(0,2,1,3))(%q)",
    "%kt = Transpose(perm=(0,2,3,1))(%k)",
    "%vt = Transpose(perm=(0,2,1,3))(%v)",
)
END = ("%o = MatMul()(%w, %vt)", "%y = Transpose(perm=(0,2,1,3))(%o)")
PLAIN = (*EXCHANGED, "%s = MatMul()(%qt, %kt)", "%w = Softmax(axis=3)(%s)", *END)
LOWEST = "%lowest = const float32[] (-3.4028235e38)"

CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "plain": (heads(20, 37), PLAIN),
    "one query": (heads(1, 70), PLAIN),
    "one key": (heads(5, 1), PLAIN),
    "sizes of heads that differ": (heads(33, 40, 20, 35), PLAIN),
    "scaled after the product": (
        heads(18, 18),
        (*EXCHANGED, "%p = MatMul()(%qt, %kt)", "%c = const float32[] (4.0)", "%s = Div()(%p, %c)", "%w = Softmax(axis=-1)(%s)", *END),
    ),
    "scaled before, half on each side": (
        heads(18, 18),
        ("%c = const float32[1] (0.5)", "%a = Mul()(%q, %c)", "%b = Mul()(%k, %c)", "%qt = Transpose(perm=(0,2,1,3))(%a)",
         "%kt = Transpose(perm=(0,2,3,1))(%b)", EXCHANGED[2], *PLAIN[3:]),
    ),
    "padding, computed from a mask of integers": (
        f"{heads(9, 12)}, %m: int64[2,12]",
        (*EXCHANGED, "%p = MatMul()(%qt, %kt)", "%mr = Reshape(shape=(2,1,1,12))(%m)", "%mf = Cast(to=float32)(%mr)",
         "%one = const float32[] (1.0)", "%inv = Sub()(%one, %mf)", LOWEST, "%bias = Mul()(%inv, %lowest)", "%s = Add()(%p, %bias)",
         "%w = Softmax(axis=3)(%s)", *END),
    ),
    "a mask of booleans, rows of zeros": (
        f"{heads(9, 12)}, %m: bool[2,1,1,12]",
        (*EXCHANGED, "%p = MatMul()(%qt, %kt)", "%z = const float32[1] (0.0)", "%h = const float32[1] (-inf)", "%b = Where()(%m, %z, %h)",
         "%s = Add()(%p, %b)", "%a = Softmax(axis=3)(%s)", "%n = IsNaN()(%a)", "%w = Where()(%n, %z, %a)", *END),
    ),
    "a mask for each query, spread over the heads": (
        f"{heads(9, 12)}, %m: float32[2,9,12]",
        (*EXCHANGED, "%p = MatMul()(%qt, %kt)", "%mu = Unsqueeze(axes=(1,))(%m)", "%me = Expand(shape=(2,3,9,12))(%mu)", "%s = Add()(%me, %p)",
         "%w = Softmax(axis=3)(%s)", *END),
    ),
    "scores of three axes, masked in four": (
        "%q: float32[6,9,16], %k: float32[6,12,16], %v: float32[6,12,16], %m: bool[2,1,9,12]",
        ("%kt = Transpose(perm=(0,2,1))(%k)", "%p = MatMul()(%q, %kt)", "%r = Reshape(shape=(2,3,9,12))(%p)", LOWEST,
         "%x = Where()(%m, %r, %lowest)", "%s = Reshape(shape=(6,9,12))(%x)", "%w = Softmax(axis=2)(%s)", "%y = MatMul()(%w, %v)"),
    ),
    "a cap": (
        heads(9, 12),
        (*EXCHANGED, "%p = MatMul()(%qt, %kt)", "%c = const float32[] (2.0)", "%d = Div()(%p, %c)", "%t = Tanh()(%d)", "%s = Mul()(%t, %c)",
         "%w = Softmax(axis=3)(%s)", *END),
    ),
    "keys that lie the other way": (
        "%q: float32[2,3,9,16], %k: float32[2,3,16,12], %v: float32[2,3,12,16]",
        ("%s = MatMul()(%q, %k)", "%w = Softmax(axis=3)(%s)", "%y = MatMul()(%w, %v)"),
    ),
    "queries, keys and values in one tensor": (
        "%x: float32[2,10,96]",
        ("%h = Reshape(shape=(2,10,3,2,16))(%x)", "%t = Transpose(perm=(2,0,3,1,4))(%h)", "%a, %b, %c = Split(sizes=(1,1,1))(%t)",
         "%q = Squeeze(axes=(0,))(%a)", "%k = Squeeze(axes=(0,))(%b)", "%v = Squeeze(axes=(0,))(%c)", "%kt = Transpose(perm=(0,1,3,2))(%k)",
         "%s = MatMul()(%q, %kt)", "%w = Softmax(axis=3)(%s)", "%y = MatMul()(%w, %v)"),
    ),
    "heads that share keys": (
        "%q: float32[2,4,9,8], %k: float32[2,2,12,8], %v: float32[2,2,12,8]",
        ("%ku = Unsqueeze(axes=(2,))(%k)", "%ke = Expand(shape=(2,2,2,12,8))(%ku)", "%kr = Reshape(shape=(2,4,12,8))(%ke)",
         "%vu = Unsqueeze(axes=(2,))(%v)", "%ve = Expand(shape=(2,2,2,12,8))(%vu)", "%vr = Reshape(shape=(2,4,12,8))(%ve)",
         "%kt = Transpose(perm=(0,1,3,2))(%kr)", "%s = MatMul()(%q, %kt)", "%w = Softmax(axis=3)(%s)", "%y = MatMul()(%w, %vr)"),
    ),
    "the operator, heads that share keys": (
        "%q: float32[2,4,9,8], %k: float32[2,2,12,8], %v: float32[2,2,12,8], %m: bool[2,1,1,12]",
        ("%y = Attention()(%q, %k, %v, %m)",),
    ),
    "the operator, causal, with a cap": (
        "%q: float32[2,40,32], %k: float32[2,40,32], %v: float32[2,40,32]",
        ("%y = Attention(q_num_heads=4,kv_num_heads=4,is_causal=True,softcap=3.0)(%q, %k, %v)",),
    ),
    "queries that are weights": (
        "%k: float32[2,12,16], %v: float32[2,12,16]",
        ("%q = const float32[2,16] (" + ", ".join(str(n / 16 - 1) for n in range(32)) + ")", "%kt = Transpose(perm=(0,2,1))(%k)",
         "%s = MatMul()(%q, %kt)", "%w = Softmax(axis=2)(%s)", "%y = MatMul()(%w, %v)"),
    ),
    "more after the sums": (
        f"{heads(9, 12)}, %r: float32[2,9,3,16]",
        (*PLAIN[:-1], "%t = Transpose(perm=(0,2,1,3))(%o)", "%z = Add()(%t, %r)", "%y = Relu()(%z)"),
    ),
}  # fmt: skip


def feeds_of(graph: Graph) -> Mapping[str, np.ndarray]:
    """Random ones; whole numbers, which are masks, are 0 or 1, and hide all keys of the second batch."""
    feeds = dict(random_feeds(graph.inputs))
    rng = np.random.default_rng(1)
    for v in graph.inputs:
        if v.type.dtype.kind in ("int", "bool"):
            feeds[v.name] = (rng.random(v.type.static_shape) < 0.6).astype(v.type.dtype.numpy)
            feeds[v.name][1:] = 0
    return feeds


@pytest.mark.parametrize("case", CASES)
def test_is_one_kernel_that_agrees_with_the_evaluator(agrees, case):
    graph = graph_of(CASES[case][0], *CASES[case][1])
    model = agrees(graph, feeds_of(graph))
    assert model.manifest["attention"] == {"kernels": 1, "separate": {}}
    assert len(model.manifest["calls"]) == (2 if case == "keys that lie the other way" else 1)


def later(queries: int, keys: int, hidden: float) -> np.ndarray:
    """A mask that hides what comes after a query, the last of which sees all keys."""
    return np.triu(np.full((queries, keys), hidden, np.float32), keys - queries + 1)


@pytest.mark.parametrize(("queries", "keys", "hidden"), [(40, 40, -np.inf), (20, 70, -np.inf), (40, 40, -3.4e38)])
def test_keys_that_a_mask_hides_are_not_looked_at(agrees, queries, keys, hidden):
    graph = graph_of(heads(queries, keys), *EXCHANGED, "%p = MatMul()(%qt, %kt)", results="%p")
    b, (q, k, v) = Builder(graph), [node.output for node in graph][:3]
    scores = b.Add(b.MatMul(q, k), b.constant(later(queries, keys, hidden), name="later"))
    graph.set_outputs([b.MatMul(b.Softmax(scores, axis=3), v)])
    model = agrees(graph)
    text = model.artifact.files["net.cu"].decode()
    assert model.manifest["attention"]["kernels"] == 1 and model.manifest["weights_bytes"] < queries * keys
    assert f", true, {keys - queries}, lepton::Empty::nan" in text


def test_rows_of_heads_that_share_keys_are_causal_each(agrees):
    graph = graph_of("%q: float32[2,4,20,8], %k: float32[2,2,20,8], %v: float32[2,2,20,8]", "%y = Attention(is_causal=True)(%q, %k, %v)")
    assert ", true, 0, lepton::Empty::zeros" in agrees(graph).artifact.files["net.cu"].decode()


UNSEEN = {
    "softmax": ((), np.nan),
    "dropped": (("%z = const float32[] (0.0)", "%n = IsNaN()(%w)", "%w2 = Where()(%n, %z, %w)"), 0.0),
}


@pytest.mark.parametrize("case", UNSEEN)
def test_queries_without_keys(make, gpu, case):
    lines, wanted = UNSEEN[case]
    end = "%y = MatMul()(%w2, %v)" if lines else "%y = MatMul()(%w, %v)"
    graph = graph_of("%q: float32[2,5,8], %k: float32[2,8,6], %v: float32[2,6,4], %m: float32[2,1,6]", "%p = MatMul()(%q, %k)",
                     "%s = Add()(%p, %m)", "%w = Softmax(axis=2)(%s)", *lines, end)  # fmt: skip
    feeds = dict(random_feeds(graph.inputs))
    feeds["m"][0, 0, :3], feeds["m"][1] = -np.inf, -np.inf
    found = make(graph).run(feeds)["y"]
    assert not gpu.faults
    assert np.array_equal(found[1], np.full_like(found[1], wanted), equal_nan=True)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found, lc.evaluate(graph, feeds)["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_spoils_its_row(make, value):
    graph = graph_of(heads(5, 40, 8, 8), *PLAIN)
    feeds = dict(random_feeds(graph.inputs))
    feeds["q"][0, 2, 1, 3] = value
    with np.errstate(invalid="ignore"):
        wanted = lc.evaluate(graph, feeds)["y"]
    np.testing.assert_allclose(make(graph).run(feeds)["y"], wanted, rtol=1e-4, atol=1e-5)


CALLS = {
    "fp16": ("attend_on_tensor_cores<lepton::Arithmetic::f16", 2e-3),
    "bf16": ("attend_on_tensor_cores<lepton::Arithmetic::bf16", 2e-2),
    "tf32": ("attend_in_fp32<", 1e-5),
}


MASKED = ("padding, computed from a mask of integers", "a mask of booleans, rows of zeros")


@pytest.mark.parametrize("case", MASKED)
@pytest.mark.parametrize("precision", CALLS)
def test_scores_are_float32_at_lower_precision(agrees, precision, case):
    function, tolerance = CALLS[precision]
    graph = graph_of(CASES[case][0], *CASES[case][1])
    model = agrees(graph, feeds_of(graph), tolerance=tolerance, precision=precision)
    assert model.manifest["attention"]["kernels"] == 1
    assert f"lepton::{function}" in model.artifact.files["net.cu"].decode()


def test_models_in_float16(agrees):
    graph = graph_of(f"{heads(20, 37, kind='float16')}, %m: float16[2,1,20,37]", *EXCHANGED, "%p = MatMul()(%qt, %kt)",
                     "%c = const float16[] (0.25)", "%x = Mul()(%p, %c)", "%s = Add()(%x, %m)", "%w = Softmax(axis=3)(%s)", *END)  # fmt: skip
    assert agrees(graph, tolerance=2e-3).manifest["attention"]["kernels"] == 1


def test_weights_are_rounded_only_where_results_are(agrees):
    graph = graph_of(heads(9, 12, kind="float16"), "%qf = Cast(to=float32)(%q)", "%kf = Cast(to=float32)(%k)", "%vf = Cast(to=float32)(%v)",
                     *(line.replace("(%q)", "(%qf)").replace("(%k)", "(%kf)").replace("(%v)", "(%vf)") for line in PLAIN))  # fmt: skip
    assert "lepton::attend_in_fp32<" in agrees(graph).artifact.files["net.cu"].decode()


def test_scores_take_no_memory(make):
    graph = graph_of(heads(64, 64), *PLAIN)
    assert make(graph).manifest["arena_bytes"] < 2 * 3 * 64 * 64 * 4


SEPARATE: dict[str, tuple[str, tuple[str, ...], str]] = {
    "too large": (heads(9, 12, 160, 16), PLAIN, "heads have 160 elements of float32, and 128 is the most"),
    "float64": (heads(9, 12, kind="float64"), PLAIN, ""),
    "weights": (heads(9, 12), (*PLAIN, "%z = ReduceMax(axes=(3,))(%w)"), "its weights are read elsewhere"),
    "scores": (heads(9, 12), (*PLAIN, "%z = Exp()(%s)"), "its scores are read elsewhere"),
}  # fmt: skip


@pytest.mark.parametrize("case", SEPARATE)
def test_what_is_not_taken_says_why(agrees, case):
    signature, lines, reason = SEPARATE[case]
    graph = graph_of(signature, *lines, results="%y, %z" if "%z" in lines[-1] else "%y")
    attention: dict[str, Any] = agrees(graph, tolerance=1e-4).manifest["attention"]
    assert attention["kernels"] == 0
    assert [reason in found for found in attention["separate"].values()] == [True] * bool(reason)


def test_only_backends_that_declare_it_get_it():
    assert not any("attention" in item for item in tvm.REQUIRED_PASSES)
    graph = graph_of(heads(9, 12), *PLAIN)
    assert attentions(kernels(graph)) == 1
    assert attentions(kernels(graph, "x86_64", tvm.REQUIRED_PASSES)) == 0


def test_bfloat16_needs_tensor_cores_that_multiply_it():
    graph = graph_of(heads(9, 12, kind="bfloat16"), *PLAIN)
    assert [attentions(kernels(graph, target)) for target in ("cuda:sm_75", "cuda:sm_80", "cuda:sm_75,sm_90")] == [0, 1, 0]


@pytest.mark.network
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_layer_of_a_language_model_is_found(precision):
    try:
        path = zoo.fetch(zoo.find("minilm/paraphrase_minilm_l3_v2"))
    except zoo.FetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"cannot be fetched: {error}")
    graph = lc.import_model(path, dims={"batch_size": 2, "sequence_length": 24})
    found = kernels(graph, passes=(*PRECISION_PASSES[precision], *cuda.REQUIRED_PASSES))
    assert attentions(found) == 3
    assert sum(node.op.name == "Softmax" for node in found.walk()) == 3
