from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler import ops
from lepton_compiler.ir.types import tensor_type

PUBLIC = """CompiledModel Diagnostic Graph InferenceError InvalidIR LeptonError MissingDependency ModelError ParseError Target
UnsupportedError UsageError VerificationError __version__ compile emit evaluate import_model load optimize""".split()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LEPTON_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def graph() -> lc.Graph:
    graph = lc.Graph("net")
    x = graph.add_input("x", tensor_type("float32[n,4]"))
    hidden = graph.add(ops.get("MatMul")(), [x, graph.constant(np.eye(4, 3, dtype=np.float32))]).output
    graph.set_outputs([graph.add(ops.get("Exp")(), [hidden], names=["y"]).output])
    return graph


X = np.array([[1, 2, 3, 4], [0, -1, 0, 1]], np.float32)


def test_public_names_are_these():
    assert sorted(lc.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(lc))
    for name in PUBLIC:
        assert getattr(lc, name) is not None


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        lc.frobnicate  # noqa: B018


def test_every_public_function_is_documented():
    for name in PUBLIC:
        if not name.startswith("__"):
            assert inspect.getdoc(getattr(lc, name)), name


def test_signatures_of_the_contract():
    assert list(inspect.signature(lc.compile).parameters)[:5] == ["source", "target", "level", "inputs", "threads"]
    assert list(inspect.signature(lc.import_model).parameters) == ["source", "inputs", "dims"]
    assert list(inspect.signature(lc.emit).parameters) == ["graph", "path", "backend", "opset"]


def test_optimize_leaves_its_argument_alone(graph):
    before = len(graph), graph.edits
    optimised = lc.optimize(graph, level=3)
    assert (len(graph), graph.edits) == before and optimised is not graph
    np.testing.assert_allclose(lc.evaluate(optimised, {"x": X})["y"], lc.evaluate(graph, {"x": X})["y"])


@pytest.mark.parametrize("level", [0, 1, 2, 3, "s", "O3", "Os", "2"])
def test_levels(graph, level):
    assert lc.evaluate(lc.optimize(graph, level), {"x": X})["y"].shape == (2, 3)


@pytest.mark.parametrize("level", [4, -1, "fast", "O", ""])
def test_wrong_levels(graph, level):
    with pytest.raises(lc.UsageError, match="no optimisation level"):
        lc.optimize(graph, level)


def test_import_binds_dimensions(graph):
    assert lc.import_model(graph, inputs={"x": (7, 4)}).inputs[0].type.shape == (7, 4)
    assert lc.import_model(graph, dims={"n": 5}).inputs[0].type.shape == (5, 4)
    assert lc.import_model(graph).free_symbols == {"n"}
    with pytest.raises(lc.UsageError, match="bound to 5 and to 7"):
        lc.import_model(graph, inputs={"x": (7, 4)}, dims={"n": 5})


def test_import_refuses_other_things():
    with pytest.raises(lc.UsageError, match="cannot import a model from dict"):
        lc.import_model({})


def test_bytes_protobuf_and_pathlike(graph, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = lc.emit(graph, tmp_path / "m.onnx")
    sources = [path, str(path), path.read_bytes(), onnx.load(path)]
    assert {lc.import_model(s).inputs[0].name for s in sources} == {"x"}


def test_emit_round_trip(graph, tmp_path):
    for backend, name in (("onnx", "m.onnx"), ("ir", "m.lir")):
        again = lc.import_model(lc.emit(graph, tmp_path / name, backend=backend))
        np.testing.assert_allclose(lc.evaluate(again, {"x": X})["y"], lc.evaluate(graph, {"x": X})["y"], rtol=1e-6)
    with pytest.raises(lc.UsageError, match="no exchange format"):
        lc.emit(graph, tmp_path / "m", backend="coreml")
    with pytest.raises(lc.UnsupportedError, match="not there yet"):
        lc.emit(graph, tmp_path / "m.tflite", backend="tflite")


def test_compile_run_save_load(graph, tmp_path):
    model = lc.compile(graph, inputs={"x": (2, 4)}, level=3, verify=True)
    expected = lc.evaluate(graph, {"x": X})
    np.testing.assert_allclose(model.run({"x": X})["y"], expected["y"], rtol=1e-5)
    model.save(tmp_path / "saved")
    assert {p.name for p in (tmp_path / "saved").iterdir()} == {"libnet.so", "net.h", "net.c", "net.json"}
    np.testing.assert_allclose(lc.load(tmp_path / "saved").run({"x": X})["y"], expected["y"], rtol=1e-5)


def test_unbound_models_specialise_per_shape(graph):
    model = lc.compile(graph)
    for rows in (1, 2, 3, 2):
        x = np.full((rows, 4), 0.5, np.float32)
        np.testing.assert_allclose(model.run({"x": x})["y"], lc.evaluate(graph, {"x": x})["y"], rtol=1e-5)


def test_wrong_feeds_are_usage_errors(graph):
    model = lc.compile(graph, inputs={"x": (2, 4)})
    for feeds in ({}, {"x": X[:1]}, {"x": X.astype(np.float64)}, {"x": X, "z": X}):
        with pytest.raises(lc.UsageError):
            model.run(feeds)


def test_feeds_of_every_kind_give_the_same(graph):
    """Arrays that fit as they are, and others that are made so."""
    model = lc.compile(graph, inputs={"x": (2, 4)})
    fixed = X.copy()
    fixed.flags.writeable = False
    (wanted,) = lc.evaluate(graph, {"x": X}).values()
    for feed in (X.copy(), fixed, np.asfortranarray(X), np.ma.array(X)):
        first, second = model.run({"x": feed})["y"], model.run({"x": feed})["y"]
        np.testing.assert_allclose(first, wanted, rtol=1e-5)
        assert not np.shares_memory(first, second)
    with pytest.raises(lc.UsageError):
        model.run({"x": X.astype(">f4")})


@pytest.mark.parametrize("option", ["prune", "recover"])
def test_planned_options_are_refused(graph, option):
    given: dict[str, Any] = {option: "1"}
    with pytest.raises(lc.UnsupportedError, match="not there yet"):
        lc.compile(graph, inputs={"x": (2, 4)}, **given)


def test_c_names():
    from lepton_compiler.identity import check_name, default_name

    assert [default_name(p) for p in ("a/b-c.onnx", "9net.onnx", "int.onnx", "é.onnx", b"")] == ["b_c", "m_9net", "int_", "_", "model"]
    with pytest.raises(lc.UsageError):
        check_name("9")
