"""Kernels in the vectors of Cortex-M: equal to the evaluator bit for bit, and in the instructions that they are meant to be in."""

from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.helium_packing import pack_helium_conv, pack_helium_depthwise, pack_helium_matmul
from lepton_compiler.backends.tvm.lower.helium_product import pieces
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ir.types import FLOAT32, INT8, UINT8, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.conv import ConvInteger

TARGET = "cortex-m55"
MISSING = [name for name in ("elftools", "ziglang") if importlib.util.find_spec(name) is None]
MISSING += [] if shutil.which("qemu-system-arm") else ["qemu-system-arm"]
emulated = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed")


class Layers:
    """A graph of layers, each with an input of its own, from codes to codes."""

    def __init__(self) -> None:
        self.graph, self.random, self.outputs = Graph("net"), np.random.default_rng(7), list[Value]()
        self.b = Builder(self.graph)

    def add(
        self, shape: tuple[int, ...], zero: int, filters: tuple[int, ...], op: ConvInteger | None = None, code: int = -3, w_zero: int = 0
    ) -> None:
        """A convolution or product, a bias, a scale for each channel, and rounding to 8 bits with the zero point `code`."""
        b, kind = self.b, UINT8 if zero > 127 else INT8
        out = UINT8 if code > 127 else INT8
        x = self.graph.add_input(f"x{len(self.outputs)}", TensorType(kind, shape))
        weights = self.random.integers(-128, 128, filters).astype(np.int8)
        w = b.constant(weights.view(np.uint8) if w_zero else weights)
        points = [b.constant(np.array(zero, kind.numpy)), *([b.constant(np.array(w_zero, np.uint8))] if w_zero else [])]
        sums = b.MatMulInteger(x, w, *points) if op is None else b(op, x, w, *points)
        channels = filters[1] if op is None else filters[0]
        each = (channels,) if op is None or op.layout == "NHWC" else (channels, *(1,) * (len(shape) - 2))
        shift = self.random.integers(-9999, 9999, each)
        factor = self.random.uniform(1e-4, 1e-2, each).astype(np.float32)
        scaled = b.Mul(b.Cast(b.Add(sums, b.constant(shift.astype(np.int32))), to=FLOAT32), b.constant(factor))
        zero_point = b.constant(np.array(code, out.numpy))
        self.outputs.append(b.QuantizeLinear(scaled, b.constant(np.float32(1)), zero_point, dtype=out))

    def check(self) -> None:
        """Compile all, run them on the board, and compare."""
        self.graph.set_outputs(self.outputs)
        random = np.random.default_rng(1)
        feeds = {v.name: random.integers(0, 256, v.type.static_shape).astype(np.uint8).view(v.type.dtype.numpy) for v in self.graph.inputs}
        model = lc.compile(self.graph, TARGET, 2)
        outputs, stats = model.emulate(feeds)
        for name, want in lc.evaluate(self.graph, feeds).items():
            np.testing.assert_array_equal(outputs[name], want, err_msg=name)
        assert 0 < stats.peak_stack_bytes <= model.manifest["stack_bytes"]


def conv(**attributes: object) -> ConvInteger:
    return ConvInteger(**{"layout": "NHWC"} | attributes)  # type: ignore[arg-type]


@emulated
def test_products_are_equal_bit_for_bit() -> None:
    layers = Layers()
    layers.add((1, 5, 6, 16), -128, (8, 16, 1, 1), conv())  # read as it is
    layers.add((1, 5, 6, 16), 3, (7, 16, 1, 1), conv(strides=(2, 2)), code=-128)
    layers.add((1, 7, 6, 3), -7, (5, 3, 3, 3), conv(strides=(2, 2), pads=(1, 1, 1, 1)))
    layers.add((1, 6, 5, 8), 200, (6, 8, 3, 3), conv(pads=(0, 1, 2, 1)), code=129)
    layers.add((2, 5, 5, 20), 0, (1, 20, 2, 3), conv(pads=(0, 1, 1, 2), dilations=(1, 2)))
    layers.add((1, 9, 6), 5, (3, 6, 5), conv(strides=(1,), pads=(2, 2), dilations=(1,)))
    layers.add((1, 48), -7, (48, 10))
    layers.add((3, 19), 128, (19, 6))
    layers.add((2, 16), 3, (16, 5), w_zero=200)
    layers.check()


