"""Models of the zoo, int8 beside ONNX Runtime's int8: `python -m bench.quantization_models [--model NAME] [--write]`.

`bench.task_inputs` tells what the inputs are. ONNX Runtime's quantizer is taken with its defaults, which quantize every operator that it knows,
and with products and convolutions alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import lepton_compiler as lc
from bench import faces, task_inputs
from bench.pretrained import onnx_file
from bench.runtime_quantizer import LAYERS, quantize_as_it_can, session_run
from lepton_compiler import zoo
from lepton_compiler.quantization import Request, parse_recipe, quantize

RESULTS = Path(__file__).parent / "results"
Outputs = Mapping[str, np.ndarray]
Run = Callable[[Mapping[str, np.ndarray]], Outputs]
THEIRS = {"ONNX Runtime": None, "ONNX Runtime, layers only": LAYERS}
"""Ways of using ONNX Runtime's quantizer: its name, and the operators that it may quantize."""


@dataclass(frozen=True)
class Task:
    """A model, its inputs, and what its outputs are judged by.

    Attributes:
        model: its name.
        file: gives the float ONNX file.
        bound: shapes or constants of inputs.
        samples: for calibration, and for the comparison.
        judge: from outputs of the float and of the quantized model to a number, and what that number is.
        what: the name of that number.
        output: the one that signal to noise is told of; the first one where empty.
        recipe: how we quantize.
    """

    model: str
    file: Callable[[], Path]
    bound: Mapping[str, Any]
    samples: Callable[[Path], task_inputs.Split]
    judge: Callable[[Sequence[Outputs], Sequence[Outputs]], float]
    what: str
    output: str = ""
    recipe: str = "int8{refine-samples=8}"


@dataclass(frozen=True)
class Row:
    """One quantized model: signal to noise of its output in decibels, None where the task is more than one model, and the task's number."""

    model: str
    by: str
    sqnr: float | None
    agreement: float
    what: str


@dataclass
class Measured:
    """What was found out of a model, and what runs its quantized forms, by whose they are."""

    rows: list[Row]
    runs: dict[str, Run] = field(default_factory=dict)


