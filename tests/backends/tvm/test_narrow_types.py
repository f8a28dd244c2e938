"""Conversions to and from element types without native arithmetic: every code, and every place where rounding turns, against the evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lepton_compiler.backend import BuildOptions
from lepton_compiler.backends.tvm import build
from lepton_compiler.backends.tvm.carriers import CARRIERS, codes
from lepton_compiler.backends.tvm.legalize import LegalizeNative
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import DTYPES, TensorType, dtype, tensor_type
from lepton_compiler.ops.builder import Builder, make_op
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.pipeline import PassContext
from lepton_compiler.runtime.library import NativeLibrary
from lepton_compiler.target import parse_target

FLOATS = [name for name in CARRIERS if "float" in name and name != "float8_e8m0fnu"]
FLOAT8 = [name for name in FLOATS if name.startswith("float8")]
INTEGERS = [name for name in CARRIERS if "int" in name]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


def run_native(graph: Graph, feeds: dict[str, np.ndarray], cache: Path) -> dict[str, np.ndarray]:
    artifact = build(graph, BuildOptions("m", parse_target("native"), cache_dir=cache))
    return NativeLibrary.from_bytes(artifact.files["libm.so"], {**artifact.manifest, "name": "m"}).run(feeds)


def check_equal(graph: Graph, feeds: dict[str, np.ndarray], cache: Path) -> None:
    """Native results are the evaluator's, bit for bit; where both are NaN, of any sign and payload unless the type is narrow."""
    expected, got = evaluate(graph, feeds), run_native(graph, feeds, cache)
    for name, want in expected.items():
        assert got[name].dtype == want.dtype and got[name].shape == want.shape, name
        if want.dtype.name in CARRIERS:
            np.testing.assert_array_equal(codes(got[name]), codes(want), err_msg=name)
        else:
            np.testing.assert_array_equal(got[name], want, err_msg=name)
            if want.dtype.kind == "f":
                number = ~np.isnan(want)
                np.testing.assert_array_equal(np.signbit(got[name][number]), np.signbit(want[number]), err_msg=name)


def check_casts(values: np.ndarray, casts: Sequence[Cast], cache: Path) -> None:
    """Each conversion of `values`, as a kernel of its own in one library."""
    graph = Graph("casts")
    x = graph.add_input("x", TensorType(dtype(values.dtype), values.shape))
    results = [Builder(graph)(cast, x) for cast in casts]
    graph.set_outputs(results)
    for value, cast in zip(results, casts, strict=True):
        graph.rename(value, f"{cast.to}_{cast.saturate}_{cast.round_mode}".lower())
    check_equal(graph, {"x": values}, cache)


def every_code(name: str) -> np.ndarray:
    """All values of a narrow type; of integers, with whatever may lie above them in a byte."""
    element, bits = DTYPES[name], DTYPES[CARRIERS[name]]
    return np.arange(1 << (element.bits if element.is_float else bits.bits), dtype=bits.numpy).view(element.numpy)


def turning_points(name: str) -> np.ndarray:
    """float64: the values of a narrow float, the midpoints between neighbours, and where it overflows."""
    with np.errstate(all="ignore"):
        values = np.unique(every_code(name).astype(np.float64))
    values = values[np.isfinite(values)]
    beyond = values[-1] + np.array([0.5, 1.0, 1.5]) * (values[-1] - values[-2])
    return np.concatenate([values, (values[1:] + values[:-1]) / 2, beyond, -beyond])


SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-45, -1e-45, 1e-38, 3.4e38, -3.4e38]


def float32_samples() -> np.ndarray:
    """The turning points of all types and their neighbours on both sides, special values, and random bits."""
    with np.errstate(all="ignore"):
        points = np.concatenate([turning_points(name) for name in FLOATS]).astype(np.float32)
    powers = np.float32(2.0) ** np.arange(-149, 128, dtype=np.float32)
    points = np.concatenate([points, powers, powers * np.float32(1.5), np.array(SPECIAL, np.float32)])
    random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, np.uint32).view(np.float32)
    near = [np.nextafter(points, np.float32(s) * np.inf, dtype=np.float32) for s in (-1, 1)]
    return np.concatenate([points, *near, random])


def to_narrow_floats() -> list[Cast]:
    casts = [Cast(to=DTYPES[name], saturate=s) for name in FLOAT8 for s in (True, False)]
    casts += [Cast(to=DTYPES[name]) for name in ("bfloat16", "float4_e2m1fn")]
    return casts + [Cast(to=DTYPES["float8_e8m0fnu"], saturate=s, round_mode=m) for s in (True, False) for m in ("up", "down", "nearest")]


