"""Every operator of the default domain in each of its versions: it imports with that version's meaning, or says that it is not supported.

Most versions differ from the newest in how a node is spelled only: the conformance cases, respelled for the older version, must give the
same numbers (`respelled`). Where the meaning differs too (`CHANGED`) or the cases lack an operator there is a model below (`MODELS`).
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper

from lepton_compiler.errors import LeptonError, ModelError, UnsupportedError
from lepton_compiler.frontends.onnx import import_onnx
from lepton_compiler.frontends.onnx.unsupported import PRINCIPLES
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.testing import conformance

EXAMPLES_EACH = 3
MOVED = {"K": "k", "constant_value": "value", "pads": "paddings"}
"""Operands that were attributes of another name."""

CHANGED = {
    "GroupNormalization": (21, "scale and bias were per group"),
    "Hardmax": (13, "the operand was flattened to two dimensions"),
    "LogSoftmax": (13, "the operand was flattened to two dimensions"),
    "Softmax": (13, "the operand was flattened to two dimensions"),
    "OneHot": (11, "negative indices did not count from the end"),
    "PRelu": (7, "a vector was one slope per channel"),
    "RoiAlign": (16, "coordinates had no half-pixel shift"),
}
"""Operators whose older versions give other numbers for the same node: the version that ended it, and what was different."""

ABSENT = {"OptionalGetElement": (15, "it takes optional values only")}


@cache
def schemas() -> dict[str, list[Any]]:
    """Operator to its versions, oldest first."""
    found: dict[str, list[Any]] = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found[schema.name].append(schema)
    return {name: sorted(versions, key=lambda s: int(s.since_version)) for name, versions in found.items()}


@cache
def examples() -> dict[str, list[Any]]:
    """Operator to the conformance cases of one node of it, in opsets that are not old already."""
    found: dict[str, list[Any]] = defaultdict(list)
    for case in conformance.cases().values():
        (node, *rest) = case.model.graph.node
        if not rest and not any(name == "" for name in node.input[:1]):
            found[node.op_type].append(case)
    return found


@dataclass
class Respelling:
    """One node on its way from the newest version of its operator to an older one."""

    node: Any
    data: dict[str, np.ndarray]
    old: Any
    new: Any

    def run(self) -> tuple[list[str], dict[str, Any]] | None:
        """Operands and attributes; None where the older version has no way to say it."""
        attributes = self._attributes()
        unlimited = bool(self.old.inputs) and str(self.old.inputs[-1].option).endswith("Variadic")
        limit = len(self.node.input) if unlimited else len(self.old.inputs)
        kept, moved = list(self.node.input[:limit]), list(self.node.input[limit:])
        if attributes is None or not all(self._move(limit + i, name, attributes) for i, name in enumerate(moved) if name):
            return None
        given = [self.data[name] for name in kept if name]
        if "consumed_inputs" in self.old.attributes:
            attributes["consumed_inputs"] = [0] * len(kept)
        if "is_test" in self.old.attributes:
            attributes["is_test"] = 1
        if not self._broadcast(given, attributes, unlimited) or not self._types_fit(kept):
            return None
        missing = [name for name, a in self.old.attributes.items() if a.required and name not in attributes]
        return None if missing or self._too_many_outputs() else (kept, attributes)

    def _attributes(self) -> dict[str, Any] | None:
        found: dict[str, Any] = {}
        for attribute in self.node.attribute:
            value = helper.get_attribute_value(attribute)
            if attribute.name in self.old.attributes:
                found[attribute.name] = self._converted(attribute.name, value)
            elif attribute.name not in self.new.attributes or value != default(self.new.attributes[attribute.name]):
                return None
        for name, formal in self.new.attributes.items():
            differs = name in self.old.attributes and default(formal) not in (None, default(self.old.attributes[name]))
            if name not in found and differs:
                found[name] = self._converted(name, default(formal))
        return found

    def _converted(self, name: str, value: Any) -> Any:
        kind = str(self.old.attributes[name].type).rpartition(".")[2]
        if kind == "STRING" and isinstance(value, int):
            return onnx.TensorProto.DataType.Name(value)
        return float(value) if kind == "FLOAT" else value

    def _move(self, index: int, name: str, attributes: dict[str, Any]) -> bool:
        """Turn an operand into the attribute that it was; whether it was one."""
        formal = self.new.inputs[min(index, len(self.new.inputs) - 1)].name
        target = next((n for n in (formal, MOVED.get(formal, "")) if n in self.old.attributes), None)
        if target is None or self.data[name].size == 0:
            return False
        values = self.data[name].reshape(-1).tolist()
        many = str(self.old.attributes[target].type).endswith("S")
        attributes[target] = values if many else self._converted(target, values[0])
        return many or len(values) == 1

    def _broadcast(self, given: list[np.ndarray], attributes: dict[str, Any], unlimited: bool) -> bool:
        """Ask for broadcasting where that was needed; false where it was not possible."""
        shapes = [a.shape for a in given]
        if "broadcast" in self.old.attributes and len(shapes) > 1 and shapes[0] != shapes[1]:
            attributes["broadcast"] = 1
            return shapes[0][len(shapes[0]) - len(shapes[1]) :] == shapes[1]
        same = len(set(shapes)) <= 1 or self.node.op_type == "Concat"
        return same or not unlimited or int(self.old.since_version) >= 8

    def _types_fit(self, kept: list[str]) -> bool:
        for index, name in enumerate(kept):
            if name:
                number = helper.np_dtype_to_tensor_dtype(self.data[name].dtype)
                allowed = self.old.inputs[min(index, len(self.old.inputs) - 1)].types
                if f"tensor({onnx.TensorProto.DataType.Name(number).lower()})" not in allowed:
                    return False
        return True

    def _too_many_outputs(self) -> bool:
        return len(self.node.output) > len(self.old.outputs) and not str(self.old.outputs[-1].option).endswith("Variadic")


def default(attribute: Any) -> Any:
    """The default value of an attribute, or None."""
    return helper.get_attribute_value(attribute.default_value) if attribute.default_value.name else None


def respelled(case: Any, old: Any, new: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray]] | None:
    """A case as a model of an older version, and its feeds; None where that version has no way to say it."""
    graph = case.model.graph
    arrays = [conformance._array(x) for x in case.data_sets[0][0]]
    data = {formal.name: array for formal, array in zip(graph.input, arrays, strict=True)}
    spelling = Respelling(graph.node[0], data, old, new).run()
    if spelling is None:
        return None
    operands, attributes = spelling
    node = helper.make_node(graph.node[0].op_type, operands, list(graph.node[0].output), **attributes)
    inputs = [i for i in graph.input if i.name in operands]
    made = helper.make_graph([node], "old", inputs, list(graph.output))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", int(old.since_version))], ir_version=3)
    return model, {name: array for name, array in data.items() if name in operands}


def parsed(opset: int, text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 3, opset_import: ["": {opset}]> {text}')


X = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4) - 7
ROWS = np.array([[1, -2, 3], [4, 5, -6]], np.float32)


def two_dimensional(name: str) -> np.ndarray:
    """Softmax and its kin over the last two axes together."""
    exp = np.exp(X - X.max(axis=(2, 3), keepdims=True))
    share = exp / exp.sum(axis=(2, 3), keepdims=True)
    found: dict[str, np.ndarray] = {"Softmax": share, "LogSoftmax": np.log(share), "Hardmax": np.floor(exp)}
    return found[name]


def tied(name: str, opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    return parsed(opset, f"g (float[1,2,3,4] x) => (float[1,2,3,4] y) {{ y = {name}<axis = 2>(x) }}"), {"x": X}, two_dimensional(name)


def binary(op_type: str, opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    text = f"g (float[1,2,3,4] x, float[2,3] z) => (float[1,2,3,4] y) {{ y = {op_type}<axis = 1, broadcast = 1>(x, z) }}"
    function = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[op_type]
    return parsed(opset, text), {"x": X, "z": ROWS}, function(X, ROWS[None, :, :, None])


def gemm(opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    text = "g (float[2,3] a, float[2,3] b, float[2] c) => (float[2,2] y) { y = Gemm<transB = 1, broadcast = 1>(a, b, c) }"
    c = np.array([10, 20], np.float32)
    return parsed(opset, text), {"a": ROWS, "b": ROWS, "c": c}, ROWS @ ROWS.T + c


def norms(opset: int, p: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    text = f"g (float[1,2,3,4] x) => (float[1,2,1,1] y) {{ y = GlobalLpPool<p = {p}>(x) }}"
    return parsed(opset, text), {"x": X}, (np.abs(X.astype(np.float64)) ** 3).sum((2, 3), keepdims=True) ** (1 / 3)


def roi_pool(opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    text = "g (float[1,2,3,4] x, float[1,5] r) => (float[1,2,1,2] y) { y = MaxRoiPool<pooled_shape = [1, 2]>(x, r) }"
    return parsed(opset, text), {"x": X, "r": np.array([[0, 0, 0, 3, 2]], np.float32)}, X[:, :, 2:, 1::2]


def group_norm() -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    text = (
        "g (float[1,4,6] x, float[2] s, float[2] b) => (float[1,4,6] y) { y = GroupNormalization<num_groups = 2, epsilon = 0.0>(x, s, b) }"
    )
    x, groups = X.reshape(1, 4, 6), X.reshape(1, 2, 12)
    normal = (groups - groups.mean(2, keepdims=True)) / groups.std(2, keepdims=True)
    factors = np.array([2, 3], np.float32)
    return parsed(18, text), {"x": x, "s": factors, "b": -factors}, (normal * factors[:, None] - factors[:, None]).reshape(x.shape)


def loop(opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    body = "b (int64 i, bool g, float[2,3] s) => (bool k, float[2,3] t) { k = Identity(g)  t = Add(s, s) }"
    text = f"g (int64 n, bool c, float[2,3] x) => (float[2,3] y) {{ y = Loop(n, c, x)<body = {body}> }}"
    return parsed(opset, text), {"n": np.array(3), "c": np.array(True), "x": ROWS}, ROWS * 8


def roi_align() -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    text = """g (float[1,2,3,4] x, float[1,4] r, int64[1] i) => (float[1,2,1,1] y) {
        y = RoiAlign<output_height = 1, output_width = 1, sampling_ratio = 1>(x, r, i) }"""
    feeds = {"x": X, "r": np.array([[1, 1, 3, 2]], np.float32), "i": np.array([0])}
    return parsed(10, text), feeds, np.array([[-7 + 1.5 * 4 + 2, 5 + 1.5 * 4 + 2]], np.float32).reshape(1, 2, 1, 1)


def one_hot() -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    text = "g (int64[4] i, int64[1] d, float[2] v) => (float[4,2] y) { y = OneHot(i, d, v) }"
    feeds = {"i": np.array([-1, 0, 1, 2]), "d": np.array([2]), "v": np.array([0, 9], np.float32)}
    return parsed(9, text), feeds, np.array([[0, 0], [9, 0], [0, 9], [0, 0]], np.float32)


def prelu(opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    slope = np.array([2, 3], np.float32)
    text = "g (float[1,2,3,4] x, float[2] s) => (float[1,2,3,4] y) { y = PRelu(x, s) }"
    return parsed(opset, text), {"x": X, "s": slope}, np.where(X < 0, X * slope[:, None, None], X)


def resized(opset: int, node: str, expected: list[list[float]]) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    image = np.arange(1, 9, dtype=np.float32).reshape(1, 1, 2, 4)
    shape = ",".join(map(str, np.shape(expected)))
    return parsed(opset, f"g (float[1,1,2,4] x) => (float[1,1,{shape}] y) {{ {node} }}"), {"x": image}, np.array([[expected]], np.float32)


def tile() -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    text = "g (float[2,3] x) => (float[2,6] y) <float[1] n = {2.0}, float[1] a = {1.0}> { y = Tile(x, n, a) }"
    return parsed(1, text), {"x": ROWS}, np.tile(ROWS, (1, 2))


def scan() -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    body = "b (float t, float e) => (float u) { u = Add(t, e) }"
    text = f'g (float[2] s, float[2,3] x) => (float[2] y) {{ y = Scan("", s, x)<num_scan_inputs = 1, body = {body}> }}'
    start = np.array([1, 2], np.float32)
    return parsed(8, text), {"s": start, "x": ROWS}, start + ROWS.sum(1)


def by_feature(opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    node = f"y = BatchNormalization<spatial = 0, epsilon = 0.0{', is_test = 1' if opset < 7 else ''}>(x, s, b, m, v)"
    text = f"g (float[2,3] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[2,3] y) {{ {node} }}"
    feeds = {n: np.array(a, np.float32) for n, a in {"s": [1, 2, 3], "b": [4, 5, 6], "m": [0, 1, 2], "v": [1, 4, 9]}.items()}
    return parsed(opset, text), {"x": ROWS, **feeds}, ROWS + np.array([4, 4, 4], np.float32)


def plain(opset: int, node: str, expected: np.ndarray) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    return parsed(opset, f"g (float[2,3] x) => (float y) {{ {node} }}"), {"x": ROWS}, expected


WIDER = "y = Upsample<height_scale = 1.0, width_scale = 1.5>(x)"
SMALLER = 's = Constant<value = float[4] {1.0, 1.0, 0.6, 0.6}>()  y = Resize<mode = "nearest">(x, s)'
MIXED = 's = Constant<value = float[4] {1.0, 1.0, 1.5, 0.6}>()  y = Resize<mode = "nearest">(x, s)'
MODELS: dict[tuple[str, int], list[Any]] = defaultdict(list)
for _name in ("Hardmax", "LogSoftmax", "Softmax"):
    MODELS |= {(_name, v): [tied(_name, v)] for v in (1, 11)}
for _version in (1, 6):
    MODELS |= {(name, _version): [binary(name, _version)] for name in ("Add", "Sub", "Mul", "Div")}
    MODELS |= {("Gemm", _version): [gemm(_version)], ("PRelu", _version): [prelu(_version)]}
for _version in (1, 6, 7):
    MODELS |= {("BatchNormalization", _version): [by_feature(_version)]}
MODELS |= {("GlobalLpPool", v): [norms(v, p)] for v, p in ((1, "3.0"), (2, "3"), (22, "3"))}
MODELS |= {("MaxRoiPool", v): [roi_pool(v)] for v in (1, 22)}
MODELS |= {
    ("GroupNormalization", 18): [group_norm()],
    ("Loop", 1): [loop(1)],
    ("OneHot", 9): [one_hot()],
    ("RoiAlign", 10): [roi_align()],
    ("Resize", 10): [resized(10, SMALLER, [[1, 3]]), resized(10, MIXED, [[1, 3], [1, 3], [5, 7]])],
    ("Upsample", 1): [resized(1, WIDER, [[1, 1, 2, 3, 3, 4], [5, 5, 6, 7, 7, 8]])],
    ("Tile", 1): [tile()],
    ("Scan", 8): [scan()],
    ("Selu", 1): [plain(1, "y = Selu(x)", 1.0507 * np.where(ROWS < 0, 1.6732 * np.expm1(ROWS), ROWS))],
    ("Concat", 1): [plain(1, "y = Concat(x, x)", np.concatenate([ROWS, ROWS], 1))],
    ("Affine", 1): [plain(1, "y = Affine<alpha = 2.0, beta = 1.0>(x)", ROWS * 2 + 1)],
    ("Scale", 1): [plain(1, "y = Scale<scale = 3.0>(x)", ROWS * 3)],
    ("ScaledTanh", 1): [plain(1, "y = ScaledTanh<alpha = 2.0, beta = 0.5>(x)", 2 * np.tanh(ROWS / 2))],
    ("ParametricSoftplus", 1): [plain(1, "y = ParametricSoftplus<alpha = 2.0, beta = 0.5>(x)", 2 * np.log1p(np.exp(ROWS / 2)))],
    ("ImageScaler", 1): [resized(1, "y = ImageScaler<scale = 2.0, bias = [1.0]>(x)", [[3, 5, 7, 9], [11, 13, 15, 17]])],
    ("Crop", 1): [
        resized(1, "y = Crop<border = [1, 0, 1, 1]>(x)", [[2, 3]]),
        resized(1, "y = Crop<border = [1, 1, 0, 0], scale = [1, 2]>(x)", [[6, 7]]),
    ],
    ("MeanVarianceNormalization", 1): [
        resized(1, "y = MeanVarianceNormalization<normalize_variance = 0>(x)", [[-3.5, -2.5, -1.5, -0.5], [0.5, 1.5, 2.5, 3.5]])
    ],
}


def pairs() -> list[tuple[str, int]]:
    """Operator and version, of the standard and of the models above."""
    standard = {(name, int(schema.since_version)) for name, versions in schemas().items() for schema in versions}
    return sorted(standard | set(MODELS))


@pytest.mark.parametrize(("name", "version"), pairs())
def test_every_version_imports_with_its_meaning_or_is_refused(name: str, version: int) -> None:
    if name in PRINCIPLES:
        with pytest.raises(UnsupportedError, match=f"{name} .* is not supported: it "):
            import_onnx(anonymous(name, version))
        return
    checked = 0
    for model, feeds, expected in MODELS.get((name, version), []):
        (got,) = evaluate(import_onnx(model), feeds).values()
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        checked += 1
    for case, model, feeds in suitable(name, version):
        results = conformance.with_parameters(model, feeds, evaluate)
        for formal, wanted in zip(model.graph.output, case.data_sets[0][1], strict=True):
            conformance.compare(formal.name, results[formal.name], conformance._array(wanted), case.rtol, case.atol)
        checked += 1
    assert checked or ABSENT.get(name, (0, ""))[0] == version


def suitable(name: str, version: int) -> Iterator[tuple[Any, onnx.ModelProto, dict[str, np.ndarray]]]:
    """A few conformance cases of an operator, respelled for one of its versions."""
    if version < CHANGED.get(name, (0, ""))[0]:
        return
    versions = schemas().get(name, [])
    found = 0
    for old in (s for s in versions if int(s.since_version) == version):
        for case in examples().get(name, []):
            respelling = respelled(case, old, versions[-1])
            if respelling is not None and found < EXAMPLES_EACH:
                found += 1
                yield case, *respelling


def anonymous(name: str, version: int) -> onnx.ModelProto:
    """A model of one node with nothing but a name."""
    formals = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node(name, ["x"], ["y"])], "g", formals[:1], formals[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])


@pytest.mark.parametrize(
    ("opset", "text", "message"),
    [
        (6, "g (float[2,3] x, float[3] z) => (float[2,3] y) { y = Add(x, z) }", "does not ask for broadcasting"),
        (6, "g (float[2,3] x, float[2] z) => (float[2,3] y) { y = Add<broadcast = 1>(x, z) }", "cannot be broadcast"),
        (6, "g (float[2,3] x, float[2] z) => (float[2,3] y) { y = Add<broadcast = 1, axis = 3>(x, z) }", "cannot be broadcast"),
        (6, "g (float[2,3] x) => (float[2,3] y) { y = Dropout<is_test = 0>(x) }", "training mode"),
        (
            9,
            "g (float[2,3] x, float[3] s) => (float[2,3] y, float[3] m) { y, m = BatchNormalization(x, s, s, s, s) }",
            "outputs of training",
        ),
        (5, 'g (float[2,3] x) => (float[2,3] y) { y = Cast<to = "QUAD">(x) }', "'QUAD'"),
        (1, "g (float[2,3] x) => (float[2,3] y) { y = Reshape(x) }", "'shape' is missing"),
        (1, "g (float[2,3] x) => (float[2,3] y) { y = Split(x) }", "'axis' is missing"),
        (1, "g (float[2,3] x, float n, float a) => (float[2,3] y) { y = Tile(x, n, a) }", "not known at compile time"),
        (1, "g (float[2,3] x) => (float[2,3] y) { y = Upsample<height_scale = 1.0, width_scale = 1.0>(x) }", "takes"),
        (1, "g (float[1,2,3] x) => (float[1,2,1] y) { y = GlobalLpPool<p = 2.5>(x) }", "p=2.5"),
        (10, "g (float[1,1,2,2] x, float[4] s) => (float[1,1,2,2] y) { y = Resize(x, s) }", "not known at compile time"),
        (1, "g (float[2,3] x) => (float[2,3] y) { y = Crop<border = [1, 1, 1, 1]>(x) }", "four borders"),
    ],
)
def test_refusals_of_old_versions_say_what_is_wrong(opset: int, text: str, message: str) -> None:
    with pytest.raises((ModelError, UnsupportedError), match=message):
        import_onnx(parsed(opset, text))


def test_models_older_than_opset_imports_are_of_opset_1() -> None:
    model = parsed(1, "g (float[2,3] x, float[2] z) => (float[2,3] y) { y = Add<broadcast = 1, axis = 0>(x, z) }")
    del model.opset_import[:]
    with pytest.raises(ModelError, match="does not say which opset"):
        import_onnx(model)
    model.ir_version = 2
    np.testing.assert_array_equal(evaluate(import_onnx(model), {"x": ROWS, "z": ROWS[:, 0]})["y"], ROWS + ROWS[:, :1])
    assert not model.opset_import


@pytest.mark.parametrize("backwards", [0, 1])
def test_scan_of_opset_8_has_a_batch(backwards: int) -> None:
    body = """b (float[2] s, float[2] e, float[2] f) => (float[2] t, float[2] o) { u = Add(s, e)  t = Add(u, k)  o = Mul(t, f) }"""
    text = f"""g (float[n,2] s, float[n,3,2] x, float[2] k) => (float[n,2] y, float[n,3,2] z) {{
        y, z = Scan("", s, x, x)<num_scan_inputs = 2, directions = [{backwards}, 0], body = {body}> }}"""
    rng = np.random.default_rng(0)
    s, x, k = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 2), (4, 3, 2), (2,)))
    read = x[:, ::-1] if backwards else x
    running = s[:, None] + np.cumsum(read + k, axis=1)
    got = evaluate(import_onnx(parsed(8, text)), {"s": s, "x": x, "k": k})
    np.testing.assert_allclose(got["y"], running[:, -1], rtol=1e-5)
    np.testing.assert_allclose(got["z"], running * x, rtol=1e-5)
    lengths = text.replace('Scan(""', "Scan(n").replace("g (", "g (int32[n] n, ")
    with pytest.raises(LeptonError, match="sequence_lens is not supported"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_onnx(parsed(8, lengths))