@emulated
def test_depthwise_convolutions_are_equal_bit_for_bit() -> None:
    layers = Layers()
    layers.add((1, 6, 11, 8), -128, (8, 1, 3, 3), conv(pads=(1, 1, 1, 1), groups=8), code=-128)
    layers.add((1, 7, 9, 6), 5, (6, 1, 3, 3), conv(strides=(2, 2), pads=(0, 0, 1, 1), groups=6))  # the last channels overlap
    layers.add((2, 3, 3, 4), 255, (4, 1, 5, 5), conv(pads=(2, 2, 2, 2), groups=4))
    layers.add((1, 1, 30, 5), 3, (5, 1, 1, 9), conv(pads=(0, 4, 0, 4), groups=5))  # a loop over the taps
    layers.add((1, 9, 4, 4), -1, (4, 1, 3, 2), conv(pads=(4, 0, 4, 1), dilations=(4, 2), groups=4))
    layers.add((1, 21, 8), 0, (8, 1, 3), conv(strides=(1,), pads=(2, 2), dilations=(2,), groups=8))
    layers.add((1, 6, 5, 3), -128, (3, 1, 3, 3), conv(pads=(1, 1, 1, 1), groups=3))  # no vector of channels
    layers.add((1, 6, 5, 6), -128, (6, 1, 3, 3), conv(pads=(1, 1, 1, 1), groups=6), w_zero=77)  # products of bytes do not do
    layers.check()


FLOATS = """\
graph @net(%x: float32[1,6,7,5], %y: float32[1,35]) {
  %k = const float32[8,6,3,3] @random
  %d = const float32[8,1,3,3] @random
  %m = const float32[35,9] @random
  %c = Conv(strides=(1, 1), pads=(1, 1, 1, 1))(%x, %k) : float32[1,8,7,5]
  %r = Relu()(%c) : float32[1,8,7,5]
  %e = Conv(strides=(2, 2), pads=(1, 1, 1, 1), groups=8)(%r, %d) : float32[1,8,4,3]
  %p = MaxPool(kernel_shape=(2, 2), strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1))(%e) : float32[1,8,3,2]
  %t = Tanh()(%p) : float32[1,8,3,2]
  %n = MatMul()(%y, %m) : float32[1,9]
  %s = Softmax(axis=1)(%n) : float32[1,9]
  return %t, %s
}
"""


@emulated
def test_floats() -> None:
    random, text = np.random.default_rng(2), FLOATS
    for shape in ((8, 6, 3, 3), (8, 1, 3, 3), (35, 9)):
        numbers = ", ".join(str(float(np.float32(n))) for n in random.normal(size=shape).reshape(-1) / 4)
        text = text.replace("@random", f"({numbers})", 1)
    graph = parse_graph(text)
    feeds = {v.name: random.uniform(-2, 2, v.type.static_shape).astype(np.float32) for v in graph.inputs}
    outputs, stats = lc.compile(graph, TARGET, 3).emulate(feeds)
    for name, want in lc.evaluate(graph, feeds).items():
        np.testing.assert_allclose(outputs[name], want, rtol=2e-5, atol=2e-6, err_msg=name)
    assert stats.instructions is not None and stats.instructions < 30_000


def test_the_instructions_are_those_of_the_vectors() -> None:
    layers = Layers()
    layers.add((1, 8, 8, 64), -128, (16, 64, 1, 1), conv(), code=-128)
    layers.graph.set_outputs(layers.outputs)
    text = assembly_of(layers.graph)
    assert text.count("vmlav") + text.count("vmlava.s8") >= 8 * 4 and "smlad" not in text
    assert text.count("vcvtn.s32.f32") == 2 and text.count("vqshl.s32") == 2
    plain = assembly_of(layers.graph, "cortex-m55,-mve")
    assert "smlad" in plain and "vmla" not in plain


def assembly_of(graph: Graph, target: str = TARGET) -> str:
    from lepton_compiler.backends.tvm import kernel_nodes
    from lepton_compiler.backends.tvm.spec import spec_of
    from lepton_compiler.backends.tvm.worker import kernel_text
    from lepton_compiler.pipeline import PassContext, Pipeline, parse_pipeline
    from lepton_compiler.target import parse_target

    machine = parse_target(target)
    legal = Pipeline(parse_pipeline("fuse").passes).run(graph.copy(), PassContext(machine, "O2"))
    (node,) = kernel_nodes(legal)
    return kernel_text("key", spec_of(node), machine, "asm")


def test_weights_are_packed_in_the_order_of_reading() -> None:
    w = np.arange(5 * 3 * 2 * 2, dtype=np.int8).reshape(5, 3, 2, 2)
    packed = pack_helium_conv(w, 2)
    assert packed.shape == (2, 2, 1, 32)
    assert packed[0, 1, 0, 16 : 16 + 12].tolist() == w[3].transpose(1, 2, 0).reshape(-1).tolist()
    assert not packed[1, 1].any() and not packed[0, 0, 0, 12:16].any()
    matrix = np.arange(34, dtype=np.int8).reshape(17, 2)
    assert pack_helium_matmul(matrix, 4).shape == (1, 1, 2, 64)
    assert pack_helium_matmul(matrix, 4)[0, 0, 1, 16] == matrix[16, 1]
    assert pack_helium_depthwise(w[:, :1]).tolist() == w[:, 0].reshape(5, 4).T.tolist()


@pytest.mark.parametrize("extent", range(1, 70))
def test_pieces_cover_a_run_and_nothing_else(extent: int) -> None:
    covered = {begin + k for begin, width in pieces(extent) for k in range(width)}
    assert covered == set(range(extent))
