from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest

from lepton_compiler.backends.tvm.cuda.tensor_cores import (
    Arithmetic,
    Convolution,
    Device,
    Element,
    Epilogue,
    Gemm,
    Matrix,
    Plan,
    Tiling,
    alternatives,
    device_of,
    generate,
    library,
    pack_weights,
    shape_of,
)
from lepton_compiler.backends.tvm.cuda.tensor_cores.tiles import Shape, candidates, choose, shared_bytes
from lepton_compiler.ops.conv import Conv
from lepton_compiler.testing.cuda_emulator import DeviceFault, Statistics, available, run

NUMPY = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int8": np.int8,
    "uint8": np.uint8,
}
TOLERANCE = {"float32": 2e-6, "tf32": 1e-3, "float16": 2e-6, "bfloat16": 2e-6, "int8": 0.0}
"""Of the largest result. Products of 16-bit floats are exact in float32, so that only sums round."""
C_TYPES = {"float32": "float", "float16": "unsigned short", "bfloat16": "unsigned short", "int8": "signed char", "uint8": "unsigned char"}


def epilogue(
    symbol: str, operands: Mapping[str, str], value: str, place: str, out: str = "float", size: int = 4, total: str = "float"
) -> Epilogue:
    """An epilogue over parameters with these C types, and `out`."""
    parameters = ", ".join([*(f"const {t} *__restrict__ {p}" for p, t in operands.items()), f"{out} *__restrict__ out"])
    head = "static __device__ __forceinline__"
    helpers = (
        f"{head} {out} {symbol}_value({parameters}, int batch, int m, int n, {total} sum) {{ return {value}; }}\n"
        f"{head} int {symbol}_place({parameters}, int batch, int m, int n) {{ return {place}; }}\n"
    )
    return Epilogue(symbol, helpers, parameters, (*operands, "out"), "out", out, size)


def integer_helper(end: Epilogue, name: str, value: str) -> str:
    """One more helper of an epilogue."""
    return f"static __device__ __forceinline__ int {end.symbol}_{name}({end.parameters}, int batch, int m, int n) {{ return {value}; }}\n"


