"""Running artefacts for other machines, instruction by instruction.

What is run is what is shipped. A shared library is loaded into unicorn as the system's loader would do it; a firmware library is linked at a
fixed address with the compiler's own helper functions. Unicorn does not know Helium: code with it runs on an emulated board, in a
process of qemu-system-arm.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from lepton_compiler.errors import MissingDependency
from lepton_compiler.runtime.emulator import board
from lepton_compiler.runtime.emulator.firmware import link_firmware
from lepton_compiler.runtime.emulator.inprocess import CODE, InProcess
from lepton_compiler.runtime.emulator.machine import CallCount, Machine, Stats
from lepton_compiler.runtime.emulator.run import Emulation
from lepton_compiler.target import Target

__all__ = ["CallCount", "Emulation", "Stats", "check_installed", "load_emulation", "needs_board"]


def needs_board(target: Target) -> bool:
    """Whether code for a target runs on an emulated board, and not in this process."""
    return target.has_helium


def check_installed(target: Target) -> None:
    """Say what to install where the emulator of a target is not there.

    Raises:
        MissingDependency: something is missing.
    """
    if needs_board(target):
        board.check_installed()
    wanted = (("pyelftools", "elftools"),) if needs_board(target) else (("unicorn", "unicorn"), ("pyelftools", "elftools"))
    missing = [name for name, module in wanted if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingDependency(f"{' and '.join(missing)} not installed", hint="pip install 'lepton-compiler[emulate]'")


def load_emulation(files: Mapping[str, bytes], manifest: Mapping[str, Any], target: Target) -> Emulation:
    """Put an artefact into the emulator of its machine.

    Args:
        files: of the artefact: `libNAME.a` for firmware, else `libNAME.so`.
        manifest: what `NAME.json` says.
        target: the machine it was built for.

    Raises:
        UnsupportedError: there is no emulator for it.
        MissingDependency: the emulator or a linker is not installed.
    """
    name, kernels, stateful = manifest["name"], [row["symbol"] for row in manifest["calls"]], bool(manifest.get("states"))
    machine: Machine
    if needs_board(target):
        machine = board.Board(files, name, kernels, stateful, target)
    else:
        code = link_firmware(files, name, target, CODE, stateful=stateful) if target.is_firmware else files[f"lib{name}.so"]
        machine = InProcess(code, name, kernels, target)
    return Emulation(machine, manifest, target)
