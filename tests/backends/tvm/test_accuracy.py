"""float32 functions in native code are within 4 units in the last place, over all exponents, and stay vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lepton_compiler.backend import BuildOptions
from lepton_compiler.backends.tvm import build, kernel_nodes
from lepton_compiler.backends.tvm.kernels import KernelCache, build_kernels
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.builder import Builder
from lepton_compiler.runtime.library import NativeLibrary
from lepton_compiler.target import parse_target

F32, F64 = np.float32, np.float64
BOUND = 4.0
LARGEST = float(np.finfo(F32).max)
Function = Callable[[np.ndarray], np.ndarray]


def samples() -> np.ndarray:
    """For every exponent, denormals, infinities and NaN included, 64 numbers of either sign; more where functions have their corners."""
    rng = np.random.default_rng(0)
    mantissas = rng.integers(0, 1 << 23, (256, 64))
    mantissas[:, :3] = 0, 1, (1 << 23) - 1
    positive = ((np.arange(256)[:, None] << 23) | mantissas).astype(np.uint32).view(F32).reshape(-1)
    quarters = (np.arange(1, 3000) * (math.pi / 4)).astype(F32)
    far = (np.arange(1, 400) * 1e6 * (math.pi / 2)).astype(F32)
    grids = [np.linspace(-a, a, 10_001, dtype=F32) for a in (1, 20, 110)]
    points = np.concatenate([positive, quarters, np.nextafter(quarters, F32(0)), far, *grids])
    return np.concatenate([points, -points])


def logistic(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, small) / (1 + small))


def by_element(function: Callable[[float], float]) -> Function:
    return lambda x: np.array([function(v) for v in x])


EXACT: dict[str, Function] = {
    "Exp": np.exp, "Log": np.log, "Sqrt": np.sqrt, "Reciprocal": np.reciprocal, "Sin": np.sin, "Cos": np.cos, "Tan": np.tan,
    "Asin": np.arcsin, "Acos": np.arccos, "Atan": np.arctan, "Sinh": np.sinh, "Cosh": np.cosh, "Tanh": np.tanh, "Asinh": np.arcsinh,
    "Acosh": np.arccosh, "Atanh": np.arctanh, "Sigmoid": logistic, "Erf": by_element(math.erf),
    "Softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), "Softsign": lambda x: x / (1 + np.abs(x)),
    "Elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), "Celu": lambda x: np.maximum(x, 0) + np.expm1(np.minimum(x, 0)),
    "Selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
    "HardSwish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
}  # fmt: skip
"""Functions in double precision."""

COMPOSITES: dict[str, tuple[Function, Function]] = {
    "Swish": (lambda x: x * logistic(x), lambda x: np.abs(x) * 2.0**-149),
    "Mish": (lambda x: np.where(x > 30, x, x * _mish_gate(np.exp(np.minimum(x, 30)))), lambda x: np.abs(x) * 2.0**-149),
    "Gelu": (lambda x: 0.5 * x * by_element(math.erfc)(-x / math.sqrt(2)), lambda x: np.abs(x) * 2.0**-23),
}
"""Functions, and what their absolute error may be beside 4 units: a denormal factor, or a difference from 1, is rounded before x multiplies it."""


def _mish_gate(e: np.ndarray) -> np.ndarray:
    return np.asarray(e * (e + 2) / (e * (e + 2) + 2))


def unit(values: np.ndarray) -> np.ndarray:
    """One unit in the last place of a float32 of such magnitudes."""
    exponent = np.frexp(values)[1] - 1
    return np.asarray(np.ldexp(1.0, np.maximum(exponent, -126) - 23))


def excess(got: np.ndarray, exact: np.ndarray, slack: np.ndarray | float = 0.0) -> np.ndarray:
    """Errors in units in the last place, less the slack; infinite where a special value is missing or out of place."""
    rounded = exact.astype(F32)
    finite = np.isfinite(rounded)
    safe = np.where(finite, exact, 1.0)
    error = np.maximum(np.abs(got.astype(F64) - safe) - slack, 0) / unit(safe)
    same = (np.isnan(got) & np.isnan(rounded)) | (got == rounded)
    overflow = np.isinf(rounded) & np.isfinite(exact) & (np.abs(got) >= LARGEST)
    rounds_up = np.isinf(got) & (np.abs(safe) > LARGEST * (1 - 2.0**-22))
    return np.asarray(np.where(finite, np.where(rounds_up, 0, error), np.where(same | overflow, 0, np.inf)))


def graph_of(names: list[str], size: int) -> Graph:
    graph = Graph("functions")
    x, b = graph.add_input("x", tensor_type(f"float32[{size}]")), Builder(graph)
    outputs = [getattr(b, name)(x) for name in names]
    for name, value in zip(names, outputs, strict=True):
        graph.rename(value, name)
    graph.set_outputs(outputs)
    return graph


def run(graph: Graph, feeds: dict[str, np.ndarray], cpu: str | None, cache: Path) -> dict[str, np.ndarray]:
    target = parse_target("native") if cpu is None else parse_target("x86_64", cpu)
    artifact = build(graph, BuildOptions("m", target, cache_dir=cache))
    return NativeLibrary.from_bytes(artifact.files["libm.so"], {**artifact.manifest, "name": "m"}).run(feeds)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.mark.parametrize("cpu", [None, "haswell", "x86-64"])
def test_functions_of_one_number(cpu: str | None, cache: Path) -> None:
    """With the widest vectors of this machine, with fused multiply-add, and without."""
    x = samples()
    got = run(graph_of([*EXACT, *COMPOSITES], x.size), {"x": x}, cpu, cache)
    wide = x.astype(F64)
    with np.errstate(all="ignore"):
        worst = {name: float(excess(got[name], exact(wide)).max()) for name, exact in EXACT.items()}
        worst |= {name: float(excess(got[name], exact(wide), slack(wide)).max()) for name, (exact, slack) in COMPOSITES.items()}
    assert max(worst.values()) <= BOUND, {name: error for name, error in worst.items() if error > BOUND}


def test_gelu_by_the_tanh_formula(cache: Path) -> None:
    """Within 4 units and the error of its argument u, which e^2u magnifies by 2 |u|."""
    x = samples()
    graph = Graph("gelu")
    graph.set_outputs([Builder(graph).Gelu(graph.add_input("x", tensor_type(f"float32[{x.size}]")), approximate="tanh")])
    (got,) = run(graph, {"x": x}, None, cache).values()
    with np.errstate(all="ignore"):
        wide = x.astype(F64)
        twice = 2 * math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
        exact = np.where(wide == -np.inf, np.nan, wide * logistic(twice))
        slack = np.abs(exact) * np.minimum(np.abs(twice), 200) * 2.0**-22 + np.abs(wide) * 2.0**-149
        assert excess(got, exact, slack).max() <= BOUND


def test_powers(cache: Path) -> None:
    rng = np.random.default_rng(1)
    corners = np.array([0.0, -0.0, 1, -1, 2, -2, 0.5, 3, -3, np.inf, -np.inf, np.nan, 1e-45, 1e38, -1e-40, 16777217, 33554433.0], F32)
    pairs = [a.reshape(-1) for a in np.meshgrid(corners, corners)]
    base, exponent = samples(), rng.normal(0, 3, samples().size).astype(F32)
    exponent[::3] = np.rint(exponent[::3])
    near = (1 + rng.normal(0, 1e-3, 20_000)).astype(F32), rng.normal(0, 3e4, 20_000).astype(F32)
    x, y = np.concatenate([pairs[0], base, near[0]]), np.concatenate([pairs[1], exponent, near[1]])
    graph = Graph("power")
    a, b = (graph.add_input(name, tensor_type(f"float32[{x.size}]")) for name in "ab")
    graph.set_outputs([Builder(graph).Pow(a, b)])
    (got,) = run(graph, {"a": x, "b": y}, None, cache).values()
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(F64), y.astype(F64))
        worst = excess(got, exact)
    at = int(worst.argmax())
    assert worst[at] <= 1.0, (x[at], y[at], got[at], exact[at])
    assert np.array_equal(np.signbit(got[exact == 0]), np.signbit(exact[exact == 0]))


def test_softmax_sums_to_one_and_follows_its_exponentials(cache: Path) -> None:
    """Within 4 units, the error of `x - max`, which is rounded before it is an exponent, and those of the additions of the sum."""
    rows = np.random.default_rng(2).normal(0, 8, (500, 33)).astype(F32)
    graph = Graph("softmax")
    x, b = graph.add_input("x", tensor_type("float32[500,33]")), Builder(graph)
    graph.set_outputs([b.Softmax(x), b.LogSoftmax(x)])
    soft, log = run(graph, {"x": rows}, None, cache).values()
    shifted = rows.astype(F64) - rows.max(1, keepdims=True)
    total = np.exp(shifted).sum(1, keepdims=True)
    exact = np.exp(shifted) / total
    inner = (np.abs(shifted) + rows.shape[1] / 2) * 2.0**-24
    assert excess(soft, exact, exact * inner).max() <= BOUND
    assert excess(log, shifted - np.log(total), inner).max() <= BOUND


@pytest.mark.parametrize("name", [*EXACT, *COMPOSITES])
def test_kernels_call_nothing_and_are_vectors(name: str, cache: Path) -> None:
    graph, target = graph_of([name], 4096), parse_target("x86_64", "haswell")
    (spec,) = [spec_of(node) for node in kernel_nodes(graph)]
    try:
        (kernel,) = build_kernels([spec], target, jobs=1, cache=KernelCache(cache)).values()
    except LeptonError as error:
        pytest.fail(str(error))
    text = build(graph, BuildOptions("m", target, emit="asm", cache_dir=cache)).files["m.s"].decode()
    assert "call" not in text and "ymm" in text
    assert not any(f"{function}f".encode() in kernel.object for function in ("exp", "log", "sin", "cos", "tan", "pow", "erf"))
