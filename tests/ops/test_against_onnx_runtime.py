"""Single operators on random corners (NaN, infinities, empty tensors, scalars, broadcasting) against ONNX Runtime, which runs them as written.

Models are made with `onnx`, imported, and evaluated, so that the importer is compared as well. Where ONNX Runtime does not do what
the specification says, or the specification leaves it open, `DEVIATIONS` says so, with the reason, and lepton keeps its meaning.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import lepton_compiler as lc
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.testing.rounding import ensemble, explained

ort = pytest.importorskip("onnxruntime")

OPSET = 22
EXAMPLES, MANY = 60, 600
FLOATS, SIGNED, UNSIGNED = ("float32", "float32", "float64"), ("int32", "int64", "int8", "int16"), ("uint8", "uint32", "uint64")
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3e38, -1e30, 0.5, -2.5, 1.0, -1.0)


@dataclass
class Case:
    """One node: operator, attributes, operands by position (None where absent), and which of them are constants of the model."""

    op: str
    inputs: list[np.ndarray | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: frozenset[int] = frozenset()
    outputs: int = 1

    def model(self) -> onnx.ModelProto:
        names = ["" if a is None else f"x{k}" for k, a in enumerate(self.inputs)]
        node = helper.make_node(self.op, names, [f"y{k}" for k in range(self.outputs)], **self.attributes)
        given = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for k, (n, a) in enumerate(zip(names, self.inputs, strict=True))
            if a is not None and k not in self.constants
        ]
        stored = [numpy_helper.from_array(a, names[k]) for k, a in enumerate(self.inputs) if k in self.constants and a is not None]
        graph = helper.make_graph([node], "case", given, [onnx.ValueInfoProto(name=n) for n in node.output], stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)

    def feeds(self) -> dict[str, np.ndarray]:
        return {f"x{k}": a for k, a in enumerate(self.inputs) if a is not None and k not in self.constants}


class Draw:
    """What strategies of cases draw from."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def flag(self, chance: float = 0.5) -> bool:
        return self.rng.random() < chance

    def pick(self, items: Any) -> Any:
        return items[self.rng.randrange(len(items))]

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def shape(self, low: int = 0, high: int = 4, empty: float = 0.1) -> tuple[int, ...]:
        return tuple(0 if self.flag(empty / 2) else self.number(1, 4) for _ in range(self.number(low, high)))

    def array(self, kind: str, shape: tuple[int, ...], special: float | None = None) -> np.ndarray:
        draw, element = np.random.default_rng(self.number(0, 1 << 30)), np.dtype(kind)
        if kind == "bool":
            return np.asarray(draw.random(shape) < 0.5)
        chance = self.pick((0.0, 0.3)) if special is None else special
        if element.kind == "f":
            values = np.asarray(draw.integers(-20, 21, shape) / 8 if self.flag(0.3) else draw.normal(0, 2, shape))
            corners = np.asarray(draw.choice(SPECIAL, shape))
        else:
            info = np.iinfo(element)
            values = np.asarray(draw.integers(max(info.min, -9), 10, shape))
            corners = np.asarray(draw.choice(np.array([info.min, info.max, 0, 1], element), shape))
        return np.asarray(np.where(draw.random(shape) < chance, corners.astype(element), values.astype(element)))

    def broadcast(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that broadcasts with `shape`, either way."""
        part = tuple(1 if self.flag(0.3) else d for d in shape[self.number(0, len(shape)) :])
        return (self.number(1, 3), *part) if len(part) == len(shape) and self.flag(0.2) else part

    def axis(self, rank: int) -> int:
        return self.number(-rank, rank - 1)


Strategy = Callable[[Draw, str], Case]


def unary(d: Draw, op: str) -> Case:
    kinds = {"Not": ("bool",), "BitwiseNot": (*SIGNED, *UNSIGNED), "Celu": ("float32",)}.get(op, FLOATS)
    if op in ("Abs", "Neg", "Sign", "Relu") and d.flag(0.4):
        kinds = SIGNED if op in ("Neg", "Relu") else (*SIGNED, *UNSIGNED)
    attributes = {
        "Celu": {"alpha": d.pick((1.0, 0.5, 2.0))}, "Elu": {"alpha": d.pick((1.0, 0.3))}, "Gelu": {"approximate": d.pick(("none", "tanh"))},
        "HardSigmoid": {"alpha": d.pick((0.2, 0.5)), "beta": d.pick((0.5, 0.1))}, "LeakyRelu": {"alpha": d.pick((0.01, 1.5, -0.5))},
        "Shrink": {"lambd": d.pick((0.5, 1.0)), "bias": d.pick((0.0, 0.25))}, "ThresholdedRelu": {"alpha": d.pick((1.0, 0.0))},
        "IsInf": {"detect_negative": d.number(0, 1), "detect_positive": d.number(0, 1)},
    }.get(op, {})  # fmt: skip
    return Case(op, [d.array(d.pick(kinds), d.shape())], attributes)


def binary(d: Draw, op: str) -> Case:
    kinds: tuple[str, ...] = (*FLOATS, "int32", "int64")
    if op in ("And", "Or", "Xor"):
        kinds = ("bool",)
    elif op.startswith("Bit"):
        kinds = UNSIGNED if op == "BitShift" else (*SIGNED, *UNSIGNED)
    kind, shape = d.pick(kinds), d.shape()
    a, b = d.array(kind, shape), d.array(kind, d.broadcast(shape))
    attributes: dict[str, Any] = {"direction": d.pick(("LEFT", "RIGHT"))} if op == "BitShift" else {}
    if op == "BitShift":
        b = np.asarray(b % a.dtype.type(a.dtype.itemsize * 8))
    if op == "Mod":
        attributes = {"fmod": 1 if a.dtype.kind == "f" else d.number(0, 1)}
    if op in ("Div", "Mod") and a.dtype.kind != "f":
        b = np.asarray(np.where((b == 0) | (b == -1), 2, b), kind)
    if op == "Pow" and a.dtype.kind != "f":
        a, b = np.asarray(np.clip(a, -9, 9), kind), np.asarray(np.abs(b) % 5, kind)
    return Case(op, [a, b] if d.flag() or op in ("BitShift", "Pow", "Div", "Mod") else [b, a], attributes)


def variadic(d: Draw, op: str) -> Case:
    kind, shape = d.pick(FLOATS if op in ("Sum", "Mean") else (*FLOATS, "int32", "int64")), d.shape()
    rest = [tuple(1 if d.flag(0.3) else n for n in shape[d.number(0, len(shape)) :]) for _ in range(d.number(0, 2))]
    return Case(op, [d.array(kind, s) for s in (shape, *rest)])


def where(d: Draw, op: str) -> Case:
    kind, shape = d.pick((*FLOATS, "int32", "int64", "uint8")), d.shape()
    return Case(op, [d.array("bool", d.broadcast(shape)), d.array(kind, shape), d.array(kind, ())])


def clip(d: Draw, op: str) -> Case:
    kind = d.pick((*FLOATS, "int32", "int64", "uint8"))
    limits = [d.array(kind, (), special=0.0) if d.flag(0.8) else None for _ in range(2)]
    return Case(op, [d.array(kind, d.shape()), *limits])


def prelu(d: Draw, op: str) -> Case:
    kind, shape = d.pick((*FLOATS, "int32")), d.shape()
    slope = tuple(1 if d.flag(0.4) else n for n in shape[d.number(0, len(shape)) :])
    return Case(op, [d.array(kind, shape), d.array(kind, slope)])


def cast(d: Draw, op: str) -> Case:
    source, target = (d.pick(("bool", "float16", *FLOATS, *SIGNED, *UNSIGNED)) for _ in range(2))
    x = d.array(source, d.shape())
    if np.dtype(source).kind == "f" and target not in ("bool", "float16", *FLOATS):
        x = np.asarray(np.clip(np.nan_to_num(x, posinf=5, neginf=0), 0, 100), source)  # elsewhere the result is undefined
    return Case(op, [x], {"to": helper.np_dtype_to_tensor_dtype(np.dtype(target))})


def reduction(d: Draw, op: str) -> Case:
    kinds = FLOATS if "Log" in op or op == "ReduceL2" else (*FLOATS, "int32", "int64")
    shape = d.shape(0, 4)
    axes = d.rng.sample(range(len(shape)), d.number(0, len(shape)))
    given = None if d.flag(0.2) else np.array([a - len(shape) if d.flag(0.3) else a for a in axes], np.int64)
    attributes = {"keepdims": d.number(0, 1), "noop_with_empty_axes": d.number(0, 1)}
    return Case(op, [d.array(d.pick(kinds), shape), given], attributes, frozenset({1} if given is not None else ()))


def extreme(d: Draw, op: str) -> Case:
    x = d.array(d.pick((*FLOATS, "int32", "int8")), d.shape(1, 4, empty=0))
    return Case(op, [x], {"axis": d.axis(x.ndim), "keepdims": d.number(0, 1), "select_last_index": d.number(0, 1)})


def along(d: Draw, op: str) -> Case:
    x = d.array(d.pick(FLOATS), d.shape(1, 4))
    return Case(op, [x], {"axis": d.axis(x.ndim)})


def cumulative(d: Draw, op: str) -> Case:
    x = d.array(d.pick((*FLOATS, "int32", "int64")), d.shape(1, 4))
    axis = np.array(d.axis(x.ndim), d.pick(("int32", "int64")))
    return Case(op, [x, axis], {"exclusive": d.number(0, 1), "reverse": d.number(0, 1)}, frozenset({1}))


def top(d: Draw, op: str) -> Case:
    x = d.array(d.pick((*FLOATS, "int64", "int32")), d.shape(1, 3, empty=0))
    axis = d.axis(x.ndim)
    k = np.array([d.number(0, x.shape[axis])], np.int64)
    return Case(op, [x, k], {"axis": axis, "largest": d.number(0, 1)}, frozenset({1}), outputs=2)


def matmul(d: Draw, op: str) -> Case:
    kind, k, lead = d.pick((*FLOATS, "int32", "uint32", "int64")), d.number(0 if d.flag(0.2) else 1, 4), d.shape(0, 2)
    a = (k,) if d.flag(0.2) else (*lead, d.number(0, 3), k)
    b = (k,) if d.flag(0.2) else (*d.broadcast(lead), k, d.number(0, 3))
    return Case(op, [d.array(kind, a), d.array(kind, b)])


def gemm(d: Draw, op: str) -> Case:
    kind, (m, k, n) = d.pick(FLOATS), (d.number(0, 3) for _ in range(3))
    ta, tb = d.number(0, 1), d.number(0, 1)
    c = d.pick((None, (), (n,), (1, n), (m, 1), (m, n)))
    operands = [d.array(kind, (k, m) if ta else (m, k)), d.array(kind, (n, k) if tb else (k, n)), None if c is None else d.array(kind, c)]
    return Case(op, operands, {"transA": ta, "transB": tb, "alpha": d.pick((1.0, 0.5)), "beta": d.pick((1.0, 2.0, 0.0))})


def integer_matmul(d: Draw, op: str) -> Case:
    a, b, k = d.pick(("int8", "uint8")), d.pick(("int8", "uint8")), d.number(1, 4)
    zeros = [d.array(t, (), special=0.0) if d.flag() else None for t in (a, b)]
    return Case(op, [d.array(a, (*d.shape(0, 1), d.number(1, 3), k), 0.5), d.array(b, (k, d.number(1, 3)), 0.5), *zeros])


def indices(d: Draw, shape: tuple[int, ...], size: int) -> np.ndarray:
    draw = np.random.default_rng(d.number(0, 1 << 30))
    return np.asarray(draw.integers(-size, size, shape), d.pick(("int32", "int64")))


ANY = (*FLOATS, "int64", "bool", "uint8")


def gather(d: Draw, op: str) -> Case:
    x = d.array(d.pick(ANY), d.shape(1, 3, empty=0))
    axis = d.axis(x.ndim)
    shape = d.shape(0, 2) if op == "Gather" else tuple(d.number(1, n) for n in x.shape)
    return Case(op, [x, indices(d, shape, x.shape[axis])], {"axis": axis})


def gather_nd(d: Draw, op: str) -> Case:
    x = d.array(d.pick(ANY), d.shape(1, 3, empty=0))
    batch = d.number(0, min(1, x.ndim - 1))
    depth = d.number(1, x.ndim - batch)
    lead = (*x.shape[:batch], *d.shape(0 if batch else 1, 1))
    columns = [indices(d, lead, n).astype(np.int64) for n in x.shape[batch : batch + depth]]
    return Case(op, [x, np.stack(columns, -1)], {"batch_dims": batch})


def scatter_elements(d: Draw, op: str) -> Case:
    x = d.array(d.pick(("float32", "int64", "int32")), d.shape(1, 3, empty=0))
    axis, mode = d.axis(x.ndim), d.pick(("none", "add", "mul", "max", "min"))
    shape = [d.number(1, n) for n in x.shape]
    if mode == "none":
        column = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
        places = np.array(d.rng.sample(range(x.shape[axis]), shape[axis]), np.int64).reshape(column)
        at = np.array(np.broadcast_to(places, shape))
    else:
        at = indices(d, tuple(shape), x.shape[axis])
    return Case(op, [x, at, d.array(x.dtype.name, tuple(shape))], {"axis": axis, "reduction": mode})


def scatter_nd(d: Draw, op: str) -> Case:
    x = d.array(d.pick(("float32", "int64", "int32")), d.shape(1, 3, empty=0))
    depth, mode = d.number(1, x.ndim), d.pick(("none", "add", "mul", "max", "min"))
    places = int(np.prod(x.shape[:depth]))
    draw = np.random.default_rng(d.number(0, 1 << 30))
    chosen = draw.choice(places, d.number(1, min(4, places)), replace=mode != "none")
    at = np.stack(np.unravel_index(chosen, x.shape[:depth]), -1).astype(np.int64)
    return Case(op, [x, at, d.array(x.dtype.name, (len(chosen), *x.shape[depth:]))], {"reduction": mode})


def pool(d: Draw, op: str) -> Case:
    spatial = d.number(1, 3)
    kind = "float32" if op != "MaxPool" else d.pick(("float32", "float32", "int8", "uint8"))
    x = d.array(kind, (d.number(0, 2), d.number(1, 2), *(d.number(3, 6) for _ in range(spatial))))
    if op.startswith("Global"):
        return Case(op, [x])
    kernel = [d.number(1, 3) for _ in range(spatial)]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": [d.number(1, 3) for _ in kernel], "ceil_mode": d.number(0, 1)}
    if d.flag(0.3):
        attributes["auto_pad"] = d.pick(("SAME_UPPER", "SAME_LOWER", "VALID"))
    else:
        attributes["pads"] = [d.number(0, k - 1) for k in (*kernel, *kernel)]
        attributes["dilations"] = [d.number(1, 2) for _ in kernel]
    if op == "AveragePool":
        attributes["count_include_pad"] = d.number(0, 1)
    if op == "LpPool":
        attributes["p"] = d.number(1, 3)
    return Case(op, [x], attributes)


def resize(d: Draw, op: str) -> Case:
    spatial = d.number(1, 2)
    x = d.array("float32", (1, d.number(1, 2), *(d.number(2, 5) for _ in range(spatial))), d.pick((0.0, 0.2)))
    mode = d.pick(("nearest", "linear", "cubic")) if spatial == 2 else d.pick(("nearest", "linear"))
    places = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": d.pick(places)}
    if mode == "nearest":
        attributes["nearest_mode"] = d.pick(("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
    if mode == "cubic":
        attributes["exclude_outside"] = d.number(0, 1)
    if d.flag():
        scales = np.array([1, 1, *(d.pick((0.5, 0.6, 1.5, 2.0, 3.0)) for _ in range(spatial))], np.float32)
        return Case(op, [x, None, scales], attributes, frozenset({2}))
    sizes = np.array([*x.shape[:2], *(d.number(1, 8) for _ in range(spatial))], np.int64)
    return Case(op, [x, None, None, sizes], attributes, frozenset({3}))


def table(strategy: Strategy, names: str) -> dict[str, Strategy]:
    return dict.fromkeys(names.split(), strategy)


STRATEGIES: dict[str, Strategy] = {
    **table(
        unary,
        "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish IsInf IsNaN LeakyRelu "
        "Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh ThresholdedRelu",
    ),
    **table(
        binary,
        "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Mod Mul Or Pow Sub Xor",
    ),
    **table(variadic, "Max Mean Min Sum"),
    **table(
        reduction,
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare",
    ),
    **table(extreme, "ArgMax ArgMin"),
    **table(along, "Softmax LogSoftmax Hardmax"),
    **table(gather, "Gather GatherElements"),
    **table(pool, "AveragePool GlobalAveragePool GlobalMaxPool LpPool MaxPool"),
    "Cast": cast, "Clip": clip, "CumSum": cumulative, "Gemm": gemm, "GatherND": gather_nd, "MatMul": matmul, "MatMulInteger": integer_matmul,
    "PRelu": prelu, "Resize": resize, "ScatterElements": scatter_elements, "ScatterND": scatter_nd, "TopK": top, "Where": where,
}  # fmt: skip


def run(case: Case) -> dict[str, np.ndarray]:
    """What ONNX Runtime gives, node by node as the model is written; it need not have every kernel."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(case.model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [f"y{k}" for k in range(case.outputs)]
    return dict(zip(names, session.run(names, case.feeds()), strict=True))


def difference(case: Case) -> str:
    """Where the evaluator and ONNX Runtime differ by more than rounding, in words."""
    try:
        theirs = run(case)
    except Exception as error:
        assume("NOT_IMPLEMENTED" not in str(error))
        return f"ONNX Runtime fails: {error}"
    graph = lc.import_model(case.model())
    feeds = case.feeds()
    problem = explained(graph, feeds, ensemble(graph, feeds), theirs)
    if not problem or case.op not in APPROXIMATE:
        return problem
    ours, slack = evaluate(graph, feeds), APPROXIMATE[case.op]
    return "" if all(np.allclose(theirs[n], ours[n], rtol=slack, atol=slack, equal_nan=True) for n in ours) else problem


APPROXIMATE = {
    "Celu": 1e-5, "Elu": 1e-5, "Gelu": 1e-5, "HardSigmoid": 1e-6, "HardSwish": 1e-6, "Resize": 1e-5, "Selu": 1e-5, "Sigmoid": 1e-5, "Tanh": 1e-5,
}  # fmt: skip
"""Operators that ONNX Runtime computes by less accurate formulas (`exp(x) - 1`, rational approximations), and how far off they may be."""

Deviation = tuple[Callable[[Case], bool], str]


def floats(case: Case) -> list[np.ndarray]:
    return [a for a in case.inputs if a is not None and a.dtype.kind == "f"]


def has_nan(case: Case) -> bool:
    return any(np.isnan(a).any() for a in floats(case))


def not_finite(case: Case) -> bool:
    return not all(np.isfinite(a).all() for a in floats(case))


def overflows(case: Case) -> bool:
    """Whether a sum or product of integers may leave their type."""
    x = case.inputs[0]
    return x is not None and x.dtype.kind in "iu" and x.size > 0 and float(np.max(np.abs(x.astype(np.float64)))) > 9


def is_empty(case: Case) -> bool:
    return any(a is not None and a.size == 0 for a in case.inputs)


def is_empty_uint32(case: Case) -> bool:
    return is_empty(case) and case.inputs[0] is not None and case.inputs[0].dtype == np.uint32


def is_double(case: Case) -> bool:
    return case.inputs[0] is not None and case.inputs[0].dtype == np.float64


def larger_than_image(case: Case) -> bool:
    """Whether a window does not fit into the padded image."""
    x, kernel = case.inputs[0], case.attributes.get("kernel_shape", ())
    assert x is not None
    pads, dilations = case.attributes.get("pads", [0] * 2 * len(kernel)), case.attributes.get("dilations", [1] * len(kernel))
    axes = enumerate(zip(kernel, dilations, x.shape[2:], strict=False))
    return any((k - 1) * d + 1 > n + pads[i] + pads[i + len(kernel)] for i, (k, d, n) in axes)


def skips(case: Case) -> bool:
    """Whether automatic padding meets strides longer than the window."""
    same = case.attributes.get("auto_pad", "").startswith("SAME")
    return same and any(s > k for s, k in zip(case.attributes["strides"], case.attributes["kernel_shape"], strict=True))


def on_the_edge(case: Case) -> bool:
    """Whether the nearest element hangs on the rounding of a place that may be a whole number."""
    return (case.attributes["mode"], case.attributes["coordinate_transformation_mode"]) == ("nearest", "half_pixel_symmetric")


def has_fraction(case: Case) -> bool:
    """Whether corners are aligned along axes whose resized length is no whole number."""
    x, scales = case.inputs[0], case.inputs[2]
    aligned = case.attributes["coordinate_transformation_mode"] == "align_corners"
    return aligned and x is not None and scales is not None and any(s * n % 1 for s, n in zip(scales, x.shape, strict=True))


NAN_LOSES = (
    has_nan,
    "compares with `>`, so that NaN never wins, or only where it stands first; the specification is silent, and numpy's NaN wins",
)
NAN_DROPS = (not_finite, "leaves NaN, and that of inf - inf, out of sums of exponentials; the specification's formula does not")
WRAPS = (overflows, "sums integers through floats, or saturates; the specification is silent, and integers wrap around as in C and numpy")
WINDOWS = (larger_than_image, "gives a result for a window that is larger than the image; that is an error of the model")
STRIDES = (skips, "refuses automatic padding where it would crop, or pads nothing; the specification's formula gives what is to be padded")
DEVIATIONS: dict[str, list[Deviation]] = {
    **{op: [NAN_LOSES] for op in "ArgMax ArgMin GlobalMaxPool Hardmax ReduceMax ReduceMin ScatterElements ScatterND TopK".split()},
    **{op: [WRAPS] for op in ("ReduceL1", "ReduceL2", "ReduceProd", "ReduceSum", "ReduceSumSquare")},
    **{op: [NAN_DROPS] for op in ("LogSoftmax", "ReduceLogSumExp", "Softmax")},
    "AveragePool": [WINDOWS, STRIDES],
    "Clip": [
        (not_finite, "makes infinities finite where a limit is absent; as in ONNX's reference implementation, an absent limit is none")
    ],
    "LpPool": [WINDOWS, STRIDES],
    "MatMul": [(is_empty_uint32, "fails on empty matrices of uint32")],
    "MaxPool": [NAN_LOSES, WINDOWS, STRIDES, (not_finite, "gives the least finite number for a window of negative infinities")],
    "ReduceMean": [(is_empty, "gives 0 for the mean of nothing; the specification says undefined, and 0 / 0 is NaN"), WRAPS],
    "Resize": [
        (on_the_edge, "finds places on the edge of two elements on one side, float32 arithmetic in another order on the other"),
        (has_fraction, "rounds the length of the resized axis before corners are aligned; the specification's is scale times length"),
        (not_finite, "multiplies infinities by the weight 0; a sample whose weight is 0 everywhere does not count"),
    ],
    "Shrink": [(is_double, "computes float64 in float32")],
}
"""Per operator: when ONNX Runtime does something else, and why that is not followed."""


def compare_many(op: str, examples: int) -> None:
    @settings(derandomize=True, deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def check(rng: random.Random) -> None:
        case = STRATEGIES[op](Draw(rng), op)
        assume(not any(applies(case) for applies, _ in DEVIATIONS.get(op, ())))
        assert not (problem := difference(case)), f"{problem}\n{case}"

    check()


@pytest.mark.parametrize("op", sorted(STRATEGIES))
def test_operator(op: str) -> None:
    compare_many(op, EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("op", sorted(STRATEGIES))
def test_operator_at_length(op: str) -> None:
    compare_many(op, MANY)
