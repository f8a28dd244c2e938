"""What an imported graph looks like: names, attributes from operands, opset differences, bindings."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from lepton_compiler.errors import ModelError, UnsupportedError, UsageError
from lepton_compiler.frontends.onnx import import_onnx
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.evaluator import evaluate


def parse(body: str, opset: int = 17, more: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}{more}]> {body}')


def names(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.walk()]


def test_names_of_inputs_values_outputs_and_nodes_are_the_models() -> None:
    model = parse("g (float[2,3] x) => (float[2,3] y) { h = Relu(x) y = Sigmoid(h) }")
    model.graph.node[0].name = "first"
    graph = import_onnx(model)
    assert [v.name for v in graph.inputs] == ["x"] and [v.name for v in graph.outputs] == ["y"]
    relu, sigmoid = graph.nodes
    assert relu.output.name == "h" and relu.loc.sources == ("first",) and sigmoid.loc.sources == ("y",)


@pytest.mark.parametrize(
    ("body", "copies"),
    [
        ("g (float[2] x) => (float[2] y) { y = Identity(x) }", 1),
        ("g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Identity(y) }", 1),
        ("g (float[2] x) => (float[2] y) { h = Relu(x) y = Identity(h) }", 0),
        ("g (float[2] x) => (float[2] y) <float[2] y = {1.0, 2.0}> { h = Relu(x) }", 0),
        ("g (float[2] x) => (float[2] x) { h = Relu(x) }", 0),
    ],
)
def test_outputs_that_nothing_computes_keep_their_names(body: str, copies: int) -> None:
    model = parse(body)
    graph = import_onnx(model)
    assert [v.name for v in graph.outputs] == [v.name for v in model.graph.output]
    assert names(graph).count("Cast") == copies
    assert set(evaluate(graph, {"x": np.ones(2, np.float32)})) == {v.name for v in model.graph.output}


def test_shape_arithmetic_disappears() -> None:
    body = """g (float[n,3,h,w] x) => (float[n,k] y) <int64[1] zero = {0}, int64[1] minus = {-1}> {
        s = Shape(x)  n = Gather(s, zero)  t = Concat<axis = 0>(n, minus)  y = Reshape(x, t) }"""
    symbolic = import_onnx(parse(body))
    assert symbolic.outputs[0].type == tensor_type("float32[n,3*h*w]")
    static = import_onnx(parse(body), inputs={"x": (2, 3, 4, 5)})
    assert names(static) == ["Reshape"] and static.outputs[0].type == tensor_type("float32[2,60]")


def test_operand_known_only_at_run_time_makes_a_dynamic_operator() -> None:
    graph = import_onnx(parse("g (float[6] x, int64[2] s) => (float[a,b] y) { y = Reshape(x, s) }"))
    assert "Dynamic" in names(graph)
    y = evaluate(graph, {"x": np.arange(6, dtype=np.float32), "s": np.array([2, -1])})["y"]
    assert y.shape == (2, 3)


@pytest.mark.parametrize(
    ("opset", "body"),
    [
        (9, "g (float[4,5] x) => (float[2,5] y) { y = Slice<starts = [1], ends = [3], axes = [0]>(x) }"),
        (13, "g (float[4,5] x) => (float[2,5] y) <int64[1] s = {1}, int64[1] e = {3}> { y = Slice(x, s, e) }"),
    ],
)
def test_slices_of_all_opsets_are_one_operator(opset: int, body: str) -> None:
    (node,) = import_onnx(parse(body, opset)).nodes
    assert repr(node.op) == "Slice(starts=(1,), ends=(3,), axes=(0,), steps=(1,))"


def test_old_softmax_flattens() -> None:
    old = import_onnx(parse("g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis = 1>(x) }", 11))
    assert names(old) == ["Reshape", "Softmax", "Reshape"]
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(evaluate(old, {"x": x})["y"].sum(axis=(1, 2)), 1, rtol=1e-6)


def test_auto_pad_becomes_explicit_pads() -> None:
    body = 'g (float[1,1,7,7] x, float[1,1,3,3] w) => (float[1,1,4,4] y) { y = Conv<auto_pad = "%s", strides = [2, 2]>(x, w) }'
    (upper,), (lower,) = import_onnx(parse(body % "SAME_UPPER")).nodes, import_onnx(parse(body % "SAME_LOWER")).nodes
    assert upper.op.pads == (1, 1, 1, 1) == lower.op.pads  # type: ignore[attr-defined]
    even = body.replace("[1,1,7,7]", "[1,1,8,8]")
    (upper,), (lower,) = import_onnx(parse(even % "SAME_UPPER")).nodes, import_onnx(parse(even % "SAME_LOWER")).nodes
    assert upper.op.pads == (0, 0, 1, 1) and lower.op.pads == (1, 1, 0, 0)  # type: ignore[attr-defined]


def test_attribute_floats_are_the_shortest_decimals() -> None:
    (node,) = import_onnx(parse("g (float[2] x) => (float[2] y) { y = LeakyRelu<alpha = 0.1>(x) }")).nodes
    assert repr(node.op) == "LeakyRelu(alpha=0.1)"


def test_composite_of_the_standard_is_expanded_by_its_function_body() -> None:
    body = 'g (float[2,3] x, int64[2] t) => (float l) { l = SoftmaxCrossEntropyLoss<reduction = "sum">(x, t) }'
    graph = import_onnx(parse(body))
    x, t = np.array([[1, 2, 3], [3, 1, 0]], np.float32), np.array([2, 0])
    wanted = -sum(row[i] - np.log(np.exp(row).sum()) for row, i in zip(x, t, strict=True))
    np.testing.assert_allclose(evaluate(graph, {"x": x, "t": t})["l"], wanted, rtol=1e-5)


def test_model_local_functions_are_inlined_with_their_attributes() -> None:
    model = parse(
        """g (float[2] x) => (float[2] y) { h = local.twice<slope = 0.5>(x)  y = local.twice(h) }
        <domain: "local", opset_import: ["": 17]> twice <slope: float = 0.25> (a) => (c) { b = LeakyRelu<alpha: float = @slope>(a)  c = Add(b, b) }""",
        more=', "local": 1',
    )
    graph = import_onnx(model)
    assert names(graph) == ["LeakyRelu", "Add"] * 2
    assert graph.nodes[1].output.name == "h" and graph.nodes[0].loc.sources == ("h/b",)
    np.testing.assert_allclose(evaluate(graph, {"x": np.array([-1, 2], np.float32)})["y"], [-0.5, 8])


def test_inputs_with_initialisers_are_constants() -> None:
    graph = import_onnx(parse("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Mul(x, w) }"))
    assert [v.name for v in graph.inputs] == ["x"]


def test_dimension_names_become_identifiers_and_can_be_bound() -> None:
    model = parse("g (float[n] x) => (float[n] y) { y = Relu(x) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch.size-0"
    assert import_onnx(model).inputs[0].type == tensor_type("float32[batch_size_0]")
    for name in ("batch.size-0", "batch_size_0"):
        assert import_onnx(model, dims={name: 4}).outputs[0].type == tensor_type("float32[4]")
    with pytest.raises(UsageError, match="no dimension 'other'"):
        import_onnx(model, dims={"other": 4})


def test_dimensions_without_name_get_one_of_their_own() -> None:
    model = parse("g (float[a,b] x) => (float[a,b] y) { y = Relu(x) }")
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.ClearField("dim_param")
    assert import_onnx(model).inputs[0].type == tensor_type("float32[x_0,x_1]")
    assert import_onnx(model, inputs={"x": (2, None)}).inputs[0].type == tensor_type("float32[2,x_1]")


def test_shared_dimension_names_are_bound_together() -> None:
    model = parse("g (float[n,2] x, float[n,2] z) => (float[n,2] y) { y = Add(x, z) }")
    assert import_onnx(model, inputs={"x": (3, 2)}).inputs[1].type == tensor_type("float32[3,2]")
    with pytest.raises(UsageError, match="bound to 3 and to 4"):
        import_onnx(model, inputs={"x": (3, 2), "z": (4, 2)})


def test_array_binds_an_input_to_a_constant() -> None:
    graph = import_onnx(
        parse("g (float[2] x, int64 k) => (float[a] y) { u = Unsqueeze(x, k) y = Squeeze(u, k) }"), inputs={"k": np.array(0)}
    )
    assert [v.name for v in graph.inputs] == ["x"] and names(graph) == ["Unsqueeze", "Squeeze"]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"q": (2, 3)}, "no input 'q'"),
        ({"x": (2, 4)}, "does not fit"),
        ({"x": (2,)}, "does not fit"),
        ({"x": np.zeros((2, 3))}, "wants float32"),
    ],
)
def test_bindings_that_do_not_fit_are_refused(inputs: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        import_onnx(parse("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }"), inputs=inputs)


def test_everything_wrong_is_reported_at_once() -> None:
    body = """g (float[2,3] x) => (float[2,3] y) {
        a = Relu(x)  b = Frobnicate(a)  c = Wibble(b)  d = MatMul(a, a)  e = Add(a, missing)  y = Add(c, d) }"""
    with pytest.raises(ModelError) as caught:
        import_onnx(parse(body))
    text = str(caught.value)
    assert len(caught.value.diagnostics) == 4 and caught.value.exit_status == 1
    assert all(part in text for part in ("Frobnicate", "Wibble", "node 'd' (MatMul)", "'missing' is defined nowhere"))


def test_only_unsupported_operators_make_an_unsupported_error() -> None:
    with pytest.raises(UnsupportedError) as caught:
        import_onnx(parse("g (float[2] x) => (float[2] y) { a = Frobnicate(x)  y = Wibble(a) }"))
    assert [d.where for d in caught.value.diagnostics] == ["node 'a' (Frobnicate)", "node 'y'"]


def test_nodes_in_any_order_are_sorted_and_circles_named() -> None:
    model = parse("g (float[2] x) => (float[2] y) { h = Relu(x)  y = Neg(h) }")
    model.graph.node.reverse()
    assert names(import_onnx(model)) == ["Relu", "Neg"]
    model.graph.node[1].input[0] = "y"
    with pytest.raises(ModelError, match="circle: 'y', 'h'"):
        import_onnx(model)
