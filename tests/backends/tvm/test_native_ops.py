"""Every lowering rule against the evaluator: one library per family, each operator a kernel of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_compiler.backend import BuildOptions
from lepton_compiler.backends.tvm import build, capabilities
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.builder import Builder, make_op
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.runtime.library import NativeLibrary
from lepton_compiler.target import parse_target


def run_native(graph: Graph, feeds: dict[str, np.ndarray], cache: Path, threads: int = 1, cpu: str | None = None) -> dict[str, np.ndarray]:
    """Build the graph as it is and call it."""
    target = parse_target("native") if cpu is None else parse_target("x86_64", cpu)
    artifact = build(graph, BuildOptions("m", target, threads=threads, cache_dir=cache))
    return NativeLibrary.from_bytes(artifact.files["libm.so"], {**artifact.manifest, "name": "m"}).run(feeds)


def check(graph: Graph, feeds: dict[str, np.ndarray], cache: Path, rtol: float = 2e-6, atol: float = 1e-6) -> None:
    """Native results equal the evaluator's, exactly for integers and booleans."""
    expected, got = evaluate(graph, feeds), run_native(graph, feeds, cache)
    for name, want in expected.items():
        assert got[name].shape == want.shape and got[name].dtype == want.dtype, name
        if want.dtype.kind in "biu":
            np.testing.assert_array_equal(got[name], want, err_msg=name)
        else:
            np.testing.assert_allclose(got[name], want, rtol=rtol, atol=atol, err_msg=name)


def graph_of(**inputs: str) -> tuple[Graph, Builder, list[Value]]:
    graph = Graph("test")
    values = [graph.add_input(name, tensor_type(spec)) for name, spec in inputs.items()]
    return graph, Builder(graph), values


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


def test_the_capability_table_is_the_rule_table() -> None:
    from lepton_compiler.backends.tvm.lower.context import ELEMENTS, RULES

    assert set(RULES) | set(ELEMENTS) == capabilities.KERNELS


UNARY = [
    "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Neg", "Reciprocal", "Round", "Sigmoid", "Sign", "Sin", "Tanh", "IsNaN", "Relu", "Celu", "Elu", "Gelu",
    "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Selu", "Shrink", "Softplus", "Softsign", "Swish", "ThresholdedRelu", "Atan", "Sinh", "Cosh", "Tan", "Asinh",
]  # fmt: skip


def test_functions_of_one_tensor(cache: Path) -> None:
    graph, b, (x,) = graph_of(x="float32[3,5,7]")
    graph.set_outputs([getattr(b, name)(x) for name in UNARY] + [b.Gelu(x, approximate="tanh")])
    rng = np.random.default_rng(0)
    check(graph, {"x": rng.normal(0, 3, (3, 5, 7)).astype(np.float32)}, cache, rtol=3e-6, atol=2e-6)


def test_functions_of_limited_domain(cache: Path) -> None:
    graph, b, (x,) = graph_of(x="float32[33]")
    graph.set_outputs([getattr(b, name)(x) for name in ("Acos", "Asin", "Atanh", "Sqrt", "Log")])
    check(graph, {"x": np.linspace(0.01, 0.97, 33, dtype=np.float32)}, cache, rtol=3e-6)


def test_special_values(cache: Path) -> None:
    graph, b, (x, y) = graph_of(x="float32[6]", y="float32[6]")
    graph.set_outputs(
        [
            b.Relu(x),
            b.Max(x, y),
            b.Min(x, y),
            b.IsInf(x),
            b.IsNaN(x),
            b.Exp(x),
            b.Sigmoid(x),
            b.Tanh(x),
            b.Clip(x, b.constant(np.float32(-1)), b.constant(np.float32(1))),
        ]
    )
    values = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30], np.float32)
    check(graph, {"x": values, "y": values[::-1].copy()}, cache)


