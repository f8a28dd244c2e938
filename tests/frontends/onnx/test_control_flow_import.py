"""If, Loop and Scan: inlining where the condition is known, isolated regions with captures where it is not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx import import_onnx
from lepton_compiler.ops.evaluator import evaluate


def parse(body: str, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {body}')


BRANCHES = """y = If (%s) <then_branch = a () => (float[2] p) { p = Mul(x, w) }, else_branch = b () => (float[2] q) { r = Add(h, w)  q = Neg(r) }>"""


def test_regions_are_isolated_and_share_constants() -> None:
    body = "g (float[2] x, bool c) => (float[2] y) <float[2] w = {2.0, 3.0}> { h = Exp(x) " + BRANCHES % "c" + "}"
    graph = import_onnx(parse(body))
    node = graph.outputs[0].producer
    assert node is not None and node.op.name == "If"
    assert [v.name for v in node.present_inputs] == ["c", "x", "h"]
    weights = {v.tensor for region in node.regions for v in region.constants}
    assert len(weights) == 1 and all(len(region.inputs) == 2 for region in node.regions)
    x = np.array([1, 2], np.float32)
    np.testing.assert_allclose(evaluate(graph, {"x": x, "c": np.array(True)})["y"], x * [2, 3])
    np.testing.assert_allclose(evaluate(graph, {"x": x, "c": np.array(False)})["y"], -np.add(np.exp(x), [2, 3]), rtol=1e-6)


def test_known_condition_leaves_one_branch_and_never_looks_at_the_other() -> None:
    body = (
        "g (float[2] x) => (float[2] y) <float[2] w = {2.0, 3.0}, int64 two = {2}> { h = Exp(x) n = Size(x) c = Equal(n, two) "
        + BRANCHES % "c"
        + "}"
    )
    model = parse(body.replace("q = Neg(r)", "q = Frobnicate(r)"))
    graph = import_onnx(model)
    assert [n.op.name for n in graph] == ["Exp", "Mul"] and graph.outputs[0].name == "y"


def test_branches_of_different_rank_ask_for_shapes() -> None:
    body = """g (float[n,2] x) => (float[k] y) <int64 one = {1}, int64[1] zero = {0}> { s = Shape<start = 0, end = 1>(x) c = Equal(s, one)
        y = If (c) <then_branch = a () => (float[2] p) { p = Squeeze(x, zero) }, else_branch = b () => (float[n,2] q) { q = Identity(x) }> }"""
    with pytest.raises(UnsupportedError, match="bind the symbolic dimensions"):
        import_onnx(parse(body))
    assert [n.op.name for n in import_onnx(parse(body), dims={"n": 1})] == ["Squeeze"]


LOOP = """g (float[2] x, int64 n, bool go) => (float[2] last, float[k,2] all) {
    last, all = Loop (n, go, x) <body = b (int64 i, bool c, float[2] v) => (bool c2, float[2] v2, float[2] s) {
        c2 = Identity(c)  f = Cast<to = 1>(i)  t = Mul(x, f)  v2 = Add(v, t)  s = Identity(v2) }> }"""


def test_loops_carry_scan_and_capture() -> None:
    graph = import_onnx(parse(LOOP))
    outs = evaluate(graph, {"x": np.array([1, 2], np.float32), "n": np.array(3), "go": np.array(True)})
    np.testing.assert_allclose(outs["last"], [4, 8])
    assert outs["all"].shape == (3, 2)


def test_known_trip_count_gives_the_scanned_size() -> None:
    graph = import_onnx(parse(LOOP), inputs={"n": np.array(3), "go": np.array(True)})
    assert graph.outputs[1].type.shape == (3, 2)


def test_carried_dimension_that_grows_is_a_symbol_of_its_own() -> None:
    body = """g (float[1] x, int64 n, bool go) => (float[k] y) {
        y = Loop (n, go, x) <body = b (int64 i, bool c, float[m] v) => (bool c2, float[l] v2) { c2 = Identity(c)  v2 = Concat<axis = 0>(v, x) }> }"""
    graph = import_onnx(parse(body))
    y = evaluate(graph, {"x": np.ones(1, np.float32), "n": np.array(4), "go": np.array(True)})["y"]
    assert y.shape == (5,)


def test_scan_reads_elements_along_an_axis() -> None:
    body = """g (float[2] s, float[2,5] x) => (float[2] t, float[5,2] z) {
        t, z = Scan <num_scan_inputs = 1, scan_input_axes = [1], body = b (float[2] a, float[2] e) => (float[2] a2, float[2] o) {
            a2 = Add(a, e)  o = Identity(a2) }> (s, x) }"""
    x = np.arange(10, dtype=np.float32).reshape(2, 5)
    outs = evaluate(import_onnx(parse(body)), {"s": np.zeros(2, np.float32), "x": x})
    np.testing.assert_allclose(outs["z"], np.cumsum(x, axis=1).T)


def test_errors_inside_regions_are_found() -> None:
    body = "g (float[2] x, bool c) => (float[2] y) <float[2] w = {2.0, 3.0}> { h = Exp(x) " + BRANCHES % "c" + "}"
    with pytest.raises(ModelError, match="'gone' is defined nowhere"):
        import_onnx(parse(body.replace("Add(h, w)", "Add(gone, w)")))
