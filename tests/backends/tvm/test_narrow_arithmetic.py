"""Operators on element types without native arithmetic: computed in wider types, equal to the evaluator."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.capabilities import refusal
from lepton_compiler.backends.tvm.carriers import codes
from lepton_compiler.backends.tvm.legalize import LegalizeNative
from lepton_compiler.errors import UnsupportedError, UsageError
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import DTYPES, tensor_type
from lepton_compiler.ops.builder import Builder, make_op
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.pipeline import PassContext

BFLOAT16 = DTYPES["bfloat16"]


def graph_of(**inputs: str) -> tuple[Graph, Builder, list[Value]]:
    graph = Graph("test")
    values = [graph.add_input(name, tensor_type(spec)) for name, spec in inputs.items()]
    return graph, Builder(graph), values


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(BFLOAT16.numpy)


def check(graph: Graph, feeds: dict[str, np.ndarray], cache: Path, ulps: int = 0) -> None:
    """Native results are the evaluator's, bit for bit, or within some units in the last place of narrow floats."""
    expected, got = evaluate(graph, feeds), lc.compile(graph, cache_dir=cache).run(feeds)
    for name, want in expected.items():
        assert got[name].dtype == want.dtype and got[name].shape == want.shape, name
        if ulps and want.dtype == BFLOAT16.numpy:
            assert np.abs(codes(got[name]).astype(int) - codes(want).astype(int)).max() <= ulps, name
        else:
            np.testing.assert_array_equal(codes(got[name]), codes(want), err_msg=name)


EXACT = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Greater", "LessOrEqual", "Equal", "PRelu"]


def test_each_operator_rounds_once(tmp_path: Path) -> None:
    graph, b, (x, y) = graph_of(x="bfloat16[5,33]", y="bfloat16[33]")
    results = [getattr(b, name)(x, y) for name in EXACT] + [
        getattr(b, name)(x) for name in ("Relu", "Abs", "Neg", "Floor", "Round", "Sign", "HardSwish", "IsNaN")
    ]
    graph.set_outputs([*results, b.Add(b.Mul(x, x), y), b.Sub(x, b.constant(np.array(0.1, BFLOAT16.numpy)))])
    check(graph, {"x": normal((5, 33)), "y": normal((33,), 1)}, tmp_path)


def test_functions_and_reductions_are_within_one_unit(tmp_path: Path) -> None:
    graph, b, (x,) = graph_of(x="bfloat16[6,40]")
    results = [getattr(b, name)(x) for name in ("Exp", "Sigmoid", "Tanh", "Erf", "Gelu", "Softplus", "Celu")]
    results += [b.Softmax(x, axis=1), b.LogSoftmax(x, axis=1), b.CumSum(x, axis=0)]
    results += [getattr(b, f"Reduce{k}")(x, axes=(1,)) for k in ("Sum", "Mean", "Max", "Min", "L1", "L2", "SumSquare")]
    graph.set_outputs(results)
    check(graph, {"x": normal((6, 40))}, tmp_path, ulps=1)


def test_products_with_weights(tmp_path: Path) -> None:
    graph, b, (x, image) = graph_of(x="bfloat16[7,24]", image="bfloat16[1,4,9,9]")
    w, filters = b.constant(normal((24, 17), 1)), b.constant(normal((6, 4, 3, 3), 2))
    conv = b.Conv(image, filters, b.constant(normal((6,), 3)), strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), groups=1)
    pool = b.MaxPool(conv, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), dilations=(1, 1))
    graph.set_outputs([b.Relu(b.MatMul(x, w)), b.Gemm(x, w, alpha=0.5), b.Relu(conv), pool, b.MatMul(x, b.Transpose(x, perm=(1, 0)))])
    check(graph, {"x": normal((7, 24)), "image": normal((1, 4, 9, 9), 4)}, tmp_path, ulps=1)


