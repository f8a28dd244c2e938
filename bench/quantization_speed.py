"""How fast int8 is: `python -m bench.quantization_speed [--model NAME] [--cpu NAME] [--seconds S] [--write]`.

A ResNet of our own on images of 28 x 28 and PP-OCR's text detection on pages of 640 x 640 are quantized by us and by ONNX Runtime with the same
samples. Float and int8, ours for each processor that is asked for and ONNX Runtime's, are then measured in turn in one process on one thread:
the bare call on memory that stays where it is, for all of them. Nothing is compiled meanwhile. Our artefacts are called from C, a small net many
times in a row; ONNX Runtime is called through its Python binding, which takes some microseconds.

ONNX Runtime picks its kernels by what the processor has, whatever we compile for: beside our code for AVX2 it may use AVX-512 and VNNI.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lepton_compiler as lc
from bench.c_loop import caller
from bench.calibration_memory import PREPROCESSING, draw_pages
from bench.machine import machine
from bench.quantization_cases import CASES
from bench.runtime_quantizer import LAYERS, quantize_as_it_can
from lepton_compiler import zoo
from lepton_compiler.calibration.samples import open_samples
from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.measure import Timing, geometric_mean, interleaved, load_peers, native_call
from lepton_compiler.quantization import Request, parse_recipe, quantize
from lepton_compiler.target import parse_target

RESULTS = Path(__file__).parent / "results"
PAGE = 640
PAGES = 6
IMAGES = 128
AVX2 = "x86-64-v3"
AVX2_BITS = 256
PEER = "onnxruntime"
THEIRS: Mapping[str, Sequence[str] | None] = {"int8": None, "int8, layers only": LAYERS}
"""What ONNX Runtime's quantizer may quantize: all that it can, or convolutions and products alone. The faster result counts."""
LEAST_COSINE = 0.9
"""Between outputs of int8 and of float."""

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """A float model and samples of its inputs.

    Attributes:
        name: in the table.
        file: gives the ONNX file.
        shape: of its input `x`.
        samples: gives the calibration data; the first one is what is measured with.
        recipe: how we quantize.
        calls: of our artefacts in a row, from C: such that they take a millisecond or more.
    """

    name: str
    file: Callable[[], Path]
    shape: tuple[int, ...]
    samples: Callable[[Graph], list[dict[str, np.ndarray]]]
    recipe: str
    calls: int


@dataclass(frozen=True)
class Ratio:
    """A ratio of times: the median over the rounds, and its quartiles."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(slower: Timing, faster: Timing) -> Ratio:
        """The time of one contender divided by that of another, round by round."""
        low, median, high = statistics.quantiles([a / b for a, b in zip(slower.seconds, faster.seconds, strict=True)], n=4)
        return Ratio(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Row:
    """One model on one processor: medians in milliseconds, and how many times as fast our int8 is as our float and as ONNX Runtime's int8."""

    model: str
    cpu: str
    float_ms: float
    int8_ms: float
    their_float_ms: float
    their_int8_ms: float
    their_scheme: str
    than_float: Ratio
    than_theirs: Ratio


def _pages(graph: Graph) -> list[dict[str, np.ndarray]]:
    with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
        draw_pages(Path(folder), PAGES, PAGE)
        return [dict(sample) for sample in open_samples(f"{folder}{PREPROCESSING}", graph.inputs)]


SUBJECTS = (
    Subject("resnet", lambda: CASES[0].model, (1, 1, 28, 28), lambda graph: CASES[0].samples()[:IMAGES], "int8", 50),
    Subject(
        "ch_pp_ocrv4_det",
        lambda: zoo.fetch(zoo.find("ch_pp_ocrv4_det")),
        (1, 3, PAGE, PAGE),
        _pages,
        "int8{observer=mse,refine-samples=2}",
        1,
    ),
)


def measure(subject: Subject, cpus: Sequence[str], seconds: float, stage: Callable[[str], None]) -> list[Row]:
    """Quantize, compile for each of the processors, load in ONNX Runtime, measure all in turn.

    Raises:
        LeptonError: ONNX Runtime cannot run the model, or our int8 is far from our float.
    """
    path = subject.file()
    graph = lc.optimize(lc.import_model(path, inputs={"x": subject.shape}), 2)
    samples = subject.samples(graph)
    stage(f"{subject.name}: quantize")
    whole = quantize(graph, Request(parse_recipe(subject.recipe), samples)).graph
    calls: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
        models = {"float": path}
        for name, operators in THEIRS.items():
            models[name] = Path(folder) / f"{len(models)}.onnx"
            models[name].write_bytes(quantize_as_it_can(path, samples, operators))
        for name, file in models.items():
            loaded, failures = load_peers([PEER], file, samples[0], 1)
            if failures:
                raise LeptonError(f"{PEER} cannot run the {name} model: {failures[PEER]}", where=subject.name)
            calls[f"{PEER} {name}"] = loaded[PEER].call
    for cpu in cpus:
        stage(f"{subject.name}: compile for {cpu}")
        made = {kind: lc.compile(source, level=3, cpu=_llvm_name(cpu)) for kind, source in (("float", graph), ("int8", whole))}
        _check(subject, *(model.run(samples[0]) for model in made.values()))
        calls |= {f"{cpu} {kind}": native_call(model, samples[0], caller(subject.calls)) for kind, model in made.items()}
    stage(f"{subject.name}: measure")
    times = interleaved(calls, seconds)
    for name in calls:
        if not name.startswith(PEER):
            times[name] = Timing(tuple(t / subject.calls for t in times[name].seconds))
    return [_row(subject, cpu, times) for cpu in cpus]


