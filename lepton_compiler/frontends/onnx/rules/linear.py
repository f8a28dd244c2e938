"""The domain ai.onnx.ml: linear models and support vector regression, as matrix products."""

from __future__ import annotations

import numpy as np

from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.frontends.onnx.rules.elementwise import reshape_to
from lepton_compiler.frontends.onnx.rules.scores import as_float32, best_label, both, class_labels, label_above, transform_of, transformed
from lepton_compiler.ir.graph import Value
from lepton_compiler.ops.binary import Add, Less, Mul, Pow, Sub, Where
from lepton_compiler.ops.matmul import MatMul
from lepton_compiler.ops.reduce import ReduceSumSquare
from lepton_compiler.ops.unary import Exp, Neg, Sigmoid, Tanh


def linear_regressor(call: Call) -> Result:
    """LinearRegressor: one row of coefficients for each target."""
    return transformed(call, _linear(call, int(call.attr("targets", 1))), transform_of(call))


def linear_classifier(call: Call) -> Result:
    """LinearClassifier: the label, and the score of each class."""
    labels, name = class_labels(call, "classlabels_ints"), transform_of(call)
    rows = _coefficients(call, None).shape[0]
    scores = _linear(call, rows)
    if rows == 1 and len(labels) == 2:
        label = label_above(call, scores, 0.0, labels)
        if name != "LOGISTIC" and call.wants(1):
            hint = "give coefficients for both classes, or use the label only"
            raise UnsupportedError(
                f"two scores (post_transform {name}) from one row of coefficients: runtimes disagree about them", hint=hint
            )
        return [label, call.add(Sigmoid(), both(call, call.add(Neg(), scores), scores))]
    if rows != len(labels):
        raise ModelError(f"{rows} rows of coefficients for {len(labels)} classes")
    return [best_label(call, scores, labels), transformed(call, scores, name)]


def _coefficients(call: Call, rows: int | None) -> np.ndarray:
    """The coefficients as a matrix [rows, features].

    Raises:
        ModelError: their number does not fit the operand.
    """
    numbers, features = call.array("coefficients"), call.value(0).type.shape[-1] if call.value(0).type.rank else 1
    if numbers is None or not len(numbers):
        raise ModelError("attribute 'coefficients' is missing")
    if not isinstance(features, int):
        raise UnsupportedError("the number of features is not known at compile time", hint="bind it with inputs= or --input")
    if features < 1 or len(numbers) % features or (rows is not None and len(numbers) != rows * features):
        raise ModelError(
            f"{len(numbers)} coefficients do not fit {features} features" + (f" and {rows} targets" if rows is not None else "")
        )
    return numbers.reshape(-1, features)


def _linear(call: Call, rows: int) -> Value:
    """The features [N, F] times the coefficients, plus the intercepts: [N, rows]."""
    x = as_float32(call, call.value(0))
    weights = _coefficients(call, rows)
    if x.type.rank == 1:
        x = reshape_to(call, x, (1, *x.type.shape))
    y = call.add(MatMul(), x, call.constant(np.ascontiguousarray(weights.T)))
    intercepts = call.array("intercepts")
    if intercepts is None or not len(intercepts):
        return y
    if len(intercepts) != rows:
        raise ModelError(f"{len(intercepts)} intercepts for {rows} rows of coefficients")
    return call.add(Add(), y, call.constant(intercepts))


def svm_regressor(call: Call) -> Result:
    """SVMRegressor: the kernel of each row with each support vector, times the coefficients."""
    count = int(call.attr("n_supports", 0))
    rho = call.array("rho")
    if rho is None or len(rho) < 1:
        raise ModelError("attribute 'rho' is missing")
    if count:
        x, coefficients = as_float32(call, call.value(0)), call.array("coefficients")
        if coefficients is None or len(coefficients) != count:
            raise ModelError(f"{0 if coefficients is None else len(coefficients)} coefficients for {count} support vectors")
        y = call.add(MatMul(), _kernel(call, x, count), call.constant(coefficients[:, None]))
    else:
        y = _linear(call, 1)
    y = call.add(Add(), y, call.constant(rho[:1]))
    if call.attr("one_class", 0):
        return call.add(Where(), call.add(Less(), call.like(y, 0), y), call.like(y, 1), call.like(y, -1))
    return transformed(call, y, transform_of(call))


def _kernel(call: Call, x: Value, count: int) -> Value:
    """The kernel of each row of [N, F] with each of `count` support vectors: [N, count]."""
    vectors = call.array("support_vectors")
    features = x.type.shape[-1]
    if vectors is None or not isinstance(features, int) or x.type.rank != 2 or len(vectors) != count * features:
        raise ModelError(f"{0 if vectors is None else len(vectors)} numbers in support_vectors do not make {count} vectors for {x.type}")
    table = vectors.reshape(count, features)
    gamma, offset, degree = (float(p) for p in (*call.attr("kernel_params", ()), 0, 0, 0)[:3])
    products = call.add(MatMul(), x, call.constant(np.ascontiguousarray(table.T)))
    scaled = call.add(Add(), call.add(Mul(), products, call.like(products, gamma)), call.like(products, offset))
    match call.attr("kernel_type", "LINEAR"):
        case "LINEAR":
            return products
        case "POLY":
            return call.add(Pow(), scaled, call.like(scaled, degree))
        case "SIGMOID":
            return call.add(Tanh(), scaled)
        case "RBF":
            own = call.add(ReduceSumSquare(axes=(1,), keepdims=True), x)
            squares = call.add(Add(), own, call.constant((table * table).sum(axis=1)))
            distances = call.add(Sub(), squares, call.add(Mul(), products, call.like(products, 2)))
            return call.add(Exp(), call.add(Mul(), distances, call.like(distances, -gamma)))
    raise ModelError(f"kernel_type is '{call.attr('kernel_type')}'; known are LINEAR, POLY, RBF, SIGMOID")


RULES = {"LinearRegressor": linear_regressor, "LinearClassifier": linear_classifier, "SVMRegressor": svm_regressor}
