"""`python -m bench.cuda`: nets and single layers on a GPU, lepton beside PyTorch, compiled and eager, all replayed as CUDA graphs."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lepton_compiler as lc
from lepton_compiler.cli.options import Parser, add_common_options
from lepton_compiler.cli.outcome import guarded, print_json
from lepton_compiler.errors import LeptonError, MissingDependency
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.matmul import MatMulInteger
from lepton_compiler.runtime.model import CompiledModel

EXAMPLE = """\
examples:
  python -m bench.cuda --output bench/results
  python -m bench.cuda resnet50 gemm --precision fp16 --rounds 20
A ratio is the other's time divided by lepton's, the median over rounds in which all take turns: above 1 lepton is faster.
"""
PRECISIONS = ("fp32", "fp16", "int8")
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 1e-2, "int8": 5e-2}
"""Products of integers are to be exact."""
INTEGER = ("resnet", "mobilenet", "gemm", "conv")
"""How names of the cases begin that are measured in 8-bit integers, too."""
PER_ROUND = 5e-3
"""Seconds of each runtime's turn."""


@dataclass
class Row:
    """One case; `error` says why there is nothing else.

    Attributes:
        case: net or layer with its batch.
        precision: of products.
        ms: median time of a run, by runtime.
        ratios: by other runtime, its time divided by lepton's.
        max_rel: largest difference from PyTorch's float32 result on the processor, relative to its range.
        ok: whether that is within the tolerance.
    """

    case: str
    precision: str
    ms: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    max_rel: float = math.inf
    ok: bool = False
    error: str = ""


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(prog="python -m bench.cuda", description="Measure on a GPU beside PyTorch.", epilog=EXAMPLE)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="parts of names: resnet50, bert, gemm, conv...; all if absent")
    parser.add_argument("--precision", action="append", choices=["fp32", "tf32", "fp16", "int8"], default=[], help="default: all but tf32")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="rounds in which all take turns (default 30)")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes per net")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write cuda.json and cuda.md there")
    add_common_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    args = make_parser().parse_args(argv)
    return guarded("bench.cuda", lambda: _run(args), verbose=args.verbose, as_json=args.json)


def _run(args: argparse.Namespace) -> int:
    torch = _torch()
    from bench.cuda_nets import layers, nets

    cases = {**layers(), **nets((1, 32))}
    chosen = [name for name in cases if not args.cases or any(part in name for part in args.cases)]
    rows: list[Row] = []
    for name in chosen:
        for precision in args.precision or PRECISIONS:
            if precision == "int8" and not name.startswith(INTEGER):
                continue
            rows.append(_measured(torch, name, *cases[name], precision, args))
            if not args.quiet and not args.json:
                print(line(rows[-1]), flush=True)
    device = torch.cuda.get_device_name(0)
    facts = {"device": device, "torch": torch.__version__, "cuda": torch.version.cuda, "rows": [asdict(row) for row in rows]}
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "cuda.json").write_text(json.dumps(facts, indent=2) + "\n")
        (args.output / "cuda.md").write_text(table(rows, device, str(torch.__version__)))
    if args.json:
        print_json(facts)
    elif not args.quiet:
        for text in means(rows):
            print(text)
    return 0 if all(row.ok for row in rows) else 1


def _torch() -> Any:
    """The module torch, with a GPU.

    Raises:
        MissingDependency: it is not installed, or finds no GPU.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependency("PyTorch is not installed", hint="pip install torch") from error
    if not torch.cuda.is_available():
        raise MissingDependency("PyTorch finds no GPU", hint="run this on a machine with a GPU of NVIDIA and a torch that is built for it")
    return torch


def _measured(torch: Any, name: str, net: Any, shape: tuple[int, ...], precision: str, args: argparse.Namespace) -> Row:
    row = Row(name, precision)
    try:
        exact = precision == "int8" and name.startswith("gemm")
        if exact:
            runs, outputs, expected = _integer_contenders(torch, tuple(net.weight.shape), shape, not args.no_compile)
        else:
            runs, outputs, expected = _contenders(torch, net.eval(), shape, precision, not args.no_compile)
        span = float(expected.max() - expected.min())
        row.max_rel = float((outputs["lepton"]().cpu().to(expected.dtype) - expected).abs().max()) / span
        row.ok = row.max_rel <= (0 if exact else TOLERANCE[precision])
        times = _interleaved(torch, runs, args.rounds)
        row.ms = {runtime: 1e3 * statistics.median(found) for runtime, found in times.items()}
        for runtime in times:
            if runtime != "lepton":
                row.ratios[runtime] = statistics.median(o / m for o, m in zip(times[runtime], times["lepton"], strict=True))
    except (LeptonError, RuntimeError) as error:
        row.error = str(error).strip().splitlines()[0]
    return row


def _contenders(
    torch: Any, net: Any, shape: tuple[int, ...], precision: str, compiled: bool
) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]], Any]:
    """By runtime, a function that enqueues one run, and one that gives the result of the last; and what it should be."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    example = torch.randn(shape)
    with torch.no_grad():
        expected = net(example)
    half = precision in ("fp16", "int8")  # PyTorch has no convolutions of integers for GPUs
    runs, results = {}, {}
    runs["lepton"], results["lepton"] = _lepton(torch, net, example, expected, precision)
    device_net, x = net.cuda(), example.cuda()
    if half:
        device_net, x = device_net.half(), x.half()
    if len(shape) == 4:
        device_net, x = device_net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    runs["eager"], results["eager"] = _recorded(torch, device_net, x)
    if compiled:
        runs["compile"], results["compile"] = _compiled(torch, device_net, x)
    net.float().cpu()
    return runs, results, expected


