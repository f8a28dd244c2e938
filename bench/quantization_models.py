"""Models of the zoo, int8 beside ONNX Runtime's int8: `python -m bench.quantization_models [--model NAME] [--write]`.

Inputs are what the models are for where that can be had offline: files of this repository for magika, its text drawn as lines for PP-OCR.
The vocabulary of MiniLM is not in its package, so its sentences are token numbers of Zipf's distribution; the voice that silero-vad hears is
synthetic: pulses through formants, with pauses.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lepton_compiler as lc
from bench.runtime_quantizer import quantize_static, session_run
from lepton_compiler import zoo
from lepton_compiler.quantization import Request, parse_recipe, quantize

ROOT = Path(__file__).parent.parent
Feeds = dict[str, np.ndarray]
Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """A model, its inputs, and what its outputs are judged by.

    Attributes:
        model: part of its id in the zoo.
        bound: shapes or constants of inputs.
        samples: for calibration first, then for the comparison.
        calibration: how many of them are for calibration.
        output: the one that signal to noise is told of; the first one where empty.
        judge: from outputs of the float and of the quantized model to a number, and what that number is.
        what: the name of that number.
        recipe: how we quantize.
    """

    model: str
    bound: Mapping[str, Any]
    samples: Callable[[Path], list[Feeds]]
    calibration: int
    judge: Callable[[Sequence[Outputs], Sequence[Outputs]], float]
    what: str
    output: str = ""
    recipe: str = "int8{refine-samples=8}"


@dataclass(frozen=True)
class Row:
    """One quantized model: signal to noise of its output in decibels, and the task's number."""

    model: str
    by: str
    sqnr: float
    agreement: float
    what: str


def file_beginnings(path: Path) -> list[Feeds]:
    """The first and last 1,024 bytes of files, as magika reads them; 256 pads short ones."""
    files = [
        f for kind in ("*.py", "*.md", "*.toml", "*.json", "*.onnx", "*.lir", "Makefile", "LICENSE") for f in sorted(ROOT.rglob(kind))[:12]
    ]
    found = []
    for file in files:
        content = file.read_bytes()
        begin, end = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
        row = np.full((1, 2048), 256, np.int32)
        row[0, : len(begin)] = np.frombuffer(begin, np.uint8)
        row[0, 2048 - len(end) :] = np.frombuffer(end, np.uint8)
        found.append({"bytes": row})
    return [found[k] for k in np.random.default_rng(0).permutation(len(found))]


def sentences(path: Path) -> list[Feeds]:
    """Token numbers between the marks of a sentence, padded to 64."""
    rng, found = np.random.default_rng(0), []
    for _ in range(24):
        length = int(rng.integers(8, 40))
        ids, mask = np.zeros((1, 64), np.int64), np.zeros((1, 64), np.int64)
        words = np.minimum(1996 + rng.zipf(1.3, length - 2), 29999)
        ids[0, :length], mask[0, :length] = [101, *words, 102], 1
        found.append({"input_ids": ids, "attention_mask": mask})
    return found


