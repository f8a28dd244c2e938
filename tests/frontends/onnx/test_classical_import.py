"""Feature preparation and linear models of the domain ai.onnx.ml, against ONNX Runtime and against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from lepton_compiler.errors import LeptonError, ModelError, UnsupportedError
from lepton_compiler.frontends.onnx import import_onnx
from lepton_compiler.ops.evaluator import evaluate

RNG = np.random.default_rng(31)
X = RNG.standard_normal((5, 3)).astype(np.float32)
HOLES = np.where(RNG.random((5, 3)) < 0.3, np.nan, X).astype(np.float32)
WHOLE = RNG.integers(-3, 4, (5, 3))
TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT")


def model(op_type: str, inputs: list[np.ndarray], outputs: int = 1, version: int = 3, **given: Any) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(len(inputs))]
    results = ["y", "z"][:outputs]
    node = helper.make_node(op_type, names, results, domain="ai.onnx.ml", **{k: v for k, v in given.items() if v is not None})
    formals = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in zip(names, inputs, strict=True)
    ]
    graph = helper.make_graph([node], "g", formals, [helper.make_empty_tensor_value_info(name) for name in results])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def evaluated(proto: onnx.ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return list(evaluate(import_onnx(proto), {f"x{i}": x for i, x in enumerate(inputs)}).values())


CASES: list[tuple[str, list[np.ndarray], dict[str, Any]]] = [
    ("ArrayFeatureExtractor", [X, np.array([2, 0])], {}),
    ("ArrayFeatureExtractor", [X, np.array([[2, 0, 2]])], {}),
    ("ArrayFeatureExtractor", [X, np.array([[2], [0]])], {}),
    ("ArrayFeatureExtractor", [X[0], np.array([1])], {}),
    ("Binarizer", [X], {"threshold": 0.25}),
    ("Scaler", [X], {"offset": [1.0, 2.0, 3.0], "scale": [2.0, -1.0, 0.5]}),
    ("Scaler", [WHOLE], {"offset": [1.5], "scale": [2.0]}),
    *(("Normalizer", [x], {"norm": norm}) for norm in ("MAX", "L1", "L2") for x in (X, np.abs(X), WHOLE, X * np.array([[0], [1], [1], [1], [1]], np.float32))),
    ("Normalizer", [X[0]], {"norm": "L2"}),
    ("Imputer", [HOLES], {"imputed_value_floats": [7.0, 8.0, 9.0], "replaced_value_float": float("nan")}),
    ("Imputer", [X], {"imputed_value_floats": [7.0], "replaced_value_float": float(X[1, 1])}),
    ("Imputer", [WHOLE], {"imputed_value_int64s": [70, 80, 90], "replaced_value_int64": -1}),
    ("FeatureVectorizer", [X, X[:, :1]], {"inputdimensions": [2, 2]}),
    ("FeatureVectorizer", [X[0], X[1]], {"inputdimensions": [3, 3]}),
    ("OneHotEncoder", [WHOLE], {"cats_int64s": [2, -1, 0]}),
    ("OneHotEncoder", [X * 2], {"cats_int64s": [0, 1]}),
    ("LabelEncoder", [WHOLE], {"keys_int64s": [2, -1, 0], "values_int64s": [5, 6, 7], "default_int64": -9}),
    ("LabelEncoder", [WHOLE], {"keys_int64s": [2, 10**9, 0], "values_floats": [0.5, 1.5, 2.5], "default_float": -1.5}),
    ("LabelEncoder", [WHOLE.astype(np.float32)], {"keys_floats": [2.0, 3.0], "values_floats": [0.5, 1.5]}),
    *(("LinearRegressor", [X], {"coefficients": [0.1, 0.2, -0.3], "intercepts": [0.5], "post_transform": t}) for t in ("NONE", "PROBIT")),
    *(("LinearRegressor", [X], {"coefficients": [0.1, 0.2, -0.3, 1.0, 0.5, -1.0], "targets": 2, "post_transform": t}) for t in TRANSFORMS),
    ("SVMRegressor", [X], {"coefficients": [0.1, 0.2, -0.3], "rho": [0.5], "kernel_params": [0.0, 0.0, 0.0]}),
    *(
        ("SVMRegressor", [X], {"coefficients": [0.5, -2.0], "rho": [0.25], "n_supports": 2, "kernel_type": kind, "one_class": one,
         "support_vectors": [0.1, 0.2, 0.3, -0.4, 0.5, -0.6], "kernel_params": [0.3, 0.2, 3.0]})
        for kind in ("LINEAR", "POLY", "RBF", "SIGMOID") for one in (0, 1)
    ),
]  # fmt: skip


@pytest.mark.parametrize(("op_type", "inputs", "given"), CASES)
def test_results_agree_with_onnxruntime(op_type: str, inputs: list[np.ndarray], given: dict[str, Any]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    proto = model(op_type, inputs, **given)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {f"x{i}": x for i, x in enumerate(inputs)})
    (got,) = evaluated(proto, inputs)
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_linear_classifiers_agree_with_onnxruntime(transform: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    numbers = RNG.standard_normal(9).astype(np.float32).tolist()
    proto = model(
        "LinearClassifier", [X], 2, coefficients=numbers, intercepts=[0.1, 0.2, 0.3], classlabels_ints=[4, 9, 1], post_transform=transform
    )
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    labels, scores = session.run(None, {"x0": X})
    got = evaluated(proto, [X])
    np.testing.assert_array_equal(got[0], labels)
    np.testing.assert_allclose(got[1], scores, rtol=1e-4, atol=1e-5)


def test_one_row_of_coefficients_makes_two_classes() -> None:
    given: dict[str, Any] = {"coefficients": [1.0, -1.0, 0.5], "intercepts": [0.1], "classlabels_ints": [4, 9]}
    margin = X @ np.array([1, -1, 0.5], np.float32) + np.float32(0.1)
    labels, scores = evaluated(model("LinearClassifier", [X], 2, **given, post_transform="LOGISTIC"), [X])
    np.testing.assert_array_equal(labels, np.where(margin > 0, 9, 4))
    np.testing.assert_allclose(scores, np.stack([1 / (1 + np.exp(margin)), 1 / (1 + np.exp(-margin))], 1), rtol=1e-5)
    np.testing.assert_array_equal(evaluated(model("LinearClassifier", [X], 1, **given), [X])[0], labels)
    with pytest.raises(UnsupportedError, match="runtimes disagree"):
        import_onnx(model("LinearClassifier", [X], 2, **given))


def test_of_equal_keys_the_last_counts_from_version_4_on() -> None:
    keys: dict[str, Any] = {"keys_int64s": [1, 2, 1], "values_int64s": [10, 20, 30]}
    x = np.array([1, 2, 3])
    assert evaluated(model("LabelEncoder", [x], version=4, **keys), [x])[0].tolist() == [30, 20, -1]
    assert evaluated(model("LabelEncoder", [x], version=2, **keys), [x])[0].tolist() == [10, 20, -1]


def test_keys_and_values_in_tensors() -> None:
    x = np.array([1.5, np.nan, 2.5])

    def tensor(values: Any, element: type) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(np.array(values, element))

    given = {
        "keys_tensor": tensor([np.nan, 1.5], float),
        "values_tensor": tensor([3, 4], np.int16),
        "default_tensor": tensor([7], np.int16),
    }
    (y,) = evaluated(model("LabelEncoder", [x], version=4, **given), [x])
    assert y.dtype == np.int16 and y.tolist() == [4, 3, 7]


@pytest.mark.parametrize(
    ("op_type", "given", "error", "message"),
    [
        ("Scaler", {"offset": [1.0, 2.0], "scale": [1.0]}, ModelError, "2 entries for 3 columns"),
        ("Normalizer", {"norm": "L7"}, ModelError, "L7"),
        ("Imputer", {}, ModelError, "imputed_value_floats' is missing"),
        ("FeatureVectorizer", {"inputdimensions": [1, 2]}, ModelError, "2 entries for 1 operands"),
        ("OneHotEncoder", {"cats_strings": ["a"]}, UnsupportedError, "text"),
        ("OneHotEncoder", {"cats_int64s": [1], "zeros": 0}, UnsupportedError, "zeros=0"),
        ("LabelEncoder", {"keys_strings": ["a"], "values_int64s": [1]}, UnsupportedError, "text"),
        ("LabelEncoder", {"keys_floats": [1.0, 2.0], "values_int64s": [1]}, ModelError, "2 keys for 1 values"),
        ("LabelEncoder", {"keys_int64s": [1], "values_int64s": [1]}, ModelError, "keys of LabelEncoder are int64"),
        ("LinearRegressor", {"coefficients": [1.0, 2.0]}, ModelError, "2 coefficients do not fit 3 features"),
        ("LinearRegressor", {"coefficients": [1.0] * 3, "intercepts": [1.0] * 2}, ModelError, "2 intercepts for 1 rows"),
        ("LinearRegressor", {"coefficients": [1.0] * 3, "post_transform": "LOGISTIC"}, UnsupportedError, "single score"),
        ("LinearClassifier", {"coefficients": [1.0] * 9, "classlabels_ints": [1, 2]}, ModelError, "3 rows of coefficients for 2 classes"),
        ("LinearClassifier", {"coefficients": [1.0] * 9}, ModelError, "labels of the classes are missing"),
        ("SVMRegressor", {"coefficients": [1.0] * 3}, ModelError, "'rho' is missing"),
        ("SVMRegressor", {"coefficients": [1.0], "rho": [0.0], "n_supports": 2}, ModelError, "1 coefficients for 2"),
        ("SVMRegressor", {"coefficients": [1.0], "rho": [0.0], "n_supports": 1, "support_vectors": [1.0]}, ModelError, "do not make 1"),
        ("ZipMap", {"classlabels_int64s": [0, 1]}, UnsupportedError, "works on maps"),
        ("SVMClassifier", {}, UnsupportedError, "ai.onnx.ml.SVMClassifier .* is not supported"),
    ],
)
def test_refusals_say_what_is_wrong(op_type: str, given: dict[str, Any], error: type[LeptonError], message: str) -> None:
    with pytest.raises(error, match=message):
        import_onnx(model(op_type, [X], **given))
