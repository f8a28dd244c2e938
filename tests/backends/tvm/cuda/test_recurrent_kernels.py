"""Kernels of recurrent layers: in the emulator, beside the evaluator, in one block and in blocks that wait for each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.cuda.compilers import compile_images, find_compiler
from lepton_compiler.backends.tvm.cuda.recurrent.arrangement import Arrangement, arrange, candidates
from lepton_compiler.backends.tvm.cuda.recurrent.kernel import layer_kernel, problem_of_spec, steps_of
from lepton_compiler.backends.tvm.cuda.recurrent.library import library
from lepton_compiler.backends.tvm.cuda.recurrent.problem import Problem
from lepton_compiler.backends.tvm.cuda.text.prelude import PRELUDE
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.errors import LeptonError, MissingDependency
from lepton_compiler.feeds import random_feeds
from lepton_compiler.gpus import GPUS
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import DTYPES, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.recurrent import GRU, LSTM, RNN, DynamicQuantizeLSTM, Recurrent
from lepton_compiler.ops.steps import RecurrentSteps
from lepton_compiler.testing.cuda_emulator import available, run

BOTH = (GPUS["sm_80"], GPUS["sm_90"])
ODD = (("Affine", "LeakyRelu", "ThresholdedRelu"), (0.2, 0.1, 0.3), (0.1,))
"""Activations of an LSTM with their alphas and betas."""

LAYERS: dict[str, tuple[Recurrent, dict[str, Any]]] = {
    "rnn": (RNN(9), {}),
    "rnn_reverse": (RNN(12, direction="reverse", activations=("Softsign",)), {"lengths": True}),
    "lstm": (LSTM(20), {"time": 4, "batch": 1}),
    "lstm_all": (
        LSTM(10, direction="bidirectional", clip=0.7, layout=1),
        {"lengths": True, "initial": True, "peepholes": True, "batch": 5},
    ),
    "lstm_coupled": (LSTM(33, direction="reverse", input_forget=True), {"initial": True}),
    "lstm_odd": (
        LSTM(7, direction="bidirectional", activations=(*ODD[0], "Sigmoid", "Elu", "ScaledTanh"), activation_alpha=(*ODD[1], 0.5, 1.2), activation_beta=(*ODD[2], 0.8)),
        {},
    ),
    "lstm_rounded": (DynamicQuantizeLSTM(22, direction="bidirectional"), {"lengths": True, "initial": True}),
    "lstm_rounded_first": (DynamicQuantizeLSTM(16, layout=1), {"batch": 1}),
    "gru": (GRU(21), {"initial": True, "batch": 4}),
    "gru_both": (GRU(16, direction="bidirectional", layout=1), {"lengths": True, "bias": True}),
    "gru_linear": (GRU(18, linear_before_reset=True, direction="bidirectional"), {"lengths": True, "bias": True, "initial": True}),
    "gru_hard": (GRU(8, activations=("HardSigmoid", "Softplus"), linear_before_reset=True), {"bias": True, "batch": 7}),
}  # fmt: skip


def feeds_of(
    layer: Recurrent, time: int = 5, batch: int = 3, *, lengths: bool = False, initial: bool = False, peepholes: bool = False, bias: bool = False
) -> list[np.ndarray | None]:  # fmt: skip
    """Operands of the layer's steps."""
    rng, hidden, ways = np.random.default_rng(layer.hidden_size), layer.hidden_size, layer.directions
    rows = layer.gates * hidden

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.7).astype(np.float32)

    first, state = ((batch, time), (batch, ways, hidden)) if layer.layout else ((time, batch), (ways, batch, hidden))
    weights: np.ndarray = random(ways, rows, hidden) / np.float32(np.sqrt(hidden))
    rounded = isinstance(layer, DynamicQuantizeLSTM)
    return [
        random(*first, ways * rows),
        np.rint(weights * 127).clip(-128, 127).astype(np.int8) if rounded else weights,
        random(ways, rows) if bias else None,
        np.resize(np.array([time, 0, 2, time - 1], np.int64), batch) if lengths else None,
        random(*state) if initial else None,
        random(*state) if initial and layer.states > 1 else None,
        random(ways, 3 * hidden) if peepholes else None,
        np.linspace(1 / 130, 1 / 120, ways * rows if initial else ways, dtype=np.float32).reshape((ways, -1) if initial else ways)
        if rounded
        else None,
    ]


def graph_of(layer: Recurrent, feeds: list[np.ndarray | None]) -> Graph:
    """The steps as a graph; the weights are constants."""
    graph = Graph("steps")
    operands: list[Value | None] = []
    for k, array in enumerate(feeds):
        if array is None:
            operands.append(None)
        elif k == 1:
            operands.append(Builder(graph).constant(array, name="r"))
        else:
            operands.append(graph.add_input(f"x{k}", TensorType(DTYPES[array.dtype.name], array.shape)))
    while operands[-1] is None:
        operands.pop()
    graph.set_outputs(Builder(graph).node(RecurrentSteps(layer=layer), operands).outputs)
    return graph


