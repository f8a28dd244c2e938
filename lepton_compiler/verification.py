"""Does the artefact compute what the model says? One comparison, used by `--verify`, `lepton diff` and the benchmarks."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_compiler.errors import UsageError, VerificationError
from lepton_compiler.feeds import random_feeds
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ops.evaluator import as_array, evaluate
from lepton_compiler.sources import is_onnx, onnx_bytes_or_path
from lepton_compiler.states import States

if TYPE_CHECKING:
    from lepton_compiler.runtime.model import CompiledModel

TOLERANCE = 1e-3
"""Largest error that passes, relative to the range of the output's values."""
STREAMED = 3
"""Calls, one after another, that a stateful model is verified with."""
NO_STATES = States()
LOWER_TOLERANCE = 1e-2
"""The same where products are computed in tf32 or half precision, which have 11 bits."""
COARSE_TOLERANCE = 5e-2
"""The same in bfloat16, which has 8 bits."""
DYNAMIC_TOLERANCE = 3e-2
"""The same where a model quantizes by ranges that it measures as it runs: the last digit of a sum moves whole steps of a later layer."""


@dataclass(frozen=True)
class Verification:
    """The outcome of a comparison.

    Attributes:
        reference: what the outputs were compared with: `onnxruntime`, `evaluator`, or a name that the caller gave.
        max_abs: largest absolute difference over all outputs; infinite where NaN or infinities do not match.
        max_rel: largest difference relative to the range (maximum less minimum) of its output.
        ok: whether `max_rel` is within the tolerance.
        worst: name of the output with the largest relative difference.
        tolerance: the largest `max_rel` that passes.
    """

    reference: str
    max_abs: float
    max_rel: float
    ok: bool
    worst: str = ""
    tolerance: float = TOLERANCE

    def as_json(self) -> dict[str, Any]:
        """JSON values; differences that are not finite become null."""
        numbers = {"max_abs": self.max_abs, "max_rel": self.max_rel}
        finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        return {"reference": self.reference, **finite, "ok": self.ok, "worst": self.worst, "tolerance": self.tolerance}

    def failure(self) -> VerificationError | None:
        """The error that says which output differs by how much, or None where the comparison passed."""
        if self.ok:
            return None
        return VerificationError(
            f"differs from {self.reference} by {self.max_abs:.3g}, which is {self.max_rel:.3g} of the output's range",
            where=f"output '{self.worst}'",
            hint="compile with -O0, or with --passes, to find the pass that is to blame, and report the model",
        )

    def check(self) -> None:
        """Raise `failure()` unless the comparison passed.

        Raises:
            VerificationError: it did not.
        """
        if error := self.failure():
            raise error


def compare(
    expected: Mapping[str, Any], actual: Mapping[str, Any], reference: str = "reference", tolerance: float = TOLERANCE
) -> Verification:
    """Compare outputs by name.

    Raises:
        UsageError: the sets of outputs differ.
    """
    if set(expected) != set(actual):
        raise UsageError(f"outputs differ: {', '.join(expected)} against {', '.join(actual)}")
    worst, max_abs, max_rel = "", 0.0, 0.0
    for name, want in expected.items():
        absolute, relative = difference(as_array(want), as_array(actual[name]))
        max_abs = max(max_abs, absolute)
        if relative > max_rel or not worst:
            worst, max_rel = name, max(max_rel, relative)
    return Verification(reference, max_abs, max_rel, max_rel <= tolerance, worst, tolerance)


def tolerance_of(graph: Graph) -> float:
    """The tolerance for a model, by how it quantizes."""
    dynamic = {"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "MatMulInteger", "ConvInteger"}
    return DYNAMIC_TOLERANCE if any(node.op.name in dynamic for node in graph.walk()) else TOLERANCE


def tolerance_with(precision: str) -> float:
    """The least tolerance for products of this precision."""
    return {"fp32": TOLERANCE, "bf16": COARSE_TOLERANCE}.get(precision, LOWER_TOLERANCE)


def difference(expected: np.ndarray, actual: np.ndarray) -> tuple[float, float]:
    """Largest absolute difference, and the same relative to the range of `expected`.

    Both are infinite where shapes differ, or NaN or infinities are not in the same places.
    """
    if expected.shape != actual.shape:
        return math.inf, math.inf
    if expected.size == 0:
        return 0.0, 0.0
    wide = np.complex128 if np.iscomplexobj(expected) else np.float64
    a, b = expected.astype(wide), actual.astype(wide)
    finite = np.isfinite(a)
    odd_a, odd_b = a[~finite], b[~finite]
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(odd_a, odd_b, equal_nan=True):
        return math.inf, math.inf
    if not finite.any():
        return 0.0, 0.0
    a, b = a[finite], b[finite]
    absolute = float(np.abs(a - b).max())
    values = np.abs(a) if wide is np.complex128 else a
    span = float(np.max(values) - np.min(values)) or float(np.abs(a).max()) or 1.0
    return absolute, absolute / span


def reference_outputs(
    source: Any, graph: Graph, feeds: Mapping[str, Any], bound: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, np.ndarray]]:
    """What the model should compute, and who says so: ONNX Runtime where it can, else the evaluator.

    Quantized models that tf2onnx converted from TFLite mean what TFLite computes, which ONNX Runtime does not: for them the evaluator says.

    Args:
        source: what the user gave: path, bytes, protobuf or graph.
        graph: the imported graph.
        feeds: its inputs.
        bound: inputs that the import made constant.
    """
    if is_onnx(source) and importlib.util.find_spec("onnxruntime") is not None and not _means_tflite(source):
        constants = {n: a for n, a in (bound or {}).items() if hasattr(a, "dtype") and hasattr(a, "shape") and not hasattr(a, "rank")}
        outputs = _onnxruntime_outputs(source, {**feeds, **constants})
        if outputs is not None:
            return "onnxruntime", outputs
    return "evaluator", evaluate(graph, feeds)