def _llvm_name(cpu: str) -> str | None:
    return None if cpu == "native" else cpu


def _check(subject: Subject, wanted: Feeds, found: Feeds) -> None:
    """That int8 is about what float is: whether it is as accurate as it should be is told elsewhere."""
    for name, array in wanted.items():
        a, b = (values.ravel().astype(np.float64) for values in (array, found[name]))
        cosine = float(a @ b) / (float(np.linalg.norm(a) * np.linalg.norm(b)) or 1.0)
        if cosine < LEAST_COSINE:
            raise LeptonError(f"the cosine between int8 and float is {cosine:.3f}", where=subject.name)


def _row(subject: Subject, cpu: str, times: Mapping[str, Timing]) -> Row:
    scheme = min(THEIRS, key=lambda name: times[f"{PEER} {name}"].median)
    ours, exact, theirs = times[f"{cpu} int8"], times[f"{cpu} float"], times[f"{PEER} {scheme}"]
    ms = [round(t.median * 1e3, 4) for t in (exact, ours, times[f"{PEER} float"], theirs)]
    return Row(subject.name, cpu, ms[0], ms[1], ms[2], ms[3], scheme, Ratio.of(exact, ours), Ratio.of(theirs, ours))


def table(rows: Sequence[Row]) -> str:
    """A Markdown table, with geometric means of the ratios for each processor."""
    lines = [
        "| Model | Compiled for | Float, ms | int8, ms | Float / int8 | ONNX Runtime float, ms | Its int8, ms | Its int8 / our int8 |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        ms = [f"{value:.3f}" for value in (r.float_ms, r.int8_ms, r.their_float_ms, r.their_int8_ms)]
        lines.append(f"| {r.model} | {r.cpu} | {ms[0]} | {ms[1]} | {r.than_float} | {ms[2]} | {ms[3]} | {r.than_theirs} |")
    for cpu in dict.fromkeys(r.cpu for r in rows):
        chosen = [r for r in rows if r.cpu == cpu]
        if len(chosen) > 1:
            means = [
                geometric_mean([ratio.median for ratio in ratios])
                for ratios in zip(*((r.than_float, r.than_theirs) for r in chosen), strict=True)
            ]
            lines.append(f"| geometric mean | {cpu} | | | {means[0]:.2f} | | | {means[1]:.2f} |")
    return "\n".join(lines) + "\n"


def processors() -> list[str]:
    """What is compiled for where nothing is asked for: AVX2, if it is there, and all that the processor has."""
    here = parse_target("native")
    return [*([AVX2] if here.arch == "x86_64" and here.vector_bits >= AVX2_BITS else []), "native"]


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description="Measure int8 beside float and beside ONNX Runtime's int8, on one thread.")
    parser.add_argument("--model", choices=[subject.name for subject in SUBJECTS], action="append", help="only these (default: all)")
    parser.add_argument("--cpu", action="append", help="what to compile for, as LLVM calls it, or native (default: x86-64-v3 and native)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each model is measured (default: 20)")
    parser.add_argument("--write", action="store_true", help="also write bench/results/quantization_speed.json and .md")
    args = parser.parse_args()
    chosen = [subject for subject in SUBJECTS if not args.model or subject.name in args.model]

    def stage(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        rows = [row for subject in chosen for row in measure(subject, args.cpu or processors(), args.seconds, stage)]
    except LeptonError as error:
        sys.exit(f"bench.quantization_speed: {error}")
    print(table(rows), end="")
    if args.write:
        write(rows)


def write(rows: Sequence[Row], folder: Path = RESULTS) -> None:
    """Put results into `quantization_speed.json` and `.md`."""
    text = json.dumps({"machine": machine([PEER]), "rows": [asdict(row) for row in rows]}, indent=1)
    (folder / "quantization_speed.json").write_text(f"{text}\n")
    (folder / "quantization_speed.md").write_text(table(rows))


if __name__ == "__main__":
    main()