@dataclass
class Case:
    """One product, ready to run.

    Attributes:
        arrays: by parameter; `out` is written.
        expected: what `out` shall be.
        weights: arrays that nothing writes.
    """

    plan: Plan
    arrays: dict[str, np.ndarray]
    expected: np.ndarray
    tolerance: float
    weights: frozenset[str] = frozenset()

    def check(self, text: str, backwards: bool = False, architecture: str = "sm_80") -> list[Statistics]:
        """Run its kernels, out of the text of a whole unit, and compare."""
        out = self.arrays["out"]
        out[...] = 99
        scratch = np.full(max(1, self.plan.workspace_bytes // 4), -1, np.int32)
        arrays = {**self.arrays, "workspace": scratch}
        capability = int(architecture.removeprefix("sm_").rstrip("a"))
        figures = []
        for launch in self.plan.launches:
            if launch.before and capability >= launch.before:
                continue
            given, weights = [arrays[a] for a in launch.arguments], [k for k, a in enumerate(launch.arguments) if a in self.weights]
            sizes = launch.grid, launch.block, launch.shared_bytes
            figures.append(run(text, launch.symbol, *sizes, given, backwards=backwards, architecture=architecture, weights=weights))
        error = np.abs(out.astype(np.float64) - self.expected.astype(np.float64)).max()
        assert error <= self.tolerance * np.abs(self.expected.astype(np.float64)).max()
        return figures


def gemm_case(
    symbol: str,
    sizes: tuple[int, int, int],
    arithmetic: Arithmetic,
    device: Device,
    *,
    transposed: str = "",
    batch: tuple[int, ...] = (),
    shared_b: bool = False,
    elements: tuple[Element, Element] | None = None,
    tiling: Tiling | None = None,
    weights: frozenset[str] = frozenset(),
) -> Case:
    """A random product with a bias along n and a maximum with 0; `transposed` names operands that lie the other way round."""
    m, n, k = sizes
    one: Element = "float32" if arithmetic == "tf32" else arithmetic
    ea, eb = elements or (one, one)
    rng = np.random.default_rng(len(symbol))
    a, b = _random(rng, (*batch, m, k), ea), _random(rng, (k, n) if shared_b else (*batch, k, n), eb)
    total = "int" if arithmetic == "int8" else "float"
    bias = _random(rng, (n,), "float32" if total == "float" else "int8").astype(np.float32 if total == "float" else np.int32)
    wide = np.int64 if total == "int" else np.float64
    expected = np.maximum(a.astype(wide) @ b.astype(wide) + bias.astype(wide), 0)
    steps_a = tuple(m * k * math.prod(batch[i + 1 :]) for i in range(len(batch)))
    steps_b = tuple(0 if shared_b else k * n * math.prod(batch[i + 1 :]) for i in range(len(batch)))
    problem = Gemm(
        m,
        n,
        k,
        Matrix("a", ea, *((1, m) if "a" in transposed else (k, 1)), steps_a),
        Matrix("b", eb, *((1, k) if "b" in transposed else (n, 1)), steps_b),
        arithmetic,
        batch,
    )
    value = "max(sum + bias[n], 0)" if total == "int" else "fmaxf(sum + bias[n], 0.0f)"
    end = epilogue(symbol, {"a": C_TYPES[ea], "b": C_TYPES[eb], "bias": total}, value, f"(batch * {m} + m) * {n} + n", total, 4, total)
    arrays = {
        "a": np.ascontiguousarray(a.swapaxes(-1, -2)) if "a" in transposed else a,
        "b": np.ascontiguousarray(b.swapaxes(-1, -2)) if "b" in transposed else b,
        "bias": bias,
        "out": np.zeros((*batch, m, n), np.int32 if total == "int" else np.float32),
    }
    return Case(generate(symbol, problem, replace(end, weights=weights), device, tiling), arrays, expected, TOLERANCE[arithmetic], weights)


def conv_case(symbol: str, device: Device, tiling: Tiling | None = None, **attributes) -> Case:
    """A random convolution with a bias; the expected result is the evaluator's, in float."""
    arithmetic = attributes["arithmetic"]
    element, fill = attributes.pop("element", "float32" if arithmetic == "tf32" else arithmetic), attributes.pop("fill", 0)
    weight_element: Element = "int8" if arithmetic == "int8" else element
    conv = Convolution("x", "w", element, weight_element, filled=fill != 0, **attributes)
    rng = np.random.default_rng(len(symbol))
    x = _random(rng, (conv.images, conv.channels, conv.height, conv.width), element)
    w = _random(rng, (conv.out_channels, conv.channels // conv.groups, *conv.kernel), weight_element)
    total = "int" if arithmetic == "int8" else "float"
    bias = np.arange(conv.out_channels).astype(np.int32 if total == "int" else np.float32)
    expected = _evaluated(conv, x.astype(np.float32) - fill, w.astype(np.float32)) + bias[:, None, None]
    if fill:  # products with the zero point, which the epilogue of a quantized layer takes off
        expected = expected + fill * w.astype(np.float32).sum((1, 2, 3))[:, None, None]
    outs, pixels = conv.out_channels // conv.groups, conv.out_height * conv.out_width
    channel = f"batch * {outs} + n" if conv.channels_last else f"batch % {conv.groups} * {outs} + m"
    place = f"m * {conv.out_channels} + {channel}" if conv.channels_last else f"(batch * {outs} + m) * {pixels} + n"
    operands = {"x": C_TYPES[element], "w": C_TYPES[weight_element], "bias": total}
    end = epilogue(symbol, operands, f"sum + bias[{channel}]", place, total, 4, total)
    if fill:
        end = replace(end, helpers=end.helpers + integer_helper(end, "fill", str(fill)))
    last: Callable[[np.ndarray], np.ndarray] = lambda v: np.ascontiguousarray(v.transpose(0, 2, 3, 1) if conv.channels_last else v)  # noqa: E731
    arrays = {"x": last(x), "w": pack_weights(conv, w), "bias": bias, "out": np.zeros_like(last(expected), dtype=bias.dtype)}
    return Case(generate(symbol, conv, end, device, tiling), arrays, last(expected), TOLERANCE[arithmetic])


def _evaluated(conv: Convolution, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    op = Conv(strides=conv.strides, pads=conv.pads, dilations=conv.dilations, groups=conv.groups)
    return op.evaluate(x, w)[0]


def _random(rng: np.random.Generator, shape: tuple[int, ...], element: str) -> np.ndarray:
    if element in ("int8", "uint8"):
        return rng.integers(*((-128, 128) if element == "int8" else (0, 256)), shape).astype(NUMPY[element])
    return rng.standard_normal(shape).astype(NUMPY[element])


A100 = device_of("sm_80")
CASES: dict[str, Callable[[str], Case]] = {
    "half": lambda s: gemm_case(s, (70, 72, 104), "float16", A100),
    "half_other_way": lambda s: gemm_case(s, (72, 40, 50), "float16", A100, transposed="ab"),
    "half_odd": lambda s: gemm_case(s, (67, 61, 53), "float16", A100, transposed="b"),
    "half_even": lambda s: gemm_case(s, (34, 62, 54), "float16", A100, tiling=Tiling(64, 64, 32, 32, 32, 3, 1, 64)),
    "half_row": lambda s: gemm_case(s, (1, 40, 1024), "float16", A100, transposed="b"),
    "half_large_tiles": lambda s: gemm_case(s, (130, 144, 72), "float16", A100, tiling=Tiling(128, 128, 64, 64, 32, 4, 1, 96)),
    "half_split": lambda s: gemm_case(s, (24, 20, 512), "float16", A100, tiling=Tiling(32, 32, 16, 16, 64, 2, 3, 192)),
    "bfloat": lambda s: gemm_case(s, (33, 48, 80), "bfloat16", A100, batch=(2, 3)),
    "tf32": lambda s: gemm_case(s, (40, 36, 44), "tf32", A100),
    "tf32_other_way": lambda s: gemm_case(s, (40, 36, 44), "tf32", A100, transposed="ab"),
    "fp32": lambda s: gemm_case(s, (130, 70, 60), "float32", A100, tiling=Tiling(128, 64, 64, 32, 16, 3, 1, 64)),
    "fp32_other_way": lambda s: gemm_case(s, (65, 36, 41), "float32", A100, transposed="ab"),
    "fp32_odd_batch": lambda s: gemm_case(s, (7, 33, 29), "float32", A100, batch=(2, 2), shared_b=True),
    "fp32_split": lambda s: gemm_case(s, (9, 33, 300), "float32", A100, tiling=Tiling(16, 64, 16, 16, 16, 4, 4, 80)),
    "int8": lambda s: gemm_case(s, (33, 40, 96), "int8", A100, transposed="b"),
    "int8_odd": lambda s: gemm_case(s, (33, 35, 37), "int8", A100, elements=("uint8", "int8")),
    "conv": lambda s: conv_case(s, A100, arithmetic="float16", images=2, height=9, width=7, channels=16, out_channels=24, kernel=(3, 3), pads=(1, 1, 1, 1)),
    "conv_stem": lambda s: conv_case(
        s, A100, arithmetic="float16", images=1, height=13, width=12, channels=3, out_channels=20, kernel=(5, 5), strides=(2, 2), pads=(2, 2, 1, 1)
    ),
    "conv_many_taps": lambda s: conv_case(
        s, A100, arithmetic="float16", images=2, height=9, width=10, channels=4, out_channels=16, kernel=(7, 7), strides=(2, 1), pads=(3, 3, 3, 2)
    ),
    "conv_long": lambda s: conv_case(
        s, A100, arithmetic="float16", images=2, height=1, width=40, channels=8, out_channels=24, kernel=(1, 19), strides=(1, 2), pads=(0, 9, 0, 6)
    ),
    "conv_deep": lambda s: conv_case(
        s, A100, arithmetic="float16", images=2, height=6, width=5, channels=64, out_channels=24, kernel=(3, 3), strides=(2, 1), pads=(1, 0, 1, 1),
        dilations=(1, 2), tiling=Tiling(32, 32, 16, 16, 32, 3, 2, 288),
    ),
    "conv_deep_fp32": lambda s: conv_case(
        s, A100, arithmetic="float32", images=1, height=9, width=9, channels=32, out_channels=64, kernel=(3, 3), pads=(1, 1, 1, 1),
        tiling=Tiling(64, 64, 32, 32, 16, 2, 1, 288),
    ),
    "conv_pixels": lambda s: conv_case(
        s, A100, arithmetic="float16", images=2, height=5, width=7, channels=48, out_channels=40, kernel=(1, 1), groups=2
    ),
    "conv_some_pixels": lambda s: conv_case(
        s, A100, arithmetic="tf32", images=2, height=7, width=7, channels=16, out_channels=32, kernel=(1, 1), strides=(2, 2)
    ),
    "conv_groups": lambda s: conv_case(
        s, A100, arithmetic="float32", images=2, height=8, width=6, channels=24, out_channels=36, kernel=(3, 2), groups=3, dilations=(2, 1), pads=(1, 0, 2, 1)
    ),
    "conv_first": lambda s: conv_case(
        s, A100, arithmetic="float32", images=2, height=8, width=7, channels=6, out_channels=10, kernel=(3, 3), strides=(1, 2), groups=2,
        pads=(1, 1, 1, 1), channels_last=False,
    ),
    "conv_first_half": lambda s: conv_case(
        s, A100, arithmetic="float16", images=2, height=6, width=6, channels=24, out_channels=40, kernel=(1, 1), channels_last=False
    ),
    "conv_first_tf32": lambda s: conv_case(
        s, A100, arithmetic="tf32", images=1, height=6, width=5, channels=8, out_channels=16, kernel=(3, 3), pads=(1, 1, 1, 1), channels_last=False
    ),
    "conv_int8": lambda s: conv_case(
        s, A100, arithmetic="int8", element="uint8", fill=117, images=1, height=7, width=6, channels=16, out_channels=32, kernel=(3, 3), pads=(1, 1, 1, 1)
    ),
    "conv_int8_first": lambda s: conv_case(
        s, A100, arithmetic="int8", fill=-3, images=2, height=5, width=6, channels=5, out_channels=9, kernel=(3, 3), pads=(1, 1, 1, 1), channels_last=False
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: make(name) for name, make in CASES.items()}


@pytest.fixture(scope="module")
def unit(cases) -> str:
    return "\n".join([library(), *(case.plan.text for case in cases.values())])


@pytest.mark.skipif(bool(available()), reason=available())
@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_the_evaluator(name, cases, unit):
    figures = cases[name].check(unit, backwards=len(name) % 2 == 0)
    assert all(f.matrix_load_conflicts == 0 for f in figures)
    assert ("fp32" in name or "conv" in name) or figures[0].matrix_products > 0


@pytest.mark.skipif(bool(available()), reason=available())
def test_integers_in_quarters_agree_with_the_evaluator():
    signs: list[tuple[Element, Element]] = [("int8", "int8"), ("uint8", "int8"), ("int8", "uint8"), ("uint8", "uint8")]
    made = [gemm_case(f"quarters{k}", (33, 24, 96), "int8", device_of("sm_75"), elements=e, transposed="b") for k, e in enumerate(signs)]
    text = "\n".join([library(), *(case.plan.text for case in made)])
    for case in made:
        (figures,) = case.check(text, architecture="sm_75")
        assert figures.matrix_products % 4 == 0 and figures.matrix_products > 0


H100, BOTH = device_of("sm_90"), replace(device_of("sm_80"), clusters="some")
SHARED: dict[str, Callable[[str, Device], Case]] = {
    "half": lambda s, d: gemm_case(s, (70, 72, 512), "float16", d, tiling=Tiling(32, 32, 16, 16, 64, 2, 3, 192, clustered=True)),
    "bfloat_odd": lambda s, d: gemm_case(
        s, (41, 33, 500), "bfloat16", d, transposed="b", batch=(2,), tiling=Tiling(32, 64, 16, 32, 32, 3, 4, 128, clustered=True)
    ),
    "tf32": lambda s, d: gemm_case(s, (40, 36, 250), "tf32", d, tiling=Tiling(64, 32, 32, 16, 16, 4, 8, 32, clustered=True)),
    "fp32": lambda s, d: gemm_case(s, (9, 70, 300), "float32", d, tiling=Tiling(16, 64, 16, 16, 16, 4, 5, 64, clustered=True)),
    "fp32_other_way": lambda s, d: gemm_case(
        s, (65, 66, 130), "float32", d, transposed="ab", tiling=Tiling(64, 32, 32, 16, 16, 3, 2, 80, clustered=True)
    ),
    "int8": lambda s, d: gemm_case(s, (33, 40, 384), "int8", d, transposed="b", tiling=Tiling(64, 32, 32, 16, 64, 2, 6, 64, clustered=True)),
    "conv": lambda s, d: conv_case(
        s, d, Tiling(32, 32, 16, 16, 32, 4, 7, 32, clustered=True), arithmetic="float16", images=1, height=9, width=7, channels=24,
        out_channels=40, kernel=(3, 3), pads=(1, 1, 1, 1),
    ),
    "conv_first": lambda s, d: conv_case(
        s, d, Tiling(32, 32, 32, 16, 16, 4, 2, 32, clustered=True), arithmetic="float32", images=2, height=8, width=7, channels=12, out_channels=10,
        kernel=(3, 3), strides=(1, 2), groups=2, pads=(1, 1, 1, 1), channels_last=False,
    ),
    "groups": lambda s, d: gemm_case(
        s, (140, 136, 232), "float16", d, transposed="b", tiling=Tiling(128, 128, 64, 32, 64, 3, 2, 128, groups=True, clustered=True)
    ),
}  # fmt: skip
"""Products whose blocks share sums, in clusters where the architecture has them."""


@pytest.fixture(scope="module")
def shared() -> tuple[dict[str, Case], dict[str, Case], str]:
    """The same products for architectures that all have clusters, and for some that have and some that have not; the text of all."""
    alone = {name: make(name, H100) for name, make in SHARED.items()}
    either = {name: make(f"{name}_either", BOTH) for name, make in SHARED.items()}
    return alone, either, "\n".join([library(), *(case.plan.text for case in (*alone.values(), *either.values()))])


@pytest.mark.skipif(bool(available()), reason=available())
@pytest.mark.parametrize("name", SHARED)
def test_clusters_finish_the_sums_of_their_blocks(name, shared):
    alone, either, text = shared
    plans = alone[name].plan, either[name].plan
    assert [len(p.launches) for p in plans] == [1, 2] and [p.workspace_bytes > 0 for p in plans] == [False, True]
    assert plans[1].launches[1].before == 90
    (figures,) = alone[name].check(text, backwards=len(name) % 2 == 0, architecture="sm_90a")
    x, y, _ = plans[0].launches[0].grid
    assert figures.cluster_barriers == 2 * x and y > 1
    (figures,) = either[name].check(text, backwards=len(name) % 2 == 1, architecture="sm_90a")
    assert figures.cluster_barriers == 2 * x
    out = either[name].arrays["out"].copy()
    apart, finish = either[name].check(text)
    assert apart.cluster_barriers == finish.cluster_barriers == 0
    if name != "groups":  # whose parts are of another instruction then
        np.testing.assert_array_equal(out, either[name].arrays["out"])  # the same bits


@pytest.mark.skipif(bool(available()), reason=available())
@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("  cluster_arrive();\n  cluster_wait();\n", "before a barrier of the cluster"),
        ("    if (pass == PASSES - 1) cluster_arrive();\n", "without having arrived"),
        ("  }\n  cluster_wait();\n", "leaves while others of its cluster read|which has left"),
    ],
)
def test_what_a_cluster_would_do_without_its_barriers_is_found(left_out, message):
    case = SHARED["fp32"]("fp32", H100)
    assert library().count(left_out) == 1
    text = library().replace(left_out, "  }\n" if left_out.startswith("  }") else "") + case.plan.text
    with pytest.raises(DeviceFault, match=message):
        case.check(text)


def test_sums_are_shared_by_clusters_where_that_is_enough():
    shape = Shape(1, 196, 256, 2304, "float16", 2, 2 * (196 * 256 + 256 * 2304 + 196 * 256), groupable=True)
    for device in (H100, replace(H100, group=0)):
        tiling, seconds = choose(shape, device)
        assert tiling.clustered and 1 < tiling.splits <= 8
        assert seconds < choose(shape, replace(device, clusters="none"))[1] - 1e-6
    apart, _ = choose(shape, A100)
    assert not apart.clustered
    deep = Shape(1, 16, 64, 1 << 16, "float16", 2, 1 << 22)
    assert any(t.splits > 8 and not t.clustered for t in candidates(deep, H100, split=True))
    assert H100.processors_of_clusters(8) == 120 and H100.processors_of_clusters(2) == 132


def test_sums_are_split_where_there_are_few_tiles():
    case = gemm_case("thin", (16, 64, 8192), "float16", A100)
    assert [x.symbol for x in case.plan.launches] == ["thin", "thin_finish"]
    assert case.plan.launches[0].grid[1] > 4
    assert case.plan.workspace_bytes == case.plan.launches[0].grid[1] * 16 * 64 * 4


def test_large_products_have_large_tiles():
    large = Shape(1, 4096, 4096, 4096, "float16", 2, 3 * 4096 * 4096 * 2)
    tiling, seconds = choose(large, A100)
    assert tiling.block_m * tiling.block_n >= 128 * 128
    assert tiling.splits == 1
    assert 0.45e-3 < seconds < 0.8e-3  # 312 TFLOP/s would be 0.44 ms


def test_alternatives_are_other_kernels_for_the_same_problem():
    problem = Gemm(512, 512, 512, Matrix("a", "float16", 512, 1), Matrix("b", "float16", 512, 1), "float16")
    found = alternatives(shape_of("product", problem), A100, [A100], 5)
    assert len(set(found)) == len(found) > 5
    assert [replace(tiling, stages=4) for tiling in found[5:]] == [found[0]] * (len(found) - 5)
    assert all(shared_bytes(shape_of("product", problem), tiling) <= A100.shared_per_block for tiling in found)
    end = epilogue("product", {"a": "unsigned short", "b": "unsigned short"}, "sum", "m * 512 + n")
    plans = [generate("product", problem, end, A100, tiling) for tiling in (None, *found)]
    assert plans[0] == plans[1]
    assert len({plan.text for plan in plans}) == len(found)


EARLY: dict[str, tuple[str, Arithmetic, Tiling]] = {
    "left": ("a", "float16", Tiling(64, 64, 32, 32, 32, 3, 1, 192)),
    "right": ("b", "float16", Tiling(32, 32, 16, 16, 64, 2, 3, 64)),
    "both": ("ab", "float32", Tiling(64, 64, 32, 32, 16, 4, 1, 192)),
    "turned": ("b", "int8", Tiling(64, 64, 32, 32, 64, 3, 1, 192)),
}


@pytest.mark.skipif(bool(available()), reason=available())
@pytest.mark.parametrize("name", EARLY)
def test_weights_are_fetched_while_the_kernel_before_runs(name):
    which, arithmetic, tiling = EARLY[name]
    case = gemm_case(f"early_{name}", (40, 44, 192), arithmetic, A100, tiling=tiling, weights=frozenset(which))
    text = "\n".join([library(), case.plan.text])
    assert text.count("lepton::Constant<") == len(which) and ("TurnedTile" in case.plan.text) == (name == "turned")
    case.check(text)
    with pytest.raises(DeviceFault, match=f"of argument {'ab'.index(which[0])} before it waited for the kernel before"):
        replace(case, weights=frozenset()).check(text)


def test_rows_are_not_padded_to_many():
    row = Shape(1, 1, 1000, 2048, "float16", 2, (2048 + 1000 * 2048 + 1000) * 2)
    tiling, _ = choose(row, A100)
    assert tiling.block_m == 16
    assert tiling.splits > 1


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
def test_kernels_compile_without_spilling(tmp_path):
    chosen = {
        "half": gemm_case("half", (512, 512, 64), "float16", A100, tiling=Tiling(128, 128, 64, 64, 32, 4, 1, 64)),
        "fp32": gemm_case("fp32", (512, 512, 64), "float32", A100, tiling=Tiling(128, 128, 64, 32, 16, 4, 1, 64)),
        "conv": CASES["conv"]("conv"),
        "int8": gemm_case("int8", (512, 512, 128), "int8", A100, transposed="b", tiling=Tiling(128, 128, 64, 64, 64, 4, 1, 128)),
        "conv_int8": CASES["conv_int8"]("conv_int8"),
        "turned": gemm_case("turned", (512, 512, 128), "int8", A100, tiling=Tiling(128, 64, 64, 32, 64, 4, 1, 128)),
    }
    (tmp_path / "unit.cu").write_text("\n".join([library(), *(case.plan.text for case in chosen.values())]))
    command = [
        "nvcc",
        "-std=c++17",
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-fatbin",
        "-Xptxas",
        "-v",
    ]
    done = subprocess.run([*command, "unit.cu", "-o", "unit.fatbin"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    spills = re.findall(r"(\d+) bytes spill stores", done.stderr)
    assert len(spills) == 2 * len(chosen)
    assert set(spills) == {"0"}
