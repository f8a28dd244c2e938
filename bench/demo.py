"""`make demo`: compile real models at -O3, verify them against ONNX Runtime, and show what came out."""

from __future__ import annotations

import sys

from bench.rows import measure, show
from lepton_compiler.cli.outcome import guarded, tell
from lepton_compiler.cli.progress import Progress
from lepton_compiler.errors import Diagnostic

MODELS = ("rapidocr/ch_ppocr_mobile_v2_0_cls_infer", "magika/standard_v3_3_model", "pulsevad/pulsevad_teacher_81k", "opennsfw/open_nsfw")
"""Text orientation, file types, voice activity, an image classifier: four shapes of network from four packages."""


def main() -> int:
    """Run the demo; 1 where a model does not compile, 3 where one computes something else than ONNX Runtime."""
    return guarded("demo", _run)


def _run() -> int:
    rows = []
    with Progress("demo") as progress:
        for name in MODELS:
            rows.append(measure(name, level=3, seconds=2.0, stage=progress))
    show(rows, "real models at -O3, one thread, verified against ONNX Runtime (x: its time / lepton's, above 1 lepton is faster)")
    tell("demo", [Diagnostic(row.error, row.model) for row in rows if row.error])
    if any(row.error for row in rows):
        return 1
    return 0 if all(row.ok for row in rows) else 3


if __name__ == "__main__":
    sys.exit(main())
