"""Tools that watch passes run: timing, dumps, printing, verification, numeric bisection, crash reproducers."""

from __future__ import annotations

from lepton_compiler.instruments.bisect import NumericBisect
from lepton_compiler.instruments.dump import Dump, PrintIRAfter
from lepton_compiler.instruments.reproduce import CrashReproducer
from lepton_compiler.instruments.timing import Timing
from lepton_compiler.instruments.verify import Verify

__all__ = ["CrashReproducer", "Dump", "NumericBisect", "PrintIRAfter", "Timing", "Verify"]
