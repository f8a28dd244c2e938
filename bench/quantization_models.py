"""Models of the zoo, int8 beside ONNX Runtime's int8: `python -m bench.quantization_models [--model NAME] [--write]`.

`bench.task_inputs` tells what the inputs are. ONNX Runtime's quantizer is taken with its defaults, which quantize every operator that it knows,
and with products and convolutions alone. Where our int8 is given a bound on the loss, that is measured on the calibration samples, as everything
that decides anything.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import lepton_compiler as lc
from bench import faces, task_inputs, text_lines
from bench.runtime_quantizer import LAYERS, quantize_as_it_can, session_run
from lepton_compiler import zoo
from lepton_compiler.ir.graph import Graph
from lepton_compiler.quantization import Request, parse_recipe, quantize
from lepton_compiler.quantization.metric import Metric

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
        inputs: shapes or constants of inputs.
        samples: for calibration, and for the comparison.
        judge: from outputs of the float and of the quantized model to a number, and what that number is.
        what: the name of that number.
        output: the one that signal to noise is told of; the first one where empty.
        recipe: how we quantize.
        bound: inside which loss of which score, `recipe` and layers in floating point together, to be measured too.
        more: what such samples are called, and further ones for the judge.
    """

    model: str
    file: Callable[[], Path]
    inputs: Mapping[str, Any]
    samples: Callable[[Path], task_inputs.Split]
    judge: Callable[[Sequence[Outputs], Sequence[Outputs]], float]
    what: str
    output: str = ""
    recipe: str = "int8{refine-samples=8}"
    bound: tuple[float, Metric] | None = None
    more: tuple[str, Callable[[], Sequence[task_inputs.Feeds]]] | None = None


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


def onnx_file(name: str) -> Path:
    """See `pretrained.onnx_file`; PyTorch is imported by the nets that need it, not by those of the zoo."""
    from bench.pretrained import onnx_file as exported

    return exported(name)


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
        text_lines.split,
        text_lines.same_text,
        "same text",
        "",
        "int8{refine-samples=16}",
        (0.1, text_lines.belief),
        ("8 lines, whatever the float model reads", text_lines.former),
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
    runs = _ours(task, path, train) | {by: session_run(quantize_as_it_can(path, train, operators)) for by, operators in THEIRS.items()}
    float_run = session_run(path)
    wanted = [float_run(feeds) for feeds in test]
    rows = [_row(task, by, wanted, [run(feeds) for feeds in test]) for by, run in runs.items()]
    if task.more is not None:
        rows += _more_rows(task, *task.more, float_run, runs)
    return Measured(rows, runs)


def _ours(task: Task, path: Path, train: Sequence[task_inputs.Feeds]) -> dict[str, Run]:
    """What runs our int8, and that within the bound of the task; what the recipe leaves open is decided once."""
    graph = lc.optimize(lc.import_model(path, inputs=dict(task.inputs)), 2)
    found = quantize(graph, Request(parse_recipe(task.recipe), train))
    runs = {"lepton": evaluator(found.graph)}
    if task.bound is not None:
        bound, metric = task.bound
        within = quantize(graph, Request(parse_recipe(found.report.recipe), train, bound, metric))
        share = share_of_multiplications(graph, within.report.kept)
        runs[f"lepton, loss within {100 * bound:.3g} %: {100 * share:.1f} % in floating point"] = evaluator(within.graph)
    return runs


def evaluator(graph: Graph) -> Run:
    """Runs a graph of ours."""
    return lambda feeds: lc.evaluate(graph, feeds)


def share_of_multiplications(graph: Graph, names: Sequence[str]) -> float:
    """The part of the multiplications of a graph of known sizes that the nodes do whose first results have these names."""
    work = {
        node.output.name: node.op.cost([None if v is None else v.type for v in node.inputs], [v.type for v in node.outputs]).macs
        for node in graph
        if len(node.outputs) == 1
    }
    return float(sum(work[name] for name in names) / sum(work.values()))


def _more_rows(
    task: Task, what: str, samples: Callable[[], Sequence[task_inputs.Feeds]], float_run: Run, runs: Mapping[str, Run]
) -> list[Row]:
    """The judge's numbers on further samples."""
    feeds = samples()
    wanted = [float_run(f) for f in feeds]
    rows = [_row(task, by, wanted, [run(f) for f in feeds]) for by, run in runs.items()]
    return [replace(row, what=f"{row.what}, {what}") for row in rows]


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
