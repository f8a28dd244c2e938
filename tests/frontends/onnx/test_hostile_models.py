"""Damaged and malicious files: a diagnosis in bounded time, never a traceback."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lepton_compiler.errors import LeptonError, ModelError, UnsupportedError
from lepton_compiler.frontends.onnx import import_onnx

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
SECONDS = 10.0


def small_model() -> bytes:
    body = """g (float[n,3,8,8] x, bool c) => (float[n,k] y) <int64[2] shape = {0, -1}, int64[1] axes = {1}> {
        a = Conv<pads = [1, 1, 1, 1]>(x, w)  b = BatchNormalization(a, s, s, s, s)  m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b)
        d = If (c) <then_branch = t () => (float[n,4,4,4] p) { p = Relu(m) }, else_branch = e () => (float[n,4,4,4] q) { q = Neg(m) }>
        r = Reshape(d, shape)  u = Unsqueeze(r, axes)  z = Squeeze(u, axes)  f = Flatten(z)  y = Softmax(f) }"""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {body}')
    for name, shape in (("w", (4, 3, 3, 3)), ("s", (4,))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    return bytes(model.SerializeToString())


SMALL = small_model()
LARGER = (LIGHT / "light_squeezenet.onnx").read_bytes()


def imports_or_says_why(data: bytes) -> None:
    start = time.monotonic()
    try:
        import_onnx(data)
    except LeptonError as error:
        assert error.exit_status == 1 and error.diagnostics
    assert time.monotonic() - start < SECONDS


def test_the_small_model_is_good() -> None:
    assert len(import_onnx(SMALL)) == 8  # the Flatten changes nothing


mutation = st.tuples(st.sampled_from(["flip", "cut", "splice", "set"]), st.integers(0, 2**20), st.integers(0, 2**20), st.integers(0, 255))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.sampled_from([SMALL, LARGER]), mutations=st.lists(mutation, min_size=1, max_size=6))
def test_mutated_bytes_import_or_are_diagnosed(data: bytes, mutations: list[tuple[str, int, int, int]]) -> None:
    changed = bytearray(data)
    for kind, a, b, byte in mutations:
        if not changed:
            break
        place, other = a % len(changed), b % len(changed)
        if kind == "flip":
            changed[place] ^= 1 << byte % 8
        elif kind == "set":
            changed[place] = byte
        elif kind == "cut":
            del changed[place:]
        else:
            changed[place : place + byte] = changed[other : other + byte]
    imports_or_says_why(bytes(changed))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_are_diagnosed(data: bytes) -> None:
    imports_or_says_why(data)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    node=st.integers(0, 8), attribute=st.integers(0, 3), number=st.sampled_from([-1, 0, 2**31, 2**62, -(2**63)]), kind=st.integers(0, 14)
)
def test_attributes_of_wrong_kind_or_size_are_diagnosed(node: int, attribute: int, number: int, kind: int) -> None:
    model = onnx.load_from_string(SMALL)
    target = model.graph.node[node]
    if not target.attribute:
        target.attribute.add(name="axis", i=number, type=onnx.AttributeProto.INT)
    chosen = target.attribute[attribute % len(target.attribute)]
    if chosen.ints:
        chosen.ints[0] = number
    chosen.type = kind
    imports_or_says_why(model.SerializeToString())


def nested(depth: int) -> onnx.ModelProto:
    condition = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [])
    node = onnx.helper.make_node("Constant", [], ["y"], value_float=1.0)
    for _ in range(depth):
        graph = onnx.helper.make_graph([node], "inner", [], [out])
        node = (
            onnx.helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
            if _ < 3
            else onnx.helper.make_node(
                "If",
                ["c"],
                ["y"],
                then_branch=graph,
                else_branch=onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["y"], value_float=2.0)], "e", [], [out]),
            )
        )
    return onnx.helper.make_model(onnx.helper.make_graph([node], "g", [condition], [out]), opset_imports=[onnx.helper.make_opsetid("", 17)])


def test_deep_nesting_is_refused_and_shallow_nesting_is_not() -> None:
    assert len(import_onnx(nested(8))) == 1
    with pytest.raises(ModelError, match="nested"):
        import_onnx(nested(31))


def functions(calls: list[str]) -> onnx.ModelProto:
    text = '<ir_version: 8, opset_import: ["": 17, "f": 1]> g (float[2] x) => (float[2] y) { y = f.f0(x) }'
    text += "".join(f'<domain: "f", opset_import: ["": 17, "f": 1]> f{i} (a) => (b) {{ {body} }}' for i, body in enumerate(calls))
    return onnx.parser.parse_model(text)


def test_functions_that_call_themselves_are_refused() -> None:
    with pytest.raises(ModelError, match="circle"):
        import_onnx(functions(["b = f.f1(a)", "b = f.f0(a)"]))


def test_functions_that_multiply_are_bounded() -> None:
    doubling = [f"c = f.f{i + 1}(a)  b = f.f{i + 1}(c)" for i in range(30)]
    start = time.monotonic()
    with pytest.raises(ModelError, match="more than"):
        import_onnx(functions([*doubling, "b = Neg(a)"]))
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.graph.node.extend([m.graph.node[0]]), "defined twice"),
        (lambda m: m.graph.output.add(name="nothing"), "nothing in the model computes it"),
        (lambda m: m.graph.node.pop(0), "defined nowhere"),
        (lambda m: m.ClearField("opset_import"), "opset"),
        (lambda m: m.opset_import.__getitem__(0).__setattr__("version", 0), "opset 0"),
        (lambda m: m.opset_import.__getitem__(0).__setattr__("version", 999), "opset 999"),
        (lambda m: m.graph.input[0].type.tensor_type.shape.dim[2].__setattr__("dim_value", 2**62), "larger than any memory"),
        (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "defined twice"),
        (lambda m: m.graph.input.append(m.graph.input[0]), "defined twice"),
    ],
)
def test_broken_models_name_the_fault(change: object, text: str) -> None:
    model = onnx.load_from_string(SMALL)
    change(model)  # type: ignore[operator]
    with pytest.raises(ModelError, match=text):
        import_onnx(model)


@pytest.mark.parametrize("kind", ["seq(tensor(float))", "optional(tensor(float))", "tensor(string)"])
def test_types_that_are_not_tensors_of_numbers_are_one_clear_diagnostic(kind: str) -> None:
    model = onnx.load_from_string(SMALL)
    types = {
        "seq(tensor(float))": onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(1, [2])),
        "optional(tensor(float))": onnx.helper.make_optional_type_proto(onnx.helper.make_tensor_type_proto(1, [2])),
        "tensor(string)": onnx.helper.make_tensor_type_proto(onnx.TensorProto.STRING, [2]),
    }
    model.graph.input[1].type.CopyFrom(types[kind])
    with pytest.raises(UnsupportedError, match="not supported") as caught:
        import_onnx(model)
    assert len(caught.value.diagnostics) == 1


@pytest.mark.parametrize("name", ["missing.onnx", "", "a\0b"])
def test_files_that_cannot_be_read_are_model_errors(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError):
        import_onnx(f"{tmp_path}/{name}")