def _accumulated(b: Builder, x: Value, y: Value) -> Value:
    """`x` with the first updates added to its first element."""
    first = b.Slice(y, starts=(0,), ends=(8,), axes=(0,), steps=(1,))
    return b.ScatterElements(x, b.constant(np.zeros(8, np.int64)), first, reduction="add")


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2fnuz", "float4_e2m1fn"])
def test_small_floats_overflow_as_the_evaluator_says(name: str, tmp_path: Path) -> None:
    graph, b, (x, y) = graph_of(x=f"{name}[256]", y=f"{name}[256]")
    graph.set_outputs([b.Add(x, y), b.Mul(x, y), b.Max(x, y), b.ReduceSum(x, axes=(0,)), _accumulated(b, x, y)])
    bits = np.random.default_rng(0).integers(0, 1 << DTYPES[name].bits, (2, 256)).astype(np.uint8)
    finite = np.where(np.isfinite(bits.view(DTYPES[name].numpy).astype(np.float32)), bits, 0).astype(np.uint8)
    check(graph, {"x": finite[0].view(DTYPES[name].numpy), "y": finite[1].view(DTYPES[name].numpy)}, tmp_path)


@pytest.mark.parametrize("name", ["int4", "uint4", "int2", "uint2"])
def test_short_integers_wrap_around(name: str, tmp_path: Path) -> None:
    info = ml_dtypes.iinfo(DTYPES[name].numpy)
    graph, b, (x, y) = graph_of(x=f"{name}[8,16]", y=f"{name}[16]")
    results = [getattr(b, op)(x, y) for op in ("Add", "Sub", "Mul", "Max", "Min", "Greater", "BitwiseAnd", "BitwiseXor")]
    graph.set_outputs(
        [
            *results,
            b.BitwiseNot(x),
            b.ReduceSum(x, axes=(1,)),
            b.ReduceMax(x, axes=(0,)),
            b.ArgMax(x, axis=1),
            b.MatMul(x, b.Transpose(x, perm=(1, 0))),
        ]
    )
    values = np.random.default_rng(0).integers(info.min, info.max + 1, (9, 16)).astype(DTYPES[name].numpy)
    check(graph, {"x": values[1:], "y": values[0]}, tmp_path)


def test_composite_operators_round_at_their_ends_only(tmp_path: Path) -> None:
    graph, b, (q, x) = graph_of(q="bfloat16[1,2,5,8]", x="bfloat16[2,6,4,4]")
    scale = b.constant(normal((6,), 7))
    graph.set_outputs(
        [
            b.Attention(q, q, q, is_causal=True),
            b.GroupNormalization(x, scale, scale, num_groups=3, epsilon=1e-5),
            b.RMSNormalization(q, b.constant(normal((8,), 8)), axis=-1),
            b.Einsum(q, q, equation="bhik,bhjk->bhij"),
        ]
    )
    check(graph, {"q": normal((1, 2, 5, 8)), "x": normal((2, 6, 4, 4), 5)}, tmp_path, ulps=1)


def legal(graph: Graph) -> Graph:
    LegalizeNative().run(graph, PassContext())
    return graph


def test_what_only_moves_elements_stays_narrow() -> None:
    graph, b, (x,) = graph_of(x="bfloat16[4,6]")
    graph.set_outputs([b.Transpose(b.Slice(x, starts=(0,), ends=(2,), axes=(0,), steps=(1,)), perm=(1, 0))])
    assert [node.op.name for node in legal(graph)] == ["Slice", "Transpose"]


def test_shared_weights_are_converted_at_compile_time_and_once() -> None:
    graph, b, (x,) = graph_of(x="bfloat16[4,6]")
    w = b.constant(normal((6, 6)))
    graph.set_outputs([b.MatMul(b.MatMul(x, w), w)])
    first, second = [node for node in legal(graph) if node.op.name == "MatMul"]
    assert first.inputs[1] is second.inputs[1] and first.present_inputs[1].is_constant


