"""Operator conformance: the cases that the `onnx` package generates, run by the evaluator or through a backend.

`python -m lepton_compiler.testing.conformance --kind evaluator` prints what passes and why the rest does not. The expected
outcome of every case is recorded in `tests/conformance/KIND.txt`, so that gains and losses show in a diff.

Out of scope are cases with strings, sequences or optionals, the training operators, and everything that draws random numbers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.errors import LeptonError, UnsupportedError
from lepton_compiler.testing import operators_page
from lepton_compiler.testing.round_trip import EvaluatedInstead, through_onnx_runtime

Runner = Callable[[Any, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Runs a `ModelProto` on feeds by input name; gives arrays by output name."""

RECORDS = Path(__file__).parents[2] / "tests" / "conformance"
RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())
CRASHES = (
    AssertionError,
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Outcome:
    """What became of one case: `reason` is a short class of failure, or who checked it instead; `message` one line about it.

    `cause` is what a diagnosis said, without the names, numbers and shapes of the case.
    """

    name: str
    passed: bool
    reason: str = ""
    message: str = ""
    cause: str = ""

    @property
    def record(self) -> str:
        """The line in the record file."""
        return f"{self.name}\t{'pass' if self.passed else 'fail'}\t{self.reason}\t{self.cause}".rstrip("\t")


class Mismatch(Exception):
    """An output that differs from the expected one."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@cache
def cases() -> dict[str, Any]:
    """Name to test case of everything in scope, sorted by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = collect_testcases(None)
    return {case.name: case for case in sorted(every, key=lambda c: c.name) if in_scope(case)}


def in_scope(case: Any) -> bool:
    """Whether a case is about tensors of numbers, inference and determinism."""
    import onnx

    values = [*case.model.graph.input, *case.model.graph.output]
    if any(v.type.WhichOneof("value") != "tensor_type" or v.type.tensor_type.elem_type == onnx.TensorProto.STRING for v in values):
        return False
    if any(entry.domain == "ai.onnx.preview.training" for entry in case.model.opset_import):
        return False
    return not any(n.op_type in RANDOM or n.op_type.startswith("Sequence") or _drops(n, case) for n in case.model.graph.node)


def _drops(node: Any, case: Any) -> bool:
    """Whether a node is a Dropout in training mode."""
    return bool(node.op_type == "Dropout") and case.name.startswith("test_training_dropout")


def run_case(case: Any, runner: Runner) -> Outcome:
    """Run one case on each of its data sets."""
    instead = False
    try:
        for inputs, expected in case.data_sets:
            feeds = {formal.name: _array(value) for formal, value in zip(case.model.graph.input, inputs, strict=False)}
            results = runner(case.model, feeds)
            instead |= isinstance(results, EvaluatedInstead)
            for formal, wanted in zip(case.model.graph.output, expected, strict=True):
                compare(formal.name, np.asarray(results[formal.name]), _array(wanted), case.rtol, case.atol)
    except Mismatch as error:
        return Outcome(case.name, False, error.reason, str(error))
    except LeptonError as error:
        return Outcome(case.name, False, type(error).__name__, str(error).splitlines()[0], _cause(error))
    except CRASHES as error:
        return Outcome(case.name, False, f"crash {type(error).__name__}", (str(error).splitlines() or [""])[0])
    except Exception as error:
        return Outcome(case.name, False, f"runtime {type(error).__name__}", (str(error).splitlines() or [""])[0])
    return Outcome(case.name, True, "evaluator" if instead else "")


def _cause(error: LeptonError) -> str:
    """What a diagnosis says, after the operator that it is about."""
    first = error.diagnostics[0]
    operator = re.match(r"node '.*' \((\w+)", first.where)
    text = f"{operator[1]}: {first.message}" if operator and operator[1] not in first.message else first.message
    return re.sub(r"\s+", " ", text)


def _array(value: Any) -> np.ndarray:
    """An array of a data set, which holds protobufs for the types that numpy lacks."""
    import onnx

    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def compare(name: str, got: np.ndarray, wanted: np.ndarray, rtol: float, atol: float) -> None:
    """Check shape, type and values: exact for integers and booleans, within the case's tolerance for floats, NaN equals NaN.

    Raises:
        Mismatch: they differ.
    """
    if got.shape != wanted.shape:
        raise Mismatch("shape", f"'{name}' has shape {got.shape}, expected {wanted.shape}")
    if got.dtype != wanted.dtype:
        raise Mismatch("type", f"'{name}' is {got.dtype}, expected {wanted.dtype}")
    inexact = wanted.dtype.kind in "fcV"
    left, right = (got, wanted) if wanted.dtype.kind in "biufc" else (got.astype(np.float64), wanted.astype(np.float64))
    if not inexact:
        if not np.array_equal(left, right):
            raise Mismatch("values", f"'{name}' differs in {int(np.sum(left != right))} of {left.size} elements")
        return
    wide = np.complex128 if wanted.dtype.kind == "c" else np.float64
    left, right = left.astype(wide), right.astype(wide)
    with np.errstate(all="ignore"):
        close = np.isclose(left, right, rtol, atol, equal_nan=True)
        worst = float(np.nanmax(np.abs(left - right))) if not close.all() else 0.0
    if not close.all():
        raise Mismatch("values", f"'{name}' differs in {int((~close).sum())} of {close.size} elements, by at most {worst:.3g}")


# -- kinds


def run_evaluator(model: Any, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Import the model and evaluate it with numpy."""
    from lepton_compiler.ops.evaluator import evaluate

    return with_parameters(model, feeds, evaluate)


def run_onnx(model: Any, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Import the model, emit it as ONNX again, and run that with ONNX Runtime; with the evaluator where that lacks a kernel for a type."""
    return with_parameters(model, feeds, through_onnx_runtime)


def run_native(model: Any, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Compile the model for this machine and run it."""
    import lepton_compiler

    compile_model: Callable[..., Any] = lepton_compiler.compile
    return with_parameters(model, feeds, lambda graph, given: compile_model(graph, target="native").run(dict(given)))


def with_parameters(model: Any, feeds: Mapping[str, np.ndarray], run: Runner) -> Mapping[str, np.ndarray]:
    """Import a model for the shapes of these feeds and run it.

    The cases pass everything at run time, axes, sizes and scales too. Where that is not supported, small operands of integers
    are bound to their values, then small ones of floats as well, as they are in any exported model.
    """
    from lepton_compiler.frontends.onnx import import_onnx

    shapes = {name: tuple(array.shape) for name, array in feeds.items()}
    bound: dict[str, np.ndarray] = {}
    for kinds, limit in (("", 0), ("iub", 64), ("iubfV", 8)):
        more = {name: array for name, array in feeds.items() if array.dtype.kind in kinds and array.size <= limit} | bound
        if kinds and len(more) == len(bound):
            continue
        bound = more
        try:
            return run(import_onnx(model, shapes | bound), {name: array for name, array in feeds.items() if name not in bound})
        except UnsupportedError as error:
            problem = error
    raise problem


KINDS: dict[str, Runner] = {"evaluator": run_evaluator, "onnx": run_onnx, "native": run_native}


# -- all of them


def run_all(kind: str, pattern: str = "", jobs: int = 1, part: tuple[int, int] = (0, 1), *, failed: bool = False) -> list[Outcome]:
    """Run every case whose name contains `pattern`, or of those part k of n, or that are recorded as failing; in order of names."""
    names = [name for name in cases() if pattern in name][part[0] :: part[1]]
    if failed:
        record = read_record(kind)
        names = [name for name in names if _state(record.get(name, "")) == "fail"]
    if jobs <= 1:
        return [_run_named((kind, name)) for name in names]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        return pool.map(_run_named, [(kind, name) for name in names], chunksize=8)


def _run_named(job: tuple[str, str]) -> Outcome:
    kind, name = job
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run_case(cases()[name], KINDS[kind])


def read_record(kind: str) -> dict[str, str]:
    """Case name to its recorded line; empty if nothing is recorded."""
    path = RECORDS / f"{kind}.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return {line.partition("\t")[0]: line for line in lines}


def differences(kind: str, outcomes: Iterable[Outcome]) -> Iterator[str]:
    """One line per gain, loss or new case against the record."""
    record = read_record(kind)
    for outcome in outcomes:
        before, now = _state(record.get(outcome.name, "")), _state(outcome.record)
        if before != now:
            gain = "gain" if outcome.passed and before != "pass" else "loss"
            why = "" if outcome.passed else f" {outcome.reason} {outcome.message}"
            yield f"{gain}: {outcome.name} was {before or 'not recorded'}, now {now}{why}"


def _state(line: str) -> str:
    """Whether a recorded case passes, and who checks it if not the runtime; the reason of a failure may change."""
    state, _, reason = line.partition("\t")[2].partition("\t")
    return f"{state} {reason}".rstrip() if state == "pass" else state


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit status 1 if something differs from the record."""
    parser = argparse.ArgumentParser(
        prog="python -m lepton_compiler.testing.conformance", description="Operator conformance over ONNX's own cases."
    )
    parser.add_argument("--kind", choices=list(KINDS), default="evaluator", help="what runs the cases")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--filter", default="", help="only cases whose name contains this")
    parser.add_argument("--failed", action="store_true", help="only cases that are recorded as failing")
    parser.add_argument("--update", action="store_true", help="record the outcomes, and rewrite the tables of docs/operators.md")
    parser.add_argument("--report", action="store_true", help="only rewrite the tables of docs/operators.md")
    options = parser.parse_args(arguments)
    if options.report:
        operators_page.write()
        return 0
    outcomes = run_all(options.kind, options.filter, options.jobs, failed=options.failed)
    for outcome in outcomes:
        if not outcome.passed:
            print(f"{outcome.name}: {outcome.reason}: {outcome.message[:200]}")
    reasons = Counter(o.reason for o in outcomes if not o.passed)
    passed = sum(o.passed for o in outcomes)
    print(f"{options.kind}: {passed} passed, {len(outcomes) - passed} failed of {len(outcomes)}  {dict(reasons.most_common())}")
    if options.update:
        lines = read_record(options.kind) | {o.name: o.record for o in outcomes}
        known = cases()
        (RECORDS / f"{options.kind}.txt").write_text("".join(f"{lines[name]}\n" for name in sorted(lines) if name in known))
        operators_page.write()
        return 0
    changes = list(differences(options.kind, outcomes))
    print("\n".join(changes))
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
