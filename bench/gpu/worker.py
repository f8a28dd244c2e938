"""The process that uses the GPU: whatever becomes of it, the benchmark goes on with the next case in another one.

It needs numpy and ml_dtypes, the driver, and the archives; PyTorch takes part where it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.gpu import contenders
from bench.gpu.archive import Archive
from bench.gpu.candidates import Collection, measured
from bench.gpu.report import Row
from lepton_compiler.backends.tvm.tuning.process import serve
from lepton_compiler.cuda_driver import DeviceSession
from lepton_compiler.runtime.gpu import GpuLibrary
from lepton_compiler.verification import compare

OVERLAPPING = (9, 0)
"""Compute capability from which kernels may overlap: nets are measured without that, too."""


class Worker:
    """Answers requests: `facts`, `agree`, `speed`, `tune`."""

    def __init__(self) -> None:
        self.session: DeviceSession | None = None
        self.collection: tuple[Path, Collection] | None = None

    def facts(self) -> dict[str, str]:
        """The GPU, and PyTorch's version or why it takes no part."""
        torch, reason = contenders.find_torch()
        facts = self._session().facts
        return {"device": f"{facts.name}, {facts.architecture}", "torch": reason or f"PyTorch {torch.__version__}", "no_torch": reason}

    def agree(self, path: Path) -> Row:
        """Run a model twice from and into memory of the host, and compare with the reference."""
        archive = Archive.read(path)
        library = GpuLibrary.from_bytes(archive.library, archive.manifest)
        found, again = library.run(archive.feeds), library.run(archive.feeds)
        row = Row("agree", archive.case.subject, archive.case.precision)
        check = compare(archive.expected, found, archive.reference, archive.tolerance)
        row.max_rel, row.ok, row.note = check.max_rel, check.ok, archive.reference
        if not check.ok and archive.own:
            other = compare(archive.own, found, "evaluator", archive.tolerance)
            if other.ok:
                row.max_rel, row.ok, row.note = (
                    other.max_rel,
                    True,
                    f"evaluator; {check.max_rel:.1e} from {archive.reference}, which rounds, too",
                )
        if any(found[name].tobytes() != again[name].tobytes() for name in found):
            row.ok, row.error = False, "two runs gave different bits"
        library.close()
        return row

    def speed(self, path: Path, rounds: int, compiled: bool, absent: str = "") -> Row:
        """Time a net or a layer beside its peers, or without them for the reason `absent`, and compare its result."""
        archive, session = Archive.read(path), self._session()
        case, row = archive.case, Row("compile" if compiled else "speed", archive.case.subject, archive.case.precision)
        own = contenders.Lepton(session, archive)
        overlaps = case.kind == "net" and session.facts.capability >= OVERLAPPING
        mine = {"lepton": own} | ({"serial": contenders.Lepton(session, archive, overlapping=False)} if overlaps else {})
        runs = contenders.RUNS[case.kind]
        row.max_rel = self._error(archive, own.result())
        row.ok = row.max_rel <= archive.tolerance
        shape = tuple(archive.manifest["inputs"][0]["shape"])
        others, row.missing = ({}, {"eager": absent}) if absent else contenders.peers(case.subject, shape, case.precision, compiled, runs)
        everyone = {**{name: one.contender(runs) for name, one in mine.items()}, **others}
        row.ms, row.ratios = contenders.summary(contenders.interleaved(session, everyone, rounds))
        for one in mine.values():
            one.close()
        if others:  # whose memory nobody holds then
            everyone.clear()
            others.clear()
            sys.modules["torch"].cuda.empty_cache()
        return row

    def tune(self, path: Path, number: int, skipped: Sequence[int]) -> dict[str, Any]:
        """Time the candidates of a kernel of a collection: see `candidates.measured`."""
        if self.collection is None or self.collection[0] != path:
            self.collection = path, Collection.read(path)
        held = self.collection[1]
        return measured(self._session(), held.kernels[number], held.touched, skipped)

    @staticmethod
    def _error(archive: Archive, found: np.ndarray) -> float:
        """Largest difference from what is expected, over the range of that; infinite where something is not finite."""
        expected, kept = archive.expected["y"], found.reshape(-1)[:: archive.stride]
        assert archive.span is not None
        span = archive.span["y"] or float(np.abs(expected).max()) or 1.0
        return float(np.abs(kept.astype(np.float64) - expected).max()) / span if np.isfinite(kept).all() else float("inf")

    def _session(self) -> DeviceSession:
        if self.session is None:
            self.session = DeviceSession()
        return self.session


def main(argv: Sequence[str]) -> int:
    """Serve, or with the path of an archive check that it agrees, print the row and end: what compute-sanitizer watches."""
    worker = Worker()
    if argv:
        row = worker.agree(Path(argv[0]))
        print(json.dumps(asdict(row)))
        return 0 if row.ok else 1
    serve(lambda request, arguments: getattr(worker, request)(*arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