def check_models(
    source: Any, graphs: Mapping[Any, Graph], model: CompiledModel, feeds: Mapping[str, Any], bound: Mapping[str, Any], here: bool,
    states: States = NO_STATES, least: float = TOLERANCE,
) -> Verification:  # fmt: skip
    """Run a compiled model beside a reference, once for each choice of sizes; the worst comparison.

    Args:
        source: what the user gave.
        graphs: as imported, one for each choice of sizes.
        model: what was made of them.
        feeds: inputs; random ones for those that are missing.
        bound: inputs that the import made constant.
        here: whether it runs on this machine; else it is emulated.
        states: that it keeps: it is run several times, then.
        least: the least tolerance.
    """
    checks = [_check_model(source, graph, model, feeds, bound, here, states, least) for graph in graphs.values()]
    return max(checks, key=lambda check: check.max_rel)


def _check_model(
    source: Any, imported: Graph, model: CompiledModel, given: Mapping[str, Any], bound: Mapping[str, Any], here: bool, states: States,
    least: float,
) -> Verification:  # fmt: skip
    feeds, checks = random_feeds(imported.inputs, fixed=given), []
    kept = {value.name: states.first(value) for _, value in states.pairs(imported)}
    model.reset()
    for step in range(STREAMED if states else 1):
        feeds = random_feeds(imported.inputs, step, given) | kept if states else feeds
        reference, expected = reference_outputs(source, imported, feeds, bound) if here else ("evaluator", evaluate(imported, feeds))
        kept = {target: as_array(expected[name]) for name, target in states.inputs.items()}
        shown = {name: array for name, array in feeds.items() if name not in kept}
        actual = model.run(shown) if here else model.emulate(shown, count=False)[0]
        wanted = {name: array for name, array in expected.items() if name not in states.inputs}
        checks.append(compare(wanted, actual, reference, max(least, tolerance_of(imported))))
    model.reset()
    return max(checks, key=lambda check: check.max_rel)


def _means_tflite(source: Any) -> bool:
    """Whether ONNX's operators do not say in every detail what the model means."""
    from lepton_compiler.frontends.onnx.load import load_model
    from lepton_compiler.frontends.onnx.tflite_origin import is_converted_from_tflite

    return is_converted_from_tflite(load_model(source)[0])


def onnxruntime_session(source: Any, threads: int = 1, *, as_written: bool = False) -> Any:
    """An inference session on the CPU.

    Args:
        source: path, bytes or protobuf of an ONNX model.
        threads: that one run may use.
        as_written: node by node, without ONNX Runtime's own rewrites. Those round quantized models differently from what
            ONNX defines, by a step of the output here and there, so a reference does without them.

    Raises:
        MissingDependency: onnxruntime is not installed.
    """
    from lepton_compiler.errors import MissingDependency

    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingDependency("onnxruntime is not installed", hint="pip install 'lepton-compiler[ort]'") from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    if as_written:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = onnx_bytes_or_path(source)
    return runtime.InferenceSession(model if isinstance(model, bytes) else os.fspath(model), options, providers=["CPUExecutionProvider"])


def _onnxruntime_outputs(source: Any, feeds: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """Outputs by name; None where ONNX Runtime refuses the model."""
    try:
        session = onnxruntime_session(source, as_written=True)
        names = [out.name for out in session.get_outputs()]
        wanted = {i.name for i in session.get_inputs()}
        return dict(zip(names, session.run(names, {n: as_array(a) for n, a in feeds.items() if n in wanted}), strict=True))
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return None
    except Exception as error:  # its own exceptions derive from Exception only
        if type(error).__module__.startswith("onnxruntime"):
            return None
        raise
