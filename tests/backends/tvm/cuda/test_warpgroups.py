"""Products by groups of four warps, which sm_90 has: the emulator runs them in the background and finds what is touched too early."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.cuda.compilers import Image
from lepton_compiler.backends.tvm.cuda.package import build
from lepton_compiler.backends.tvm.cuda.tensor_cores import (
    Arithmetic,
    Element,
    Gemm,
    Matrix,
    Shape,
    Tiling,
    device_of,
    library,
    ranked,
    shape_of,
)
from lepton_compiler.backends.tvm.cuda.tensor_cores.tiles import seconds
from lepton_compiler.feeds import random_feeds
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ops.builder import Builder
from lepton_compiler.testing.cuda_emulator import DeviceFault, available
from tests.backends.tvm.cuda.test_tensor_cores import Case, conv_case, gemm_case

H100 = device_of("sm_90")
SIGNS: list[tuple[Element, Element]] = [("int8", "int8"), ("uint8", "int8"), ("int8", "uint8"), ("uint8", "uint8")]


def groups(rows: int, columns: int, warp: tuple[int, int], stages: int, end: int, splits: int = 1, depth: int = 64) -> Tiling:
    """Tiles for groups of warps: `end` is the depth of the product, or of a part of it."""
    return Tiling(rows, columns, *warp, depth, stages, splits, end, groups=True)


def half(symbol: str, sizes: tuple[int, int, int], tiling: Tiling, **more) -> Case:
    """A product of fp16 with the right operand along the sum."""
    return gemm_case(symbol, sizes, more.pop("arithmetic", "float16"), H100, transposed="b", tiling=tiling, **more)


def codes(symbol: str, elements: tuple[Element, Element]) -> Case:
    """A product of bytes."""
    return half(symbol, (70, 70, 400), groups(64, 128, (32, 64), 3, 512, depth=128), arithmetic="int8", elements=elements)


CASES: dict[str, Callable[[str], Case]] = {
    "wide": lambda s: half(s, (140, 260, 328), groups(128, 256, (64, 64), 4, 384)),
    "tall": lambda s: half(s, (300, 136, 200), groups(256, 128, (64, 64), 3, 256)),
    "square": lambda s: half(s, (130, 136, 520), groups(128, 128, (64, 32), 3, 576)),
    "split": lambda s: half(s, (100, 60, 250), groups(128, 64, (32, 32), 3, 128, 2), arithmetic="bfloat16"),
    "odd": lambda s: half(s, (67, 61, 133), groups(64, 64, (32, 32), 5, 192), arithmetic="bfloat16"),
    "flat": lambda s: half(s, (64, 200, 64), groups(64, 256, (64, 64), 4, 64), batch=(2,)),
    "three_quarters": lambda s: half(s, (128, 192, 192), groups(128, 192, (64, 48), 4, 192)),
    "conv": lambda s: conv_case(
        s, H100, tiling=groups(128, 96, (32, 48), 4, 320), arithmetic="float16", images=2, height=9, width=8, channels=32, out_channels=72,
        kernel=(3, 3), strides=(1, 2), pads=(1, 1, 1, 1),
    ),
    "conv_groups": lambda s: conv_case(
        s, H100, tiling=groups(64, 64, (32, 32), 4, 192), arithmetic="bfloat16", images=1, height=9, width=8, channels=36, out_channels=40,
        kernel=(3, 3), dilations=(2, 1), groups=2,
    ),
    "codes_turned": lambda s: gemm_case(
        s, (130, 136, 300), "int8", H100, elements=SIGNS[1], tiling=groups(128, 128, (64, 32), 3, 384, depth=128)
    ),
    "codes_split": lambda s: half(s, (70, 36, 1056), groups(128, 64, (32, 32), 4, 384, 3, 128), arithmetic="int8", elements=SIGNS[1]),
    "conv_codes": lambda s: conv_case(
        s, H100, tiling=groups(64, 64, (32, 32), 3, 256, depth=128), arithmetic="int8", element="uint8", fill=117, images=1, height=9, width=8,
        channels=16, out_channels=48, kernel=(3, 3), pads=(1, 1, 1, 1),
    ),
}  # fmt: skip
CASES |= {f"codes{k}": partial(codes, elements=signs) for k, signs in enumerate(SIGNS)}


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: make(name) for name, make in CASES.items()}


@pytest.fixture(scope="module")
def unit(cases) -> str:
    return "\n".join([library(), *(case.plan.text for case in cases.values())])


@pytest.mark.skipif(bool(available()), reason=available())
@pytest.mark.parametrize("name", CASES)
def test_groups_of_warps_agree_with_the_evaluator(name, cases, unit):
    figures = cases[name].check(unit, backwards=len(name) % 2 == 0, architecture="sm_90a")
    assert figures[0].matrix_products > 0 and figures[0].matrix_loads == 0


@pytest.mark.skipif(bool(available()), reason=available())
@pytest.mark.parametrize("name", ["wide", "three_quarters", "conv_codes"])
def test_the_same_text_is_for_gpus_without_groups(name, cases, unit):
    assert cases[name].check(unit)[0].matrix_loads > 0


def graph_of(rows: int, depth: int, columns: int) -> Graph:
    """A product of data and a constant that is stored across the sum, as ONNX has them, and what follows."""
    graph = parse_graph(f"graph @net(%x: float32[{rows},{depth}]) {{\n  return %x\n}}\n")
    b, rng = Builder(graph), np.random.default_rng(0)
    weights, bias = (rng.standard_normal(shape).astype(np.float32) / 8 for shape in ((depth, columns), (columns,)))
    graph.set_outputs([b.Relu(b.Add(b.MatMul(graph.inputs[0], b.constant(weights)), b.constant(bias)))])
    return graph


@pytest.mark.parametrize(("quantize", "precision", "tolerance"), [(None, "fp16", 1e-3), ("w8", "fp16", 1e-3), ("w4", "bf16", 8e-3)])
def test_artefacts_multiply_in_groups_and_run_on_later_gpus_without(gpu, monkeypatch, tmp_path, quantize, precision, tolerance):
    monkeypatch.setattr(
        build, "compile_images", lambda text, gpus, *rest: ([Image(g, is_ptx, b"code") for g in gpus for is_ptx in (False, True)], "none")
    )
    graph = graph_of(1024, 64, 512)
    model, feeds = lc.compile(graph, target="cuda:sm_90", level=3, precision=precision, quantize=quantize), random_feeds(graph.inputs)
    model.save(tmp_path / "model")
    assert model.artifact is not None
    text = model.artifact.files["net.cu"].decode()
    assert "lepton::multiply_on_warpgroups<" in text
    lowered = f"lower-precision{{to={'float16' if precision == 'fp16' else 'bfloat16'}}}"
    passes = ",".join([f"quantize{{scheme={quantize}}}", lowered] if quantize else [lowered])
    (wanted,) = lc.evaluate(lc.optimize(graph, level=2, target="cuda", passes=passes), feeds).values()
    for capability in ((9, 0), (10, 0)):
        gpu.configure(capability=capability)
        gpu.forget()
        gpu.know(text, model.manifest)
        (found,) = lc.load(tmp_path / "model").run(feeds).values()
        assert not gpu.faults
        assert np.abs(found - wanted).max() <= tolerance * np.ptp(wanted)
    gpu.configure()


def test_tiles_are_good_for_all_architectures_of_a_target():
    """Together they take no longer than with what is best for the one that decides alone where shared memory is scarce."""
    a100 = device_of("sm_80")
    shape = Shape(1, 4096, 3072, 768, "float16", 2, 2 * (4096 * (768 + 3072) + 768 * 3072), groupable=True)
    one, other = ranked(shape, a100, [a100])[0], ranked(shape, H100, [H100])[0]
    both = ranked(shape, replace(a100, group=H100.group), [a100, H100])[0]
    assert other.groups and both.groups and not one.groups
    assert seconds(shape, both, a100) < 1.1 * seconds(shape, one, a100) and seconds(shape, both, H100) < 0.8 * seconds(shape, one, H100)


def test_what_groups_multiply_lies_along_the_sum_in_words():
    def groupable(depth: int, arithmetic: Arithmetic = "float16", b: tuple[int, int] | None = None, zero_a: bool = False) -> bool:
        element: Element = "int8" if arithmetic == "int8" else "float16"
        row, column = b or (1, depth)
        operands = Matrix("a", element, depth, 1), Matrix("b", element, row, column)
        return shape_of("product", Gemm(256, 256, depth, *operands, arithmetic, zero_a=zero_a)).groupable

    assert groupable(64) and groupable(62) and groupable(64, "int8") and groupable(60, "int8")
    assert not groupable(63) and not groupable(64, b=(256, 1)) and not groupable(62, "int8") and not groupable(64, "int8", zero_a=True)
    assert groupable(64, "int8", b=(256, 1))  # turned on the way


def test_large_products_are_of_groups_and_tiny_ones_of_warps():
    def best(m: int, n: int, k: int, arithmetic: Arithmetic) -> Tiling:
        return ranked(Shape(1, m, n, k, arithmetic, 1 if arithmetic == "int8" else 2, m * n, groupable=True), H100, [H100])[0]

    depths: dict[Arithmetic, int] = {"float16": 64, "bfloat16": 64, "int8": 128}
    for arithmetic, depth in depths.items():
        large, tiny = best(8192, 8192, 4096, arithmetic), best(16, 128, 128, arithmetic)
        assert large.groups and large.block_m * large.block_n == 128 * 256 and large.depth == depth and not tiny.groups


FAULTS = {
    "two groups are left under way": ("wgmma_wait<1>()", "wgmma_wait<2>()", "under way reads"),
    "loads run too far ahead": ("AHEAD = STAGES - 2", "AHEAD = STAGES - 1", "under way reads"),
    "sums are used at once": ("  wgmma_wait<0>();\n", "", "has not waited for"),
    "a copy is not waited for": ("cp_async_wait<AHEAD - 1>()", "cp_async_wait<AHEAD>()", "under way reads|did not publish"),
    "copies are not published": ("    wgmma_publish();\n", "", "did not publish"),
    "copies are published too early": ("    cp_async_wait<AHEAD - 1>();\n    wgmma_publish();", "    wgmma_publish();\n    cp_async_wait<AHEAD - 1>();", "did not publish"),
    "there is no barrier": ("    wgmma_publish();\n    __syncthreads();", "    wgmma_publish();", "with no barrier"),
    "registers are not fenced": ("    wgmma_fence();\n", "", "without wgmma.fence"),
    "nothing is waited for at the end": ("  wgmma_wait<0>();\n  wgmma_finished(sums);\n", "  return;\n", "ends while products"),
    "rows on their way out meet tiles": ("  __syncthreads();  // the rows on their way out", "  // the rows on their way out", "with no barrier"),
}  # fmt: skip


@pytest.mark.skipif(bool(available()), reason=available())
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_out_of_order_is_found(fault, cases):
    case, (right, wrong, message) = cases["square"], FAULTS[fault]
    text = f"{library()}\n{case.plan.text}"
    begin = text.index("void multiply_on_warpgroups")
    assert right in text[begin:]
    with pytest.raises(DeviceFault, match=message):
        case.check(text[:begin] + text[begin:].replace(right, wrong, 1), architecture="sm_90a")


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
def test_products_of_groups_follow_each_other_without_a_wait(cases, unit, tmp_path):
    """The compiler says so where it cannot leave them in the background, and it keeps all sums in registers."""
    (tmp_path / "unit.cu").write_text(unit)
    command = ["nvcc", "-std=c++17", "-gencode=arch=compute_90a,code=sm_90a", "-cubin", "-Xptxas", "-v", "unit.cu", "-o", "unit.cubin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not re.search("warning|serialized", done.stderr)
    assert re.findall(r"(\d+) bytes spill stores", done.stderr) == ["0"] * sum(len(case.plan.launches) for case in cases.values())
