"""What `compile` returns and `load` reads: a model that can be run and saved."""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_compiler.backend import Artifact
from lepton_compiler.errors import LeptonError, UsageError
from lepton_compiler.ops.evaluator import as_array
from lepton_compiler.runtime.device_arrays import device_arrays, is_on_device
from lepton_compiler.runtime.gpu import GpuLibrary
from lepton_compiler.runtime.library import NativeLibrary, checked_feeds
from lepton_compiler.target import CUDA, target_of

if TYPE_CHECKING:
    from lepton_compiler.runtime.emulator import Emulation, Stats

SPECIALISATIONS = 16
"""How many shapes of a model with open dimensions are kept compiled; the one not used for longest goes first."""

Specialise = Callable[[Mapping[str, np.ndarray]], Artifact]
Library = NativeLibrary | GpuLibrary


class CompiledModel:
    """A model in native code.

    Args:
        artifact: the files and manifest of a model whose sizes are all known, or None.
        specialise: for a model with open dimensions: builds the artefact for the sizes of these feeds.
        keyed_by_value: inputs whose values, not only shapes, decide sizes inside the model.
    """

    def __init__(
        self, artifact: Artifact | None, specialise: Specialise | None = None, keyed_by_value: frozenset[str] = frozenset()
    ) -> None:
        self.artifact = artifact
        self._specialise, self._keyed = specialise, keyed_by_value
        self._library: Library | None = None
        self._emulation: Emulation | None = None
        self._cache: OrderedDict[tuple[Any, ...], Library] = OrderedDict()

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What `NAME.json` says.

        Raises:
            LeptonError: the model has open dimensions, so there is no single artefact.
        """
        return self._complete("manifest").manifest

    @property
    def library(self) -> Library:
        """The library, loaded on first use."""
        if self._library is None:
            self._library = load_library(self._complete("library"))
        return self._library

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run once: input name to array, output name to array in the order of the outputs.

        A model for a GPU takes tensors of the device as well, and then gives such; see `GpuLibrary.run`.

        A model with open dimensions is compiled for the shapes of these feeds when they are first seen. A stateful model goes on
        from where its last run ended; `reset` begins anew.

        Raises:
            UsageError: feeds that do not fit the inputs.
        """
        if self._specialise is None:
            return self.library.run(feeds)
        on_device = {name: feed for name, feed in feeds.items() if name not in self._keyed and is_on_device(feed)}
        arrays = {name: as_array(feed) for name, feed in feeds.items() if name not in on_device}
        with contextlib.ExitStack() as until:
            located = device_arrays(on_device, until)
            library = self._specialised({**arrays, **{name: array.stand_in() for name, array in located.items()}})
        wanted = {row["name"] for row in library.manifest["inputs"]}
        return library.run({name: feed for name, feed in {**arrays, **on_device}.items() if name in wanted or name not in self._keyed})

    def _specialised(self, arrays: Mapping[str, np.ndarray]) -> Library:
        assert self._specialise is not None
        key = tuple((name, a.shape, str(a.dtype), a.tobytes() if name in self._keyed else b"") for name, a in sorted(arrays.items()))
        if key in self._cache:
            self._cache.move_to_end(key)
        else:
            self._cache[key] = load_library(self._specialise(arrays))
            if len(self._cache) > SPECIALISATIONS:
                self._cache.popitem(last=False)
        return self._cache[key]

    def emulate(self, feeds: Mapping[str, Any], *, count: bool = True) -> tuple[dict[str, np.ndarray], Stats]:
        """Run a model that was built for another machine in an emulator.

        Args:
            feeds: as for `run`.
            count: whether to count instructions, which makes it somewhat slower.

        Returns:
            The outputs, and what the run took: `instructions`, `peak_stack_bytes`, and `calls` with the instructions of each kernel.

        Raises:
            UnsupportedError: the emulator does not know the machine.
            MissingDependency: the emulator is not installed.
            UsageError: feeds that do not fit the inputs.
        """
        from lepton_compiler.runtime.emulator import check_installed

        check_installed(target_of(self.manifest))
        if self._emulation is None:
            self._emulation = _load_emulation(self._complete("emulation"))
        return self._emulation.run(checked_feeds(self.manifest, feeds), count)

    def reset(self) -> None:
        """Let a stateful model begin anew: the next run, or emulation, finds its states as they are at first."""
        if self._library is not None:
            self._library.reset()
        if self._emulation is not None:
            self._emulation.reset()

    def save(self, folder: Any) -> None:
        """Write the artefact: library, header, source and manifest.

        Raises:
            LeptonError: the model has open dimensions, or the folder cannot be written.
        """
        artifact, path = self._complete("save"), Path(folder)
        name = artifact.manifest["name"]
        try:
            path.mkdir(parents=True, exist_ok=True)
            for file, data in artifact.files.items():
                (path / file).write_bytes(data)
            (path / f"{name}.json").write_text(json.dumps(artifact.manifest, indent=2, sort_keys=True) + "\n")
        except OSError as error:
            raise LeptonError(f"cannot write {path}: {error.strerror}") from error

    def _complete(self, what: str) -> Artifact:
        if self.artifact is None:
            raise LeptonError(
                f"the model has open dimensions: no {what} for all sizes at once", hint="bind them: inputs={'x': (1, 3, 224, 224)}"
            )
        return self.artifact


def load_library(artifact: Artifact) -> Library:
    """Load the shared library of an artefact into this process.

    Raises:
        UsageError: the artefact has none.
    """
    file = f"lib{artifact.manifest['name']}.so"
    if file not in artifact.files:
        raise UsageError(
            f"the artefact has no {file} that could run here", hint="compile with emit='lib' for the native target, or emulate it"
        )
    kind = GpuLibrary if artifact.manifest.get("target", {}).get("name") == CUDA else NativeLibrary
    return kind.from_bytes(artifact.files[file], artifact.manifest)


def _load_emulation(artifact: Artifact) -> Emulation:
    from lepton_compiler.runtime.emulator import load_emulation

    manifest, target = artifact.manifest, target_of(artifact.manifest)
    file = f"lib{manifest['name']}.a" if target.is_firmware else f"lib{manifest['name']}.so"
    if file not in artifact.files:
        raise UsageError(f"the artefact has no {file} that could be emulated", hint="compile with emit='lib'")
    return load_emulation(artifact.files, manifest, target)


def load(folder: Any) -> CompiledModel:
    """Read a compiled model that `save` or `leptonc` wrote.

    Raises:
        UsageError: the folder does not hold exactly one compiled model.
        LeptonError: a file is missing or damaged.
    """
    path = Path(folder)
    manifests = sorted(p for p in path.glob("*.json") if any((path / f"lib{p.stem}.{kind}").is_file() for kind in ("so", "a")))
    if len(manifests) != 1:
        raise UsageError(f"{path} holds {len(manifests)} compiled models, expected one libNAME.so or libNAME.a with its NAME.json")
    try:
        manifest = json.loads(manifests[0].read_text())
        files = {
            name: (path / name).read_bytes()
            for name in (
                f"lib{manifest['name']}.so",
                f"lib{manifest['name']}.a",
                *(f"{manifest['name']}.{kind}" for kind in ("h", "c", "cu")),
            )
            if (path / name).is_file()
        }
    except (OSError, ValueError, KeyError) as error:
        raise LeptonError(f"cannot read {manifests[0]}: {error}", hint="compile the model again") from error
    return CompiledModel(Artifact(files, manifest))
