"""Compiling the cases, where there need be no GPU: artefacts and what they should give, in folders that can be carried one at a time."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import lepton_compiler as lc
from bench.gpu.archive import Archive, archives, facts_of
from bench.gpu.candidates import Collection, collect
from bench.gpu.cases import TOLERANCE, Case, layer_shapes, net_shapes
from bench.patterns import patterned, patterned_input
from lepton_compiler import zoo
from lepton_compiler.backends.tvm import default_cache
from lepton_compiler.errors import LeptonError, MissingDependency
from lepton_compiler.feeds import feeds_from_recipes
from lepton_compiler.identity import compiler_files
from lepton_compiler.verification import compare, reference_outputs, tolerance_of

MOST_EXPECTED = 1 << 16
"""Elements of a net's output that are kept, about."""
SAME = 0.25
"""Part of the tolerance within which reference and evaluator are the same."""
SOURCES = ("patterns.py", "random_weights.py", "gpu/archive.py", "gpu/build.py", "gpu/candidates.py", "gpu/cases.py", "gpu/nets.py")


@dataclass(frozen=True)
class Options:
    """How cases are compiled.

    Attributes:
        target: for which GPUs.
        jobs: compiler processes at once.
        database: of tuning, whose choices are taken; None for the analytic ones.
    """

    target: str
    jobs: int | None = None
    database: Path | None = None


def compile_cases(cases: Sequence[Case], folder: Path, options: Options, limit: int, tell: Callable[[str], None]) -> list[tuple[Case, str]]:
    """Compile cases into `folder/1`, `folder/2`, ..., each with at most `limit` bytes unless one case alone has more.

    Those that are there already, made by the same compiler for the same target, stay.

    Returns:
        The cases that cannot be compiled, with the reason.
    """
    stamp, failed = stamp_of(options), []
    present = {path.name: path for path in archives(folder)}
    for number, case in enumerate(cases, 1):
        old = present.get(case.file)
        if old is not None:
            if facts_of(old)["stamp"] == stamp:
                tell(f"{number} of {len(cases)}, {case.name}: there already")
                continue
            old.unlink()
        try:
            archive = build(case, options, stamp)
        except LeptonError as error:
            failed.append((case, error.diagnostics[0].message))
            tell(f"{number} of {len(cases)}, {case.name}: {failed[-1][1]}")
            continue
        path = _place(archive, folder, limit)
        tell(f"{number} of {len(cases)}, {case.name}: {path.stat().st_size / 1e6:.1f} MB in {path.parent}")
    return failed


def stamp_of(options: Options) -> str:
    """Hash of the target, of the compiler, of what was measured, and of what this benchmark compiles."""
    digest = hashlib.sha256(options.target.encode())
    here = Path(__file__).parents[1]
    given = [options.database] if options.database else []
    for path in [*sorted(Path(f) for f in compiler_files()), *(here / name for name in SOURCES), *given]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def build(case: Case, options: Options, stamp: str) -> Archive | Collection:
    """Compile one case and compute what it should give.

    Raises:
        LeptonError: it cannot be compiled, or a package is missing.
    """
    return _model(case, options, stamp) if case.kind == "model" else _net(case, options, stamp)


def _compiled(source: Any, case: Case, options: Options, samples: Sequence[Mapping[str, np.ndarray]] = ()) -> lc.CompiledModel:
    how: dict[str, Any] = {"quantize": "int8", "calibration": samples} if case.precision == "int8" else {"precision": case.precision}
    return lc.compile(source, target=options.target, level=3, jobs=options.jobs, name="bench_model", tune_db=options.database, **how)


def _model(case: Case, options: Options, stamp: str) -> Archive:
    """A model of the zoo beside ONNX Runtime; weights that the file leaves out are patterned."""
    from bench.random_weights import with_random_weights

    entry = zoo.find(case.subject)
    path = with_random_weights(zoo.fetch(entry), patterned)
    graph, feeds = lc.import_model(path, inputs=entry.shapes), feeds_from_recipes(entry.inputs)
    reference, expected = reference_outputs(path, graph, feeds)
    own = lc.evaluate(graph, {value.name: feeds[value.name] for value in graph.inputs})
    same = compare(expected, own).max_rel <= TOLERANCE["fp32"] * SAME
    tolerance = max(TOLERANCE[case.precision], tolerance_of(graph))
    archive = _archive(case, stamp, tolerance, reference, _compiled(graph, case, options), feeds, expected)
    return archive if same else replace(archive, own=own)


def _net(case: Case, options: Options, stamp: str) -> Archive | Collection:
    """A net or a layer in PyTorch, beside PyTorch on this processor; or the candidates for it."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependency("the nets are defined in PyTorch, which is not installed", hint="pip install torch") from error
    from bench.gpu.nets import module

    net = module(case.subject)
    example = torch.from_numpy(patterned_input({**net_shapes(), **layer_shapes()}[case.subject]))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: shapes are to be constants here
        path = Path(folder, "net.onnx")
        torch.onnx.export(net, (example,), str(path), input_names=["x"], output_names=["y"], dynamo=False)
        if case.kind == "candidates":
            return collect(case, path, options.target, stamp, options.jobs or os.cpu_count() or 1, default_cache())
        model = _compiled(path, case, options, [{"x": example.numpy()}])
    with torch.no_grad():
        expected = net(example).numpy()
    stride = max(1, expected.size // MOST_EXPECTED) | 1
    span = {"y": float(np.ptp(expected))}
    return _archive(case, stamp, TOLERANCE[case.precision], "pytorch", model, {}, {"y": expected.reshape(-1)[::stride]}, stride, span)


def _archive(
    case: Case,
    stamp: str,
    tolerance: float,
    reference: str,
    model: lc.CompiledModel,
    feeds: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    stride: int = 1,
    span: dict[str, float] | None = None,
) -> Archive:
    assert model.artifact is not None
    manifest = {key: value for key, value in model.artifact.manifest.items() if key not in ("calls", "code", "arena_peak")}
    library = model.artifact.files[f"lib{manifest['name']}.so"]
    return Archive(case, stamp, tolerance, reference, manifest, library, feeds, expected, stride, span)


def _place(archive: Archive | Collection, folder: Path, limit: int) -> Path:
    """Write an archive into the first part that has room for it."""
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / archive.case.file
    archive.write(written)
    size = written.stat().st_size
    for part in _parts(folder):
        used = sum(path.stat().st_size for path in archives(part))
        if not used or used + size <= limit:
            part.mkdir(exist_ok=True)
            return written.replace(part / written.name)
    raise AssertionError("there is always another part")


def _parts(folder: Path) -> Iterator[Path]:
    number = 1
    while True:
        yield folder / str(number)
        number += 1