def some(problem: Any) -> list[Arrangement]:
    """Of all arrangements: one block and several, with different numbers of lanes and rows, weights in registers, in shared memory, and both."""
    every = list(candidates(problem, BOTH))
    alone, shared = ([a for a in every if (a.parts > 1) == several] for several in (False, True))
    chosen = [alone[0], alone[-1], shared[0], shared[len(shared) // 2], max(shared, key=lambda a: (a.parts, -a.slices))]
    halved = [replaced(a, held=a.chunks // 2) for a in chosen[:1] + chosen[2:3]]
    return [*chosen, *halved, replaced(chosen[1], held=0)]


def replaced(a: Arrangement, held: int) -> Arrangement:
    return Arrangement(a.parts, a.units, a.slices, a.rows, a.tile, a.threads, a.chunks, held)


@pytest.mark.skipif(bool(available()), reason=available())
@pytest.mark.parametrize("name", LAYERS)
def test_kernels_agree_with_the_evaluator(name):
    layer, options = LAYERS[name]
    feeds = feeds_of(layer, **options)
    expected = RecurrentSteps(layer=layer).evaluate(*feeds)
    spec = spec_of(graph_of(layer, feeds).nodes[0])
    step = steps_of(spec)
    assert step is not None
    kernels = [layer_kernel(f"{name}{k}", spec, step, a) for k, a in enumerate(some(problem_of_spec(spec, step)))]
    text = "\n".join([library(), *(made.text for made in kernels)])
    for k, made in enumerate(kernels):
        results = [np.full(e.shape, np.nan, np.float32) for e in expected]
        given = [f for f in feeds if f is not None]
        spaces = [np.zeros(s.static_shape, np.float32 if s.dtype.name == "float32" else np.uint8) for s in made.spaces]
        launch = made.launch
        figures = run(
            text, launch.symbol, launch.grid, launch.block, launch.shared_bytes, [*given, *results, *spaces],
            backwards=bool(k % 2), together=launch.together, weights=spec.constants,
        )  # fmt: skip
        assert (figures.grid_barriers > 0) == launch.together
        for found, wanted in zip(results, expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-6 * max(1.0, float(np.abs(wanted).max())), err_msg=str(made.launch))


# -- whole models


def model_of(layer: Recurrent, x: tuple[int, ...], *, initial: bool = False, lengths: bool = False, dtype: str = "float32") -> Graph:
    """A layer with constant weights; sequence lengths and initial states are inputs."""
    rng, hidden, rows = np.random.default_rng(1), layer.hidden_size, layer.gates * layer.hidden_size
    graph, kind = Graph("net"), DTYPES[dtype]
    b, ways = Builder(graph), layer.directions
    batch = x[0] if layer.layout else x[1]

    def weight(name: str, *shape: int) -> Value:
        return b.constant((rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(kind.numpy), name=name)

    state = (batch, ways, hidden) if layer.layout else (ways, batch, hidden)
    operands: list[Value | None] = [graph.add_input("x", TensorType(kind, x))]
    operands += [weight("w", ways, rows, x[2]), weight("r", ways, rows, hidden), weight("b", ways, 2 * rows)]
    operands.append(graph.add_input("lengths", TensorType(DTYPES["int32"], (batch,))) if lengths else None)
    operands += [graph.add_input(n, TensorType(kind, state)) if initial else None for n in ("h", "c")[: layer.states]]
    while operands[-1] is None:
        operands.pop()
    graph.set_outputs(b.node(layer, operands).outputs)
    return graph


def layers_of(model: Any) -> list[dict[str, Any]]:
    """What the manifest tells of recurrent layers, without names and numbers that the estimate decides."""
    return [{k: v for k, v in row.items() if k in ("how", "steps", "reason")} for row in model.manifest["recurrent"]]


MODELS: dict[str, tuple[Recurrent, tuple[int, ...], dict[str, Any]]] = {
    "lstm": (LSTM(24, direction="bidirectional"), (6, 2, 10), {"initial": True}),
    "gru": (GRU(17, layout=1), (3, 5, 8), {}),
    "gru_linear": (GRU(12, linear_before_reset=True, direction="reverse"), (6, 1, 8), {}),
    "rnn": (RNN(16), (4, 2, 3), {}),
    "one step": (LSTM(40), (1, 1, 16), {"initial": True}),
}


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_a_product_and_one_kernel(agrees, name):
    layer, shape, options = MODELS[name]
    model = agrees(model_of(layer, shape, **options))
    steps = shape[1 if layer.layout else 0]
    assert layers_of(model) == [{"how": "one kernel", "steps": steps}]
    assert [len(row["launches"]) for row in model.manifest["code"] if "recurrentsteps" in row["symbol"]] == [1]
    assert model.manifest["recorded"]


def test_blocks_that_share_the_units_wait_for_each_other(make, gpu):
    """The weights need several multiprocessors; the recorded launch is replayed with other states."""
    layer = GRU(300)
    graph = model_of(layer, (4, 2, 8), initial=True, lengths=True)
    model = make(graph)
    rng = np.random.default_rng(2)
    for lengths in ([4, 2], [1, 4]):
        feeds: dict[str, np.ndarray] = {
            "x": rng.standard_normal((4, 2, 8)).astype(np.float32),
            "lengths": np.array(lengths, np.int32),
            "h": rng.standard_normal((1, 2, 300)).astype(np.float32),
        }
        found, wanted = model.run(feeds), lc.evaluate(graph, feeds)
        assert not gpu.faults
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5)
    (row,) = model.manifest["recurrent"]
    assert row["blocks"] > 1 and row["together"]
    assert gpu.count("cuLaunchCooperativeKernel") == gpu.count("cuMemsetD8Async") == gpu.count("cuStreamEndCapture") == 1
    assert gpu.count("cuGraphLaunch") == 2


def test_too_few_multiprocessors_are_told_of_before_anything_runs(make, gpu):
    model = make(model_of(GRU(300), (4, 1, 8)))
    blocks = model.manifest["recurrent"][0]["blocks"]
    gpu.configure(processors=blocks - 1)
    with pytest.raises(LeptonError, match=f"needs {blocks} blocks that run at the same time; 'Emulated GPU' has room for {blocks - 1}"):
        model.run(random_feeds(model_of(GRU(300), (4, 1, 8)).inputs))
    assert not gpu.launched
    gpu.configure()


def test_constants_of_one_element_are_part_of_the_kernel(agrees):
    graph = Graph("net")
    b, weight = Builder(graph), np.full((1, 1, 1), 0.5, np.float32)
    x, lengths = graph.add_input("x", TensorType(DTYPES["float32"], (3, 1, 1))), b.constant(np.array([2], np.int32), name="lengths")
    w, r, h = (b.constant(weight * k, name=f"c{k}") for k in range(1, 4))
    graph.set_outputs(b.node(RNN(1), [x, w, r, None, lengths, h]).outputs)
    assert layers_of(agrees(graph)) == [{"how": "one kernel", "steps": 3}]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_states_are_float32_in_all_precisions(agrees, precision):
    model = agrees(model_of(LSTM(16), (12, 1, 8)), precision=precision)
    assert layers_of(model) == [{"how": "one kernel", "steps": 12}]


def test_layers_of_float16_have_states_in_float32(agrees):
    agrees(model_of(LSTM(16), (5, 2, 8), dtype="float16"), tolerance=1e-3)


def test_what_does_not_fit_keeps_launches_for_each_step(agrees):
    """A layer of doubles has no kernel; weights that are too large are known without compiling them."""
    model = agrees(model_of(RNN(8), (5, 2, 4), dtype="float64"))
    assert layers_of(model) == [{"how": "launches for each step", "steps": 5, "reason": "there is no kernel for a layer of this form"}]
    assert arrange(Problem("lstm", 10, 1, 1, 2048), BOTH) is None


# -- the code for real devices


def real_unit() -> str:
    """Kernels of all kinds, at the limit of registers: in one block, in blocks that wait, with a rounded state."""
    chosen: list[tuple[Recurrent, dict[str, Any]]] = [
        (LSTM(128), {"time": 30, "batch": 1}),
        (GRU(256, direction="bidirectional"), {"time": 30, "batch": 4, "bias": True}),
        (DynamicQuantizeLSTM(256), {"time": 30, "batch": 2, "lengths": True, "initial": True}),
    ]
    texts = [PRELUDE, library()]
    for k, (layer, options) in enumerate(chosen):
        spec = spec_of(graph_of(layer, feeds_of(layer, **options)).nodes[0])
        step = steps_of(spec)
        assert step is not None
        best = arrange(problem_of_spec(spec, step), BOTH)
        assert best is not None
        texts.append(layer_kernel(f"layer{k}", spec, step, best).text)
    return "\n".join(texts)


def test_nvrtc_or_nvcc_compiles_them():
    try:
        find_compiler()
    except MissingDependency as error:
        pytest.skip(str(error))
    images, _ = compile_images(real_unit(), BOTH, None, 1)
    assert [(image.gpu.name, image.is_ptx) for image in images] == [("sm_80", False), ("sm_90", False), ("sm_90", True)]
    assert all(f".entry layer{k}".encode() in images[-1].code for k in range(3)) and b"red.release.gpu" in images[-1].code


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
def test_weights_stay_in_registers(tmp_path):
    """Nothing is spilled, and the registers are no more than a multiprocessor has for a block."""
    (tmp_path / "unit.cu").write_text(real_unit())
    command = ["nvcc", "-std=c++17", "-arch=sm_80", "-cubin", "-w", "-Xptxas", "-v", "unit.cu", "-o", "unit.cubin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", done.stderr) == [("0", "0")] * 3
