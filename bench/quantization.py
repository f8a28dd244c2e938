"""Quantized nets beside ONNX Runtime's: `python -m bench.quantization [--net NAME] [--write]`.

Every variant is made from the same float net with the same calibration samples, and measured on the whole test set. Ours run through the
evaluator, which defines what native code computes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import lepton_compiler as lc
from bench.quantization_cases import CASES, Case, Score, evaluate_scores, score
from bench.runtime_quantizer import quantize_dynamic, quantize_static, session_run
from lepton_compiler.quantization import Request, parse_recipe, quantize

RESULTS = Path(__file__).parent / "results"
OURS = ("int8", "int16x8", "dynamic", "w8", "w4")
THEIRS = ("minmax", "percentile", "entropy")


@dataclass(frozen=True)
class Row:
    """One variant of one net; `bytes` is that of its weights, `ratio` relative to the float net."""

    net: str
    by: str
    scheme: str
    accuracy: float
    agreement: float
    sqnr: float | None
    ratio: float | None


def rows(case: Case, ours: Sequence[str] = OURS) -> Iterator[Row]:
    """The float net, ours, theirs."""
    test, samples = case.test(), case.samples()
    graph = lc.optimize(lc.import_model(case.model), 2)

    def through_evaluator(variant: lc.Graph) -> np.ndarray:
        return evaluate_scores(lambda feeds: lc.evaluate(variant, feeds), test)

    wanted = through_evaluator(graph)
    exact = score(wanted, wanted, test.labels)
    yield Row(case.name, "float", "float32", exact.accuracy, 1.0, None, 1.0)
    for scheme in ours:
        done = quantize(graph, Request(parse_recipe(scheme), samples))
        before, after = done.report.weight_bytes
        yield _row(case, "lepton", scheme, score(through_evaluator(done.graph), wanted, test.labels), after / before)
    for method in THEIRS:
        run = session_run(quantize_static(case.model, samples, method))
        yield _row(case, "ONNX Runtime", f"int8, {method}", score(evaluate_scores(run, test), wanted, test.labels), None)
    run = session_run(quantize_dynamic(case.model))
    yield _row(case, "ONNX Runtime", "dynamic", score(evaluate_scores(run, test), wanted, test.labels), None)


def _row(case: Case, by: str, scheme: str, found: Score, ratio: float | None) -> Row:
    return Row(case.name, by, scheme, found.accuracy, found.agreement, found.sqnr, ratio)


def table(found: list[Row]) -> str:
    """A Markdown table."""
    lines = ["| Net | By | Scheme | Accuracy | Same class as float | Scores, dB | Weights / float |", "|---|---|---|---:|---:|---:|---:|"]
    for row in found:
        sqnr = "" if row.sqnr is None else f"{min(row.sqnr, 99.9):.1f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        lines.append(
            f"| {row.net} | {row.by} | {row.scheme} | {100 * row.accuracy:.2f} % | {100 * row.agreement:.2f} % | {sqnr} | {ratio} |"
        )
    return "\n".join(lines) + "\n"


def as_json(found: list[Row]) -> list[Mapping[str, object]]:
    """Rows as JSON values."""
    return [asdict(row) for row in found]


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=[case.name for case in CASES], action="append")
    parser.add_argument("--scheme", choices=OURS, action="append", help="of ours, only these")
    parser.add_argument("--write", action="store_true", help="also write bench/results/quantization.json and .md")
    args = parser.parse_args()
    found: list[Row] = []
    for case in CASES:
        if not args.net or case.name in args.net:
            for row in rows(case, args.scheme or OURS):
                print(row, flush=True)
                found.append(row)
    print(table(found))
    if args.write:
        (RESULTS / "quantization.json").write_text(json.dumps(as_json(found), indent=1) + "\n")
        (RESULTS / "quantization.md").write_text(table(found))


if __name__ == "__main__":
    main()