def test_functions_of_two_tensors_broadcast(cache: Path) -> None:
    graph, b, (x, y, i, j, p, q) = graph_of(
        x="float32[2,3,1,5]", y="float32[3,4,1]", i="int32[4,6]", j="int32[6]", p="bool[4,6]", q="bool[4,1]"
    )
    outs = [
        getattr(b, n)(x, y)
        for n in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual", "Sum", "Mean")
    ]
    outs += [
        getattr(b, n)(i, j) for n in ("Add", "Sub", "Mul", "Div", "Mod", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Max", "Min", "Greater")
    ]
    outs += [getattr(b, n)(p, q) for n in ("And", "Or", "Xor")] + [
        b.Not(p),
        b.Where(p, i, j),
        b.Mod(i, j, fmod=True),
        b.BitwiseNot(i),
        b.Pow(b.Abs(x), y),
    ]
    graph.set_outputs(outs)
    rng = np.random.default_rng(1)
    ints = rng.integers(-9, 9, (4, 6)).astype(np.int32)
    feeds = {
        "x": rng.normal(size=(2, 3, 1, 5)).astype(np.float32), "y": rng.normal(size=(3, 4, 1)).astype(np.float32), "i": ints,
        "j": np.array([1, -2, 3, -4, 5, 7], np.int32), "p": ints > 0, "q": ints[:, :1] > 2,
    }  # fmt: skip
    check(graph, feeds, cache, rtol=3e-6)


def test_casts(cache: Path) -> None:
    from lepton_compiler.ir.types import DTYPES

    graph, b, (x, i) = graph_of(x="float32[40]", i="int64[40]")
    kinds = ["int8", "uint8", "int16", "int32", "int64", "float64", "float16", "bool"]
    graph.set_outputs([b.Cast(x, to=DTYPES[k]) for k in kinds] + [b.Cast(i, to=DTYPES[k]) for k in ("float32", "int32", "bool", "uint8")])
    check(graph, {"x": np.linspace(0, 100, 40, dtype=np.float32), "i": np.arange(40) - 3}, cache)


def test_movement(cache: Path) -> None:
    graph, b, (x, i) = graph_of(x="float32[2,3,4,5]", i="int64[2,2]")
    outs = [
        b.Transpose(x, perm=(0, 2, 3, 1)), b.Transpose(x, perm=(3, 1, 0, 2)), b.Expand(b.Reshape(x, shape=(2, 3, 1, 4, 5)), shape=(2, 3, 6, 4, 5)),
        b.Slice(x, starts=(1, -1), ends=(3, -10), axes=(1, 3), steps=(1, -2)), b.Concat(x, x, b.Neg(x), axis=2), b.Tile(x, repeats=(1, 2, 1, 3)),
        b.Pad(x, pads=(0, 1, 2, 0, 0, 0, 1, 3)), b.Pad(x, pads=(0, 0, 2, 1, 0, 0, 1, 3), mode="reflect"), b.Pad(x, pads=(0, 0, 2, 1, 0, 0, 1, 3), mode="edge"),
        b.Pad(x, b.constant(np.float32(7)), pads=(0, 0, -1, 1, 0, 0, 1, 0)), b.Gather(x, i, axis=2), b.Trilu(x), b.Trilu(x, k=-1, upper=False),
        b.DepthToSpace(b.Reshape(x, shape=(2, 4, 3, 5)), blocksize=2), b.DepthToSpace(b.Reshape(x, shape=(2, 4, 3, 5)), blocksize=2, mode="CRD"),
        b.SpaceToDepth(b.Reshape(x, shape=(2, 3, 10, 2)), blocksize=2), b.ConstantOfShape(shape=(2, 3), value=3.0), b.CumSum(x, axis=2), b.CumSum(x, axis=1, exclusive=True, reverse=True),
    ]  # fmt: skip
    outs += list(b.node(_op("Split", axis=3, sizes=(2, 3)), [x]).outputs)
    graph.set_outputs(outs)
    check(graph, {"x": np.random.default_rng(2).normal(size=(2, 3, 4, 5)).astype(np.float32), "i": np.array([[0, -1], [3, 1]])}, cache)


def test_reductions(cache: Path) -> None:
    graph, b, (x, i) = graph_of(x="float32[3,4,5,6]", i="int32[4,6]")
    axes = [(0,), (1, 2), (3,), (0, 1, 2, 3), (2, 3)]
    outs = [getattr(b, f"Reduce{k}")(x, axes=a, keepdims=d) for k in ("Sum", "Mean", "Max", "Min") for a in axes for d in (True, False)]
    outs += [
        b.ReduceProd(x, axes=(3,)),
        b.ReduceSum(i, axes=(1,)),
        b.ReduceMax(i, axes=(0,)),
        b.ArgMax(x, axis=2),
        b.ArgMin(x, axis=-1, keepdims=False),
    ]
    outs += [b.Softmax(x, axis=a) for a in (-1, 1)] + [b.LogSoftmax(x, axis=-1)]
    outs += list(b.node(_op("TopK", k=3, axis=-1), [x]).outputs) + list(b.node(_op("TopK", k=2, axis=1, largest=False), [x]).outputs)
    graph.set_outputs(outs)
    rng = np.random.default_rng(3)
    check(
        graph,
        {"x": rng.normal(size=(3, 4, 5, 6)).astype(np.float32), "i": rng.integers(-9, 9, (4, 6)).astype(np.int32)},
        cache,
        rtol=1e-5,
        atol=1e-5,
    )


def test_dense(cache: Path) -> None:
    graph, b, (x, m, v, q) = graph_of(x="float32[2,7,9]", m="float32[2,9,11]", v="float32[9]", q="float32[7,9]")
    rng = np.random.default_rng(4)
    w = rng.normal(size=(9, 13)).astype(np.float32)
    outs = [
        b.MatMul(x, m),
        b.MatMul(x, w),
        b.MatMul(x, v),
        b.MatMul(v, m),
        b.MatMul(q, m),
        b.Gemm(q, w, np.ones(13, np.float32), alpha=0.5, beta=2.0),
    ]
    outs += [b.Gemm(q, np.ascontiguousarray(w.T), trans_b=True), b.Gemm(q, q, trans_a=True), b.Gemm(q, q, trans_b=True)]
    graph.set_outputs(outs)
    feeds = {n: rng.normal(size=s).astype(np.float32) for n, s in (("x", (2, 7, 9)), ("m", (2, 9, 11)), ("v", (9,)), ("q", (7, 9)))}
    check(graph, feeds, cache, rtol=1e-5, atol=1e-5)


CONVOLUTIONS: list[dict[str, Any]] = [
    {"shape": (1, 3, 11, 13), "weight": (8, 3, 3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1)},
    {"shape": (2, 16, 9, 7), "weight": (20, 16, 1, 1)},
    {"shape": (1, 16, 9, 8), "weight": (16, 16, 3, 3), "strides": (2, 2), "pads": (0, 0, 1, 1)},
    {"shape": (1, 6, 9, 8), "weight": (6, 1, 3, 3), "groups": 6, "pads": (1, 1, 1, 1)},
    {"shape": (1, 6, 9, 8), "weight": (12, 1, 5, 5), "groups": 6, "strides": (2, 1), "pads": (2, 2, 2, 2)},
    {"shape": (1, 8, 9, 8), "weight": (12, 4, 3, 3), "groups": 2, "pads": (1, 1, 1, 1)},
    {"shape": (1, 5, 12, 12), "weight": (7, 5, 3, 3), "dilations": (2, 2), "pads": (2, 2, 2, 2)},
    {"shape": (1, 5, 40), "weight": (7, 5, 4), "strides": (2,), "pads": (1, 2)},
    {"shape": (1, 5, 40), "weight": (5, 1, 7), "groups": 5, "pads": (3, 3)},
    {"shape": (1, 2, 5, 6, 7), "weight": (3, 2, 2, 3, 2), "pads": (0, 1, 0, 0, 1, 1)},
]  # fmt: skip


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_convolutions(cache: Path, layout: str) -> None:
    graph, rng, outs, feeds = Graph("conv"), np.random.default_rng(5), [], {}
    b = Builder(graph)
    for k, case in enumerate(CONVOLUTIONS):
        shape, weight = case["shape"], case["weight"]
        spatial = len(shape) - 2
        array = rng.normal(size=shape).astype(np.float32)
        if layout == "NHWC":
            array = np.ascontiguousarray(np.moveaxis(array, 1, -1))
        feeds[f"x{k}"] = array
        x = graph.add_input(f"x{k}", tensor_type(f"float32[{','.join(map(str, array.shape))}]"))
        fields = {"strides": (1,) * spatial, "pads": (0,) * 2 * spatial, "dilations": (1,) * spatial, "groups": 1} | {
            n: v for n, v in case.items() if n not in ("shape", "weight")
        }
        w, bias = rng.normal(size=weight).astype(np.float32), rng.normal(size=weight[0]).astype(np.float32)
        outs.append(b.Relu(b.Conv(x, w, bias, layout=layout, **fields)))
        outs.append(b.Conv(x, w, layout=layout, **fields))
    graph.set_outputs(outs)
    check(graph, feeds, cache, rtol=1e-4, atol=1e-5)


def test_pools_and_transposed_convolutions(cache: Path) -> None:
    graph, b, (x, y) = graph_of(x="float32[1,4,9,10]", y="float32[1,9,10,4]")
    rng = np.random.default_rng(6)
    pool = {"kernel_shape": (3, 2), "strides": (2, 2), "pads": (1, 0, 1, 1), "dilations": (1, 1)}
    outs = [
        b.MaxPool(x, **pool),
        b.MaxPool(x, **pool, ceil_mode=True),
        b.AveragePool(x, **pool),
        b.AveragePool(x, **pool, count_include_pad=True),
    ]
    outs += [b.AveragePool(x, **pool, ceil_mode=True), b.MaxPool(y, **pool, layout="NHWC"), b.AveragePool(y, **pool, layout="NHWC")]
    w = rng.normal(size=(4, 3, 3, 2)).astype(np.float32)
    transposed = {"strides": (2, 2), "pads": (1, 0, 1, 1), "dilations": (1, 1), "output_padding": (1, 0)}
    outs += [b.ConvTranspose(x, w, np.ones(3, np.float32), **transposed), b.ConvTranspose(y, w, **transposed, layout="NHWC")]
    graph.set_outputs(outs)
    check(
        graph,
        {"x": rng.normal(size=(1, 4, 9, 10)).astype(np.float32), "y": rng.normal(size=(1, 9, 10, 4)).astype(np.float32)},
        cache,
        rtol=1e-5,
        atol=1e-5,
    )


def _op(name: str, **fields: object) -> Op:
    return make_op(name, fields)