def text_lines(path: Path) -> list[Feeds]:
    """Lines of this repository's README, drawn 48 pixels high, as PP-OCR reads them."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(30)
    words = (ROOT / "README.md").read_text().replace("`", "").replace("|", " ").split()
    found = []
    for k in range(16):
        image = Image.new("RGB", (320, 48), (250 - 3 * k, 245, 240))
        ImageDraw.Draw(image).text((6, 6 + k % 4), " ".join(words[3 * k : 3 * k + 3])[:22], (10 * k, 30, 20), font=font)
        pixels = np.asarray(image, np.float32)[..., ::-1].transpose(2, 0, 1)
        found.append({"x": np.ascontiguousarray((pixels / 255 - 0.5) / 0.5)[None].astype(np.float32)})
    return found


def voice(path: Path) -> list[Feeds]:
    """Frames of a synthetic voice with pauses, and the state that the float model has at each."""
    rng, rate = np.random.default_rng(0), 16000
    time = np.arange(rate * 4) / rate
    pitch = 2 * np.pi * np.cumsum(110 + 25 * np.sin(2 * np.pi * 0.7 * time)) / rate
    source = sum(np.sin(k * pitch) * np.exp(-((k * 115 - f) ** 2) / 90000.0) for k in range(1, 30) for f in (500, 1500, 2500))
    signal = 0.08 * source * (np.sin(2 * np.pi * 0.5 * time) > -0.2) + 0.003 * rng.normal(size=len(time))
    run, state, found = session_run(path), np.zeros((2, 1, 128), np.float32), []
    for k in range(64, len(signal) - 512, 512):
        feeds = {"input": signal[None, k - 64 : k + 512].astype(np.float32), "state": state, "sr": np.array(rate, np.int64)}
        state = run(feeds)["stateN"]
        found.append(feeds)
    return [found[k] for k in rng.permutation(len(found))]


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
    """The share of lines whose text is the same: best character of each column, repetitions and blanks left out."""

    def read(outputs: Outputs) -> list[int]:
        best = next(iter(outputs.values()))[0].argmax(-1)
        return [int(c) for k, c in enumerate(best) if c and (not k or best[k - 1] != c)]

    return float(np.mean([read(w) == read(f) for w, f in zip(wanted, found, strict=True)]))


def same_decision(wanted: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """The share of frames with the same answer to whether somebody speaks."""
    return float(np.mean([(w["output"] > 0.5) == (f["output"] > 0.5) for w, f in zip(wanted, found, strict=True)]))


MINILM = {"input_ids": (1, 64), "attention_mask": (1, 64)}
TASKS = (
    Task("magika/standard", {"bytes": (1, 2048)}, file_beginnings, 32, same_class, "same type of file"),
    Task("minilm/", MINILM, sentences, 12, least_cosine, "least cosine", "461", "int8{observer=minmax,refine-samples=8}"),
    Task("ch_pp_ocrv4_rec", {"x": (1, 3, 48, 320)}, text_lines, 8, same_text, "same text", "", "int8{refine-samples=2}"),
    Task("silero_vad_16k_op15", {"input": (1, 576), "state": (2, 1, 128)}, voice, 64, same_decision, "same decision", "output"),
)


def measure(task: Task) -> list[Row]:
    """Ours, and ONNX Runtime's with the same calibration samples."""
    path = zoo.fetch(zoo.find(task.model))
    samples = task.samples(path)
    train, test = samples[: task.calibration], samples[task.calibration :]
    graph = lc.optimize(lc.import_model(path, inputs=dict(task.bound)), 2)
    wanted = [session_run(path)(feeds) for feeds in test]
    ours = quantize(graph, Request(parse_recipe(task.recipe), train)).graph
    rows = [_row(task, "lepton", wanted, [lc.evaluate(ours, feeds) for feeds in test])]
    try:
        by, theirs = "ONNX Runtime", session_run(quantize_static(path, train, "minmax"))
    except ValueError:  # its quantizer trips over some small biases
        by, theirs = "ONNX Runtime, one scale per tensor", session_run(quantize_static(path, train, "minmax", per_channel=False))
    return [*rows, _row(task, by, wanted, [theirs(feeds) for feeds in test])]


def _row(task: Task, by: str, wanted: Sequence[Outputs], found: Sequence[Outputs]) -> Row:
    name = task.output or next(iter(wanted[0]))
    a, b = (np.concatenate([o[name].ravel() for o in outputs]).astype(np.float64) for outputs in (wanted, found))
    sqnr = 10 * np.log10((a @ a) / max(float(np.square(a - b).sum()), 1e-30))
    return Row(task.model, by, float(sqnr), task.judge(wanted, found), task.what)


def table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = ["| Model | By | Output, dB | Judged by | |", "|---|---|---:|---|---:|"]
    lines += [f"| {r.model} | {r.by} | {r.sqnr:.1f} | {r.what} | {r.agreement:.4f} |" for r in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=[task.model for task in TASKS], action="append")
    parser.add_argument("--write", action="store_true", help="also write bench/results/quantization_models.json and .md")
    args = parser.parse_args()
    rows: list[Row] = []
    for task in TASKS:
        if not args.model or task.model in args.model:
            rows += measure(task)
            print(table(rows[-2:]), flush=True)
    if args.write:
        results = ROOT / "bench" / "results"
        (results / "quantization_models.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        (results / "quantization_models.md").write_text(table(rows))


if __name__ == "__main__":
    main()