def same_class(wanted: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """The share of samples of the same first class."""
    pairs = [(next(iter(w.values())), next(iter(f.values()))) for w, f in zip(wanted, found, strict=True)]
    return float(np.mean([w.argmax(-1) == f.argmax(-1) for w, f in pairs]))


def least_cosine(wanted: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """The smallest cosine of sentence embeddings, the output of rank 2 in floating point."""
    cosines = []
    for w, f in zip(wanted, found, strict=True):
        name = next(n for n, a in w.items() if a.ndim == 2 and a.dtype == np.float32)
        a, b = w[name].ravel().astype(np.float64), f[name].ravel().astype(np.float64)
        cosines.append(float(a @ b / np.sqrt((a @ a) * (b @ b))))
    return min(cosines)


def same_text(wanted: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """The share of lines whose text is the same."""
    pairs = [(next(iter(w.values())), next(iter(f.values()))) for w, f in zip(wanted, found, strict=True)]
    return float(np.mean([task_inputs.read_line(w) == task_inputs.read_line(f) for w, f in pairs]))


def same_decision(wanted: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """The share of frames with the same answer to whether somebody speaks."""
    return float(np.mean([(w["output"] > 0.5) == (f["output"] > 0.5) for w, f in zip(wanted, found, strict=True)]))


def same_windows(wanted: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """The share of windows that both, or neither, take for a face."""
    pairs = [(w["probability"][:, 1] > 0.6, f["probability"][:, 1] > 0.6) for w, f in zip(wanted, found, strict=True)]
    return float(np.mean(np.concatenate([(w == f).ravel() for w, f in pairs])))


def same_faces(float_nets: Mapping[str, Run], nets: Mapping[str, Run]) -> tuple[float, float]:
    """Of the faces that float nets or others find, the share that both find (boxes overlap by half), and the mean overlap of these boxes."""
    overlaps, either = list[float](), 0
    for image in task_inputs.face_photographs(task_inputs.FACES[1]):
        a, b = (faces.detect(some, image) for some in (float_nets, nets))
        best = faces.overlap(a, b).max(1) if len(a) and len(b) else np.zeros(0)
        matched = [float(share) for share in best if share >= 0.5]
        overlaps, either = overlaps + matched, either + len(a) + len(b) - len(matched)
    return len(overlaps) / max(1, either), float(np.mean(overlaps or [0.0]))


def _zoo(name: str) -> Callable[[], Path]:
    return lambda: zoo.fetch(zoo.find(name))


def _face_task(net: str) -> Task:
    samples = lambda path: task_inputs.face_windows(net, {name: onnx_file(name) for name in faces.NETS})  # noqa: E731
    return Task(f"mtcnn {net}", lambda: onnx_file(net), {}, samples, same_windows, "same windows taken for faces")


MINILM = {"input_ids": (1, 64), "attention_mask": (1, 64)}
TASKS = (
    Task("magika/standard", _zoo("magika/standard"), {"bytes": (1, 2048)}, task_inputs.file_beginnings, same_class, "same type of file"),
    Task(
        "minilm/",
        _zoo("minilm/"),
        MINILM,
        task_inputs.sentences,
        least_cosine,
        "least cosine",
        "461",
        "int8{observer=minmax,refine-samples=8}",
    ),
    Task(
        "ch_pp_ocrv4_rec",
        _zoo("ch_pp_ocrv4_rec"),
        {"x": (1, 3, 48, 320)},
        task_inputs.text_lines,
        same_text,
        "same text",
        "",
        "int8{refine-samples=16}",
    ),
    Task(
        "silero_vad_16k_op15",
        _zoo("silero_vad_16k_op15"),
        {"input": (1, 576), "state": (2, 1, 128)},
        task_inputs.voice,
        same_decision,
        "same decision",
        "output",
        "int8",
    ),
    Task(
        "efficientnet_lite0", lambda: onnx_file("efficientnet_lite0"), {}, task_inputs.photograph_crops, same_class, "same class of 1,000"
    ),
    *(_face_task(net) for net in faces.NETS),
)


def measure(task: Task) -> Measured:
    """Ours, and ONNX Runtime's with the same calibration samples."""
    path = task.file()
    train, test = task.samples(path)
    graph = lc.optimize(lc.import_model(path, inputs=dict(task.bound)), 2)
    float_run = session_run(path)
    wanted = [float_run(feeds) for feeds in test]
    ours = quantize(graph, Request(parse_recipe(task.recipe), train)).graph
    runs: dict[str, Run] = {"lepton": lambda feeds: lc.evaluate(ours, feeds)}
    runs |= {by: session_run(quantize_as_it_can(path, train, operators)) for by, operators in THEIRS.items()}
    return Measured([_row(task, by, wanted, [run(feeds) for feeds in test]) for by, run in runs.items()], runs)


def face_rows(measured: Mapping[str, Measured]) -> list[Row]:
    """The faces that the three nets of MTCNN find together, each net quantized."""
    nets = {name: measured[f"mtcnn {name}"].runs for name in faces.NETS}
    float_nets = {name: session_run(onnx_file(name)) for name in faces.NETS}
    rows = []
    for by in ("lepton", *THEIRS):
        found, overlap = same_faces(float_nets, {name: runs[by] for name, runs in nets.items()})
        rows += [Row("mtcnn", by, None, found, "same faces"), Row("mtcnn", by, None, overlap, "overlap of their boxes")]
    return rows


def _row(task: Task, by: str, wanted: Sequence[Outputs], found: Sequence[Outputs]) -> Row:
    name = task.output or next(iter(wanted[0]))
    a, b = (np.concatenate([o[name].ravel() for o in outputs]).astype(np.float64) for outputs in (wanted, found))
    sqnr = 10 * np.log10((a @ a) / max(float(np.square(a - b).sum()), 1e-30))
    return Row(task.model, by, float(sqnr), task.judge(wanted, found), task.what)


def table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = ["| Model | By | Output, dB | Judged by | |", "|---|---|---:|---|---:|"]
    lines += [f"| {r.model} | {r.by} | {'' if r.sqnr is None else f'{r.sqnr:.1f}'} | {r.what} | {r.agreement:.4f} |" for r in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=[task.model for task in TASKS], action="append")
    parser.add_argument("--write", action="store_true", help="also write bench/results/quantization_models.json and .md")
    args = parser.parse_args()
    measured: dict[str, Measured] = {}
    for task in TASKS:
        if not args.model or task.model in args.model:
            measured[task.model] = measure(task)
            print(table(measured[task.model].rows), flush=True)
    rows = [row for found in measured.values() for row in found.rows]
    if all(f"mtcnn {name}" in measured for name in faces.NETS):
        rows += face_rows(measured)
        print(table(rows[-2 * (1 + len(THEIRS)) :]), flush=True)
    if args.write:
        write(rows)


def write(rows: list[Row], folder: Path = RESULTS) -> None:
    """Put results into `quantization_models.json` and `.md`, beside those of models that were not measured this time."""
    file, again = folder / "quantization_models.json", {row.model for row in rows}
    if file.exists():
        rows = [*(Row(**row) for row in json.loads(file.read_text()) if row["model"] not in again), *rows]
    order = {name: place for place, name in enumerate([*(task.model for task in TASKS), "mtcnn"])}
    rows.sort(key=lambda row: order[row.model])
    file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    (folder / "quantization_models.md").write_text(table(rows))


if __name__ == "__main__":
    main()
