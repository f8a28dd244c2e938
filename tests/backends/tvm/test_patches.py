"""Layers in patches: the same numbers, a smaller arena, and views where patches begin and end."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.analysis.layouts import offset_of
from lepton_compiler.backend import Artifact, BuildOptions
from lepton_compiler.backends.tvm import build
from lepton_compiler.backends.tvm.arena import plan_of
from lepton_compiler.backends.tvm.capabilities import joins
from lepton_compiler.cli.leptonc import main
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.text import parse_graph, write_lir
from lepton_compiler.ir.types import FLOAT32, INT8, TensorType
from lepton_compiler.ir.verify import verify
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.conv import Conv, ConvInteger
from lepton_compiler.ops.pool import AveragePool, MaxPool
from lepton_compiler.runtime.model import CompiledModel
from lepton_compiler.target import parse_target
from lepton_compiler.toolchain import find_toolchain


def random_net(seed: int) -> Graph:
    """Layers of all kinds on images [1, H, W, C] of odd sizes; whole numbers, so that sums are exact in any order."""
    random, graph = np.random.default_rng(seed), Graph("net")
    b = Builder(graph)
    x: Value = graph.add_input("x", TensorType(FLOAT32, (1, int(random.integers(9, 20)), int(random.integers(5, 9)), 3)))

    def filtered(x: Value, stride: int, same: bool) -> Value:
        k, channels = 3 if same else int(random.choice([1, 2, 3, 5])), x.type.static_shape[3]
        deep = not same and random.random() < 0.5
        pads = (1, 1, 1, 1) if same else tuple(int(p) for p in random.integers(0, k, 4))
        shape = (channels, 1, k, k) if deep or same else (int(random.integers(2, 6)), channels, k, k)
        w = b.constant(random.integers(-1, 2, shape).astype(np.float32))
        op = Conv(strides=(stride, stride), pads=pads, groups=channels if deep or same else 1, layout="NHWC")
        return b.Relu(b(op, x, w))

    for _ in range(5):
        kind = random.integers(5)
        if min(x.type.static_shape[1:3]) < 4:
            break
        if kind == 0:
            x = b.Add(x, filtered(x, 1, True))
        elif kind == 1:
            pool = MaxPool if random.random() < 0.5 else AveragePool
            x = b(pool(kernel_shape=(2, 3), strides=(2, 1), pads=(1, 1, 0, 1), dilations=(1, 1), layout="NHWC"), x)
            x = b.Floor(x)
        else:
            x = filtered(x, int(random.integers(1, 3)), False)
    graph.set_outputs([b.ReduceMax(x, axes=(1, 2))])
    return graph


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_numbers_stay_and_the_arena_shrinks(seed: int, fused: bool) -> None:
    graph = random_net(seed)
    if fused:
        graph = lc.optimize(graph, target="cortex-m4", passes="fuse")
    feeds = {"x": np.random.default_rng(seed).integers(-3, 4, graph.inputs[0].type.static_shape).astype(np.float32)}
    expected, before = lc.evaluate(graph, feeds), plan_of(graph).arena_bytes
    for budget in (before * 3 // 4, 0):
        patched = lc.optimize(graph, target="cortex-m4", passes=f"patches{{arena={budget}}}")
        verify(patched)
        assert plan_of(patched).arena_bytes <= before
        for name, want in expected.items():
            np.testing.assert_array_equal(lc.evaluate(patched, feeds)[name], want)


def test_random_nets_are_split_at_all() -> None:
    nets = [lc.optimize(random_net(seed), target="cortex-m4", passes="patches") for seed in range(12)]
    assert sum(any(joins(node) for node in net) for net in nets) >= 6


VIEWS = """\
graph @net(%x: float32[1,6,2,3]) {
  %rows = Slice(starts=(2,), ends=(5,), axes=(1,), steps=(1,))(%x) : float32[1,3,2,3]
  %last = Slice(starts=(-2,), ends=(6,), axes=(-3,), steps=(1,))(%x) : float32[1,2,2,3]
  %every = Slice(starts=(0,), ends=(6,), axes=(1,), steps=(2,))(%x) : float32[1,3,2,3]
  %columns = Slice(starts=(1,), ends=(2,), axes=(2,), steps=(1,))(%x) : float32[1,6,1,3]
  %a = Relu()(%rows) : float32[1,3,2,3]
  %b = Exp()(%last) : float32[1,2,2,3]
  %ab = Concat(axis=1)(%a, %b) : float32[1,5,2,3]
  %mixed = Concat(axis=1)(%every, %rows) : float32[1,6,2,3]
  return %ab, %columns, %mixed
}
"""


def test_rows_are_views_and_parts_are_joined() -> None:
    nodes = {node.output.name: node for node in parse_graph(VIEWS)}
    assert [offset_of(nodes[name]) for name in ("rows", "last", "every", "columns", "a")] == [48, 96, None, None, None]
    assert joins(nodes["ab"]) and not joins(nodes["mixed"])


def test_views_and_joined_parts_in_native_code(tmp_path: Path) -> None:
    graph = parse_graph(VIEWS)
    feeds = {"x": np.random.default_rng(0).uniform(-1, 1, (1, 6, 2, 3)).astype(np.float32)}
    artifact = build(graph, BuildOptions("net", parse_target("native"), cache_dir=tmp_path))
    assert not any("concat" in call["symbol"] for call in artifact.manifest["calls"] if call["outputs"] == ["float32[1,5,2,3]"])
    outputs = CompiledModel(Artifact(artifact.files, {"name": "net", **artifact.manifest})).run(feeds)
    for name, want in lc.evaluate(graph, feeds).items():
        np.testing.assert_allclose(outputs[name], want, rtol=1e-6, err_msg=name)


def quantized_net() -> Graph:
    """Three layers of codes whose results are large beside the last one's."""
    graph, random = Graph("net"), np.random.default_rng(5)
    b = Builder(graph)
    x: Value = graph.add_input("x", TensorType(INT8, (1, 23, 20, 3)))

    def layer(x: Value, channels: int, stride: int, groups: int = 1) -> Value:
        w = b.constant(random.integers(-128, 128, (channels, x.type.static_shape[3] // groups, 3, 3)).astype(np.int8))
        op = ConvInteger(strides=(stride, stride), pads=(1, 1, 1, 1), groups=groups, layout="NHWC")
        sums = b(op, x, w, b.constant(np.int8(-9)), b.constant(np.int8(0)))
        scaled = b.Mul(b.Cast(sums, to=FLOAT32), b.constant(random.uniform(1e-3, 4e-3, (1, 1, 1, channels)).astype(np.float32)))
        return b.QuantizeLinear(scaled, b.constant(np.float32(1)), b.constant(np.int8(-4)), dtype=INT8)

    graph.set_outputs([layer(layer(layer(x, 8, 1), 8, 1, 8), 8, 2)])
    return graph


@pytest.fixture(scope="module")
def cross() -> None:
    if importlib.util.find_spec("unicorn") is None:
        pytest.skip("unicorn is not installed")
    try:
        find_toolchain(parse_target("cortex-m4"))
    except lc.MissingDependency as error:
        pytest.skip(str(error))


def test_firmware_in_patches_is_equal_bit_for_bit(cross: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = quantized_net()
    whole = lc.compile(graph, "cortex-m4", 2)
    ram = whole.manifest["arena_bytes"] // 2 + whole.manifest["stack_bytes"]
    write_lir(graph, tmp_path / "net.lir")
    assert (
        main(
            [str(tmp_path / "net.lir"), "--target", "cortex-m4", "--ram", str(ram), "--verify", "--json", "-q", "-o", str(tmp_path / "out")]
        )
        == 0
    )
    facts = json.loads(capsys.readouterr().out)
    assert facts["arena_bytes"] + facts["stack_bytes"] <= ram < whole.manifest["arena_bytes"]
    assert facts["verify"] == {**facts["verify"], "max_abs": 0.0, "ok": True}
    assert facts["patches"]["macs"] > facts["patches"]["macs_without"] and facts["patches"]["overhead"] > 0
    assert [run["patches"] > 1 for run in facts["patches"]["runs"]] == [True]


def test_what_patches_cannot_fit_is_refused() -> None:
    with pytest.raises(
        lc.UnsupportedError, match=r"bytes of RAM for the arena alone, [\d,]+ more than there are, even where layers run in patches"
    ):
        lc.compile(quantized_net(), "cortex-m4", 2, ram=512)