@pytest.mark.parametrize(("kind", "stored"), [("bfloat16", 2), ("float8_e5m2", 4)])
def test_products_read_the_weights_of_one_product_as_they_are_stored(kind: str, stored: int, tmp_path: Path) -> None:
    graph, b, (x,) = graph_of(x=f"{kind}[5,64]")
    rng = np.random.default_rng(0)
    w, v = (b.constant(rng.integers(-4, 5, shape).astype(DTYPES[kind].numpy)) for shape in ((64, 64), (16, 64)))
    graph.set_outputs([b.Relu(b.MatMul(x, w)), b.Gemm(x, v, trans_b=True)])
    manifest = lc.compile(graph, cache_dir=tmp_path).manifest
    assert manifest["weights_bytes"] == 80 * 64 * stored
    check(graph, {"x": rng.integers(-4, 5, (5, 64)).astype(DTYPES[kind].numpy)}, tmp_path)


def test_size_comes_first_where_asked(tmp_path: Path) -> None:
    graph, b, (x,) = graph_of(x="float8_e4m3fn[5,64]")
    graph.set_outputs([b.MatMul(x, b.constant(np.random.default_rng(0).integers(-4, 5, (64, 64)).astype(DTYPES["float8_e4m3fn"].numpy)))])
    model, feed = lc.compile(graph, level="s", cache_dir=tmp_path), normal((5, 64)).astype(DTYPES["float8_e4m3fn"].numpy)
    assert model.manifest["weights_bytes"] == 64 * 64
    name = graph.outputs[0].name
    np.testing.assert_array_equal(codes(model.run({"x": feed})[name]), codes(evaluate(graph, {"x": feed})[name]))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_convolutions_read_short_weights(kind: str, tmp_path: Path) -> None:
    graph, b, (x, line) = graph_of(x=f"{kind}[1,32,7,7]", line=f"{kind}[1,32,9]")
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> Value:
        return b.constant(rng.integers(-2, 3, shape).astype(DTYPES[kind].numpy))

    two = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
    one = {"strides": (1,), "pads": (0, 0), "dilations": (1,), "groups": 1}
    results = [b.Conv(x, weights(48, 32, 3, 3), weights(48), groups=1, **two), b.Conv(x, weights(32, 1, 3, 3), groups=32, **two)]
    graph.set_outputs([*results, b.Conv(x, weights(32, 16, 3, 3), groups=2, **two), b.Conv(line, weights(16, 32, 3), **one)])
    stored = 2 * (48 * 32 * 9 + 32 * 9 + 32 * 16 * 9 + 16 * 32 * 3)
    assert lc.compile(graph, cache_dir=tmp_path).manifest["weights_bytes"] < 1.1 * stored + 4 * 64
    feeds = {
        "x": rng.integers(-2, 3, (1, 32, 7, 7)).astype(DTYPES[kind].numpy),
        "line": rng.integers(-2, 3, (1, 32, 9)).astype(DTYPES[kind].numpy),
    }
    check(graph, feeds, tmp_path)


def test_large_constants_are_converted_at_compile_time(tmp_path: Path) -> None:
    graph, b, (x,) = graph_of(x="float32[3,1024]")
    w = np.random.default_rng(0).integers(-4, 5, (1024, 1024))
    narrow = [b.constant(w.astype(DTYPES[n].numpy)) for n in ("bfloat16", "float8_e4m3fn", "int8")]
    graph.set_outputs([b.MatMul(x, b.Cast(c, to=DTYPES["float32"])) for c in narrow])
    model = lc.compile(graph, cache_dir=tmp_path)
    assert model.manifest["kernels"] == 3 and model.manifest["weights_bytes"] == (2 + 4 + 1) << 20
    check(graph, {"x": np.random.default_rng(1).integers(-4, 5, (3, 1024)).astype(np.float32)}, tmp_path)


def test_refusals_name_the_type(tmp_path: Path) -> None:
    graph, b, (x, c) = graph_of(x="float8_e8m0fnu[4]", c="complex64[4]")
    total = b.Add(x, x)
    graph.set_outputs([total, b.Transpose(b.Reshape(c, shape=(2, 2)), perm=(1, 0))])
    assert refusal(total.producer) == "there is no native arithmetic for float8_e8m0fnu"  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="no native arithmetic for float8_e8m0fnu") as caught:
        lc.compile(graph, cache_dir=tmp_path)
    assert "no native arithmetic for complex64" in str(caught.value)