def test_float32_is_rounded_once(cache: Path) -> None:
    check_casts(float32_samples(), [*to_narrow_floats(), Cast(to=DTYPES["float16"])], cache)


def test_every_float16_is_converted(cache: Path) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    check_casts(values, [*to_narrow_floats(), Cast(to=DTYPES["float32"]), Cast(to=DTYPES["float64"])], cache)


def test_float64_is_rounded_once(cache: Path) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    with np.errstate(all="ignore"):
        points = np.concatenate([turning_points(name) for name in [*FLOAT8, "float4_e2m1fn"]] + [turning_points("bfloat16")[::7]])
        points = np.concatenate([points, halves, (halves[1:] + halves[:-1]) / 2, [*SPECIAL, 1e300, -1e300, 5e-324, 1e-60]])
        near = [np.nextafter(points, s * np.inf) for s in (-1.0, 1.0)]
        close = [points * (1 + s * 2.0**-30) for s in (-1, 1)]
    check_casts(
        np.concatenate([points, *near, *close]), [*to_narrow_floats(), Cast(to=DTYPES["float32"]), Cast(to=DTYPES["float16"])], cache
    )


@pytest.mark.parametrize("kind", ["int32", "int64", "uint32", "uint64"])
def test_wide_integers_are_rounded_once(kind: str, cache: Path) -> None:
    info, rng = np.iinfo(kind), np.random.default_rng(1)
    powers = [1 << k for k in range(info.bits - (info.min < 0))]
    near = [p + (p >> s) + d for p in powers for s in (8, 9, 70) for d in (-1, 0, 1)]
    values = sorted({v for n in [*near, info.max, info.max - 1] for v in (n, -n, n - 2**11) if info.min <= v <= info.max})
    random = rng.integers(info.min, info.max, 4096, kind, endpoint=True)
    casts = [
        Cast(to=DTYPES[name])
        for name in ("bfloat16", "float8_e5m2", "float8_e4m3fn", "float4_e2m1fn", "float8_e8m0fnu", "int4", "uint2", "float16")
    ]
    check_casts(np.concatenate([np.array(values, kind), random, random >> np.array(info.bits // 2, kind)]), casts, cache)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "bool"])
def test_every_short_integer_is_converted(kind: str, cache: Path) -> None:
    width = 1 if kind == "bool" else np.iinfo(kind).bits
    values = np.arange(1 << width).astype(kind)
    names = ("bfloat16", "float8_e4m3fnuz", "float4_e2m1fn", "float8_e8m0fnu", "int4", "uint4", "int2", "uint2", "float16")
    check_casts(values, [Cast(to=DTYPES[name]) for name in names], cache)


def test_floats_become_short_integers(cache: Path) -> None:
    values = np.concatenate([np.linspace(-40, 40, 1601), [-0.0, 1e5 + 0.5, -1e5 - 0.5]]).astype(np.float32)
    check_casts(values, [Cast(to=DTYPES[name]) for name in INTEGERS], cache)


SIGNED_BITS = {"int8": 31, "int16": 31, "int32": 31, "int64": 63, "uint8": 31, "uint16": 31, "uint32": 63, "uint64": 63}
"""Width of the signed integer, without its sign, through which floats become integers of a type."""


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
def test_floats_become_integers_and_negative_ones_wrap_around(kind: str, cache: Path) -> None:
    small = [0.5, 1.5, 2.5, 127.9, 128.0, 128.9, 255.9, 300.7, 32767.5, 32768.5, *np.linspace(0, 99, 57)]
    powers = [2.0**k - d for k in range(7, 16 if kind == "float16" else 64) for d in (0.0, 2.0 ** (k - 10))]
    for target, bits in SIGNED_BITS.items():
        fitting = np.array([v for v in [*small, *powers] if v < 2.0**bits])
        unsigned = [1.5 * 2.0**63] if target == "uint64" and kind != "float16" else []
        check_casts(np.concatenate([fitting, -fitting, unsigned]).astype(kind), [Cast(to=DTYPES[target])], cache)


@pytest.mark.parametrize("name", list(CARRIERS))
def test_every_code_is_decoded(name: str, cache: Path) -> None:
    wider = ["float32", "float16", "bool"] if "float" in name else ["float32", "float16", "int8", "uint8", "int32", "int64", "bool"]
    narrower = [n for n in ("bfloat16", "float8_e5m2", "float4_e2m1fn") if n != name] + ([] if "float" in name else ["int4", "uint2"])
    check_casts(every_code(name), [Cast(to=DTYPES[n]) for n in [*wider, *narrower] if n != name], cache)


def random_codes(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random values of a narrow type, NaN among them where it has them."""
    bits = DTYPES[name].bits
    return np.random.default_rng(seed).integers(0, 1 << bits, shape).astype(DTYPES[CARRIERS[name]].numpy).view(DTYPES[name].numpy)


def movements(b: Builder, x: Value, i: Value, p: Value) -> list[Value]:
    """Operators that move elements, on x [2, 4, 3, 6], indices i [2, 2] and choices p [2, 4, 3, 6]."""
    weights = b.constant(random_codes(x.type.dtype.name, (2, 4, 3, 6), 1))
    one = b.constant(random_codes(x.type.dtype.name, (), 5))
    indices = b.constant(np.array([[[[0, 2, 1, 5, 4, 3]]]]))
    return [
        b.Transpose(x, perm=(0, 2, 3, 1)), b.Slice(x, starts=(1, -1), ends=(3, -10), axes=(1, 3), steps=(1, -2)), b.Concat(x, weights, axis=2),
        b.Expand(b.Reshape(x, shape=(2, 1, 4, 3, 6)), shape=(2, 2, 4, 3, 6)), b.Tile(x, repeats=(1, 2, 1, 1)), b.Pad(x, one, pads=(0, 1, 2, 0, 0, 0, 1, 3)),
        b.Pad(x, pads=(0, 0, 2, 1, 0, 0, 1, 3), mode="reflect"), b.Gather(x, i, axis=2), b.Gather(weights, i, axis=0), b.DepthToSpace(x, blocksize=2),
        b.GatherElements(x, b.constant(np.zeros((2, 4, 1, 6), np.int64)), axis=2), b.SpaceToDepth(b.Reshape(x, shape=(2, 3, 4, 6)), blocksize=2),
        b.Where(p, x, weights), b.Where(p, one, x), b.ScatterElements(x, indices, b.constant(random_codes(x.type.dtype.name, (1, 1, 1, 6), 2)), axis=3),
        b.ScatterND(x, b.constant(np.array([[1], [0]])), weights), b.ReverseSequence(b.Reshape(x, shape=(4, 2, 18)), b.constant(np.array([1, 4])), batch_axis=1, time_axis=0),
        *b.node(make_op("Split", {"axis": 3, "sizes": (2, 4)}), [x]).outputs, b.GatherND(x, b.Reshape(i, shape=(2, 2))),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float4_e2m1fn", "int4"])
def test_elements_are_moved_as_codes(name: str, cache: Path) -> None:
    graph = Graph("moves")
    x, i, p = (graph.add_input(n, tensor_type(t)) for n, t in (("x", f"{name}[2,4,3,6]"), ("i", "int64[2,2]"), ("p", "bool[2,4,3,6]")))
    graph.set_outputs(movements(Builder(graph), x, i, p))
    feeds = {
        "x": random_codes(name, (2, 4, 3, 6)),
        "i": np.array([[0, 1], [1, 0]]),
        "p": np.random.default_rng(3).random((2, 4, 3, 6)) < 0.5,
    }
    check_equal(graph, feeds, cache)


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS])
def test_numbers_in_attributes_are_encoded(name: str, cache: Path) -> None:
    graph = Graph("numbers")
    b, x = Builder(graph), graph.add_input("x", TensorType(DTYPES[name], (3, 4)))
    graph.set_outputs(
        [
            b.Pad(x, pads=(0, 1, 0, 0)),
            b.Trilu(x),
            b.EyeLike(x, dtype=DTYPES[name]),
            b.ConstantOfShape(shape=(2, 3), value=1, dtype=DTYPES[name]),
        ]
    )
    check_equal(graph, {"x": random_codes(name, (3, 4))}, cache)


def test_ranges_are_rounded_at_their_elements(cache: Path) -> None:
    graph = Graph("ranges")
    b = Builder(graph)
    reals = [b.Range(start=0.1, limit=30, delta=0.3, dtype=DTYPES[name]) for name in ("float16", "bfloat16")]
    graph.set_outputs([*reals, b.Range(start=-20, limit=20, delta=3, dtype=DTYPES["int4"])])
    LegalizeNative().run(graph, PassContext())
    check_equal(graph, {}, cache)


def test_bits_become_another_type(cache: Path) -> None:
    graph = Graph("bits")
    b, x, y = Builder(graph), graph.add_input("x", tensor_type("bfloat16[256]")), graph.add_input("y", tensor_type("uint8[256]"))
    targets = [b.BitCast(x, to=DTYPES[n]) for n in ("int16", "uint16", "float16")] + [b.BitCast(y, to=DTYPES[n]) for n in (*FLOAT8, "int8")]
    graph.set_outputs([*targets, b.BitCast(b.BitCast(y, to=DTYPES["int8"]), to=DTYPES["float8_e5m2"])])
    check_equal(graph, {"x": random_codes("bfloat16", (256,)), "y": np.arange(256, dtype=np.uint8)}, cache)


def quantizable(kind: str) -> np.ndarray:
    """[64, 96]: multiples of an eighth, so that quotients by a power of two hit every tie, with special values in the first row."""
    values = np.random.default_rng(4).integers(-5000, 5000, (64, 96)) / 8
    if kind.startswith("int"):
        return (values * 8).astype(kind)
    special = np.array([np.nan, np.inf, -np.inf, 6e4, -6e4, 0.0, -0.0, 1e-7])
    return np.concatenate([np.tile(special, 12)[None], values[1:]]).astype(DTYPES[kind].numpy)


QUANTIZED = [*INTEGERS, "int8", "uint8", "int16", "uint16", *FLOAT8, "float4_e2m1fn"]


def parameters(b: Builder, kind: str, name: str, shape: tuple[int, ...]) -> tuple[Value, Value]:
    """Scales, powers of two among them, and zero points of a shape."""
    rng = np.random.default_rng(5)
    scale = np.where(rng.random(shape) < 0.5, 2.0 ** rng.integers(-2, 6, shape), rng.uniform(0.1, 20, shape))
    zero = rng.integers(0, 2, shape) if "int" in name else rng.integers(-2, 2, shape)
    return b.constant(scale.astype(DTYPES[kind].numpy)), b.constant(np.asarray(zero.astype(np.float32).astype(DTYPES[name].numpy)))


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "float64", "int32"])
def test_quantization_to_every_type(kind: str, cache: Path) -> None:
    graph = Graph("quantize")
    b, x = Builder(graph), graph.add_input("x", tensor_type(f"{kind}[64,96]"))
    real = "float32" if kind == "int32" else kind
    results = []
    for k, name in enumerate(QUANTIZED):
        shape, block = [((), 0), ((96,), 0), ((64, 6), 16)][k % 3]
        scale, zero = parameters(b, real, name, shape)
        op = make_op("QuantizeLinear", {"dtype": DTYPES[name], "axis": 1, "block_size": block, "saturate": k % 2 == 0})
        results += [b(op, x, scale, zero), b(op, x, scale)]
    graph.set_outputs(results)
    check_equal(graph, {"x": quantizable(kind)}, cache)


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
def test_quantization_in_a_given_precision(precision: str, cache: Path) -> None:
    graph = Graph("precision")
    b, x = Builder(graph), graph.add_input("x", tensor_type("float32[64,96]"))
    scale, _ = parameters(b, "float32", "int8", (96,))
    ops = [make_op("QuantizeLinear", {"dtype": DTYPES[n], "precision": DTYPES[precision]}) for n in ("int8", "int4", "float8_e4m3fn")]
    graph.set_outputs([b(op, x, scale) for op in ops])
    check_equal(graph, {"x": quantizable("float32")}, cache)


@pytest.mark.parametrize("name", [*QUANTIZED, "float8_e8m0fnu", "int32"])
def test_dequantization_from_every_type(name: str, cache: Path) -> None:
    graph = Graph("dequantize")
    element = DTYPES[name]
    bits = DTYPES[CARRIERS.get(name, name)].numpy
    values = np.resize(
        every_code(name).view(bits) if name in CARRIERS else np.arange(-(2**31), 2**31, 698_411).astype(bits), (64, 96)
    ).view(element.numpy)
    b, x = Builder(graph), graph.add_input("x", TensorType(element, (64, 96)))
    results = []
    for kind, to, shape, block in (
        ("float32", "float32", (), 0),
        ("float16", "float16", (96,), 0),
        ("bfloat16", "bfloat16", (64, 6), 16),
        ("float64", "float64", (), 0),
    ):
        scale, zero = parameters(b, kind, name, shape)
        op = make_op("DequantizeLinear", {"dtype": DTYPES[to], "axis": 1, "block_size": block})
        results += [b(op, x, scale)] if name == "float8_e8m0fnu" else [b(op, x, scale, zero), b(op, x, scale)]
    graph.set_outputs(results)
    check_equal(graph, {"x": values}, cache)
