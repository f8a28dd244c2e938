"""Running artefacts for other machines in this process: unicorn executes them instruction by instruction.

What is run is what is shipped. A shared library is loaded as the system's loader would do it; a firmware library is linked at a fixed
address with the compiler's own helper functions.
"""

from __future__ import annotations

import importlib.util

from lepton_compiler.errors import MissingDependency
from lepton_compiler.runtime.emulator.run import CallCount, Emulation, Stats

__all__ = ["CallCount", "Emulation", "Stats", "check_installed"]


def check_installed() -> None:
    """Say what to install where the emulator is not there.

    Raises:
        MissingDependency: unicorn or pyelftools is missing.
    """
    missing = [name for name, module in (("unicorn", "unicorn"), ("pyelftools", "elftools")) if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingDependency(f"{' and '.join(missing)} not installed", hint="pip install 'lepton-compiler[emulate]'")