def _integer_contenders(
    torch: Any, weight: tuple[int, ...], shape: tuple[int, ...], compiled: bool
) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]], Any]:
    """The same for a product of bytes by constant bytes, whose result is int32; PyTorch's function takes more than 16 rows."""
    torch.manual_seed(0)
    x, w = (torch.randint(-128, 128, size, dtype=torch.int8) for size in (shape, weight))
    expected = x.double() @ w.double()
    graph = parse_graph(f"graph @product(%x: int8[{shape[0]},{shape[1]}]) {{\n  return %x\n}}\n")
    b = Builder(graph)
    graph.set_outputs([b(MatMulInteger(), graph.inputs[0], b.constant(w.numpy()))])
    runs, results = {}, {}
    model = lc.compile(graph, target=_target(torch), level=3)
    runs["lepton"], results["lepton"] = _enqueued(torch, model, x.cuda(), torch.empty(expected.shape, dtype=torch.int32, device="cuda"))
    if shape[0] > 16:
        columns, data = w.cuda().t().contiguous().t(), x.cuda()
        product = lambda value: torch._int_mm(value, columns)  # noqa: E731
        runs["eager"], results["eager"] = _recorded(torch, product, data)
        if compiled:
            runs["compile"], results["compile"] = _compiled(torch, product, data)
    return runs, results, expected


def _target(torch: Any) -> str:
    """The GPU that is there."""
    major, minor = torch.cuda.get_device_capability(0)
    return f"cuda:sm_{major}{minor}"


def _lepton(torch: Any, net: Any, example: Any, expected: Any, precision: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The net through ONNX, for the GPU that is there; `int8` quantizes it, by samples of the same kind as the example."""
    how: dict[str, Any] = {"precision": precision}
    if precision == "int8":
        how = {"quantize": "int8", "calibration": [{"x": torch.randn_like(example).numpy()} for _ in range(4)]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        torch.onnx.export(net.cpu().float(), (example,), str(path), input_names=["x"], output_names=["y"], dynamo=False)
        model = lc.compile(path, target=_target(torch), level=3, **how)
    return _enqueued(torch, model, example.cuda().contiguous(), torch.empty(tuple(expected.shape), device="cuda"))


def _enqueued(torch: Any, model: CompiledModel, x: Any, y: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Runs from one tensor to another go into the current stream and are replayed as a CUDA graph."""
    library: Any = model.library
    addresses = [x.data_ptr()], [tuple(x.shape)], [y.data_ptr()]

    def run(_kept: Any = x) -> None:
        library.call(*addresses, 0, torch.cuda.current_stream().cuda_stream, waits=False)

    run()
    torch.cuda.synchronize()
    return run, lambda: y


def _recorded(torch: Any, net: Any, x: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Eager PyTorch, with cuDNN and cuBLAS, recorded as a CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            net(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        result = net(x)
    return graph.replay, lambda: result


def _compiled(torch: Any, net: Any, x: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """`torch.compile` as fast as it gets, which records CUDA graphs itself."""
    fast = torch.compile(net, mode="max-autotune")
    kept: list[Any] = []

    def run() -> None:
        with torch.no_grad():
            kept[:] = [fast(x)]

    for _ in range(5):
        run()
    torch.cuda.synchronize()
    return run, lambda: kept[0]


def _interleaved(torch: Any, runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of a run, by runtime, in rounds in which all take turns."""
    counts = {}
    for name, run in runs.items():
        counts[name] = max(1, math.ceil(PER_ROUND / max(1e-6, _seconds(torch, run, 3))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(_seconds(torch, run, counts[name]))
    return times


def _seconds(torch: Any, run: Callable[[], Any], count: int) -> float:
    """Seconds of one of `count` runs, by the GPU's own clock."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(count):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / count


def line(row: Row) -> str:
    """A row as text."""
    if row.error:
        return f"{row.case:<40} {row.precision:<5} failed: {row.error}"
    times = "  ".join(f"{name} {ms:.3f} ms" for name, ms in row.ms.items())
    ratios = "  ".join(f"{name} {ratio:.2f}" for name, ratio in row.ratios.items())
    return f"{row.case:<40} {row.precision:<5} {times}  ratios: {ratios}  error {row.max_rel:.1e}{'' if row.ok else ' WRONG'}"


def means(rows: Sequence[Row]) -> list[str]:
    """Geometric means of the ratios: of nets by batch, of layers by kind, for each precision."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        kind = row.case.split()[0] if row.case.startswith(("gemm", "conv")) else f"nets, batch {row.case.split()[1].split('x')[0]}"
        groups.setdefault(f"{kind}, {row.precision}", []).append(row)
    lines = []
    for name, members in groups.items():
        for runtime in dict.fromkeys(r for row in members for r in row.ratios):
            found = [row.ratios[runtime] for row in members if runtime in row.ratios]
            lines.append(f"{name}: {statistics.geometric_mean(found):.2f} of {runtime} over {len(found)} cases")
    return lines


def table(rows: Sequence[Row], device: str, version: str) -> str:
    """The rows as Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row.ms))
    head = ["case", "precision", *(f"{name} ms" for name in names), *(f"{name} / lepton" for name in names if name != "lepton"), "error"]
    lines = [f"`python -m bench.cuda` on {device}, PyTorch {version}.", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        times = [f"{row.ms[name]:.3f}" if name in row.ms else "" for name in names]
        ratios = [f"{row.ratios[name]:.2f}" if name in row.ratios else "" for name in names if name != "lepton"]
        lines.append(f"| {' | '.join([row.case, row.precision, *times, *ratios, row.error or f'{row.max_rel:.1e}'])} |")
    return "\n".join([*lines, "", *(f"- {text}" for text in means(rows)), ""])


if __name__ == "__main__":
    raise SystemExit(main())
