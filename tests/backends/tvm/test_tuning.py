"""Choices of kernels: each gives the right numbers, and tuning finds, keeps and proves them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backend import BuildOptions
from lepton_compiler.backends.tvm import build
from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.backends.tvm.tuning.candidates import STAGES, candidates, form_of
from lepton_compiler.backends.tvm.tuning.device import Device
from lepton_compiler.backends.tvm.tuning.kernel_bench import KernelBench
from lepton_compiler.backends.tvm.tuning.model_bench import ModelTimes
from lepton_compiler.backends.tvm.tuning.operands import close
from lepton_compiler.backends.tvm.tuning.process import MeasureError
from lepton_compiler.backends.tvm.tuning.search import Search
from lepton_compiler.backends.tvm.tuning.stage import _by_kernel, across
from lepton_compiler.backends.tvm.tuning.statistics import compare, sign_test
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import FLOAT32, TensorType
from lepton_compiler.ops.builder import Builder, make_op
from lepton_compiler.runtime.library import NativeLibrary
from lepton_compiler.target import parse_target

TARGET = parse_target("x86_64")


def graph_of(cases: Iterable[tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]]) -> Graph:
    """One node per case: operator, attributes, shape of its input, shape of its weights."""
    rng, graph = np.random.default_rng(3), Graph("g")
    outputs: list[Value] = []
    for k, (name, fields, x, w) in enumerate(cases):
        value = graph.add_input(f"x{k}", TensorType(FLOAT32, x))
        weight = graph.constant(rng.standard_normal(w).astype(np.float32) / np.float32(np.sqrt(np.prod(w[1:]))), f"w{k}")
        outputs += Builder(graph).node(make_op(name, fields), [value, weight]).outputs
    graph.set_outputs(outputs)
    return graph


def conv(pad: int = 0, groups: int = 1, stride: int = 1) -> dict[str, Any]:
    spatial = {"strides": (stride, stride), "dilations": (1, 1), "pads": (pad,) * 4}
    return {**spatial, "groups": groups, "layout": "NHWC"}


CHOICES = [
    ("Conv", conv(), (1, 7, 9, 12), (20, 12, 1, 1), Choice(pixels=5, vectors=1, rows=10)),
    ("Conv", conv(), (1, 7, 10, 12), (20, 12, 1, 1), Choice(pixels=3, vectors=3, unroll=4)),
    ("Conv", conv(), (1, 7, 11, 96), (96, 96, 1, 1), Choice(pixels=5, unroll=4)),
    ("Conv", conv(), (1, 7, 12, 96), (96, 96, 1, 1), Choice(prefetch=0)),
    ("Conv", conv(1), (1, 9, 11, 8), (24, 8, 3, 3), Choice(rows=2, pixels=4, vectors=2)),
    ("Conv", conv(1, stride=2), (1, 9, 12, 8), (24, 8, 3, 3), Choice(unroll=2, rows=1)),
    ("Conv", conv(1), (1, 13, 11, 20), (18, 20, 3, 3), Choice(winograd=2, rows=7)),
    ("Conv", conv(1), (2, 13, 12, 20), (18, 20, 3, 3), Choice(winograd=4, rows=8, pixels=3, vectors=1)),
    ("Conv", conv(1), (1, 64, 64, 16), (16, 16, 3, 3), Choice(winograd=0)),
    ("Conv", conv(1, 40), (1, 9, 10, 40), (40, 1, 3, 3), Choice(pixels=3, vectors=1)),
    ("MatMul", {}, (3, 7, 36), (36, 21), Choice(pixels=4, vectors=2, rows=8)),
]
"""Every parameter, on shapes that leave tails."""


def test_a_choice_changes_the_kernel_and_not_the_numbers(tmp_path: Path) -> None:
    graph = graph_of([case[:4] for case in CHOICES])
    target = parse_target("native")
    specs = [spec_of(node) for node in graph]
    choices = {spec.structure: case[4].to_json() for spec, case in zip(specs, CHOICES, strict=True)}
    artifact = build(graph, BuildOptions("m", target, choices=choices, cache_dir=tmp_path))
    assert {row["kernel"]: row["choice"] for row in artifact.manifest["tuning"]} == choices
    called = {row["symbol"] for row in artifact.manifest["calls"]}
    assert called == {row["symbol"] for row in artifact.manifest["tuning"]}
    feeds = {v.name: np.random.default_rng(4).standard_normal(v.type.static_shape).astype(np.float32) for v in graph.inputs}
    got = NativeLibrary.from_bytes(artifact.files["libm.so"], {**artifact.manifest, "name": "m"}).run(feeds)
    for (name, wanted), case in zip(lc.evaluate(graph, feeds).items(), CHOICES, strict=True):
        assert np.abs(got[name] - wanted).max() <= 2e-5 * np.abs(wanted).max(), case


def test_choices_are_part_of_the_cache_key_and_not_of_the_structure() -> None:
    (node,) = graph_of([CHOICES[0][:4]])
    spec = spec_of(node)
    other = replace(spec, choice=Choice(pixels=2))
    assert spec.structure == other.structure
    assert spec.key(TARGET) != other.key(TARGET)


def test_a_choice_that_cannot_be_is_refused() -> None:
    with pytest.raises(lc.UsageError, match="'vectors' = 0 is no choice for a kernel"):
        Choice.from_json({"vectors": 0})
    with pytest.raises(lc.UsageError, match="'tiles' = 3 is no choice"):
        Choice.from_json({"tiles": 3})
    assert Choice.from_json(Choice(winograd=0, rows=5).to_json()) == Choice(winograd=0, rows=5)
    assert not ANALYTIC and Choice(winograd=0)


@pytest.mark.parametrize("cpu", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("case", [0, 4, 8, 9, 10])
def test_candidates_are_few_distinct_and_possible(cpu: str, case: int) -> None:
    (node,) = graph_of([CHOICES[case][:4]])
    form = form_of(spec_of(node))
    assert form is not None
    target, total = parse_target("x86_64", cpu), 0
    for stage in STAGES:
        found = candidates(form, stage, ANALYTIC, target)
        assert len(found) <= 9 and len(set(found)) == len(found) and ANALYTIC not in found
        for choice in found:
            assert Choice.from_json(choice.to_json()) == choice
        total += len(found)
    assert total > 0


def test_kernels_without_parameters_are_left_alone() -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(FLOAT32, (4, 5)))
    graph.set_outputs([Builder(graph).Relu(x)])
    assert form_of(spec_of(next(iter(graph)))) is None


def test_the_sign_test() -> None:
    assert sign_test(0, 5) == 1.0
    assert sign_test(5, 5) == 1 / 32
    clear = compare(np.full(15, 0.9), np.ones(15))
    assert clear.faster(0.05, 0.01) and not clear.faster(0.2, 0.01)
    mixed = compare(np.array([0.5, 0.5, 0.5, 2.0, 2.0]), np.ones(5))
    assert mixed.ratio == 0.5 and not mixed.faster(0.0, 0.05)
    equal = compare(np.ones(9), np.ones(9))
    assert not equal.faster(0.0, 0.5)


def test_results_are_compared_up_to_rounding() -> None:
    expected = np.array([1.0, -2.0, 0.0], np.float32)
    assert close(expected + np.float32(1e-5), expected) and not close(expected + np.float32(0.1), expected)
    assert not close(np.array([1.0, np.nan, 0.0], np.float32), expected)
    assert close(np.arange(3), np.arange(3)) and not close(np.arange(3) + 1, np.arange(3))


def test_a_search_ends_with_a_choice_that_is_right(tmp_path: Path) -> None:
    """On one kernel with few candidates, with as much time as it takes; the winner depends on the machine."""
    import time

    from lepton_compiler.backends.tvm.kernels import Kernel, KernelCache

    (node,) = graph_of([("MatMul", {}, (2, 24), (24, 12))])
    spec, target = spec_of(node), parse_target("native")
    with Device(None, 60.0) as device:
        search = Search(target, device, 2, KernelCache(tmp_path), 1 << 16, time.monotonic() + 300)
        found = search.run(spec, lambda text: None)
        assert found is not None and found.candidates > 0
        assert (found.ratio < 1.0) == bool(found.choice)
        late = replace(search, deadline=time.monotonic() - 1).run(spec, lambda text: None)
        assert late is None
        kernels = search.compile([spec, replace(spec, choice=Choice(unroll=2))])
        assert kernels is not None and isinstance(kernels[0], Kernel) and isinstance(kernels[1], Kernel)
        bench = KernelBench(device, spec, target, [kernels[0], kernels[1]], 1 << 16)
        assert bench.load_and_check() == [0, 1]
        samples = bench.samples([0, 1], 9)
        assert samples.shape == (9, 2) and (samples > 0).all()


STUCK = "int stuck(void) { for (volatile int k = 0; ; k++) ; return 0; }"
BROKEN = "int broken(void) { __builtin_trap(); }"


def measured(text: str, call: str, folder: Path) -> bytes:
    from lepton_compiler.backends.tvm.tuning import harness
    from lepton_compiler.toolchain import find_toolchain

    (folder / "code.c").write_text(text)
    find_toolchain().run(folder, [*find_toolchain().compiler, "-c", "-fPIC", "code.c", "-o", "code.o"])
    contender = harness.Contender(f"int {call}(void);", f"{call}()", ())
    return harness.library(
        harness.source([contender], harness.Table((8,), (0,), 64)), [(folder / "code.o").read_bytes()], parse_target("native")
    )


def test_what_hangs_or_crashes_ends_the_measuring_process_only(tmp_path: Path) -> None:
    with Device(None, 60.0) as device:
        device.load("stuck", measured(STUCK, "stuck", tmp_path))
        with pytest.raises(MeasureError, match="no answer within 1 seconds"):
            device.run(["stuck"], 1, (1, 1), 1, 1.0)
        device.load("broken", measured(BROKEN, "broken", tmp_path))
        with pytest.raises(MeasureError, match="the measuring process died"):
            device.run(["broken"], 1, (1, 1), 1, 60.0)
        device.load("fine", measured("int fine(void) { return 0; }", "fine", tmp_path))
        device.put("fine", 0, np.arange(8, dtype=np.uint8))
        assert device.get("fine", 0, 8) == bytes(range(8))
        assert device.run(["fine"], 3, (1, 1), 1, 60.0).shape == (3, 1, 1, 1)
        device.load("failing", measured("int failing(void) { return 7; }", "failing", tmp_path))
        with pytest.raises(MeasureError, match="returned 7"):
            device.run(["failing"], 1, (1, 1), 1, 60.0)


def test_the_processor_has_one_name(tmp_path: Path) -> None:
    """A board says of itself what the compiler says of this machine."""
    from lepton_compiler.tuning import this_cpu

    if "model name" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this machine does not name its processor")
    with Device(None, 60.0) as device:
        device.load("fine", measured("int fine(void) { return 0; }", "fine", tmp_path))
        assert device.cpu("fine") == this_cpu()


class FakeModel:
    """Times as given, for each set of choices that is loaded."""

    def __init__(self, factors: dict[str, float]) -> None:
        self.factors, self.loaded = factors, dict[str, Any]()

    def load(self, names: Any, choices: Any) -> list[str]:
        self.loaded.update(dict.fromkeys(names, choices))
        return ["a", "b"]

    def times(self, names: Any, seconds: float) -> list[ModelTimes]:
        rounds = 1.0 + 0.01 * (np.arange(15) % 3)
        found = []
        for name in names:
            calls = np.stack([rounds * (self.factors[s] if s in self.loaded[name] else 1.0) for s in ("a", "b")], axis=1)
            found.append(ModelTimes(calls.sum(axis=1), calls))
        return found


@pytest.mark.parametrize(
    ("factors", "kept", "ratio"),
    [({"a": 0.5, "b": 0.9}, {"a", "b"}, 0.7), ({"a": 0.5, "b": 1.2}, {"a"}, 0.75), ({"a": 1.1, "b": 1.0}, set(), 1.0)],
)
def test_choices_that_do_not_help_the_model_are_dropped(factors: dict[str, float], kept: set[str], ratio: float, tmp_path: Path) -> None:
    from lepton_compiler.backends.tvm.kernels import KernelCache
    from lepton_compiler.backends.tvm.tuning.stage import Tuning
    from lepton_compiler.tuning import Database

    device = Device(None, 1.0)
    tuning = Tuning(BuildOptions("m", TARGET), Database(None), device, 10.0, KernelCache(tmp_path), build, lambda text: None)
    model: Any = FakeModel(factors)
    choices, got = tuning.prove(model, {"a": {"pixels": 2}, "b": {"pixels": 3}}, {"a": "a", "b": "b"}, ["a", "b"])
    assert set(choices) == kept
    assert got == pytest.approx(ratio)


def test_one_instance_that_is_lucky_with_its_memory_proves_nothing() -> None:
    rounds = 1.0 + 0.01 * (np.arange(15) % 3)
    plain, lucky, slow = rounds, 0.8 * rounds, 1.01 * rounds
    assert not across([plain, lucky, slow, plain]).faster(0.0, 0.05)
    assert across([plain, lucky, 0.99 * rounds, plain]).faster(0.0, 0.05)


def test_times_of_a_kernel_are_summed_over_its_calls() -> None:
    calls = np.array([[1.0, 2.0, 4.0]])
    assert _by_kernel(ModelTimes(calls.sum(axis=1), calls), ["a", "b", "a"], {"a": "A"}) == {"A": np.array([5.0])}
