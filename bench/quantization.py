"""Quantized nets beside ONNX Runtime's: `python -m bench.quantization [--net NAME] [--write]`.

Every variant is made from the same float net with the same calibration samples, and measured on the whole test set. Ours run through the
evaluator, which defines what native code computes. Accuracies that differ are compared image by image: the tables tell how many answers
change which way, and how probable such a difference is between nets that are equally good.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np

import lepton_compiler as lc
from bench.paired import Pairs
from bench.quantization_cases import CASES, Case, evaluate_scores, sqnr
from bench.runtime_quantizer import quantize_dynamic, quantize_static, session_run
from lepton_compiler.quantization import Request, parse_recipe, quantize

RESULTS = Path(__file__).parent / "results"
OURS = ("int8", "int16x8", "dynamic", "w8", "w4")
THEIRS = ("minmax", "percentile", "entropy")


@dataclass(frozen=True)
class Row:
    """One variant of one net.

    Attributes:
        net: its name.
        by: whose quantizer.
        scheme: what it did.
        accuracy: share of right answers.
        agreement: share of answers that are the float net's.
        sqnr: signal to noise of the scores, in decibels; None for the float net.
        ratio: bytes of the weights, relative to the float net's.
        lost: samples that only the float net has right.
        won: samples that only this one has right.
    """

    net: str
    by: str
    scheme: str
    accuracy: float
    agreement: float
    sqnr: float | None
    ratio: float | None
    lost: int
    won: int


@dataclass(frozen=True)
class Duel:
    """Our int8 against one of ONNX Runtime's: where only one of them is right, and where only one gives the float net's answer."""

    net: str
    against: str
    right: Pairs
    like_float: Pairs


@dataclass(frozen=True)
class Variant:
    """The scores that a quantized net gives on the test set; `ratio` as in `Row`."""

    by: str
    scheme: str
    scores: np.ndarray
    ratio: float | None = None


def variants(case: Case, ours: Sequence[str]) -> Iterator[Variant]:
    """The float net, ours, theirs."""
    test, samples = case.test(), case.samples()
    graph = lc.optimize(lc.import_model(case.model), 2)
    yield Variant("float", "float32", evaluate_scores(lambda feeds: lc.evaluate(graph, feeds), test), 1.0)
    for scheme in ours:
        done = quantize(graph, Request(parse_recipe(scheme), samples))
        before, after = done.report.weight_bytes
        scores = evaluate_scores(lambda feeds, made=done.graph: lc.evaluate(made, feeds), test)  # type: ignore[misc]
        yield Variant("lepton", scheme, scores, after / before)
    for method in THEIRS:
        run = session_run(quantize_static(case.model, samples, method))
        yield Variant("ONNX Runtime", f"int8, {method}", evaluate_scores(run, test))
    yield Variant("ONNX Runtime", "dynamic", evaluate_scores(session_run(quantize_dynamic(case.model)), test))


def rows(case: Case, found: Sequence[Variant], labels: np.ndarray) -> list[Row]:
    """What each of the variants is worth; the first one is the float net."""
    return [_row(case.name, variant, found[0].scores, labels) for variant in found]


def _row(net: str, found: Variant, exact: np.ndarray, labels: np.ndarray) -> Row:
    best, wanted = found.scores.argmax(1), exact.argmax(1)
    pairs = Pairs.of(wanted == labels, best == labels)
    quality = None if found.by == "float" else sqnr(found.scores, exact)
    right, same = float((best == labels).mean()), float((best == wanted).mean())
    return Row(net, found.by, found.scheme, right, same, quality, found.ratio, pairs.first, pairs.second)


def duels(case: Case, found: Sequence[Variant], labels: np.ndarray) -> list[Duel]:
    """Our int8 against ONNX Runtime's."""
    wanted = found[0].scores.argmax(1)
    ours = [v.scores.argmax(1) for v in found if (v.by, v.scheme) == ("lepton", "int8")]
    theirs = [(v.scheme, v.scores.argmax(1)) for v in found if v.by == "ONNX Runtime" and v.scheme != "dynamic"]
    return [
        Duel(case.name, scheme, Pairs.of(a == labels, b == labels), Pairs.of(a == wanted, b == wanted))
        for a in ours
        for scheme, b in theirs
    ]