def test_the_header_says_what_a_byte_holds(tmp_path: Path) -> None:
    graph, b, (x, y, z) = graph_of(x="bfloat16[4]", y="int4[4]", z="float8_e4m3fn[4]")
    graph.set_outputs([b.Cast(v, to=DTYPES["float32"]) for v in (x, y, z)])
    header = lc.compile(graph, name="m", cache_dir=tmp_path).artifact.files["m.h"].decode()  # type: ignore[union-attr]
    assert "const uint16_t *x; /* bfloat16[4], 'x'; an element is its bits */" in header
    assert "const uint8_t *y; /* int4[4], 'y'; an element is the low 4 bits of a byte */" in header
    assert "const uint8_t *z; /* float8_e4m3fn[4], 'z'; an element is its bits */" in header


def test_saved_arrays_can_be_fed(tmp_path: Path) -> None:
    graph, b, (x, y) = graph_of(x="bfloat16[4]", y="int4[4]")
    graph.set_outputs([b.Neg(x), b.Neg(y)])
    feeds = {"x": normal((4,)), "y": np.arange(-2, 2).astype(DTYPES["int4"].numpy)}
    np.savez(tmp_path / "feeds.npz", **feeds)  # type: ignore[arg-type]
    model, loaded = lc.compile(graph, cache_dir=tmp_path), dict(np.load(tmp_path / "feeds.npz"))
    assert loaded["x"].dtype.type is np.void
    for name, want in evaluate(graph, feeds).items():
        np.testing.assert_array_equal(codes(model.run(loaded)[name]), codes(want))
        np.testing.assert_array_equal(codes(evaluate(graph, loaded)[name]), codes(want))
    with pytest.raises(UsageError, match="input 'y' is int4"):
        model.run(loaded | {"y": loaded["x"]})


def test_tensors_that_numpy_cannot_read_are_usage_errors(tmp_path: Path) -> None:
    class Foreign:
        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise TypeError("Got unsupported ScalarType BFloat16")

    graph, b, (x,) = graph_of(x="bfloat16[4]")
    graph.set_outputs([b.Neg(x)])
    with pytest.raises(UsageError, match="unsupported ScalarType BFloat16"):
        lc.compile(graph, cache_dir=tmp_path).run({"x": Foreign()})


def test_fused_casts_between_narrow_types(tmp_path: Path) -> None:
    graph, b, (x,) = graph_of(x="float32[1000]")
    small = b(make_op("Cast", {"to": DTYPES["float8_e5m2"]}), x)
    graph.set_outputs([b.Cast(b.Mul(b.Cast(small, to=BFLOAT16), b.constant(np.array(3, BFLOAT16.numpy))), to=DTYPES["float32"])])
    check(graph, {"x": np.linspace(-9, 9, 1000, dtype=np.float32)}, tmp_path)


def test_float16_is_rounded_once_by_whole_operators(tmp_path: Path) -> None:
    graph, b, (x, s, v) = graph_of(x="float16[2,3,4,4]", s="float16[3]", v="float16[3]")
    graph.set_outputs(
        [b.BatchNormalization(x, s, s, s, v), b.GroupNormalization(x, s, s, num_groups=3, epsilon=1e-5), b.ReduceL2(x, axes=(2, 3))]
    )
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(0, 2, (2, 3, 4, 4)), "s": rng.normal(0, 1, 3), "v": rng.uniform(0.1, 2, 3)}
    halves = {name: array.astype(np.float16) for name, array in feeds.items()}
    expected, got = evaluate(graph, halves), lc.compile(graph, cache_dir=tmp_path).run(halves)
    for name, want in expected.items():
        assert np.abs(got[name].view(np.int16).astype(int) - want.view(np.int16).astype(int)).max() <= 1, name
