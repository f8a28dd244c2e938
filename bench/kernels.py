"""Speed of single kernels beside ONNX Runtime and the machine's peak: `python -m bench.kernels [NAME...] [--target CPU]`.

One thread each, interleaved, best of several rounds. ONNX Runtime's time is that of the operator alone, from its own
profile, so that its layout conversions around a lone convolution do not count against it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from tvm import te

from lepton_compiler.backends.tvm.codegen import CompiledKernel, compile_kernel
from lepton_compiler.backends.tvm.compute import conv, matmul
from lepton_compiler.backends.tvm.packing import pack_conv_weights, pack_matmul_weights
from lepton_compiler.backends.tvm.phases import phase_symbols
from lepton_compiler.backends.tvm.schedules import n_block, oc_block, schedule
from lepton_compiler.target import Target, parse_target

ROUNDS = 15


@dataclass(frozen=True)
class Case:
    """A convolution over `x` = [N, H, W, C] or a product of `x` and `w`; `groups` == C means depthwise."""

    name: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: int = 1
    groups: int = 1

    @property
    def is_conv(self) -> bool:
        """Weights [OC, IC/groups, KH, KW] mean a convolution, padded to keep the size at stride 1."""
        return len(self.w) == 4 and self.name.startswith(("conv", "dw"))

    @property
    def flops(self) -> int:
        """Floating-point operations, two per multiply-add."""
        if self.is_conv:
            n, h, w, _ = self.x
            pad = self.w[2] // 2
            out = [(size + 2 * pad - self.w[2]) // self.stride + 1 for size in (h, w)]
            return 2 * n * math.prod(out) * math.prod(self.w)
        return 2 * math.prod(self.x) * self.w[-1]


def _conv(size: int, c: int, oc: int, k: int, stride: int = 1) -> Case:
    return Case(f"conv{k}x{k}s{stride} {size}x{size} {c}->{oc}", (1, size, size, c), (oc, c, k, k), stride)


def _depthwise(size: int, c: int, stride: int = 1) -> Case:
    return Case(f"dw3x3s{stride} {size}x{size} {c}", (1, size, size, c), (c, 1, 3, 3), stride, c)


CASES = [
    _conv(224, 3, 64, 7, 2), _conv(56, 64, 64, 1), _conv(56, 64, 64, 3), _conv(56, 64, 256, 1), _conv(56, 256, 64, 1),
    _conv(56, 256, 128, 1), _conv(56, 128, 128, 3, 2), _conv(56, 256, 512, 1, 2), _conv(28, 128, 128, 3), _conv(28, 128, 512, 1),
    _conv(28, 512, 128, 1), _conv(28, 256, 256, 3, 2), _conv(28, 512, 1024, 1, 2), _conv(14, 256, 256, 3), _conv(14, 256, 1024, 1),
    _conv(14, 1024, 256, 1), _conv(14, 512, 512, 3, 2), _conv(14, 1024, 2048, 1, 2), _conv(7, 512, 512, 3), _conv(7, 512, 2048, 1),
    _conv(7, 2048, 512, 1),
    _depthwise(112, 32), _depthwise(112, 96, 2), _depthwise(56, 144), _depthwise(28, 192), _depthwise(14, 576), _depthwise(7, 960),
    Case("gemm 64x384x384", (64, 384), (384, 384)), Case("gemm 128x384x1536", (128, 384), (384, 1536)),
    Case("gemm 128x1536x384", (128, 1536), (1536, 384)), Case("gemv 2048x1000", (1, 2048), (2048, 1000)),
    Case("batched 12x128x32x128", (12, 128, 32), (12, 32, 128)), Case("batched 12x128x128x32", (12, 128, 128), (12, 128, 32)),
]  # fmt: skip


def aligned(shape: tuple[int, ...], value: Any = 0.0) -> Any:
    """A float32 array at a 64-byte boundary, as the memory plan gives them to kernels."""
    size = math.prod(shape) * 4
    raw = np.zeros(size + 64, np.uint8)
    array = raw[-raw.ctypes.data % 64 :][:size].view(np.float32).reshape(shape)
    array[...] = value
    return array


def load(kernel: CompiledKernel, buffers: list[Any]) -> Callable[[], int]:
    """Link a kernel and bind it to its buffers."""
    folder = Path(tempfile.mkdtemp())
    (folder / "k.o").write_bytes(kernel.object)
    subprocess.run(["cc", "-shared", "-o", folder / "k.so", folder / "k.o", "-lm"], check=True)
    library = ctypes.CDLL(str(folder / "k.so"))
    functions = [getattr(library, symbol) for symbol in phase_symbols(kernel.symbol, len(kernel.phases))]
    arguments = [ctypes.c_void_p(buffer.ctypes.data) for buffer in buffers]
    parts: list[list[Any]] = [[*arguments, ctypes.c_int32(0), ctypes.c_int32(phase.extent)] for phase in kernel.phases] or [[*arguments]]

    def run(_keep: Any = buffers) -> int:
        return sum(function(*part) for function, part in zip(functions, parts, strict=True))

    return run


def build(case: Case, target: Target) -> tuple[Callable[[], int], float]:
    """Our kernel with bias and ReLU, ready to run, and the seconds that compiling it took."""
    rng = np.random.default_rng(0)
    x0, w0 = rng.standard_normal(case.x), rng.standard_normal(case.w).astype(np.float32)
    channels = case.w[0] if case.is_conv else case.w[-1]
    x, bias = te.placeholder(case.x, "float32", "x"), te.placeholder((channels,), "float32", "bias")
    constant = case.is_conv or len(case.w) == 2
    pad, strides = case.w[-1] // 2, (case.stride,) * 2
    if case.groups > 1:
        packed = np.ascontiguousarray(w0[:, 0].transpose(1, 2, 0))
    elif case.is_conv:
        packed = pack_conv_weights(w0, oc_block(channels, target))
    else:
        packed = pack_matmul_weights(w0, n_block(channels, target)) if constant else w0
    w = te.placeholder(packed.shape, "float32", "w")
    if case.groups > 1:
        y, spaces = conv.depthwise_conv2d_nhwc(x, w, pads=(pad,) * 4, strides=strides)
    elif case.is_conv:
        y, spaces = conv.conv2d_nhwc(x, w, out_channels=channels, pads=(pad,) * 4, strides=strides)
    elif constant:
        y, spaces = matmul.matmul_packed(x, w, channels)
    else:
        y, spaces = matmul.matmul(x, w, n_block=n_block(channels, target))
    result = te.compute(y.shape, lambda *i: te.max(y(*i) + bias(i[-1]), 0.0), "relu")
    tensors = [x, w, bias, *spaces, result]
    start = time.perf_counter()
    kernel = compile_kernel(schedule(te.create_prim_func(tensors), target), "kernel", target)
    seconds = time.perf_counter() - start
    values = [x0, packed, rng.standard_normal(channels)]
    buffers = [aligned(tuple(int(e) for e in t.shape), values[k] if k < 3 else 0.0) for k, t in enumerate(tensors)]
    return load(kernel, buffers), seconds


def onnx_model(case: Case) -> bytes:
    """The same computation for ONNX Runtime: NCHW convolution or product, bias, ReLU."""
    rng = np.random.default_rng(0)
    shape = [case.x[0], case.x[3], *case.x[1:3]] if case.is_conv else list(case.x)
    constant = case.is_conv or len(case.w) == 2
    inputs = [helper.make_tensor_value_info("x", 1, shape)] + ([] if constant else [helper.make_tensor_value_info("w", 1, case.w)])
    weights = [numpy_helper.from_array(rng.standard_normal(case.w).astype(np.float32), "w")] if constant else []
    channels = case.w[0] if case.is_conv else case.w[-1]
    weights.append(numpy_helper.from_array(rng.standard_normal(channels).astype(np.float32), "b"))
    if case.is_conv:
        pad = case.w[2] // 2
        nodes = [helper.make_node("Conv", ["x", "w", "b"], ["s"], strides=[case.stride] * 2, pads=[pad] * 4, group=case.groups)]
    elif constant:
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["s"])]
    else:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["s"])]
    nodes.append(helper.make_node("Relu", ["s"], ["y"]))
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", 1, None)], weights)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())


class Rival:
    """ONNX Runtime on one thread, with its profiler on."""

    OPERATORS = ("Conv", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "Add", "Relu")

    def __init__(self, case: Case, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        self.session = onnxruntime.InferenceSession(onnx_model(case), options, providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(1)
        self.feeds = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in self.session.get_inputs()}

    def run(self) -> None:
        """One inference."""
        self.session.run(None, self.feeds)

    def seconds(self) -> float:
        """Best time of the operators' own nodes over all inferences."""
        events = json.loads(Path(self.session.end_profiling()).read_text())
        nodes: dict[str, list[float]] = {}
        for event in events:
            if event["name"].endswith("_kernel_time") and event["args"].get("op_name") in self.OPERATORS:
                nodes.setdefault(event["name"], []).append(event["dur"] * 1e-6)
        return sum(min(times) for times in nodes.values())