def table(found: Sequence[Row]) -> str:
    """A Markdown table of the variants."""
    lines = [
        "| Net | By | Scheme | Accuracy | Only float right | Only it right | Chance | Same class as float | Scores, dB | Weights / float |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        cells = [row.net, row.by, row.scheme, f"{100 * row.accuracy:.2f} %"]
        exact = row.sqnr is None
        cells += ["", "", ""] if exact else [str(row.lost), str(row.won), f"{Pairs(row.lost, row.won).chance:.2f}"]
        cells += [f"{100 * row.agreement:.2f} %", "" if row.sqnr is None else f"{min(row.sqnr, 99.9):.1f}"]
        lines.append(f"| {' | '.join([*cells, '' if row.ratio is None else f'{row.ratio:.3f}'])} |")
    return "\n".join(lines) + "\n"


def duel_table(found: Sequence[Duel]) -> str:
    """A Markdown table of our int8 against theirs, sample by sample."""
    lines = [
        "| Net | Against ONNX Runtime's | Only ours right | Only theirs right | Chance | Only ours as float | Only theirs as float | Chance |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for duel in found:
        numbers = [f"{p.first} | {p.second} | {p.chance:.2g}" for p in (duel.right, duel.like_float)]
        lines.append(f"| {duel.net} | {duel.against} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def native_shares(case: Case, cpu: str, level: int | str) -> dict[str, float]:
    """Bytes of the constants of a library that takes one sample at a time, by scheme, relative to the float net's."""
    samples, quick = case.samples()[:2], "rounding=nearest,correct-bias=off"
    shapes = {name: array.shape for name, array in samples[0].items()}
    recipes = {"int8": f"int8{{{quick},observer=minmax}}", "w8": f"w8{{{quick}}}", "w4": f"w4{{{quick}}}"}
    whole = lc.compile(case.model, "x86_64", level, shapes, cpu=cpu).manifest["weights_bytes"]
    made = {name: lc.compile(case.model, "x86_64", level, shapes, cpu=cpu, quantize=r, calibration=samples) for name, r in recipes.items()}
    return {name: model.manifest["weights_bytes"] / whole for name, model in made.items()}


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=[case.name for case in CASES], action="append")
    parser.add_argument("--scheme", choices=OURS, action="append", help="of ours, only these")
    parser.add_argument("--sizes", metavar="CPU", help="only what native libraries for this processor hold, as x86-64-v3")
    parser.add_argument("--write", action="store_true", help="also write bench/results/quantization.json and .md")
    args = parser.parse_args()
    if args.sizes:
        levels: tuple[int | str, ...] = (2, "s")
        for case, level in product(CASES, levels):
            shares = native_shares(case, args.sizes, level)
            print(f"{case.name} -O{level}:", *(f"{name} {share:.3f}" for name, share in shares.items()), flush=True)
        return
    found, fought = list[Row](), list[Duel]()
    for case in CASES:
        if not args.net or case.name in args.net:
            made = []
            for variant in variants(case, args.scheme or OURS):
                print(f"{case.name}: {variant.by} {variant.scheme}", file=sys.stderr, flush=True)
                made.append(variant)
            labels = case.test().labels
            found += rows(case, made, labels)
            fought += duels(case, made, labels)
            print(table(rows(case, made, labels)), duel_table(duels(case, made, labels)), sep="\n", flush=True)
    if args.write:
        write(found, fought)


def write(found: list[Row], fought: list[Duel], folder: Path = RESULTS) -> None:
    """Put results into `quantization.json` and `.md`, beside those of nets and schemes that were not measured this time."""
    file, again = folder / "quantization.json", {(row.net, row.by, row.scheme) for row in found}
    fresh = {duel.net for duel in fought}
    if file.exists():
        known = json.loads(file.read_text())
        found = [*(Row(**row) for row in known["rows"] if (row["net"], row["by"], row["scheme"]) not in again), *found]
        old = [Duel(d["net"], d["against"], Pairs(**d["right"]), Pairs(**d["like_float"])) for d in known["duels"]]
        fought = [*(duel for duel in old if duel.net not in fresh), *fought]
    order = {case.name: place for place, case in enumerate(CASES)}
    makers = [("float", "float32"), *(("lepton", scheme) for scheme in OURS), *(("ONNX Runtime", f"int8, {m}") for m in THEIRS)]
    places = {maker: place for place, maker in enumerate(makers)}
    found.sort(key=lambda row: (order[row.net], places.get((row.by, row.scheme), len(places))))
    fought.sort(key=lambda duel: order[duel.net])
    file.write_text(json.dumps({"rows": [asdict(row) for row in found], "duels": [asdict(duel) for duel in fought]}, indent=1) + "\n")
    (folder / "quantization.md").write_text(f"{table(found)}\n{duel_table(fought)}")


if __name__ == "__main__":
    main()
