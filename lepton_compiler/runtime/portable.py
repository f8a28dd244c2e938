"""Portable C sources on this machine: its own compiler makes a library of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lepton_compiler.backend import Artifact
from lepton_compiler.toolchain import find_toolchain

FLAGS = ("-std=c99", "-Wpedantic", "-ffp-contract=off", "-fvisibility=default")
"""On top of the toolchain's own; C99 has no word for what a library exports."""


def host_artifact(artifact: Artifact) -> Artifact:
    """An artefact of portable C sources with a shared library of them for this machine.

    Raises:
        LeptonError: the C compiler refuses the sources.
        MissingDependency: there is no C compiler.
    """
    tools, name = find_toolchain(), artifact.manifest["name"]
    with tempfile.TemporaryDirectory(prefix="lepton-") as temporary:
        folder = Path(temporary)
        for file, data in artifact.files.items():
            (folder / file).write_bytes(data)
        objects = [tools.compile(folder, file, "-O2", *FLAGS) for file in artifact.files if file.endswith(".c")]
        exports = [f"{name}_run", *([f"{name}_reset"] if artifact.manifest.get("states") else [])]
        tools.shared(folder, objects, f"lib{name}.so", exports)
        library = {f"lib{name}.so": (folder / f"lib{name}.so").read_bytes()}
    return Artifact({**artifact.files, **library}, artifact.manifest)