def peak(target: Target, folder: Path) -> float:
    """Multiply-add operations per second that one core reaches with all operands in registers."""
    lanes, chains = target.lanes(32), 24 if target.vector_registers >= 32 else 12
    body = "".join(f"a{k} = a{k} * b + c;" for k in range(chains))
    source = f"""typedef float v __attribute__((vector_size({4 * lanes})));
    float run(long n) {{ v b = (v){{}} + 0.999f, c = (v){{}} + 1e-5f; v {", ".join(f"a{k} = c * {k}" for k in range(chains))};
    for (long i = 0; i < n; i++) {{ {body} __asm__ volatile("" ::: "memory"); }}
    v s = {" + ".join(f"a{k}" for k in range(chains))}; return s[0]; }}"""
    (folder / "peak.c").write_text(source)
    flags = ["-O2", f"-march={target.cpu}", "-ffp-contract=fast", "-mprefer-vector-width=512", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, "-o", folder / "peak.so", folder / "peak.c"], check=True)
    function = ctypes.CDLL(str(folder / "peak.so")).run
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_long]
    count = 3_000_000
    return max(2 * lanes * chains * count / timed(lambda: function(count)) for _ in range(5))


def timed(call: Callable[[], Any]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(case: Case, target: Target, folder: Path) -> tuple[float, float, float]:
    """(our seconds, ONNX Runtime's, seconds to compile), best of interleaved rounds."""
    ours, compile_seconds = build(case, target)
    rival = Rival(case, folder)
    repeat = max(1, int(2e-3 / max(timed(ours), timed(ours), 1e-6)))
    best = math.inf
    for _ in range(ROUNDS):
        best = min(best, timed(lambda: [ours() for _ in range(repeat)]) / repeat)
        for _ in range(repeat):
            rival.run()
    return best, rival.seconds(), compile_seconds


def main() -> None:
    """Measure the cases whose name contains one of the words, or all."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--cpu", help="LLVM name of the processor to compile for (default: this machine)")
    arguments = parser.parse_args()
    target = parse_target("x86_64", arguments.cpu) if arguments.cpu else parse_target("native")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        most = peak(target, folder)
        print(f"{target.cpu}: peak {most * 1e-9:.0f} GFLOP/s; onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}")
        print(f"{'kernel':28} {'ms':>8} {'GFLOP/s':>8} {'of peak':>8} {'ORT ms':>8} {'ratio':>6} {'compile s':>9}")
        ratios: dict[str, list[float]] = {}
        for case in CASES:
            if arguments.words and not any(word in case.name for word in arguments.words):
                continue
            ours, theirs, seconds = measure(case, target, folder)
            speed = case.flops / ours
            ratios.setdefault(case.name.split()[0][:4], []).append(ours / theirs)
            print(
                f"{case.name:28} {ours * 1e3:8.3f} {speed * 1e-9:8.1f} {speed / most:8.0%} {theirs * 1e3:8.3f} {ours / theirs:6.2f} {seconds:9.2f}",
                flush=True,
            )
        for family, values in ratios.items():
            print(f"{family}: geometric mean of time over ONNX Runtime's {statistics.geometric_mean(values):.2f}")


if __name__ == "__main__":
    main()
